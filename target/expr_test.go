package target_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/target"
)

// fleet is the fleet of the worked examples of Func's own documentation, with
// the names in lower case and a few more.
func fleet() target.Env {
	groups := map[string][]string{
		"webs":  {"web1", "Web2", "web10"},
		"ghost": {"notthere"},
		"dbs":   {"db1"},
		"empty": nil,
	}
	return target.Env{
		Known: []string{"db1", "mail.example.org", "web1", "web10", "web2", "web3"},
		Group: func(name string) ([]string, bool) {
			m, ok := groups[name]
			return m, ok
		},
	}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		expr, names, unknown string // as space separated lists
	}{
		{"*", "db1 mail.example.org web1 web10 web2 web3", ""},
		{"web?", "web1 web2 web3", ""},
		{"web[12]", "web1 web2", ""},
		{"web[1-2]", "web1 web2", ""},
		{"web[1-9]", "web1 web2 web3", ""},
		{"web[!12]", "web3", ""},
		{"web[1,2]", "web1 web2", ""},
		{"web[1-4,9]", "web1 web2 web3", "web4 web9"},
		{"web[8-10]", "web10", "web8 web9"},
		{"web[01-02]", "", "web01 web02"},
		{"[wm][ea]*", "mail.example.org web1 web10 web2 web3", ""},
		{"web[1,2]*", "web1 web10 web2", ""},
		{"web1;db1", "db1 web1", ""},
		{"web1,db1", "db1 web1", ""},
		{" web1 ,\tdb1\n", "db1 web1", ""},
		{"WEB1", "web1", ""},
		{"W*", "web1 web10 web2 web3", ""},
		{"Mail.Example.ORG", "mail.example.org", ""},
		{"*.example.*", "mail.example.org", ""},
		{"nosuch", "", "nosuch"},
		{"nosuch*", "", ""},
		{"@webs", "web1 web10 web2", ""},
		{"@WEBS", "web1 web10 web2", ""},
		{"@webs:web1*", "web1 web10", ""},
		{"@webs:web3", "", ""},
		{"@webs:web[1-2]", "web1 web2", ""},
		{"@webs:web[1,3,10]", "web1 web10", ""},
		{"@webs:x*", "", ""},
		{"@webs;db*", "db1 web1 web10 web2", ""},
		{"@ghost", "", "notthere"},
		{"@ghost:x*", "", ""},
		{"@empty", "", ""},
		{"*!@webs", "db1 mail.example.org web3", ""},
		{"*!web*", "db1 mail.example.org", ""},
		{"@webs!web1", "web10 web2", ""},
		{"@webs&web1*", "web1 web10", ""},
		{"web1*&@webs", "web1 web10", ""},
		// left to right, without precedence
		{"db1,web1&web*", "web1", ""},
		{"web*&web1*,db1", "db1 web1 web10", ""},
		{"*!web*,web1", "db1 mail.example.org web1", ""},
		{"web1!web1", "", ""},
		// names that nobody knows
		{"web[1-12]!web[4-9]", "web1 web10 web2 web3", "web11 web12"},
		{"web[1-12]!web1?", "web1 web2 web3", "web4 web5 web6 web7 web8 web9"},
		{"*!nosuch", "db1 mail.example.org web1 web10 web2 web3", ""},
		{"nosuch&n*", "", "nosuch"},
		{"n*&nosuch", "", "nosuch"},
		{"nosuch&@webs", "", ""},
		{"*!web9,web*", "db1 mail.example.org web1 web10 web2 web3", ""},
		{"nosuch,NOSUCH", "", "nosuch"},
	} {
		t.Run(tt.expr, func(t *testing.T) {
			e, err := target.Parse(tt.expr)
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.Resolve(fleet())
			if err != nil {
				t.Fatal(err)
			}
			want := target.Result{Names: words(tt.names), Unknown: words(tt.unknown), UsedGroups: strings.Contains(tt.expr, "@")}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Resolve(%q) (-want +got):\n%s", tt.expr, diff)
			}
			if e.UsesGroups() != want.UsedGroups || e.String() != tt.expr {
				t.Errorf("UsesGroups() = %v, String() = %q", e.UsesGroups(), e)
			}
			if want.UsedGroups {
				return
			}
			for _, name := range fleet().Known {
				if m := e.Matches(strings.ToUpper(name)); m != slices.Contains(got.Names, name) {
					t.Errorf("Matches(%q) = %v; resolved: %v", name, m, got.Names)
				}
			}
		})
	}
}

