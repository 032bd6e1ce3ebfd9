package target

import (
	"slices"
	"strings"

	"dominion/call"
)

// Expr is an expression that was read. It is not changed after that and safe
// for concurrent use.
type Expr struct {
	text    string
	steps   []step
	without []*Expr  // taken out of what steps name
	narrow  bool     // only those of among count
	among   []string // sorted, each once
}

// step is a term and the operator before it.
type step struct {
	op    byte     // ',' (also for ';' and the first), '&' or '!'
	group string   // empty: none
	pat   *pattern // nil: all members of the group
}

// Parse reads an expression; the grammar and the limits are in the package
// documentation. Errors wrap ErrSyntax and name the position and the next step.
func Parse(expr string) (*Expr, error) {
	const what = "target"
	if len(expr) > maxText {
		return nil, tooLong(what, expr, maxText)
	}
	if strings.Trim(expr, blanks) == "" {
		return nil, problemf(0, "it is empty; write * for all machines").in(what, expr)
	}
	e := &Expr{text: expr}
	var total sum
	globs := 0
	for pt := range split(expr, ",;&!") {
		st, bad := parseTerm(pt, &total)
		if bad != nil {
			return nil, bad.shift(pt.at).in(what, expr)
		}
		if st.group != "" || st.pat.glob || st.op == '&' {
			globs++
		}
		if globs > maxGlobs {
			return nil, problemf(pt.at, "there are more than %d globs, groups and intersections; make a group of the machines", maxGlobs).in(what, expr)
		}
		e.steps = append(e.steps, st)
	}
	return e, nil
}

// parseTerm reads a name, a range, a glob or a group.
func parseTerm(pt part, total *sum) (step, *problem) {
	st := step{op: pt.op}
	if st.op != '&' && st.op != '!' {
		st.op = ','
	}
	switch {
	case pt.text == "" && pt.op == 0:
		return st, problemf(0, "a target is missing before the operator; write one, * for all machines")
	case pt.text == "":
		return st, problemf(0, "a target is missing after %q; write one, or remove the operator", pt.op)
	case pt.text[0] != '@':
		var bad *problem
		if st.pat, bad = parsePattern(pt.text, 0); bad != nil {
			return st, bad
		}
		if bad := st.pat.checkNames(); bad != nil {
			return st, bad
		}
		return st, total.add(st.pat)
	}
	name, members, colon := strings.Cut(pt.text[1:], ":")
	group, bad := parseGroupRef(name)
	if bad != nil {
		return st, bad.shift(1)
	}
	st.group = group
	if !colon {
		return st, nil
	}
	at := len(pt.text) - len(members)
	if members == "" {
		return st, problemf(at, "a pattern is missing after %q; write @%s:web1*, or @%s for all members", ":", group, group)
	}
	if st.pat, bad = parsePattern(members, 0); bad != nil {
		return st, bad.shift(at)
	}
	return st, nil
}

// GroupName checks the name of a group and lower-cases it: letters, digits,
// dots, hyphens and underscores, at most 64 bytes. Errors wrap ErrSyntax.
func GroupName(s string) (string, error) {
	name, bad := parseGroup(s)
	if bad != nil {
		return "", bad.in("group", s)
	}
	return name, nil
}

// GroupRef checks what stands after "@" in a target: the name of a group, or
// SOURCE/GROUP for one that a program at the overlord knows. The name of a
// source is one of a group, and so is its group's, but that the latter keeps its case and
// does not begin with a hyphen. Errors wrap ErrSyntax.
func GroupRef(s string) (string, error) {
	name, bad := parseGroupRef(s)
	if bad != nil {
		return "", bad.in("group", s)
	}
	return name, nil
}

// Source takes the name of a group apart, as GroupRef or Groups gave it; ok
// says that it comes from a source.
func Source(group string) (source, name string, ok bool) {
	source, name, ok = strings.Cut(group, "/")
	if !ok {
		return "", group, false
	}
	return source, name, true
}

func parseGroupRef(s string) (string, *problem) {
	head, tail, external := strings.Cut(s, "/")
	name, bad := parseGroup(head)
	if bad != nil || !external {
		return name, bad
	}
	if name[0] == '.' {
		return "", problemf(0, "a source's name does not begin with a dot")
	}
	at := len(s) - len(tail)
	if _, bad := parseGroup(tail); bad != nil {
		return "", bad.shift(at)
	}
	if tail[0] == '-' {
		return "", problemf(at, "a group's name does not begin with a hyphen")
	}
	return name + "/" + tail, nil
}

func parseGroup(s string) (string, *problem) {
	if s == "" {
		return "", problemf(0, "the name of a group is missing; groups: dominion group list")
	}
	if len(s) > maxGroup {
		return "", problemf(0, "the group's name is longer than %d bytes; make it shorter", maxGroup)
	}
	if strings.ContainsAny(s, "*?[]") {
		return "", problemf(strings.IndexAny(s, "*?[]"), "a group's name is no pattern; name each group, as in @web,@db")
	}
	if bad := checkText(s, '_'); bad != nil {
		return "", bad
	}
	return strings.ToLower(s), nil
}

// Without gives e without what x names: both are evaluated for themselves, as
// with -x. Neither is changed.
func (e *Expr) Without(x *Expr) *Expr {
	out := *e
	out.without = append(e.without[:len(e.without):len(e.without)], x)
	return &out
}

// Among gives e for those of some names alone, which must be valid, in lower
// case: a machine that is not among them is not named. A name among them that
// e covers, be it by a glob, and that nobody knows is reported. e is not
// changed; names must not be, after that. Of several calls the last counts.
func (e *Expr) Among(names []string) *Expr {
	out := *e
	out.narrow, out.among = true, normal(names)
	return &out
}

// Groups gives the groups that e names, those of exclusions included: each
// once, sorted, as GroupRef gives them.
func (e *Expr) Groups() []string {
	var out []string
	for _, st := range e.steps {
		if st.group != "" {
			out = append(out, st.group)
		}
	}
	for _, x := range e.without {
		out = append(out, x.Groups()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// String gives the text that Parse read, and " -x " before each exclusion.
func (e *Expr) String() string {
	s := e.text
	for _, x := range e.without {
		s += " -x " + x.String()
	}
	return s
}

// UsesGroups says whether the outcome depends on groups, those of exclusions
// included.
func (e *Expr) UsesGroups() bool {
	for _, st := range e.steps {
		if st.group != "" {
			return true
		}
	}
	for _, x := range e.without {
		if x.UsesGroups() {
			return true
		}
	}
	return false
}

// Matches says whether e names a machine of this name, known or not. It is
// false for every name when e uses groups, since only Resolve can tell then.
// To check many names, resolve e with them as Known: the outcome's Names are
// those that match, and far quicker.
func (e *Expr) Matches(name string) bool {
	name, err := call.ParseName(name)
	if err != nil || e.UsesGroups() {
		return false
	}
	return e.matches(name)
}

func (e *Expr) matches(name string) bool {
	in := false
	if _, is := slices.BinarySearch(e.among, name); e.narrow && !is {
		return false
	}
	for _, st := range e.steps {
		switch st.op {
		case ',':
			in = in || st.pat.match(name)
		case '&':
			in = in && st.pat.match(name)
		case '!':
			in = in && !st.pat.match(name)
		}
	}
	for _, x := range e.without {
		in = in && !x.matches(name)
	}
	return in
}
