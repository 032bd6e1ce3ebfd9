//go:build fleet

package confd_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"dominion/cluster"
	"dominion/confd"
)

// Documents that package cluster made and changed: the genuine daemon serves them,
// gives the same answers as our server, and the genuine client understands them.
func TestFleetGanetiServesOurs(t *testing.T) {
	now := time.UnixMicro(1_790_000_000_250_000)
	var machines []cluster.Machine
	for i := range 5 {
		machines = append(machines, cluster.Machine{Name: fmt.Sprintf("n%d.example.org", i+1), Address: fmt.Sprintf("192.0.2.%d", i+1)})
	}
	d := cluster.New("fleet.example.org", now)
	genuine := confd.StartGenuine(t, d.Bytes())
	ask := []confd.Request{
		confd.NodeRole("n1.example.org").Request, confd.NodeRole("n2").Request, confd.NodeRole("n3").Request, confd.NodeRole("n4").Request, confd.NodeRole("n5").Request,
		confd.NodeDRBD("n1").Request, confd.NodeDRBD("n2").Request, confd.NodeDRBD("n3").Request, confd.NodeInstances("n1").Request, confd.NodeInstances("n2").Request,
		confd.NodeInstances("n3").Request, confd.InstanceDisks("www").Request, confd.InstanceDisks("db").Request, confd.PipByInstanceIP("203.0.113.10", nil).Request,
		confd.PipByInstanceIP("203.0.113.11", new("br1")).Request, confd.PipsByInstanceIPs([]string{"203.0.113.10", "2001:db8::1"}, nil).Request,
		confd.InstanceIPs(nil).Request, confd.InstanceIPs(new("br1")).Request, confd.Config("/cluster/tcpudp_port_pool").Request, confd.Config("/cluster/highest_used_port").Request,
	}
	two := &[]uint64{20480, 512}
	steps := []struct {
		name    string
		changes []cluster.Change
	}{
		{"nothing", nil},
		{"machines", []cluster.Change{cluster.Sync(machines)}},
		{"candidates", []cluster.Change{cluster.AddCandidates("n1", "n2", "n3")}},
		{"a master", []cluster.Change{cluster.SetMaster("n2")}},
		{"roles", []cluster.Change{cluster.SetNode("n4", cluster.NodeChange{Role: new(cluster.Drained)}), cluster.SetNode("n5", cluster.NodeChange{Role: new(cluster.Offline)})}},
		{"addresses", []cluster.Change{cluster.SetNode("n4", cluster.NodeChange{Primary: new("2001:db8::4"), Secondary: new("198.51.100.4")})}},
		{"instances", []cluster.Change{
			cluster.AddInstance("www.example.org", cluster.InstanceChange{Primary: new("n2"), Secondary: new("n1"), Disks: two, NICs: &[]cluster.NIC{{IP: "203.0.113.10"}, {IP: "203.0.113.11", Link: "br1"}, {}}}),
			cluster.AddInstance("db", cluster.InstanceChange{Primary: new("n3"), State: new("down"), Disks: two, NICs: &[]cluster.NIC{{IP: "2001:db8::1"}}}),
		}},
		{"fail-over", []cluster.Change{cluster.SetInstance("www", cluster.InstanceChange{Primary: new("n1")})}},
		{"another secondary", []cluster.Change{cluster.SetInstance("www", cluster.InstanceChange{Secondary: new("n3")})}},
		{"mirrored disks", []cluster.Change{cluster.SetInstance("db", cluster.InstanceChange{Secondary: new("n1")})}},
		{"fewer disks", []cluster.Change{cluster.SetInstance("www", cluster.InstanceChange{Disks: &[]uint64{20480}})}},
		{"local disks", []cluster.Change{cluster.SetInstance("db", cluster.InstanceChange{Secondary: new("")})}},
		{"removed", []cluster.Change{cluster.RemoveInstance("www")}},
		{"machines gone", []cluster.Change{cluster.Sync(machines[1:3])}},
		{"a high serial", []cluster.Change{cluster.Raise(1 << 60)}},
	}
	for _, s := range steps {
		next, err := d.Apply(now, s.changes...)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		d = next
		genuine.Compare(t, s.name, d.Bytes(), ask...)
		switch s.name {
		case "a master":
			for query, want := range map[string]string{"n2.example.org": "0 0 3", "n1.example.org": "0 1 3", "n4": "0 4 3"} {
				if got := genuine.AskGenuine(t, confd.TypeNodeRole, query); got != want {
					t.Errorf("the genuine client on the role of %s: %s; want %s", query, got, want)
				}
			}
			if got := genuine.AskGenuine(t, confd.TypeMaster, nil); got != `0 "n2.example.org" 3` {
				t.Errorf("the genuine client on the master: %s", got)
			}
		case "instances":
			if got := genuine.AskGenuine(t, confd.TypePipByInstanceIP, map[string]any{"1": "203.0.113.10"}); got != `0 "192.0.2.2" 6` {
				t.Errorf("the genuine client on an instance's node: %s", got)
			}
			if got := genuine.AskGenuine(t, confd.TypeNodeDRBD, "n1"); got != `0 [["n1.example.org", 0, "www.example.org", "disk/0", "secondary", "n2.example.org"], ["n1.example.org", 1, "www.example.org", "disk/1", "secondary", "n2.example.org"]] 2` {
				t.Errorf("the genuine client on DRBD: %s", got)
			}
		}
	}
}

// A file of Ganeti's, imported and changed: likewise.
func TestFleetGanetiServesImported(t *testing.T) {
	b, err := os.ReadFile("testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	d, err := cluster.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMicro(1_790_000_000_250_000)
	genuine := confd.StartGenuine(t, b)
	for name, c := range map[string]cluster.Change{
		"master": cluster.SetMaster("beta"), "fail-over": cluster.SetInstance("db", cluster.InstanceChange{Primary: new("beta")}), "removed": cluster.RemoveInstance("web"),
		"new disks": cluster.SetInstance("web", cluster.InstanceChange{Disks: &[]uint64{1024, 1024, 3}}), "another node": cluster.SetInstance("files", cluster.InstanceChange{Primary: new("epsilon")}),
		"new machine": cluster.Sync([]cluster.Machine{{Name: "new.lab.example", Address: "192.0.2.99"}}), "regular": cluster.SetNode("gamma", cluster.NodeChange{Role: new(cluster.Regular)}),
	} {
		n, err := d.Apply(now, c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		genuine.Compare(t, name, n.Bytes(), confd.NodeDRBD("epsilon").Request, confd.NodeInstances("epsilon").Request, confd.InstanceDisks("db").Request)
	}
}
