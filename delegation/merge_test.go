package delegation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/delegation"
)

// probed makes a map as Build does, of lines "a/b/c" with marks behind:
// "+" alive, "-" silent, "!" alive and an overlord that answered, "=KEY" its key.
func probed(t testing.TB, lines string) delegation.Map {
	t.Helper()
	self := delegation.Node{Life: delegation.Alive, Overlord: true}
	for _, word := range strings.Fields(lines) {
		word, key, _ := strings.Cut(word, "=")
		path := strings.Split(strings.TrimRight(word, "+-!"), "/")
		at := &self
		for _, name := range path[:len(path)-1] {
			i := slices.IndexFunc(at.Below, func(n delegation.Node) bool { return n.Name == name })
			if i < 0 {
				t.Fatalf("nothing at %s", name)
			}
			at = &at.Below[i]
		}
		n := delegation.Node{Name: path[len(path)-1], Fingerprint: key, Life: delegation.Alive}
		switch word[len(word)-1] {
		case '-':
			n.Life, n.Problem = delegation.Silent, "no answer"
		case '!':
			n.Overlord = true
		case '+':
		default:
			n.Life = delegation.Unasked
		}
		at.Below = append(at.Below, n)
	}
	m, err := delegation.New(self)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMerge(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"Func's example, recursive", "a a/x b", "a a/y c", "a a/x a/y b c"},
		{"nothing old", "", "a! a/x+", "a a/x"},
		{"nothing new", "a a/x", "", "a a/x"},
		{"deep", "a a/b a/b/x c c/y", "a! a/b! a/b/z+ c-", "a a/b a/b/x a/b/z c c/y"},
		{"a dead hop keeps what was behind it", "a a/x a/y", "a-", "a a/x a/y"},
		{"gone, and nowhere else", "a a/x", "a!", "a a/x"},
		{"moved", "a a/x b", "a! b! b/x+", "a b b/x"},
		{"moved, and its former overlord is silent", "a a/x b", "a- b! b/x+", "a a/x b b/x"},
		{"elsewhere, but silent", "a a/x b", "a! b! b/x-", "a a/x b b/x"},
		{"moved from the top", "x b", "b! b/x+", "b b/x"},
		{"moved with what is below it", "a a/h a/h/x b", "a! b! b/h! b/h/x-", "a b b/h b/h/x"},
		{"moved, and somebody below it is new's stranger", "a a/h a/h/x b", "a! b! b/h!", "a a/h a/h/x b b/h"},
		{"at two places, as before", "a a/x b b/x", "a! a/x+ b! b/x+", "a a/x b b/x"},
		{"a map that was read moves nobody", "a a/x b", "a b b/x", "a a/x b b/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, fresh := probed(t, tt.old), probed(t, tt.new)
			before := fmt.Sprintf("%+v%+v", old, fresh)
			m := delegation.Merge(old, fresh)
			if got := strings.Join(all(m), " "); got != tt.want {
				t.Errorf("Merge(%s, %s) = %s; want %s", tt.old, tt.new, got, tt.want)
			}
			if fmt.Sprintf("%+v%+v", old, fresh) != before {
				t.Error("Merge changed its arguments")
			}
			if again := delegation.Merge(old, m); again.String() != m.String() {
				t.Errorf("merged again: %s", again)
			}
			if delegation.Merge(parse(t, old.String()), fresh).String() != m.String() {
				t.Error("it matters that old was read from a file")
			}
		})
	}
}

