package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/cluster"
	"dominion/confd"
)

const testKey = "0123456789abcdef\n"

// world is a server of confd on loopback and a client that asks it.
type world struct {
	server *confd.Server
	client *confd.Client
}

func serve(t *testing.T) *world {
	t.Helper()
	conn, err := confd.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s, done := confd.NewServer(confd.ServerConfig{Key: []byte(testKey)}), make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	port := conn.LocalAddr().(*net.UDPAddr).Port
	c, err := confd.NewClient(confd.ClientConfig{Key: []byte(testKey), Peers: []string{"127.0.0.1"}, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &world{s, c}
}

// asked asks what is wanted of a document.
func asked[A any](t *testing.T, w *world, d *cluster.Document, ask confd.Ask[A]) (A, int64) {
	t.Helper()
	c, err := confd.ParseConfig(d.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	w.server.SetData(c)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := w.client.Query(ctx, ask.Request)
	if err != nil {
		t.Fatalf("type %d: %v", ask.Request.Type, err)
	}
	a, err := ask.Answer(&r.Reply)
	if err != nil {
		t.Fatalf("type %d: %v", ask.Request.Type, err)
	}
	return a, r.Reply.Serial
}

func want[A any](t *testing.T, w *world, d *cluster.Document, what string, ask confd.Ask[A], answer A, serial int64) {
	t.Helper()
	got, n := asked(t, w, d, ask)
	if diff := cmp.Diff(answer, got); diff != "" || n != serial {
		t.Errorf("%s: serial %d, want %d (-want +got):\n%s", what, n, serial, diff)
	}
}

// fleetOf gives a cluster of machines that came from an inventory.
func fleetOf(t testing.TB, n int) *cluster.Document {
	t.Helper()
	var machines []cluster.Machine
	for i := range n {
		machines = append(machines, cluster.Machine{Name: fmt.Sprintf("n%d.example.org", i+1), Address: fmt.Sprintf("192.0.%d.%d", (i+1)>>8, (i+1)&255)})
	}
	return apply(t, cluster.New("fleet.example.org", now()), cluster.Sync(machines))
}

// Everything that confd can be asked, asked of a document of ours as it grows. The
// answers are those that Ganeti gives of the like: its daemon is asked of the
// same documents in package confd.
func TestAnswers(t *testing.T) {
	w := serve(t)
	d := fleetOf(t, 3)
	want(t, w, d, "ping", confd.Ping(), 3000000, 0)
	want(t, w, d, "no candidates", confd.CandidatePips(), []string{}, 1)
	if pips, _ := asked(t, w, d, confd.NodePips()); len(pips) != 3 || !slices.Contains(pips, "192.0.0.3") {
		t.Errorf("node pips %v", pips)
	}
	d = apply(t, d, cluster.AddCandidates("n1", "n2"), cluster.SetMaster("n1"))
	want(t, w, d, "master", confd.Master(), "n1.example.org", 2)
	want(t, w, d, "master's fields", confd.MasterFields(confd.FieldName, confd.FieldIP, confd.FieldMasterPip), []string{"n1.example.org", "192.0.0.1", "192.0.0.1"}, 2)
	want(t, w, d, "the master", confd.NodeRole("n1.example.org"), confd.RoleMaster, 2)
	want(t, w, d, "a regular node", confd.NodeRole("n3"), confd.RoleRegular, 2)
	want(t, w, d, "a candidate", confd.NodeRole("n2"), confd.RoleCandidate, 2)
	d = apply(t, d, cluster.SetNode("n3", cluster.NodeChange{Role: new(cluster.Drained)}))
	want(t, w, d, "a drained node", confd.NodeRole("n3"), confd.RoleDrained, 3)
	d = apply(t, d, cluster.SetNode("n3", cluster.NodeChange{Role: new(cluster.Offline)}))
	want(t, w, d, "an offline node", confd.NodeRole("n3"), confd.RoleOffline, 4)
	if pips, _ := asked(t, w, d, confd.CandidatePips()); len(pips) != 2 {
		t.Errorf("candidates' pips %v", pips)
	}
	d = apply(t, d, cluster.AddInstance("www.example.org", cluster.InstanceChange{
		Primary: new("n2"), Secondary: new("n1"), NICs: &[]cluster.NIC{{IP: "203.0.113.10"}, {IP: "203.0.113.11", Link: "br1"}, {}}, Disks: &[]uint64{20480, 512},
	}))
	want(t, w, d, "the node of an address", confd.PipByInstanceIP("203.0.113.10", nil), "192.0.0.2", 5)
	want(t, w, d, "the node of an address on a link", confd.PipByInstanceIP("203.0.113.11", new("br1")), "192.0.0.2", 5)
	want(t, w, d, "the nodes of addresses", confd.PipsByInstanceIPs([]string{"203.0.113.10", "203.0.113.99"}, nil), []confd.Pip{{Status: confd.StatusOK, Pip: "192.0.0.2", Serial: 5}, {Status: confd.StatusError}}, 5)
	want(t, w, d, "addresses on the default link", confd.InstanceIPs(nil), []string{"203.0.113.10"}, 5)
	want(t, w, d, "addresses on a link", confd.InstanceIPs(new("br1")), []string{"203.0.113.11"}, 5)
	minors := []confd.Minor{
		{Node: "n2.example.org", Minor: 0, Instance: "www.example.org", Disk: "disk/0", Role: "primary", Peer: "n1.example.org"},
		{Node: "n2.example.org", Minor: 1, Instance: "www.example.org", Disk: "disk/1", Role: "primary", Peer: "n1.example.org"},
	}
	want(t, w, d, "DRBD of the primary node", confd.NodeDRBD("n2"), minors, 2)
	for i := range minors {
		minors[i].Node, minors[i].Role, minors[i].Peer = "n1.example.org", "secondary", "n2.example.org"
	}
	want(t, w, d, "DRBD of the secondary node", confd.NodeDRBD("n1"), minors, 2)
	want(t, w, d, "no DRBD", confd.NodeDRBD("n3"), []confd.Minor{}, 3)
	on, serial := asked(t, w, d, confd.NodeInstances("n1"))
	if len(on.Primary) != 0 || len(on.Secondary) != 1 || on.Secondary[0].Name != "www.example.org" || serial != 2 {
		t.Errorf("instances of the secondary node: %+v, serial %d", on, serial)
	}
	disks, serial := asked(t, w, d, confd.InstanceDisks("www"))
	if len(disks) != 2 || disks[0].Size != 20480 || disks[1].Size != 512 || serial != 1 {
		t.Errorf("disks: %+v, serial %d", disks, serial)
	}
	if c, _ := asked(t, w, d, confd.Collectors()); len(c) != 6 {
		t.Errorf("collectors: %v", c)
	}
	want(t, w, d, "a member of the configuration", confd.Config("/cluster/cluster_name"), json.RawMessage(`"fleet.example.org"`), 5)
}

// Disks that need not change keep what they are; others are made anew, with the
// lowest minors and the ports that are free.
func TestPlace(t *testing.T) {
	w := serve(t)
	d := fleetOf(t, 4)
	add := func(name string, c cluster.InstanceChange) {
		t.Helper()
		d = apply(t, d, cluster.AddInstance(name, c))
	}
	set := func(name string, c cluster.InstanceChange) {
		t.Helper()
		d = apply(t, d, cluster.SetInstance(name, c))
	}
	minors := func(node string) (out []int64) {
		t.Helper()
		got, _ := asked(t, w, d, confd.NodeDRBD(node))
		for _, m := range got {
			out = append(out, int64(m.Minor))
		}
		slices.Sort(out)
		return out
	}
	ports := func(instance string) (out []string) {
		t.Helper()
		got, _ := asked(t, w, d, confd.InstanceDisks(instance))
		for _, x := range got {
			if len(x.Logical) == 6 {
				out = append(out, fmt.Sprint(x.Logical[2]))
			}
		}
		return out
	}
	wantPorts := func(instance string, want ...string) {
		t.Helper()
		if got := ports(instance); !slices.Equal(got, want) {
			t.Errorf("ports of %s: %v; want %v", instance, got, want)
		}
	}
	two := &[]uint64{100, 200}
	add("a", cluster.InstanceChange{Primary: new("n1"), Secondary: new("n2"), Disks: two})
	add("b", cluster.InstanceChange{Primary: new("n2"), Secondary: new("n3"), Disks: two})
	wantPorts("a", "11000", "11001")
	wantPorts("b", "11002", "11003")
	if got := minors("n2"); !slices.Equal(got, []int64{0, 1, 2, 3}) {
		t.Errorf("minors of n2: %v", got)
	}

	// The two nodes change places: nothing of the disks changes.
	before := d
	set("a", cluster.InstanceChange{Primary: new("n2")})
	if i, err := d.Instance("a"); err != nil || i.Primary != "n2.example.org" || i.Secondary != "n1.example.org" {
		t.Errorf("%+v, %v", i, err)
	}
	for _, x := range differences(t, before.Bytes(), d.Bytes()) {
		if bytes.HasPrefix([]byte(x), []byte("/disks")) {
			t.Errorf("a fail-over changes %s", x)
		}
	}

	// Another secondary: other minors, and the ports that were given back.
	set("a", cluster.InstanceChange{Secondary: new("n4")})
	wantPorts("a", "11000", "11001")
	if got := minors("n2"); !slices.Equal(got, []int64{0, 1, 2, 3}) || minors("n1") != nil {
		t.Errorf("minors of n2 and n1: %v, %v", got, minors("n1"))
	}

	// No secondary: local disks.
	set("a", cluster.InstanceChange{Secondary: new("")})
	wantPorts("a")
	if disks, _ := asked(t, w, d, confd.InstanceDisks("a")); len(disks) != 2 || disks[0].Kind != "plain" || disks[1].Size != 200 {
		t.Errorf("%+v", disks)
	}
	keys := func() (out []string) {
		disks, _ := asked(t, w, d, confd.InstanceDisks("a"))
		for _, x := range disks {
			out = append(out, x.UUID)
		}
		return out
	}
	was := keys()
	set("a", cluster.InstanceChange{Disks: &[]uint64{100, 300, 400}})
	if now := keys(); len(now) != 3 || now[0] != was[0] || now[1] == was[1] {
		t.Errorf("disks %v; they were %v", now, was)
	}
	set("a", cluster.InstanceChange{Primary: new("n3")})
	if now := keys(); now[0] == was[0] {
		t.Errorf("local disks of another node are the same: %v", now)
	}

	// A removed instance leaves nothing behind, and gives its ports to others.
	d = apply(t, d, cluster.RemoveInstance("b"))
	add("c", cluster.InstanceChange{Primary: new("n1"), Secondary: new("n2"), Disks: two})
	wantPorts("c", "11000", "11001")
	d = apply(t, d, cluster.RemoveInstance("c"), cluster.RemoveInstance("a"))
	if i, disks := d.Count(); i != 0 || disks != 0 {
		t.Errorf("%d instances and %d disks are left", i, disks)
	}
}

// Ganeti's own disks of other kinds stay when an instance moves; ports end.
func TestPlaceOfForeignDisks(t *testing.T) {
	d := parse(t, lab(t))
	n := apply(t, d, cluster.SetInstance("files", cluster.InstanceChange{Primary: new("beta")}))
	for _, x := range differences(t, d.Bytes(), n.Bytes()) {
		if bytes.HasPrefix([]byte(x), []byte("/disks")) {
			t.Errorf("moving an instance with shared disks changes %s", x)
		}
	}
	full := parse(t, bytes.Replace(bytes.Replace(lab(t), []byte(`"highest_used_port": 11003`), []byte(`"highest_used_port": 14999`), 1), []byte(`[11000]`), []byte(`[]`), 1))
	if _, err := full.Apply(now(), cluster.AddInstance("x", cluster.InstanceChange{Primary: new("alpha"), Secondary: new("beta"), Disks: &[]uint64{1}})); call.CodeOf(err) != call.TooMany {
		t.Errorf("without a port: %v", err)
	}
}

// NICs have addresses of their own.
func TestNICs(t *testing.T) {
	d := parse(t, lab(t))
	nics := make([]cluster.NIC, cluster.MaxNICs)
	for i := range nics {
		nics[i].IP = fmt.Sprintf("2001:db8::%d", i+1)
	}
	d = apply(t, d, cluster.SetInstance("web", cluster.InstanceChange{NICs: &nics}))
	i, err := d.Instance("web")
	if err != nil || !slices.Equal(i.NICs, nics) || i.Serial != 22 {
		t.Errorf("%+v, %v", i, err)
	}
	macs := make(map[string]bool)
	dec := flat(t, d.Bytes())
	var list []struct{ Mac, UUID string }
	if err := json.Unmarshal([]byte(dec["/instances/"+web+"/nics"]), &list); err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if macs[n.Mac] || len(n.Mac) != 17 || n.Mac[:9] != "aa:00:00:" || len(n.UUID) != 36 {
			t.Errorf("%+v", n)
		}
		macs[n.Mac] = true
	}
}
