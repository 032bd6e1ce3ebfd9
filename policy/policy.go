// Package policy decides which operator may call which method on which
// machine. A policy is a YAML list of lines that allow; what no line allows
// is denied:
//
//   - {operators: "alice", methods: "*", targets: "*"}
//   - {operators: "web-*", methods: "service.*,test.*", targets: "web*!web-db1"}
//   - {operators: "bob", methods: "cert.*,token.create", targets: "*"}
//
// Each line has exactly three keys, all texts:
//
//	operators  patterns of operator names (target.Glob), separated by commas
//	methods    patterns of whole method names, likewise
//	targets    an expression (target.Parse)
//
// Administrative actions ("cert.sign", "groups.set") concern the fleet and no
// machine: a line allows them only when its targets are exactly "*". Methods
// of operator, overlord, cert and token decide who else gets in: a line allows them
// only by a pattern that begins with that word, so that "*" does not.
//
// A line whose targets name a group (@web) applies only where groups are
// known, at the overlord (WithGroups). A minion does not know them, and there
// such a line allows nothing.
package policy

import (
	"slices"
	"strings"

	"dominion/target"
)

// guarded are the beginnings, whole words, of the methods that a pattern must
// name.
var guarded = []string{"cert", "cluster.key", "operator", "overlord", "token"}

// Policy is a checked policy file. A nil *Policy is that of a machine without
// a file and allows everything. It does not change after it was made and may
// be used by any number of goroutines.
type Policy struct {
	lines []line
	group func(name string) (members []string, ok bool) // nil: groups are not known
}

// line allows.
type line struct {
	operators target.Pattern
	methods   []method
	targets   *target.Expr
	all       bool // targets is "*"
}

// method is one alternative of a line's methods.
type method struct {
	text    string // lower case
	pattern target.Pattern
}

// WithGroups gives the same policy where groups are known. The function gives
// a group's members, and whether there is such a group; it must not block for
// long and may be called by several goroutines at once.
func (p *Policy) WithGroups(group func(name string) (members []string, ok bool)) *Policy {
	if p == nil {
		return nil
	}
	return &Policy{lines: p.lines, group: group}
}

// Allow says whether operator (a name without its role) may call a method on
// a machine; an empty machine stands for an administrative action.
func (p *Policy) Allow(operator, method, machine string) bool {
	if p == nil {
		return true
	}
	if machine != "" {
		return len(p.AllowAll(operator, method, []string{machine})) == 0
	}
	return slices.ContainsFunc(p.lines, func(l line) bool { return l.all && l.covers(operator, method) })
}

// Somewhere says whether operator may call a method on some machine.
func (p *Policy) Somewhere(operator, method string) bool {
	return p == nil || slices.ContainsFunc(p.lines, func(l line) bool { return l.covers(operator, method) })
}

// AllowAll gives those of machines on which operator may not call a method,
// in their order; nil: none. Machines are valid names in lower case.
func (p *Policy) AllowAll(operator, method string, machines []string) (denied []string) {
	if p == nil || len(machines) == 0 {
		return nil
	}
	allowed := make(map[string]bool)
	for i := range p.lines {
		l := &p.lines[i]
		if !l.covers(operator, method) {
			continue
		}
		if l.all {
			return nil
		}
		for _, m := range p.among(l.targets, machines) {
			allowed[m] = true
		}
	}
	for _, m := range machines {
		if !allowed[m] {
			denied = append(denied, m)
		}
	}
	return denied
}

// among gives those of machines that e names; none when it names a group that
// is not known, whatever else it names.
func (p *Policy) among(e *target.Expr, machines []string) []string {
	if len(machines) == 1 && !e.UsesGroups() {
		if e.Matches(machines[0]) {
			return machines
		}
		return nil
	}
	r, err := e.Resolve(target.Env{Known: machines, Group: p.group})
	if err != nil {
		return nil
	}
	return r.Names
}

func (l *line) covers(operator, name string) bool {
	if !l.operators.Match(operator) {
		return false
	}
	head := ""
	for _, g := range guarded {
		if strings.HasPrefix(strings.ToLower(name)+".", g+".") {
			head = g
		}
	}
	return slices.ContainsFunc(l.methods, func(m method) bool {
		return m.pattern.Match(name) && strings.HasPrefix(m.text, head)
	})
}
