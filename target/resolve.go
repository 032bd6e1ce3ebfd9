package target

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"dominion/call"
)

// Env is what an expression is resolved against.
type Env struct {
	// Known are the machines there are: valid names in lower case, best sorted
	// and each once (otherwise a copy is sorted). It is not changed, and the
	// Result holds none of its memory but the strings.
	Known []string
	// Group gives the members of a group, whose name is in lower case, in any
	// order; false: there is none. It is asked once for each group that is
	// named. Nil: there are no groups.
	Group func(name string) (members []string, ok bool)
}

// Result is what an expression names.
type Result struct {
	Names      []string // known machines, sorted, in lower case
	Unknown    []string // names, and members of ranges and groups, that nobody knows; sorted
	UsedGroups bool     // the outcome depends on groups
}

// Resolve finds the machines that e names. Its only errors wrap ErrGroup,
// those about a group that is not there, and call.ErrName, those about one
// that holds something that is no name.
func (e *Expr) Resolve(env Env) (Result, error) {
	known := normal(env.Known)
	groups := make(map[string][]string)
	if err := e.fetch(env, groups); err != nil {
		return Result{}, err
	}
	res := Result{UsedGroups: len(groups) > 0}
	var strangers []string
	if e.narrow {
		known, strangers = apart(e.among, known)
	} else {
		strangers = normal(e.strangers(known, groups))
	}
	res.Names = pick(known, e.over(known, groups))
	res.Unknown = pick(strangers, e.over(strangers, groups))
	return res, nil
}

// apart gives the names that are known and those that are not; all are sorted.
func apart(names, known []string) (are, not []string) {
	for _, n := range names {
		for len(known) > 0 && known[0] < n {
			known = known[1:]
		}
		if len(known) > 0 && known[0] == n {
			are = append(are, n)
		} else {
			not = append(not, n)
		}
	}
	return are, not
}

// normal gives names sorted and each once, themselves when they are.
func normal(names []string) []string {
	for i := 1; i < len(names); i++ {
		if names[i-1] >= names[i] {
			names = slices.Clone(names)
			slices.Sort(names)
			return slices.Compact(names)
		}
	}
	return names
}

// pick gives the names that are marked, nil when none is.
func pick(names []string, marked []bool) []string {
	n := 0
	for _, m := range marked {
		if m {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]string, 0, n)
	for i, m := range marked {
		if m {
			out = append(out, names[i])
		}
	}
	return out
}

// fetch asks for the members of every group that e names.
func (e *Expr) fetch(env Env, groups map[string][]string) error {
	for _, st := range e.steps {
		if _, done := groups[st.group]; done || st.group == "" {
			continue
		}
		var members []string
		ok := false
		if env.Group != nil {
			members, ok = env.Group(st.group)
		}
		if !ok {
			return &fault{
				kind: ErrGroup, code: call.NotFound,
				text: fmt.Sprintf("target %s: there is no group %q; groups: dominion group list", excerpt(e.text, 0), st.group),
			}
		}
		low := make([]string, len(members))
		for i, m := range members {
			name, err := call.ParseName(m)
			if err != nil {
				return fmt.Errorf("read group %q: %w", st.group, err)
			}
			low[i] = name
		}
		groups[st.group] = normal(low)
	}
	for _, x := range e.without {
		if err := x.fetch(env, groups); err != nil {
			return err
		}
	}
	return nil
}

// over marks which of names, sorted and each once, e names.
func (e *Expr) over(names []string, groups map[string][]string) []bool {
	in := make([]bool, len(names))
	if len(names) == 0 {
		return in
	}
	var both []bool // scratch for intersections
	for i := range e.steps {
		st := &e.steps[i]
		switch st.op {
		case ',':
			st.each(names, groups, func(i int) { in[i] = true })
		case '!':
			st.each(names, groups, func(i int) { in[i] = false })
		case '&':
			if both == nil {
				both = make([]bool, len(names))
			}
			clear(both)
			st.each(names, groups, func(i int) { both[i] = in[i] })
			in, both = both, in
		}
	}
	for _, x := range e.without {
		for i, out := range x.over(names, groups) {
			in[i] = in[i] && !out
		}
	}
	return in
}

// each calls f with the index of every one of names that the term names.
func (st *step) each(names []string, groups map[string][]string, f func(int)) {
	if st.group != "" {
		for _, m := range groups[st.group] {
			if i, ok := slices.BinarySearch(names, m); ok && (st.pat == nil || st.pat.match(m)) {
				f(i)
			}
		}
		return
	}
	// Only names that begin as the pattern does come into question.
	prefix := st.pat.prefix()
	from := sort.SearchStrings(names, prefix)
	to := from + sort.Search(len(names)-from, func(i int) bool { return !strings.HasPrefix(names[from+i], prefix) })
	switch {
	case from == to:
	case !st.pat.glob && st.pat.size < uint64(to-from)/16:
		for b := range st.pat.names() {
			if i := search(names[from:to], b); i >= 0 {
				f(from + i)
			}
		}
	default:
		for i := from; i < to; i++ {
			if st.pat.match(names[i]) {
				f(i)
			}
		}
	}
}

// search gives the index of name in sorted names, or -1, and allocates nothing.
func search(names []string, name []byte) int {
	lo, hi := 0, len(names)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); names[mid] < string(name) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(names) && names[lo] == string(name) {
		return lo
	}
	return -1
}

// strangers gives what e spells out, in names, ranges and groups, and is not
// known; not what stands behind "!". With doubles, in no order.
func (e *Expr) strangers(known []string, groups map[string][]string) []string {
	var out []string
	for i := range e.steps {
		switch st := &e.steps[i]; {
		case st.op == '!' || st.group == "" && st.pat.glob:
		case st.group != "":
			for _, m := range groups[st.group] {
				if _, ok := slices.BinarySearch(known, m); !ok && (st.pat == nil || st.pat.match(m)) {
					out = append(out, m)
				}
			}
		default:
			for b := range st.pat.names() {
				if search(known, b) < 0 {
					out = append(out, string(b))
				}
			}
		}
	}
	return out
}
