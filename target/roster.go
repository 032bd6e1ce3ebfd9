package target

import (
	"slices"
	"strings"
)

// Roster is a list of names together with what is needed to fold parts of it, and
// to find what folded text names in it, without a look at each letter every time.
// It is not changed after it is made, and is safe for concurrent use.
type Roster struct {
	names    []string
	families []family // without rows, by skeleton
	family   []int32  // of each name
	row      []int32  // of each name: where its numbers begin in numbers
	numbers  []number
}

// NewRoster makes a roster of names that are valid (call.ParseName), in lower
// case, sorted and each there once. It keeps the list.
func NewRoster(names []string) *Roster {
	r := &Roster{names: names, family: make([]int32, len(names)), row: make([]int32, len(names))}
	index := make(map[string]int32)
	var skeleton []byte
	for i, name := range names {
		r.row[i] = int32(len(r.numbers))
		skeleton, r.numbers = dissect(name, skeleton[:0], r.numbers)
		f, ok := index[string(skeleton)]
		if !ok {
			f = int32(len(r.families))
			r.families = append(r.families, family{skeleton: string(skeleton), columns: len(r.numbers) - int(r.row[i])})
			index[r.families[f].skeleton] = f
		}
		r.family[i] = f
	}
	order := make([]int32, len(r.families))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return r.families[a].compare(&r.families[b]) })
	sorted, now := make([]family, len(order)), make([]int32, len(order))
	for to, from := range order {
		sorted[to], now[from] = r.families[from], int32(to)
	}
	for i, f := range r.family {
		r.family[i] = now[f]
	}
	r.families = sorted
	return r
}

// Fold writes the names at some positions, ascending, as the function Fold does.
func (r *Roster) Fold(at []int32) string {
	rows := make([][]number, len(r.families)) // of those with several columns
	spans := make([][]span, len(r.families))  // of the others
	for _, i := range at {
		f := r.family[i]
		columns := r.families[f].columns
		numbers := r.numbers[r.row[i] : int(r.row[i])+columns]
		switch last := len(spans[f]) - 1; {
		case columns != 1:
			rows[f] = append(rows[f], numbers...)
			spans[f] = append(spans[f][:0], span{})
		case last >= 0 && spans[f][last].hi+1 == numbers[0]:
			spans[f][last].hi++
		default:
			spans[f] = append(spans[f], span{numbers[0], numbers[0]})
		}
	}
	var b []byte
	for i, f := range r.families {
		switch {
		case len(spans[i]) == 0:
		case f.columns == 1:
			b = f.appendSpans(b, spans[i])
		default:
			f.rows = rows[i]
			b = f.append(b)
		}
	}
	return string(b)
}

// Find gives the positions of the names that a folded text stands for, ascending, and
// those of them that the roster does not have, sorted. Limits and errors are those of
// Expand.
func (r *Roster) Find(folded string) (at []int32, others []string, err error) {
	f := finder{r: r}
	ranges, total, err := readFolded(folded, f.name)
	if err != nil {
		return nil, nil, err
	}
	f.at = slices.Grow(f.at, min(total, len(r.names)))
	for _, p := range ranges {
		f.pattern(p)
	}
	if !f.ascending() {
		slices.Sort(f.at)
		f.at = slices.Compact(f.at)
	}
	slices.Sort(f.others)
	return f.at, slices.Compact(f.others), nil
}

// finder looks for names in a roster.
type finder struct {
	r      *Roster
	at     []int32
	others []string
}

func (f *finder) ascending() bool {
	for i := 1; i < len(f.at); i++ {
		if f.at[i-1] >= f.at[i] {
			return false
		}
	}
	return true
}

// name looks for one name.
func (f *finder) name(name string) { f.find(name) }

func (f *finder) find(name string) (found bool) {
	near := 0
	if n := len(f.at); n > 0 {
		near = int(f.at[n-1])
	}
	i, found := Seek(f.r.names, name, near)
	if found {
		f.at = append(f.at, int32(i))
	} else {
		f.others = append(f.others, strings.Clone(name))
	}
	return found
}

// pattern looks for the names of a pattern with ranges.
func (f *finder) pattern(p *pattern) {
	is := func(t token) bool { return t.kind == count }
	k := slices.IndexFunc(p.tokens, is)
	if slices.ContainsFunc(p.tokens[k+1:], is) { // several columns
		for b := range p.names() {
			f.find(string(b))
		}
		return
	}
	var before, after, b []byte
	for _, t := range p.tokens[:k] {
		before = append(before, t.text...)
	}
	for _, t := range p.tokens[k+1:] {
		after = append(after, t.text...)
	}
	for _, s := range p.tokens[k].nums {
		for n := s.lo; n <= s.hi; n++ {
			b = append(n.append(append(b[:0], before...)), after...)
			if f.find(string(b)) {
				n += f.follow(n, s.hi)
			}
		}
	}
}

// follow takes the names behind the one found last, that of number n of a family with
// one column, as long as their numbers follow it, up to last; it gives how many.
func (f *finder) follow(n, last number) (taken number) {
	r, i := f.r, f.at[len(f.at)-1]
	of := r.family[i]
	if r.families[of].columns != 1 || r.numbers[r.row[i]] != n {
		return 0
	}
	for i++; n+taken < last && int(i) < len(r.names) && r.family[i] == of && r.numbers[r.row[i]] == n+taken+1; i++ {
		f.at = append(f.at, i)
		taken++
	}
	return taken
}
