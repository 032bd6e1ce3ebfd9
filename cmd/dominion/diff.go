package main

import (
	"fmt"
	"slices"
)

const (
	diffContext = 3    // equal lines around what differs
	maxDiff     = 1000 // lines put in or taken out that are looked for; more are shown as one replacement
)

// edit is a run of lines: equal ones, or lines of a that are replaced by lines of b.
type edit struct {
	a, b   int // where it begins
	an, bn int // lines of each
	equal  bool
}

// diffLines gives the edits that make b of a, few of them: the fewest lines put in and
// taken out, as long as those are no more than maxDiff (E. W. Myers, "An O(ND)
// Difference Algorithm and Its Variations", 1986).
func diffLines(a, b []string) []edit {
	head := 0
	for head < min(len(a), len(b)) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < min(len(a), len(b))-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var out []edit
	add := func(e edit) {
		if e.an == 0 && e.bn == 0 {
			return
		}
		if n := len(out); n > 0 && out[n-1].equal == e.equal {
			out[n-1].an += e.an
			out[n-1].bn += e.bn
			return
		}
		out = append(out, e)
	}
	add(edit{0, 0, head, head, true})
	for _, e := range middle(a[head:len(a)-tail], b[head:len(b)-tail]) {
		e.a, e.b = e.a+head, e.b+head
		add(e)
	}
	add(edit{len(a) - tail, len(b) - tail, tail, tail, true})
	return out
}

// middle is diffLines for texts without a common beginning or end: single steps.
func middle(a, b []string) []edit {
	trace := furthest(a, b)
	if trace == nil {
		return []edit{{0, 0, len(a), len(b), false}}
	}
	var out []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d > 0; d-- {
		v := trace[d-1]
		k := x - y
		down := k == -d || k != d && v[k-1+d] < v[k+1+d]
		start := 0 // of the equal lines after the step
		if down {
			start = v[k+1+d]
		} else {
			start = v[k-1+d] + 1
		}
		for x > start {
			x, y = x-1, y-1
			out = append(out, edit{x, y, 1, 1, true})
		}
		if down {
			y--
			out = append(out, edit{x, y, 0, 1, false})
		} else {
			x--
			out = append(out, edit{x, y, 1, 0, false})
		}
	}
	for x > 0 && y > 0 {
		x, y = x-1, y-1
		out = append(out, edit{x, y, 1, 1, true})
	}
	slices.Reverse(out)
	return out
}

// furthest gives, for each number d of lines put in or taken out, how far in a each
// diagonal k (in steps of a less steps of b) reaches: v[k+d+1] of the one before. Nil: more
// than maxDiff are needed.
func furthest(a, b []string) [][]int {
	var trace [][]int
	var before []int // of d-1; index k+d
	for d := 0; d <= min(maxDiff, len(a)+len(b)); d++ {
		v := make([]int, 2*d+3) // index k+d+1
		for k := -d; k <= d; k += 2 {
			var x int
			switch {
			case d == 0:
			case k == -d || k != d && before[k-1+d] < before[k+1+d]:
				x = before[k+1+d]
			default:
				x = before[k-1+d] + 1
			}
			y := x - k
			for x < len(a) && y < len(b) && a[x] == b[y] {
				x, y = x+1, y+1
			}
			v[k+d+1] = x
			if x >= len(a) && y >= len(b) {
				return append(trace, v)
			}
		}
		trace = append(trace, v)
		before = v
	}
	return nil
}

// unified shows what differs between two texts, as diff -u does, without its head.
func unified(a, b []string, p painter) []string {
	edits := diffLines(a, b)
	var out []string
	for i := 0; i < len(edits); {
		if edits[i].equal {
			i++
			continue
		}
		last := i // the last edit of this hunk
		for last+2 < len(edits) && edits[last+1].an <= 2*diffContext {
			last += 2
		}
		out = append(out, hunk(a, b, edits[i:last+1], p)...)
		i = last + 1
	}
	return out
}

// hunk shows edits that are near each other with the lines around them.
func hunk(a, b []string, edits []edit, p painter) []string {
	first, end := edits[0], edits[len(edits)-1]
	before := min(diffContext, first.a)
	after := min(diffContext, len(a)-end.a-end.an)
	an, bn := end.a+end.an+after-(first.a-before), end.b+end.bn+after-(first.b-before)
	out := []string{p.paint(cyan, fmt.Sprintf("@@ -%s +%s @@", spanOf(first.a-before, an), spanOf(first.b-before, bn)))}
	line := func(mark, how, s string) { out = append(out, p.paint(how, mark+s)) }
	for _, s := range a[first.a-before : first.a] {
		line(" ", "", s)
	}
	for _, e := range edits {
		for _, s := range a[e.a : e.a+e.an] {
			if e.equal {
				line(" ", "", s)
			} else {
				line("-", red, s)
			}
		}
		if !e.equal {
			for _, s := range b[e.b : e.b+e.bn] {
				line("+", green, s)
			}
		}
	}
	for _, s := range a[end.a+end.an : end.a+end.an+after] {
		line(" ", "", s)
	}
	return out
}

// spanOf is a place in the head of a hunk: the first line, and how many if not one.
func spanOf(at, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", at)
	case 1:
		return fmt.Sprint(at + 1)
	}
	return fmt.Sprintf("%d,%d", at+1, n)
}