func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Fields(s)
}

// The fleet and expressions of Func's own tests: 100 minions named 0 to 99.
func TestResolveNumbers(t *testing.T) {
	env := target.Env{Group: func(name string) ([]string, bool) { return upTo(0, 9), name == "group1" }}
	env.Known = upTo(0, 99)
	slices.Reverse(env.Known) // any order does
	for _, tt := range []struct {
		expr, exclude string
		want          []string
	}{
		{"[1][0-9];@group1:*", "", upTo(0, 19)},
		{"[1][0-5];@group1:[5-9]", "", upTo(5, 15)},
		{"*", "[1-9][0-9]", upTo(0, 9)},
		{"[1][0-5];@group1:[5-9]", "[1][3-5];@group1:[5-7]", upTo(8, 12)},
		{"[0-99]", "[0-97,99]", []string{"98"}},
	} {
		t.Run(tt.expr+" -x "+tt.exclude, func(t *testing.T) {
			e := mustParse(t, tt.expr)
			if tt.exclude != "" {
				e = e.Without(mustParse(t, tt.exclude))
			}
			got, err := e.Resolve(env)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got.Names); diff != "" || got.Unknown != nil {
				t.Errorf("Resolve (-want +got):\n%s\nunknown: %v", diff, got.Unknown)
			}
		})
	}
}

