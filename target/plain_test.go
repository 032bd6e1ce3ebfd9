package target_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/target"
)

// plain is the slow version of a term: a regular expression, and the names
// that it spells out. Terms are made together with it, so nothing is parsed.
type plain struct {
	text    string
	match   func(name string) bool
	spelled []string
}

// randomTerm makes a term over short names of a, b and numbers.
func randomTerm(r *rand.Rand, groups map[string][]string) plain {
	if r.IntN(6) == 0 {
		return randomGroup(r, groups)
	}
	var text, expr strings.Builder
	spelled := []string{""}
	glob := false
	for range 1 + r.IntN(3) {
		switch r.IntN(8) {
		case 0:
			text.WriteString("*")
			expr.WriteString(".*")
			glob = true
		case 1:
			text.WriteString("?")
			expr.WriteString(".")
			glob = true
		case 2:
			c := []string{"[ab]", "[!a]", "[0-3]", "[1-2a]", "[B]", "[1]", "[12]"}[r.IntN(7)]
			text.WriteString(c)
			expr.WriteString(strings.ReplaceAll(strings.ToLower(c), "!", "^"))
			glob = true
		case 3, 4:
			lo := r.IntN(12)
			hi, width := lo+r.IntN(30), r.IntN(2)*(2+r.IntN(2))
			if hi < 10 || len(fmt.Sprintf("%0*d", width, lo)) != len(fmt.Sprintf("%0*d", width, hi)) {
				hi, width = 10+r.IntN(20), 0
			}
			numbers := []string{"777"}
			for i := lo; i <= hi; i++ {
				numbers = append(numbers, fmt.Sprintf("%0*d", width, i))
			}
			fmt.Fprintf(&text, "[%0*d-%0*d,777]", width, lo, width, hi)
			expr.WriteString("(?:" + strings.Join(numbers, "|") + ")")
			spelled = times(spelled, numbers)
		default:
			s := []string{"a", "b", "A", "ab", "1", "0", "12"}[r.IntN(7)]
			text.WriteString(s)
			expr.WriteString(strings.ToLower(s))
			spelled = times(spelled, []string{strings.ToLower(s)})
		}
	}
	p := plain{text: text.String(), match: regexp.MustCompile("^(?:" + expr.String() + ")$").MatchString}
	if !glob {
		p.spelled = spelled
	}
	return p
}

func times(heads, tails []string) (out []string) {
	for _, h := range heads {
		for _, t := range tails {
			out = append(out, h+t)
		}
	}
	return out
}

func randomGroup(r *rand.Rand, groups map[string][]string) plain {
	name := []string{"g", "H"}[r.IntN(2)]
	members := groups[strings.ToLower(name)]
	if r.IntN(2) == 0 {
		return plain{"@" + name, func(n string) bool { return slices.Contains(members, n) }, members}
	}
	match := func(n string) bool { return slices.Contains(members, n) && n[0] == 'a' }
	return plain{"@" + name + ":a*", match, slices.DeleteFunc(slices.Clone(members), func(n string) bool { return !match(n) })}
}

// TestPlain compares Parse, Resolve and Matches with the slow version on
// random expressions over random fleets.
func TestPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		groups := map[string][]string{"g": randomFleet(r, 5), "h": randomFleet(r, 5)}
		env := target.Env{
			Known: randomFleet(r, r.IntN(80)),
			Group: func(name string) ([]string, bool) { m, ok := groups[name]; return m, ok },
		}
		var text string
		var ops []byte
		var terms []plain
		candidates := make(map[string]bool)
		for i := range 1 + r.IntN(5) {
			term := randomTerm(r, groups)
			op := ",;&!"[r.IntN(4)]
			if i == 0 {
				op = ','
			} else {
				text += string(op)
			}
			text += term.text
			ops, terms = append(ops, op), append(terms, term)
			for _, s := range term.spelled {
				if op != '!' {
					candidates[s] = true
				}
			}
		}
		named := func(name string) bool {
			in := false
			for i, term := range terms {
				switch m := term.match(name); ops[i] {
				case '&':
					in = in && m
				case '!':
					in = in && !m
				default:
					in = in || m
				}
			}
			return in
		}
		want := target.Result{UsedGroups: strings.Contains(text, "@")}
		for _, name := range env.Known {
			if named(name) {
				want.Names = append(want.Names, name)
			}
			delete(candidates, name)
		}
		for name := range candidates {
			if named(name) {
				want.Unknown = append(want.Unknown, name)
			}
		}
		slices.Sort(want.Unknown)
		checkPlain(t, text, env, want, named)
	}
}

func checkPlain(t *testing.T, text string, env target.Env, want target.Result, named func(string) bool) {
	t.Helper()
	e := mustParse(t, text)
	got, err := e.Resolve(env)
	if err != nil {
		t.Fatalf("Resolve(%q): %v", text, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("Resolve(%q) over %v (-want +got):\n%s", text, env.Known, diff)
	}
	if e.UsesGroups() {
		return
	}
	for _, name := range slices.Concat(env.Known, want.Unknown) {
		if e.Matches(name) != named(name) {
			t.Fatalf("Parse(%q).Matches(%q) = %v", text, name, e.Matches(name))
		}
	}
}

// randomFleet gives up to n sorted names of a, b and digits.
func randomFleet(r *rand.Rand, n int) []string {
	var names []string
	for range n {
		var b strings.Builder
		for range 1 + r.IntN(5) {
			b.WriteByte("ab0127"[r.IntN(6)])
		}
		names = append(names, b.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}
