package provision

import (
	"slices"
	"testing"
)

// What becomes of groups when nodes are set, deleted, replaced and forgotten.
func TestGroupsOfNodes(t *testing.T) {
	b := newBench(t, nil)
	add := func(name, hwaddr, group string) {
		t.Helper()
		if _, err := b.Add(t.Context(), "alice", Spec{Name: name, HWAddr: hwaddr, Group: group, Enabled: true}); err != nil {
			t.Fatal(err)
		}
	}
	members := func(group string, want ...string) {
		t.Helper()
		got := slices.Clone(b.m.groups[group])
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("members of %s are %q; want %q", group, got, want)
		}
	}
	add("a", "52:54:00:00:00:01", "web")
	add("b", "52:54:00:00:00:02", "web")
	add("c", "52:54:00:00:00:03", "")
	b.m.groups["rack"] = []string{"a", "b", "c", "elsewhere"}
	b.m.taken["b"] = true // it has enrolled

	if _, err := b.Set(t.Context(), "alice", []string{"a", "b", "c"}, Change{Group: new("db")}); err != nil {
		t.Fatal(err)
	}
	members("web")
	members("db", "a", "b", "c")
	members("rack", "a", "b", "c", "elsewhere")

	if _, err := b.Delete(t.Context(), "alice", []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	members("db", "b", "c")
	members("rack", "b", "c", "elsewhere")

	add("d", "52:54:00:00:00:04", "db")
	if _, err := b.Replace(t.Context(), "alice", "c", "d"); err != nil {
		t.Fatal(err)
	}
	members("db", "b", "c")

	b.claim("52:54:00:00:00:05", "192.0.2.5")
	b.m.groups["rack"] = append(b.m.groups["rack"], "n0000")
	if _, err := b.Set(t.Context(), "alice", []string{"n0000"}, Change{Group: new("new")}); err != nil {
		t.Fatal(err)
	}
	members("new", "n0000")
	if err := b.m.Update(t.Context(), func(tx Tx) error { return b.forget(tx, []string{"n0000"}) }); err != nil {
		t.Fatal(err)
	}
	members("new")
	members("rack", "b", "c", "elsewhere", "n0000")
}
