package target

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Folding names of several numbers. A row is one name: one cell per number.
// The columns are folded one after the other, the last first: rows that are
// equal in all other columns become one row whose cell is the set of theirs.
// Each row stays a product of sets and the rows stay disjoint, so the outcome
// is exact, though not always the shortest there is. Each column costs one
// sort, whether much folds or nothing.

// cell is a number, or a set of them: setCell and its index.
type cell uint64

const setCell cell = 1 << 63 // above every number

// sheet is a family that is being folded.
type sheet struct {
	columns int
	cells   []cell          // row by row
	sets    []numbers       // what set cells mean
	index   map[string]cell // sets that are there, by their spans
	order   []int32         // rows, as sorted last
	key     []byte          // scratch
}

// fold gives the family as products, in order of their smallest name.
func (f *family) fold() [][]numbers {
	s := &sheet{columns: f.columns, cells: make([]cell, len(f.rows)), index: make(map[string]cell)}
	for i, n := range f.rows {
		s.cells[i] = cell(n)
	}
	s.order = make([]int32, len(f.rows)/f.columns)
	for i := range s.order {
		s.order[i] = int32(i)
	}
	for k := s.columns - 1; k >= 0; k-- {
		if k == s.columns-1 || s.varies(k) { // the first pass also drops doubles
			s.foldColumn(k)
		}
	}
	return s.products()
}

func (s *sheet) row(i int32) []cell {
	return s.cells[int(i)*s.columns : (int(i)+1)*s.columns]
}

// varies says whether the rows differ in column k.
func (s *sheet) varies(k int) bool {
	for _, r := range s.order {
		if s.row(r)[k] != s.row(s.order[0])[k] {
			return true
		}
	}
	return false
}

// foldColumn makes one row of those that differ in column k only. The first
// of them stays in order.
func (s *sheet) foldColumn(k int) {
	slices.SortFunc(s.order, func(a, b int32) int {
		x, y := s.row(a), s.row(b)
		if c := slices.Compare(x[:k], y[:k]); c != 0 {
			return c
		}
		if c := slices.Compare(x[k+1:], y[k+1:]); c != 0 {
			return c
		}
		return cmp.Compare(x[k], y[k])
	})
	kept := s.order[:0]
	for from := 0; from < len(s.order); {
		first := s.row(s.order[from])
		to := from + 1
		for to < len(s.order) {
			next := s.row(s.order[to])
			if !slices.Equal(first[:k], next[:k]) || !slices.Equal(first[k+1:], next[k+1:]) {
				break
			}
			to++
		}
		kept = append(kept, s.order[from])
		first[k] = s.set(s.order[from:to], k)
		from = to
	}
	s.order = kept
}

// set gives the cell for the numbers that sorted rows have in column k. Equal
// sets get equal cells, so that later columns can be folded over them.
func (s *sheet) set(rows []int32, k int) cell {
	if s.row(rows[0])[k] == s.row(rows[len(rows)-1])[k] {
		return s.row(rows[0])[k]
	}
	var set numbers
	for _, r := range rows {
		n := number(s.row(r)[k])
		if last := len(set) - 1; last >= 0 && n <= set[last].hi+1 {
			set[last].hi = n
		} else {
			set = append(set, span{n, n})
		}
	}
	s.key = s.key[:0]
	for _, sp := range set {
		s.key = binary.BigEndian.AppendUint64(s.key, uint64(sp.lo))
		s.key = binary.BigEndian.AppendUint64(s.key, uint64(sp.hi))
	}
	c, ok := s.index[string(s.key)]
	if !ok {
		c = setCell | cell(len(s.sets))
		s.sets = append(s.sets, set)
		s.index[string(s.key)] = c
	}
	return c
}

// products gives the rows that are left, sorted by the smallest number of
// each column. No two are equal in all of them: they would share a name.
func (s *sheet) products() [][]numbers {
	out := make([][]numbers, len(s.order))
	for i, r := range s.order {
		out[i] = make([]numbers, s.columns)
		for k, c := range s.row(r) {
			if c&setCell != 0 {
				out[i][k] = s.sets[c&^setCell]
			} else {
				out[i][k] = numbers{{number(c), number(c)}}
			}
		}
	}
	slices.SortFunc(out, func(a, b []numbers) int {
		return slices.CompareFunc(a, b, func(x, y numbers) int { return cmp.Compare(x[0].lo, y[0].lo) })
	})
	return out
}
