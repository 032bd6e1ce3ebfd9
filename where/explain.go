package where

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
)

// explain says in one line what is wrong with an expression: the first problem,
// where it is, and for a fact that there is none of those that are near.
func (p *provider) explain(text string, issues *cel.Issues) error {
	errs := issues.Errors()
	if len(errs) == 0 {
		return refusef("%s", oneLine(issues.Err().Error()))
	}
	first := errs[0]
	at := ""
	if line, col := first.Location.Line(), first.Location.Column(); line == 1 && col >= 0 {
		at = fmt.Sprintf(" (character %d)", col+1)
	} else if line > 1 {
		at = fmt.Sprintf(" (line %d, character %d)", line, col+1)
	}
	msg := oneLine(first.Message)
	if len(msg) > 300 {
		msg = strings.ToValidUTF8(msg[:300], "") + "…"
	}
	for _, m := range p.missing {
		if msg == "undefined field '"+m.name+"'" {
			msg = m.words()
			break
		}
	}
	if what, ok := strings.CutPrefix(msg, "undeclared reference to '"); ok && !strings.Contains(text, what[:max(strings.IndexByte(what, '\''), 0)]+"(") {
		what, _, _ = strings.Cut(what, "'")
		msg = fmt.Sprintf("there is no %q; there are facts, groups and name, and a text stands in quotes", what)
	}
	return refusef("%s%s", msg, at)
}

// words says that there is no such fact, and which are near.
func (m missing) words() string {
	path := m.in.path + "." + m.name
	near := nearest(m.name, m.in.order)
	for i, n := range near {
		near[i] = m.in.path + "." + n
	}
	if len(near) == 0 {
		return fmt.Sprintf("there is no fact %s; there are %s", path, strings.Join(m.in.order, ", "))
	}
	return fmt.Sprintf("there is no fact %s; near: %s", path, strings.Join(near, ", "))
}

const mostNear = 4

// nearest gives those of some names that somebody may have meant, the likeliest first.
func nearest(name string, names []string) []string {
	type scored struct {
		name  string
		score int
	}
	var found []scored
	low := strings.ToLower(name)
	for _, n := range names {
		d := distance(low, n)
		switch {
		case strings.Contains(n, low) && len(low) > 1, strings.Contains(low, n):
			d = min(d, 1+abs(len(n)-len(low))/4)
		case commonPrefix(low, n) >= 4:
			d = min(d, 3)
		}
		if d <= max(2, len(low)/3) {
			found = append(found, scored{n, d})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return cmp.Compare(a.score, b.score) })
	var out []string
	for _, f := range found[:min(len(found), mostNear)] {
		out = append(out, f.name)
	}
	return out
}

func abs(n int) int { return max(n, -n) }

func commonPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// distance is how many characters must be put in, taken out or replaced, or
// swapped with the next one, to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