func upTo(from, to int) (names []string) {
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

func mustParse(t testing.TB, s string) *target.Expr {
	t.Helper()
	e, err := target.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestWithout(t *testing.T) {
	e := mustParse(t, "web*,nosuch,web99")
	// The exclusion is evaluated for itself: (web* and not web1) is taken out.
	x := e.Without(mustParse(t, "web*!web1")).Without(mustParse(t, "nosuch"))
	got, err := x.Resolve(fleet())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(target.Result{Names: []string{"web1"}}, got); diff != "" {
		t.Errorf("Resolve (-want +got):\n%s", diff)
	}
	if got, want := x.String(), "web*,nosuch,web99 -x web*!web1 -x nosuch"; got != want {
		t.Errorf("String() = %q; want %q", got, want)
	}
	if !x.Matches("web1") || x.Matches("web2") || x.Matches("nosuch") || !e.Matches("web2") {
		t.Error("Matches does not follow the exclusion, or Without changed its receiver")
	}
	g := e.Without(mustParse(t, "@webs"))
	if !g.UsesGroups() || g.Matches("web3") || e.UsesGroups() {
		t.Error("an exclusion by group: UsesGroups must be true, and Matches false")
	}
	got, err = g.Resolve(fleet())
	if err != nil {
		t.Fatal(err)
	}
	want := target.Result{Names: []string{"web3"}, Unknown: []string{"nosuch", "web99"}, UsedGroups: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Resolve (-want +got):\n%s", diff)
	}
}

func TestResolveErrors(t *testing.T) {
	for _, expr := range []string{"@nogroup", "web1,@nogroup:x", "*!@NoGroup"} {
		e := mustParse(t, expr)
		_, err := e.Resolve(fleet())
		if !errors.Is(err, target.ErrGroup) || call.CodeOf(err) != call.NotFound || !strings.Contains(err.Error(), `no group "nogroup"`) {
			t.Errorf("Resolve(%q) = %v; want ErrGroup that names it", expr, err)
		}
		if _, err := mustParse(t, "*").Without(e).Resolve(fleet()); !errors.Is(err, target.ErrGroup) {
			t.Errorf("exclude %q = %v; want ErrGroup", expr, err)
		}
		if _, err := e.Resolve(target.Env{}); !errors.Is(err, target.ErrGroup) {
			t.Errorf("Resolve(%q) without groups = %v; want ErrGroup", expr, err)
		}
	}
	bad := target.Env{Group: func(string) ([]string, bool) { return []string{"a/b"}, true }}
	if _, err := mustParse(t, "@g").Resolve(bad); !errors.Is(err, call.ErrName) {
		t.Errorf("a group that holds no name: %v; want call.ErrName", err)
	}
}

func TestParseErrors(t *testing.T) {
	long := strings.Repeat("a", 70)
	for _, tt := range []struct{ expr, want string }{
		{"", `target "": position 1: it is empty; write * for all machines`},
		{" \t", `target " \t": position 1: it is empty; write * for all machines`},
		{",a", `target ",a": position 1: a target is missing before the operator; write one, * for all machines`},
		{"a, ,b", `target "a, ,b": position 4: a target is missing after ','; write one, or remove the operator`},
		{"web*!", `target "web*!": position 6: a target is missing after '!'; write one, or remove the operator`},
		{"web[1-", `target "web[1-": position 4: the bracket is not closed; write "]" after it`},
		{"a,w]", `target "a,w]": position 4: a bracket is closed that was not opened; remove "]" or write "[" before it`},
		{"a[1[2]]", `target "a[1[2]]": position 4: a bracket opens inside a bracket; close the first with "]"`},
		{"a[]", `target "a[]": position 3: the bracket is empty; write characters as in [abc] or numbers as in [1,2]`},
		{"a[!]", `target "a[!]": position 4: the bracket is empty; write characters as in [abc] or numbers as in [1,2]`},
		{"a[z-b]", `target "a[z-b]": position 3: class "z-b" ends before it begins; write the smaller character first`},
		{"a[x^]", `target "a[x^]": position 4: "^" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"a[20-10]", `target "a[20-10]": position 3: range "20-10" ends before it begins; write the smaller number first`},
		{"a[5,01-100]", `target "a[5,01-100]": position 5: the ends of padded range "01-100" differ in width; write them with as many digits, or two ranges as in [08-99,100-120]`},
		{"a[1,b]", `target "a[1,b]": position 5: "b" is not a number; a bracket with a comma, or with a dash and a number of two digits, is a range of numbers such as [01-20,30]`},
		{"a[!1-20]", `target "a[!1-20]": position 3: "!1" is not a number; a bracket with a comma, or with a dash and a number of two digits, is a range of numbers such as [01-20,30]`},
		{"a[1-20/2]", `target "a[1-20/2]": position 5: "20/2" is not a number; a bracket with a comma, or with a dash and a number of two digits, is a range of numbers such as [01-20,30]`},
		{"a[10-]", `target "a[10-]": position 6: a number is missing in the range; write it as in [1-20] or [1,2]`},
		{"a[1,]", `target "a[1,]": position 5: a number is missing in the range; write it as in [1-20] or [1,2]`},
		{"a[1-12345678901234567]", `target "a[1-12345678901234567]": position 5: a number of 17 digits is too long for a range, at most 16; write the names out`},
		{"web1 web2", `target "web1 web2": position 5: there is a blank inside a name; separate names by commas`},
		{"ok,a/b", `target "ok,a/b": position 5: "/" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"a_*", `target "a_*": position 2: "_" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"é", `target "é": position 1: "é" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"a\x1b[31m", `target "a\x1b[31m": position 2: "\x1b" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"b,-a", `target "b,-a": position 3: not a machine name: a label of "-a" begins or ends with a hyphen; write names as in web1.example.org`},
		{"a..b", `target "a..b": position 1: not a machine name: "a..b" has an empty label; write names as in web1.example.org`},
		{"@", `target "@": position 2: the name of a group is missing; groups: dominion group list`},
		{"a&@:x", `target "a&@:x": position 4: the name of a group is missing; groups: dominion group list`},
		{"@web*", `target "@web*": position 5: a group's name is no pattern; name each group, as in @web,@db`},
		{"@web:", `target "@web:": position 6: a pattern is missing after ":"; write @web:web1*, or @web for all members`},
		{"@web:@db", `target "@web:@db": position 6: "@" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"@" + long, `: position 2: the group's name is longer than 64 bytes; make it shorter`},
		{"a[1-999999][1-999999]", `target "a[1-999999][1-999999]": position 1: the ranges stand for more than 1048576 names; use a glob such as web*, or fewer numbers`},
		{"x,a[0-9999999999999999]", `position 3: the ranges stand for more than 1048576 names`},
		{"a" + strings.Repeat("[0-9999]", 12), `position 1: the ranges stand for more than 1048576 names`},
		{"a[1-1000000],b[1-1000000]", `position 14: the ranges stand for more than 1048576 names`},
		{strings.Repeat(strings.Repeat("a", 60)+".", 4) + "b[1-1000000]", `the ranges stand for more than 128 MiB of names`},
		{strings.Repeat("a.", 127) + "a", `position 1: the name is longer than 253 bytes; make it shorter`},
		{strings.Repeat("a", 58) + "[1-100000]", `has a label of 64 bytes, more than 63`},
		{strings.Repeat("?", 507), `position 507: the pattern is longer than any name, 253 bytes; make it shorter`},
		{strings.Repeat("a,", 32<<10) + "a", `"…: position 65537: 65537 bytes are more than 65536; use a group or a glob`},
		{strings.Repeat("*,", 1100) + "a", `position 2049: there are more than 1024 globs, groups and intersections; make a group of the machines`},
	} {
		name := tt.expr[:min(len(tt.expr), 20)]
		t.Run(name, func(t *testing.T) {
			_, err := target.Parse(tt.expr)
			if !errors.Is(err, target.ErrSyntax) || call.CodeOf(err) != call.Invalid {
				t.Fatalf("Parse(%q…) = %v; want ErrSyntax", name, err)
			}
			got := err.Error()
			if strings.HasPrefix(tt.want, "target ") && got != tt.want || !strings.Contains(got, strings.TrimPrefix(tt.want, `"…`)) {
				t.Errorf("Parse(%q…)\n got %s\nwant %s", name, got, tt.want)
			}
			if len(got) > 700 {
				t.Errorf("the error has %d bytes", len(got))
			}
		})
	}
}

// A long text is quoted around the fault only.
func TestExcerpt(t *testing.T) {
	_, err := target.Parse(strings.Repeat("web,", 100) + "/," + strings.Repeat("db,", 100))
	if err == nil || !strings.HasPrefix(err.Error(), `target …"`) || !strings.Contains(err.Error(), `web,/,db,`) || !strings.Contains(err.Error(), `"…: position 401: `) {
		t.Errorf("error = %v", err)
	}
}

func TestGroupName(t *testing.T) {
	if got, err := target.GroupName("Web_Servers.eu-1"); err != nil || got != "web_servers.eu-1" {
		t.Errorf("GroupName = %q, %v", got, err)
	}
	for _, s := range []string{"", "a b", "web*", "a:b", "@a", "a,b", "a\n", strings.Repeat("a", 65)} {
		if got, err := target.GroupName(s); !errors.Is(err, target.ErrSyntax) {
			t.Errorf("GroupName(%q) = %q, %v; want ErrSyntax", s, got, err)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		glob     string
		yes, not string
	}{
		{"*", "a a.b 1", ""},
		{"web*", "web web1 WEB9", "xweb we"},
		{"Web*,DB?", "web1 db1", "db db12"},
		{"web* , db1", "web1 db1", "db2"},
		{"web[01-20,30]", "web01 web20 web30", "web1 web00 web21 web030"},
		{"web[1-20]", "web1 web9 web10 web20", "web01 web0 web21 web"},
		{"web[0-10]", "web0 web10", "web00 web11"},
		{"[1-20]*", "1 12 123 9x", "x 0"},
		{"*[1-20]", "web1 web121 a00020", "web0 web"},
		{"a[1-20][1-20]b", "a11b a2020b a120b", "a1b a00b a2121b"},
		{"a[1-2]", "a1 a2", "a3 a12"},
		{"a[!b-d]", "aa ae a1", "ab ac ad a"},
		{"a[-x]", "a- ax", "ab"},
		{"a[x-]", "a- ax", "ab"},
		{"a[A-C1]", "aa ab A1", "ad"},
		{"service.*", "service.status", "services.x"},
		{"*.get_*", "file.get_all", "file.set_all"},
		{"*a*b*c*", "abc xxaxxbxxc", "acb ab"},
		{"??", "ab", "a abc"},
		{"web[1-99999999]", "web12345678", "web0"},
		{"n12345678901234567890", "n12345678901234567890", "n1"},
	} {
		t.Run(tt.glob, func(t *testing.T) {
			p, err := target.Glob(tt.glob)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range words(tt.yes) {
				if !p.Match(s) {
					t.Errorf("Match(%q) = false; want true", s)
				}
			}
			for _, s := range append(words(tt.not), strings.Repeat("a", 254), "") {
				if p.Match(s) && s != "" {
					t.Errorf("Match(%q) = true; want false", s)
				}
			}
			if p.String() != tt.glob {
				t.Errorf("String() = %q", p)
			}
		})
	}
	for _, s := range []string{"", "a,", ",a", "a[", "a;b", "a&b", "!a", "@g", "a b", "a[1,x]", strings.Repeat("a,", 1100) + "a", strings.Repeat("*", 64<<10+1)} {
		if p, err := target.Glob(s); !errors.Is(err, target.ErrSyntax) {
			t.Errorf("Glob(%.20q) = %v, %v; want ErrSyntax", s, p, err)
		}
	}
	if (target.Pattern{}).Match("") || (target.Pattern{}).Match("a") {
		t.Error("the zero Pattern matches something")
	}
}
