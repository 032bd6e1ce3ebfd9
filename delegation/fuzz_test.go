package delegation_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"dominion/call"
	"dominion/delegation"
)

// oracle reads a map with the YAML library; false: it is none.
func oracle(text []byte) (delegation.Node, bool) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); err != nil || doc.Kind != yaml.DocumentNode {
		return delegation.Node{}, false
	}
	var level func(n *yaml.Node) ([]delegation.Node, bool)
	level = func(n *yaml.Node) ([]delegation.Node, bool) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
			return nil, true
		}
		if n.Kind != yaml.MappingNode {
			return nil, false
		}
		var out []delegation.Node
		for i := 0; i < len(n.Content); i += 2 {
			below, ok := level(n.Content[i+1])
			if !ok || n.Content[i].Kind != yaml.ScalarNode {
				return nil, false
			}
			out = append(out, delegation.Node{Name: n.Content[i].Value, Below: below})
		}
		return out, true
	}
	below, ok := level(doc.Content[0])
	return delegation.Node{Below: below}, ok
}

// What is accepted means to the YAML library what it means to us, is written
// in one form, and that form is read as the same map and written as the same bytes.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		treeA, treeD, twoRoutes, selfEntry, oneBranch, "--- {}\n", "---\na:\n    'b':\n        c: {}\nd: {}\n", "a:\n  b:\nc: ~\n",
		`{"a":{"b":{}},'c':null}`, "--- # x\na : {b, c: }\n...\n", "a: &x {}\nb: *x\n", "A:\n  x:\na:\n    y:\n", "\ufeffa:\r\n  {b:\n {}}\r\n", "{a: {\n}, b}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := delegation.Parse(text)
		if err != nil {
			if !errors.Is(err, delegation.ErrMap) || call.CodeOf(err) != call.Invalid {
				t.Fatalf("error %v does not wrap ErrMap", err)
			}
			return
		}
		once := m.String()
		again, err := delegation.Parse([]byte(once))
		if err != nil {
			t.Fatalf("Parse(%q) is written as %q and not read again: %v", text, once, err)
		}
		if len(again.Cuts) > 0 || again.String() != once {
			t.Fatalf("%q is read and written as %q, cuts %v", once, again.String(), again.Cuts)
		}
		tree, ok := oracle(text)
		if !ok {
			t.Fatalf("Parse(%q) = %q, and YAML does not accept it", text, once)
		}
		other, err := delegation.New(tree)
		if err != nil {
			t.Fatal(err)
		}
		if other.String() != once {
			t.Fatalf("Parse(%q) = %q, and YAML reads %q", text, once, other.String())
		}
		m.Index().Routes(m.Index().Names(), nil)
	})
}

// Whatever is answered: a map within its limits, that is written and read the same.
func FuzzBuild(f *testing.F) {
	f.Add("a! b!=k1 c-\na! d!=k1 e\nb!\nx y! z!=k0")
	f.Add("a!\nb!\nc!\na!=k")
	f.Add("A! a_b\n\n!!=\n-")
	f.Fuzz(func(t *testing.T, text string) {
		answers := strings.Split(text, "\n")
		probe := func(_ context.Context, path delegation.Path) (delegation.Answer, error) {
			if len(path) > 4 {
				return delegation.Answer{}, errors.New(text)
			}
			return answer(answers[len(path)%len(answers)]), nil
		}
		if len(strings.Fields(text)) > 12 {
			return // right, and too slow for a fuzz test
		}
		m, err := delegation.Build(t.Context(), probe, delegation.Options{Name: "top", Fingerprint: "k0", Width: 4})
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatal(err)
			}
			return
		}
		read := parse(t, m.String())
		if len(read.Cuts) > 0 || read.String() != m.String() {
			t.Fatalf("%s is read as %s, cuts %v", m, read, read.Cuts)
		}
		if got := delegation.Merge(read, m).String(); got != m.String() {
			t.Fatalf("%s merged with itself is %s", m, got)
		}
		ix := m.Index()
		r := ix.Routes(ix.Names(), nil)
		if len(r.Paths)+len(r.Conflicts) != len(ix.Names()) {
			t.Fatalf("%d names, %+v", len(ix.Names()), r)
		}
		for _, p := range r.Paths {
			if n, ok := m.Find(p...); !ok || n.Name != p[len(p)-1] {
				t.Fatalf("no machine at %s", p)
			}
		}
	})
}
