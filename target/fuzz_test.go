package target_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"dominion/call"
	"dominion/target"
)

var seeds = []string{
	"", "*", "web1,db1", "web[1,2]", "web[01-20,30]", "web[1-2]", "[!a]*?", "@g:web1*;b&c!d", "a[8-11].b", "rack[1,2]-n[01-40]",
	"a[1-999999][1-999999]", "a[", "a]", "[[", "[,]", "[-]", "a,,b", "a[1,2][3,4]", "a[99-100,099]", "é", "\x00", "A.b-C", "a[0-9999999999999999]",
}

func fuzz(f *testing.F, check func(t *testing.T, s string)) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(check)
}

// What is accepted resolves without panic, names only what Matches says, and
// reads its own text again.
func FuzzParse(f *testing.F) {
	known := []string{"1", "12", "a", "a.b-c", "db1", "rack1-n01", "web1", "web10", "web2"}
	env := target.Env{Known: known, Group: func(string) ([]string, bool) { return []string{"a", "web1", "zz"}, true }}
	fuzz(f, func(t *testing.T, s string) {
		e, err := target.Parse(s)
		if err != nil {
			if !errors.Is(err, target.ErrSyntax) {
				t.Fatalf("error %v does not wrap ErrSyntax", err)
			}
			return
		}
		res, err := e.Resolve(env)
		if err != nil {
			t.Fatalf("Resolve(%q): %v", s, err)
		}
		for _, n := range known {
			if in := slices.Contains(res.Names, n); !e.UsesGroups() && in != e.Matches(n) {
				t.Fatalf("Parse(%q).Matches(%q) = %v, and resolved it is %v", s, n, !in, in)
			}
		}
		for _, n := range res.Unknown {
			if _, err := call.ParseName(n); err != nil || slices.Contains(known, n) || !e.UsesGroups() && len(res.Unknown) < 1000 && !e.Matches(n) {
				t.Fatalf("Parse(%q) reports %q", s, n)
			}
		}
		if again, err := target.Parse(e.String()); err != nil || again.UsesGroups() != e.UsesGroups() {
			t.Fatalf("Parse(%q) does not read its own text: %v", s, err)
		}
	})
}

// What is accepted folds, and the folded text expands to the same names and
// is its own fold.
func FuzzExpand(f *testing.F) {
	fuzz(f, func(t *testing.T, s string) {
		names, err := target.Expand(s)
		if err != nil {
			if !errors.Is(err, target.ErrSyntax) {
				t.Fatalf("error %v does not wrap ErrSyntax", err)
			}
			return
		}
		if len(names) > 10_000 {
			return // right, and too slow for a fuzz test
		}
		if s != "" {
			res, err := mustParse(t, s).Resolve(target.Env{})
			if err != nil || !slices.Equal(res.Unknown, names) {
				t.Fatalf("Parse and Expand differ on %q: %q, %v and %q", s, res.Unknown, err, names)
			}
		}
		checkFold(t, names, target.Fold(names))
	})
}

// Any names fold; valid ones are read back, others are refused.
func FuzzFold(f *testing.F) {
	for _, s := range []string{"", "a", "web1 web2 web01", "r1-n1 r1-n2 r2-n1 r2-n2", "9 10 099 100", "a,b", "\x00 \x001", "1a2b3c4d5e6f7g8h9i 1a2b3c4d5e6f7g8h9j"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var names []string
		odd := false
		for name := range strings.SplitSeq(s, " ") {
			_, err := call.ParseName(name)
			odd = odd || err != nil
			names = append(names, name)
		}
		folded := target.Fold(names)
		if !odd {
			checkFold(t, names, folded)
		} else if got, err := target.Expand(folded); !errors.Is(err, target.ErrSyntax) {
			t.Fatalf("Expand(%q) = %q, %v; want ErrSyntax", folded, got, err)
		}
	})
}

// What is accepted matches without panic and without regard to case; a
// pattern of Parse matches as it does there.
func FuzzGlob(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, "web12")
	}
	f.Add("*a*b[1-20]*c", "aab12c")
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := target.Glob(s)
		if err != nil {
			if !errors.Is(err, target.ErrSyntax) {
				t.Fatalf("error %v does not wrap ErrSyntax", err)
			}
			return
		}
		got := p.Match(name)
		if got != p.Match(strings.ToUpper(name)) && name == strings.ToLower(name) && strings.ToLower(strings.ToUpper(name)) == name {
			t.Fatalf("Glob(%q).Match(%q) depends on the case", s, name)
		}
		_, err = call.ParseName(name)
		if e, bad := target.Parse(s); bad == nil && err == nil && !strings.ContainsAny(s, "@;&!") && got != e.Matches(name) {
			t.Fatalf("Glob(%q).Match(%q) = %v, and Parse says %v", s, name, got, !got)
		}
	})
}
