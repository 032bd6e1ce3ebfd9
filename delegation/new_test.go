package delegation_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/delegation"
)

func TestPath(t *testing.T) {
	for _, tt := range []struct {
		path delegation.Path
		want string
	}{{nil, "."}, {delegation.Path{"a"}, "a"}, {delegation.Path{"a", "b"}, "a/b"}} {
		if got := tt.path.String(); got != tt.want {
			t.Errorf("String() = %q; want %q", got, tt.want)
		}
	}
}

func TestLife(t *testing.T) {
	for life, want := range map[delegation.Life]string{delegation.Unasked: "unasked", delegation.Alive: "alive", delegation.Silent: "silent"} {
		if got := life.String(); got != want {
			t.Errorf("Life(%d).String() = %q; want %q", life, got, want)
		}
	}
}

func TestNew(t *testing.T) {
	deep := func(n int) delegation.Node {
		top := delegation.Node{}
		at := &top
		for i := range n {
			at.Below = []delegation.Node{{Name: fmt.Sprintf("n%d", i)}}
			at = &at.Below[0]
		}
		return top
	}
	if _, err := delegation.New(deep(delegation.MaxDepth)); err != nil {
		t.Errorf("%d levels: %v", delegation.MaxDepth, err)
	}
	for _, tt := range []struct {
		name string
		self delegation.Node
		want string
	}{
		{"deep", deep(delegation.MaxDepth + 1), "more than 64 levels"},
		{"wide", delegation.Node{Below: make([]delegation.Node, delegation.MaxNodes+1)}, "more than 1048576 machines"},
		{"own name", delegation.Node{Name: "a b"}, "the overlord itself"},
	} {
		if tt.name == "wide" {
			for i := range tt.self.Below {
				tt.self.Below[i].Name = fmt.Sprintf("n%d", i)
			}
		}
		_, err := delegation.New(tt.self)
		if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

// New leaves its argument alone, joins doubles and cuts cycles.
func TestNewSettles(t *testing.T) {
	self := delegation.Node{Name: "Top", Fingerprint: "k0", Below: []delegation.Node{
		{Name: "b", Below: []delegation.Node{{Name: "x"}, {Name: "TOP"}, {Name: "c", Below: []delegation.Node{{Name: "B"}}}}},
		{Name: "a_b"},
		{Name: "alias", Fingerprint: "k0"},
		{Name: "B", Fingerprint: "k1", Below: []delegation.Node{{Name: "X", Below: []delegation.Node{{Name: "y"}}}}},
		{Name: "a"},
	}}
	before := fmt.Sprintf("%+v", self)
	m, err := delegation.New(self)
	if err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprintf("%+v", self); after != before {
		t.Errorf("New changed its argument: %s", after)
	}
	if got, want := strings.Join(all(m), " "), "a b b/c b/x b/x/y"; got != want {
		t.Errorf("New = %s; want %s", got, want)
	}
	var cuts []string
	for _, c := range m.Cuts {
		cuts = append(cuts, c.String())
	}
	want := []string{
		`left out "a_b": "a_b" is not a machine name`,
		"cut alias: it is the overlord at the top",
		"cut b/top: it is the overlord at the top",
		"cut b/c/b: it is b, which stands above it",
	}
	if diff := cmp.Diff(want, cuts); diff != "" {
		t.Error(diff)
	}
}
