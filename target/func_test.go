package target_test

import (
	"strings"
	"testing"

	"dominion/target"
)

// Func's table of worked examples, each row with what Func gives, and where that was a
// defect, or silence, with what is given here instead.
func TestFuncExamples(t *testing.T) {
	groups := map[string][]string{
		"webs":   {"web1", "web2", "web10"},
		"globby": {"db1"}, // db*, expanded when the group was made
		"ghost":  {"notthere"},
	}
	env := target.Env{
		Known: []string{"web1", "web2", "web3", "web10", "db1", "mail.example.org"},
		Group: func(name string) ([]string, bool) {
			m, ok := groups[name]
			return m, ok
		},
	}
	const all = "db1 mail.example.org web1 web10 web2 web3"
	for _, tt := range []struct {
		expr, exclude, names, unknown string
		fails                         string // the error that is given, where Func named nobody or crashed
		mended                        string // what Func did; empty: the same
	}{
		{expr: "*", names: all},
		{expr: "web?", names: "web1 web2 web3"},
		{expr: "web[12]", names: "web1 web2"},
		{expr: "web1;db1", names: "db1 web1"},
		{expr: "WEB1", names: "web1"},
		{expr: "mail.example.org", names: "mail.example.org"},
		{expr: "Mail.Example.org", names: "mail.example.org"},
		{expr: "@webs", names: "web1 web10 web2"},
		{expr: "@webs:web1*", names: "web1 web10"},
		{expr: "@webs;db*", names: "db1 web1 web10 web2"},
		{expr: "@globby", names: "db1"},
		{expr: "@Globby", names: "db1"},
		{expr: "*", exclude: "@webs", names: "db1 mail.example.org web3"},
		{expr: "*", exclude: "web*;@globby", names: "mail.example.org"},
		{expr: "@webs", exclude: "web1", names: "web10 web2"},
		{expr: "nosuch", unknown: "nosuch", mended: "nobody, unless unknown ones were allowed"},
		{expr: "@ghost", unknown: "notthere", mended: "nobody"},
		{expr: "@nogroup", fails: `there is no group "nogroup"`, mended: "nobody"},
		{expr: "@web*", fails: "a group's name is no pattern", mended: "nobody"},
		{expr: "@webs:[0-9]", mended: "the whole group, when the pattern fitted nobody at all"},
		{expr: "web1 ; db1", names: "db1 web1", mended: "nobody: blanks were not taken off"},
		{expr: "web1,web2", names: "web1 web2", mended: "nobody: a comma was part of the name"},
		{expr: "", fails: "it is empty", mended: "a crash"},
		{expr: "web1;", fails: "a target is missing after", mended: "a crash"},
		{expr: "web1;;db1", fails: "a target is missing after", mended: "a crash"},
	} {
		t.Run(tt.expr+" -x "+tt.exclude, func(t *testing.T) {
			res, err := resolveFunc(tt.expr, tt.exclude, env)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("%v; want an error with %q (Func: %s)", err, tt.fails, tt.mended)
				}
				return
			}
			if err != nil || strings.Join(res.Names, " ") != tt.names || strings.Join(res.Unknown, " ") != tt.unknown {
				t.Errorf("= %q, unknown %q, %v; want %q, %q (Func: %s)", res.Names, res.Unknown, err, tt.names, tt.unknown, tt.mended)
			}
		})
	}
}

func resolveFunc(expr, exclude string, env target.Env) (target.Result, error) {
	e, err := target.Parse(expr)
	if err != nil {
		return target.Result{}, err
	}
	if exclude != "" {
		x, err := target.Parse(exclude)
		if err != nil {
			return target.Result{}, err
		}
		e = e.Without(x)
	}
	return e.Resolve(env)
}
