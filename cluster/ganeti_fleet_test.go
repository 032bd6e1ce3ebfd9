//go:build fleet

package cluster_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dominion/cluster"
)

// ganetiPython is the interpreter that Debian's Python packages are for.
const ganetiPython = "/usr/bin/python3"

// ganetiVerifies gives what Ganeti's own verification finds wrong with documents.
func ganetiVerifies(t *testing.T, docs ...*cluster.Document) [][]string {
	t.Helper()
	if err := exec.Command(ganetiPython, "-c", "import sys; sys.path.insert(0, '/usr/share/ganeti/default'); import ganeti.confd.client").Run(); err != nil {
		if _, noApt := exec.LookPath("apt-get"); noApt == nil && os.Getuid() == 0 {
			t.Fatalf("Debian's package ganeti is not there, although tools/setup.sh could install it: %v", err)
		}
		t.Skip("SKIPPED: needs Debian's package ganeti: apt-get install ganeti")
	}
	var in strings.Builder
	for _, d := range docs {
		path := filepath.Join(t.TempDir(), "config.data")
		if err := os.WriteFile(path, d.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		in.WriteString(path + "\n")
	}
	cmd := exec.Command(ganetiPython, "-W", "ignore", "testdata/verify.py")
	cmd.Stdin, cmd.Stderr = strings.NewReader(in.String()), os.Stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("Ganeti's library: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	out := make([][]string, len(docs))
	for i := range out {
		if err := dec.Decode(&out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Ganeti's own verification of a cluster finds nothing wrong with documents of ours,
// but that the cluster has no address of its own: it is that of the master.
func TestFleetGanetiVerifies(t *testing.T) {
	d := apply(t, fleetOf(t, 5), cluster.SetMaster("n1"))
	docs := []*cluster.Document{d}
	step := func(changes ...cluster.Change) {
		t.Helper()
		d = apply(t, d, changes...)
		docs = append(docs, d)
	}
	two := &[]uint64{20480, 512}
	step(cluster.AddCandidates("n2", "n3"), cluster.SetNode("n5", cluster.NodeChange{Role: new(cluster.Offline)}))
	step(cluster.SetNode("n4", cluster.NodeChange{Primary: new("198.51.100.4"), Secondary: new("203.0.113.4")}))
	for _, name := range []string{"a", "b", "c"} {
		step(cluster.AddInstance(name, cluster.InstanceChange{Primary: new("n2"), Secondary: new("n1"), Disks: two, NICs: &[]cluster.NIC{{IP: "203.0.113." + string('1'+name[0]-'a')}, {Link: "br1"}}}))
	}
	step(cluster.AddInstance("d", cluster.InstanceChange{Primary: new("n3"), State: new("down"), Disks: two}))
	step(cluster.SetInstance("a", cluster.InstanceChange{Primary: new("n1")}))
	step(cluster.SetInstance("b", cluster.InstanceChange{Secondary: new("n3")}))
	step(cluster.SetInstance("c", cluster.InstanceChange{Disks: &[]uint64{20480}}))
	step(cluster.RemoveInstance("b"))
	step(cluster.SetInstance("d", cluster.InstanceChange{Secondary: new("n1")}))
	step(cluster.SetMaster("n2"), cluster.RemoveCandidates("n1"))
	step(cluster.SetInstance("d", cluster.InstanceChange{Primary: new("n4"), Secondary: new("")}))
	twice := apply(t, d, cluster.SetNode("n3", cluster.NodeChange{Primary: new("192.0.0.2")}))
	found := ganetiVerifies(t, append(docs, twice)...)
	if !strings.Contains(strings.Join(found[len(docs)], " "), "node:n3.example.org/primary") {
		t.Errorf("an address twice, and Ganeti finds only %q", found[len(docs)])
	}
	for i, errs := range found[:len(docs)] {
		errs = slices.DeleteFunc(errs, func(s string) bool { return strings.Contains(s, "is used by multiple owners: cluster_ip, node:") })
		if len(errs) > 0 {
			t.Errorf("after step %d Ganeti finds: %q", i, errs)
		}
	}
}
