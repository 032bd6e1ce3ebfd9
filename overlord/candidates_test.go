package overlord_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/confd"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

// loopback lets a candidate answer at any port of loopback.
var loopback = minion.Config{Confd: minion.Confd{Listen: "127.0.0.1:0"}}

// candidatesOf starts an overlord with n machines, all of them candidates and the
// first the master, and returns when each serves.
func candidatesOf(t *testing.T, n int) *fleettest.Fleet {
	t.Helper()
	f := fleettest.Start(t, fleettest.Config())
	for i := range n {
		f.Enrol(machineName(i), loopback)
	}
	f.Await(n)
	setMaster(t, f, machineName(0))
	for i := range n {
		addCandidate(t, f, machineName(i))
	}
	current(t, f, n)
	return f
}

func machineName(i int) string { return fmt.Sprintf("m%02d", i+1) }

func setMaster(t *testing.T, f *fleettest.Fleet, name string) uint64 {
	t.Helper()
	resp, err := f.Conn.Cluster.SetMaster(t.Context(), connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: name}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg.Serial
}

func addCandidate(t *testing.T, f *fleettest.Fleet, names ...string) {
	t.Helper()
	if _, err := f.Conn.Cluster.SetCandidates(t.Context(), connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: names})); err != nil {
		t.Fatal(err)
	}
}

func removeCandidate(t *testing.T, f *fleettest.Fleet, names ...string) {
	t.Helper()
	if _, err := f.Conn.Cluster.SetCandidates(t.Context(), connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: names, Remove: true})); err != nil {
		t.Fatal(err)
	}
}