// The new map's word counts for what both know; what only old knows is unasked.
func TestMergeFacts(t *testing.T) {
	old := probed(t, "a!=k1 a/x+=k2 b!=k3 b/y+=k4 c+=k5 d+=k6")
	fresh := probed(t, "a!=k7 b- c+ d")
	m := delegation.Merge(old, fresh)
	type fact struct {
		Key, Problem string
		Life         delegation.Life
		Overlord     bool
	}
	got := make(map[string]fact)
	for p, n := range m.All() {
		got[p.String()] = fact{n.Fingerprint, n.Problem, n.Life, n.Overlord}
	}
	want := map[string]fact{
		"a":   {"k7", "", delegation.Alive, true},
		"a/x": {"k2", "", delegation.Unasked, false},
		"b":   {"k3", "no answer", delegation.Silent, true},
		"b/y": {"k4", "", delegation.Unasked, false},
		"c":   {"k5", "", delegation.Alive, false},
		"d":   {"k6", "", delegation.Alive, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A file does not know whose map it is; a merge does.
func TestMergeCutsItself(t *testing.T) {
	fresh, err := delegation.New(delegation.Node{Name: "top", Below: []delegation.Node{{Name: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	m := delegation.Merge(parse(t, "{a: {top: {b: {}}, c: {}}, x_y: {}, s: {s: {}}}"), fresh)
	if got, want := strings.Join(all(m), " "), "a a/c s"; got != want {
		t.Errorf("Merge = %s; want %s", got, want)
	}
	var cuts []string
	for _, c := range m.Cuts {
		cuts = append(cuts, c.Path.String())
	}
	if diff := cmp.Diff([]string{"x_y", "s/s", "a/top"}, cuts); diff != "" {
		t.Error(diff)
	}
	// A cut that both name is named once, and one that is a place now no more.
	both := delegation.Merge(m, m)
	if diff := cmp.Diff(m.Cuts, both.Cuts); diff != "" {
		t.Error(diff)
	}
}

// Over random maps: nothing is lost, nothing is invented.
func TestMergeIsTheUnion(t *testing.T) {
	for seed := range uint64(100) {
		old, fresh := randomMap(t, 2*seed), randomMap(t, 2*seed+1)
		want := append(all(old), all(fresh)...)
		slices.Sort(want)
		got := all(delegation.Merge(old, fresh))
		slices.Sort(got)
		if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

func TestOnlyAlive(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"at the top", "a+ b- c", "a"},
		{"at every level", "a! a/x+ a/y- a/h! a/h/x+ a/h/y- a/h/z", "a a/h a/h/x a/x"},
		{"a silent hop goes with all below it", "a- a/x+ b+", "b"},
		{"a file's map", "a a/x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := probed(t, tt.in)
			before := m.String()
			if got := strings.Join(all(delegation.OnlyAlive(m)), " "); got != tt.want {
				t.Errorf("OnlyAlive(%s) = %s; want %s", tt.in, got, tt.want)
			}
			if m.String() != before {
				t.Error("it changed its argument")
			}
		})
	}
}

func TestCount(t *testing.T) {
	m := probed(t, "a! a/x- a/y- b- b/x+ c d!")
	if got, want := m.Count(), (delegation.Counts{Machines: 6, Places: 7, Overlords: 3, Silent: 2, Depth: 2}); got != want {
		t.Errorf("Count() = %+v; want %+v", got, want)
	}
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct{ name, old, new, added, removed, moved string }{
		{"same", "a a/x", "a! a/x-", "", "", ""},
		{"added with what is below it", "a", "a b b/x", "b b/x", "", ""},
		{"removed", "a a/x b", "b", "", "a a/x", ""},
		{"moved", "a a/x b", "a b b/x", "", "", "a/x>b/x"},
		{"moved with what is below it", "a a/h a/h/x b", "a b b/h b/h/x", "", "", "a/h>b/h a/h/x>b/h/x"},
		{"a second place is added", "a a/x b", "a a/x b b/x", "b/x", "", ""},
		{"one of two places moved", "a a/x b b/x c", "a b c c/x", "", "b/x", "a/x>c/x"},
		{"to two places", "x a b", "a a/x b b/x", "b/x", "", "x>a/x"},
		{"from nothing", "", "a", "a", "", ""},
		{"up", "a a/x", "a x", "", "", "a/x>x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := delegation.Diff(probed(t, tt.old), probed(t, tt.new))
			var moved []string
			for _, m := range d.Moved {
				moved = append(moved, m.From.String()+">"+m.To.String())
			}
			got := [3]string{strings.Join(strs(d.Added), " "), strings.Join(strs(d.Removed), " "), strings.Join(moved, " ")}
			if want := [3]string{tt.added, tt.removed, tt.moved}; got != want {
				t.Errorf("Diff(%s, %s) = %q; want %q", tt.old, tt.new, got, want)
			}
		})
	}
}

// Over random maps: what Diff says, done to the old places, gives the new ones.
func TestDiffIsComplete(t *testing.T) {
	for seed := range uint64(100) {
		old, fresh := randomMap(t, 2*seed), randomMap(t, 2*seed+1)
		d := delegation.Diff(old, fresh)
		places := make(map[string]bool)
		for _, p := range all(old) {
			places[p] = true
		}
		drop := func(p delegation.Path) {
			if !places[p.String()] {
				t.Fatalf("seed %d: %s is removed twice or was not there", seed, p)
			}
			delete(places, p.String())
		}
		for _, p := range d.Removed {
			drop(p)
		}
		for _, m := range d.Moved {
			drop(m.From)
			places[m.To.String()] = true
		}
		for _, p := range d.Added {
			places[p.String()] = true
		}
		var got []string
		for p := range places {
			got = append(got, p)
		}
		want := all(fresh)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %q; want %q", seed, got, want)
		}
	}
}
