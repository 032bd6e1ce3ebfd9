package cluster_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/cluster"
)

func machines(pairs ...string) []cluster.Machine {
	var out []cluster.Machine
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, cluster.Machine{Name: pairs[i], Address: pairs[i+1]})
	}
	return out
}

// addresses gives the nodes as "name primary secondary role".
func addresses(d *cluster.Document) []string {
	var out []string
	for _, n := range d.Nodes() {
		out = append(out, n.Name+" "+n.Primary+" "+n.Secondary+" "+string(n.Role))
	}
	return out
}

func wantNodes(t *testing.T, what string, d *cluster.Document, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, addresses(d)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestSync(t *testing.T) {
	d := cluster.New("fleet", now())
	if n := apply(t, d); n != d {
		t.Error("no change makes a version")
	}
	in := machines("a", "192.0.2.1", "b", "::ffff:192.0.2.2", "c", "", "d", "nonsense")
	d = apply(t, d, cluster.Sync(in))
	wantNodes(t, "machines with addresses are nodes", d, "a 192.0.2.1 192.0.2.1 regular", "b 192.0.2.2 192.0.2.2 regular")
	if n := apply(t, d, cluster.Sync(in)); n != d {
		t.Error("the same inventory makes a version")
	}
	d = apply(t, d, cluster.Sync(machines("a", "192.0.2.10", "b", "192.0.2.2", "c", "2001:db8::3", "d", "")))
	wantNodes(t, "addresses follow", d, "a 192.0.2.10 192.0.2.10 regular", "b 192.0.2.2 192.0.2.2 regular", "c 2001:db8::3 2001:db8::3 regular")
	if n, _ := d.Node("b"); n.Serial != 1 {
		t.Errorf("serial %d of a node that did not change", n.Serial)
	}

	// What is set stays; a secondary of its own does not follow.
	d = apply(t, d, cluster.SetNode("a", cluster.NodeChange{Primary: new("198.51.100.1")}), cluster.SetNode("b", cluster.NodeChange{Secondary: new("198.51.100.2")}))
	d = apply(t, d, cluster.Sync(machines("a", "192.0.2.11", "b", "192.0.2.12", "c", "2001:db8::3")))
	wantNodes(t, "what is set stays", d, "a 198.51.100.1 198.51.100.1 regular", "b 192.0.2.12 198.51.100.2 regular", "c 2001:db8::3 2001:db8::3 regular")
	d = apply(t, d, cluster.SetNode("a", cluster.NodeChange{Primary: new(cluster.Auto)}))
	d = apply(t, d, cluster.Sync(machines("a", "192.0.2.11", "b", "192.0.2.12", "c", "2001:db8::3")))
	wantNodes(t, "what is not set any more follows", d, "a 192.0.2.11 192.0.2.11 regular", "b 192.0.2.12 198.51.100.2 regular", "c 2001:db8::3 2001:db8::3 regular")
}

// What leaves the inventory leaves the cluster, unless something hangs on it.
func TestSyncOfWhatIsGone(t *testing.T) {
	d := fleetOf(t, 5)
	d = apply(t, d, cluster.SetMaster("n1"), cluster.AddCandidates("n2", "n4"),
		cluster.AddInstance("i", cluster.InstanceChange{Primary: new("n3"), Secondary: new("n4"), Disks: &[]uint64{1}}))
	d = apply(t, d, cluster.Sync(nil))
	wantNodes(t, "all are gone", d, "n1.example.org 192.0.0.1 192.0.0.1 master", "n3.example.org 192.0.0.3 192.0.0.3 offline", "n4.example.org 192.0.0.4 192.0.0.4 offline")
	if got := d.Candidates(); !slices.Equal(got, []string{"n1.example.org"}) {
		t.Errorf("candidates %v", got)
	}
	if n := apply(t, d, cluster.Sync(nil)); n != d {
		t.Error("they leave twice")
	}
	d = apply(t, d, cluster.RemoveInstance("i"), cluster.Sync(nil))
	wantNodes(t, "without the instance", d, "n1.example.org 192.0.0.1 192.0.0.1 master")
	d = apply(t, d, cluster.Sync(machines("n2.example.org", "192.0.2.2")), cluster.SetMaster("n2"), cluster.Sync(machines("n2.example.org", "192.0.2.2")))
	wantNodes(t, "another master", d, "n2.example.org 192.0.2.2 192.0.2.2 master")
	if d.Address() != "192.0.2.2" {
		t.Errorf("the cluster's address is %s", d.Address())
	}
	d = apply(t, d, cluster.Sync(machines("n2.example.org", "192.0.2.3")))
	if d.Address() != "192.0.2.3" {
		t.Errorf("the cluster's address stays %s when its master moves", d.Address())
	}
}

// Nodes of an imported file stay as they are; machines without a node get one.
func TestSyncOfImportedNodes(t *testing.T) {
	d := parse(t, lab(t))
	n := apply(t, d, cluster.Sync(machines("alpha.lab.example", "203.0.113.1", "new.lab.example", "203.0.113.2")))
	want := append(addresses(d), "new.lab.example 203.0.113.2 203.0.113.2 regular")
	slices.Sort(want)
	wantNodes(t, "imported", n, want...)
	if n.Address() != "192.0.2.200" {
		t.Errorf("the cluster's address is %s", n.Address())
	}
	n = apply(t, n, cluster.Sync(nil))
	wantNodes(t, "and gone again", n, addresses(d)...)
}