func clusterOf(t *testing.T, f *fleettest.Fleet) *apipb.ClusterShowResponse {
	t.Helper()
	resp, err := f.Conn.Cluster.Show(t.Context(), connect.NewRequest(&apipb.ClusterShowRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg
}

// candidateOf is what the overlord shows of one candidate.
func candidateOf(t *testing.T, f *fleettest.Fleet, name string) *apipb.ClusterCandidate {
	t.Helper()
	for _, c := range clusterOf(t, f).Candidates {
		if c.Name == name {
			return c
		}
	}
	return &apipb.ClusterCandidate{}
}

// current waits until n candidates serve the version in force, and gives its serial.
func current(t *testing.T, f *fleettest.Fleet, n int) uint64 {
	t.Helper()
	var s *apipb.ClusterShowResponse
	f.Until(fmt.Sprintf("%d candidates are current", n), func() bool {
		s = clusterOf(t, f)
		have := 0
		for _, c := range s.Candidates {
			if c.State == "current" && c.Serial == s.Serial {
				have++
			}
		}
		return have == n
	})
	return s.Serial
}

// state waits until a candidate has a state, with a reason that holds a text.
func state(t *testing.T, f *fleettest.Fleet, name, want, reason string) *apipb.ClusterCandidate {
	t.Helper()
	var c *apipb.ClusterCandidate
	f.Until(fmt.Sprintf("%s is shown as %s: %s", name, want, reason), func() bool {
		c = candidateOf(t, f, name)
		return c.State == want && strings.Contains(c.Reason, reason)
	})
	return c
}

// masterBy asks one candidate for the master.
func masterBy(t *testing.T, f *fleettest.Fleet, listen string) (master string, serial int64) {
	t.Helper()
	key, err := f.Conn.Cluster.ShowKey(t.Context(), connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(listen)
	c, err := confd.NewClient(confd.ClientConfig{Key: key.Msg.Key, Peers: []string{at.Addr().String()}, Port: int(at.Port())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := confd.Master()
	r, err := c.Query(t.Context(), ask.Request)
	if err != nil {
		t.Fatal(err)
	}
	master, err = ask.Answer(&r.Reply)
	if err != nil {
		t.Fatal(err)
	}
	return master, r.Reply.Serial
}

func TestCandidatesFollow(t *testing.T) {
	f := candidatesOf(t, 3)
	for _, master := range []string{"m02", "m03", "m01"} {
		serial := setMaster(t, f, master)
		if got := current(t, f, 3); got != serial {
			t.Errorf("serial %d in force; want %d", got, serial)
		}
		for _, c := range clusterOf(t, f).Candidates {
			if got, s := masterBy(t, f, c.Listen); got != master || s != int64(serial) {
				t.Errorf("%s says that the master is %q, with serial %d; want %q with %d", c.Name, got, s, master, serial)
			}
			if c.MadeMs == 0 || c.HeardMs < c.MadeMs {
				t.Errorf("%s: made at %d ms, heard at %d ms", c.Name, c.MadeMs, c.HeardMs)
			}
		}
	}
}

// A candidate that is away is told when it is back; one that is removed meanwhile
// drops what it has.
func TestCandidateAway(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	dir := t.TempDir()
	first := f.Enrol("m01", minion.Config{State: filepath.Join(dir, "m01"), Confd: loopback.Confd})
	f.Enrol("m02", loopback)
	f.Await(2)
	setMaster(t, f, "m02")
	addCandidate(t, f, "m01")
	before := current(t, f, 2)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	c := state(t, f, "m01", "away", "")
	if c.Serial != before || c.Reason == "" {
		t.Errorf("away: serial %d, reason %q; want the last one known, %d, and a reason", c.Serial, c.Reason, before)
	}
	setMaster(t, f, "m01")
	f.Enrol("m01", minion.Config{State: filepath.Join(dir, "m01"), Confd: loopback.Confd})
	current(t, f, 2)

	third := f.Enrol("m03", minion.Config{State: filepath.Join(dir, "m03"), Confd: loopback.Confd})
	f.Await(3)
	addCandidate(t, f, "m03")
	current(t, f, 3)
	if err := third.Stop(); err != nil {
		t.Fatal(err)
	}
	removeCandidate(t, f, "m03")
	f.Enrol("m03", minion.Config{State: filepath.Join(dir, "m03"), Confd: loopback.Confd})
	f.Until("m03 has dropped data and key", func() bool {
		names, err := os.ReadDir(filepath.Join(dir, "m03", "cluster"))
		return err == nil && len(names) == 1 && names[0].Name() == "header"
	})
}

// A store that was put back to an older one goes on above the highest serial that a
// candidate proves, and its content wins, whether the candidates are ahead or have
// other content with the same serial.
func TestRestoredClusterGoesOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		before, after int // changes between back-up and restore, and after it, before any candidate is there
	}{
		{"ahead", 3, 0},
		{"ahead of later changes", 5, 2},
		{"a fork", 2, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fleettest.Start(t, fleettest.Config())
			dir := t.TempDir()
			join := func(n int) (out []*fleettest.Minion) {
				for i := range n {
					out = append(out, f.Enrol(machineName(i), minion.Config{State: filepath.Join(dir, machineName(i)), Confd: loopback.Confd}))
				}
				f.Await(n)
				return out
			}
			machines := join(3)
			setMaster(t, f, "m01")
			addCandidate(t, f, "m02", "m03")
			current(t, f, 3)
			f.Down()
			putBack := files(t, f, "store.db", "checkpoint")
			f.Up()
			f.Await(3)
			for i := range tt.before {
				setMaster(t, f, machineName(i%2+1))
			}
			highest := current(t, f, 3)
			for _, m := range machines {
				if err := m.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			f.Down()
			putBack()
			f.Up()
			for i := range tt.after {
				setMaster(t, f, machineName(2-i%2))
			}
			want := clusterOf(t, f).Master
			if older := clusterOf(t, f).Serial; older > highest || tt.after == tt.before && older != highest {
				t.Fatalf("serial %d after the restore, %d before it: this tests nothing", older, highest)
			}
			join(3)
			f.Until("the serial is above the highest", func() bool { return clusterOf(t, f).Serial > highest })
			serial := current(t, f, 3)
			for _, c := range clusterOf(t, f).Candidates {
				if got, s := masterBy(t, f, c.Listen); got != want || s != int64(serial) {
					t.Errorf("%s says that the master is %q, with serial %d; want %q with %d", c.Name, got, s, want, serial)
				}
			}
			recorded(t, f, "cluster.raise")
		})
	}
}

// recorded wants an action on the audit log.
func recorded(t *testing.T, f *fleettest.Fleet, action string) {
	t.Helper()
	stream, err := f.Conn.Audit.List(t.Context(), connect.NewRequest(&apipb.AuditListRequest{Action: action, Limit: 10}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if !stream.Receive() {
		t.Errorf("no record of %s: %v", action, stream.Err())
	}
}

// A port that is taken, and a machine that is to serve nobody, are shown as such.
func TestCandidateRefuses(t *testing.T) {
	f := candidatesOf(t, 1)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.Enrol("m02", minion.Config{Confd: minion.Confd{Listen: taken.LocalAddr().String()}})
	f.Enrol("m03", minion.Config{Confd: minion.Confd{Listen: "off"}})
	f.Await(3)
	addCandidate(t, f, "m02", "m03")
	c := state(t, f, "m02", "refuses", "address already in use")
	if c.Serial != clusterOf(t, f).Serial {
		t.Errorf("it has the serial %d", c.Serial)
	}
	state(t, f, "m03", "refuses", "off")
	taken.Close()
	state(t, f, "m02", "current", "")
}

// A machine that has the data of another cluster takes none of this one, and says
// what to remove.
func TestCandidateOfAnotherCluster(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	f.Enrol("m01", loopback)
	f.Await(1)
	f.Down()
	putBack := files(t, f, "store.db", "checkpoint")
	f.Up()
	f.Await(1)
	setMaster(t, f, "m01")
	addCandidate(t, f, "m01")
	current(t, f, 1)
	f.Down()
	putBack() // the cluster was made after this
	f.Up()
	f.Await(1)
	setMaster(t, f, "m01")
	addCandidate(t, f, "m01")
	state(t, f, "m01", "refuses", "/cluster/header and start it again")
}

// Changes as fast as they come, while machines come and go: at the end all are at
// the last one.
func TestManyChanges(t *testing.T) {
	f := candidatesOf(t, 4)
	dir := t.TempDir()
	f.Enrol("m05", minion.Config{State: filepath.Join(dir, "m05"), Confd: loopback.Confd})
	f.Await(5)
	addCandidate(t, f, "m05")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 30 {
			setMaster(t, f, machineName(i%4))
		}
	})
	wg.Go(func() {
		for range 10 {
			removeCandidate(t, f, "m05")
			addCandidate(t, f, "m05")
		}
	})
	wg.Wait()
	current(t, f, 5)
}

// The agent inside a sub-overlord is a candidate like any other, and serves without
// its parent.
func TestSubOverlordIsCandidate(t *testing.T) {
	top := fleettest.New(t, 0)
	token, err := top.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "mid", Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenPacket("udp", "127.0.0.1:0") // an address that is free again in a moment
	if err != nil {
		t.Fatal(err)
	}
	at := taken.LocalAddr().String()
	taken.Close()
	mid := fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), "mid"), Name: "mid", Parent: top.Address, Pin: top.Pin, Token: token.Msg.Token, Confd: minion.Confd{Listen: at},
	})
	top.Await(1)
	setMaster(t, top, "mid")
	addCandidate(t, top, "mid")
	serial := current(t, top, 1)
	key, err := top.Conn.Cluster.ShowKey(t.Context(), connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		t.Helper()
		f := fleettest.Fleet{T: t}
		f.Until("mid answers with what the top made", func() bool {
			c, err := confd.NewClient(confd.ClientConfig{Key: key.Msg.Key, Peers: []string{"127.0.0.1"}, Port: int(netip.MustParseAddrPort(at).Port())})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask := confd.Master()
			r, err := c.Query(t.Context(), ask.Request)
			return err == nil && r.Reply.Serial == int64(serial) && string(r.Reply.Answer) == `"mid"`
		})
	}
	ask()
	top.Down()
	mid.Down()
	mid.Up()
	ask()
	top.Up() // its end wants it
}
