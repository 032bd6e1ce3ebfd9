package target

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"dominion/call"
)

// maxColumns is how many numbers of a name, the last ones, are folded.
const maxColumns = 8

// hole stands in a skeleton where a name has a number.
const hole = 0

// Fold writes a set of names as short text, "db1,web[01-40,42]": what Expand
// reads back as the same names, sorted, in lower case and each once. Parse
// reads it too. Names of several numbers become products,
// "rack[1-2]-n[01-40]". The order is by text, then by number; no names are
// the empty text.
//
// The names must be valid (call.ParseName). One that is not is written in
// quotes, so that Expand refuses the text instead of reading another set.
func Fold(names []string) string {
	families, odd := sortOut(names)
	var b []byte
	for _, f := range families {
		b = f.append(b)
	}
	for _, name := range odd {
		b = strconv.AppendQuote(comma(b), name)
	}
	return string(b)
}

func comma(b []byte) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	return b
}

// family is the names that differ only in their numbers.
type family struct {
	skeleton string // with holes
	columns  int
	rows     []number // columns for each name
}

// compare orders families as Fold writes them.
func (f *family) compare(other *family) int { return cmp.Compare(f.skeleton, other.skeleton) }

// sortOut gives the families, sorted by skeleton, and what is no name.
func sortOut(names []string) (families []*family, odd []string) {
	index := make(map[string]*family)
	var skeleton []byte
	var row []number
	for _, name := range names {
		low, err := call.ParseName(name)
		if err != nil {
			odd = append(odd, name)
			continue
		}
		skeleton, row = dissect(low, skeleton[:0], row[:0])
		f := index[string(skeleton)]
		if f == nil {
			f = &family{skeleton: string(skeleton), columns: len(row)}
			index[f.skeleton] = f
			families = append(families, f)
		}
		f.rows = append(f.rows, row...)
	}
	slices.SortFunc(families, (*family).compare)
	slices.Sort(odd)
	return families, slices.Compact(odd)
}

// dissect appends name with holes for its last eight numbers to skeleton, and
// the numbers to row. Numbers of more than 16 digits remain text.
func dissect(name string, skeleton []byte, row []number) ([]byte, []number) {
	first := len(name)
	for n, i := 0, len(name); i > 0 && n < maxColumns; {
		end := i
		for i > 0 && isDigit(name[i-1]) {
			i--
		}
		if i == end {
			i--
			continue
		}
		first = i
		if end-i <= maxDigits {
			n++
		}
	}
	skeleton = append(skeleton, name[:first]...)
	for i := first; i < len(name); {
		end := i
		for end < len(name) && isDigit(name[end]) {
			end++
		}
		if n, ok := readNumber(name[i:end]); ok {
			skeleton, row = append(skeleton, hole), append(row, n)
		} else {
			end = max(end, i+1)
			skeleton = append(skeleton, name[i:end]...)
		}
		i = end
	}
	return skeleton, row
}

// append writes the family's names, folded.
func (f *family) append(b []byte) []byte {
	switch f.columns {
	case 0:
		return append(comma(b), f.skeleton...)
	case 1:
		spans := make([]span, len(f.rows))
		for i, n := range f.rows {
			spans[i] = span{n, n}
		}
		return f.appendSpans(b, spans)
	}
	for _, item := range f.fold() {
		b = f.appendItem(comma(b), item)
	}
	return b
}

// appendSpans writes the names of a family of one column.
func (f *family) appendSpans(b []byte, spans []span) []byte {
	return f.appendItem(comma(b), []numbers{join(spans)})
}

// appendItem writes the skeleton with a set in each hole.
func (f *family) appendItem(b []byte, sets []numbers) []byte {
	rest := f.skeleton
	for _, set := range sets {
		before, after, _ := strings.Cut(rest, string(rune(hole)))
		b = set.append(append(b, before...))
		rest = after
	}
	return append(b, rest...)
}
