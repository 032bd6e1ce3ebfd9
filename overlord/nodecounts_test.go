package overlord_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/overlord"
)

func (s *site) counts() *apipb.NodeCounts {
	s.T.Helper()
	r, err := s.Conn.Fleet.Status(s.T.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		s.T.Fatal(err)
	}
	return r.Msg.Nodes
}

// metricsOf gives the lines of /metrics that begin with a word.
func metricsOf(t *testing.T, f *fleettest.Fleet, word string) []string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(f.State, "overlord.sock"))
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://overlord/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %d %s, %v", resp.StatusCode, b, err)
	}
	lines := strings.Split(string(b), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, word) })
}

// Nodes that wait for an operator are in the status and in /metrics.
func TestNodesThatWaitAreCounted(t *testing.T) {
	s := newOldSite(t, nil)
	want := func(all, held, claimed uint64, metrics ...string) {
		t.Helper()
		if c := s.counts(); c.GetAll() != all || c.GetHeld() != held || c.GetClaimed() != claimed {
			t.Errorf("status counts %v; want %d, %d, %d", c, all, held, claimed)
		}
		if got := metricsOf(t, s.Fleet, "dominion_nodes"); !slices.Equal(got, metrics) {
			t.Errorf("metrics are %q; want %q", got, metrics)
		}
	}
	want(0, 0, 0, "dominion_nodes 0", "dominion_nodes_claimed 0", "dominion_nodes_held 0")
	s.metal(mac1, "127.0.0.2", nil).boot()
	s.metal(mac2, "127.0.0.3", nil).boot()
	want(2, 2, 0, "dominion_nodes 2", "dominion_nodes_claimed 0", "dominion_nodes_held 2")
	s.approve("n0000")
	s.metal(mac1, "127.0.0.2", nil).boot()
	s.metal(mac1, "127.0.0.4", nil).boot()
	want(2, 1, 1, "dominion_nodes 2", "dominion_nodes_claimed 1", "dominion_nodes_held 1")

	none := fleettest.New(t, 0)
	if r, err := none.Conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{})); err != nil || r.Msg.Nodes != nil {
		t.Errorf("an overlord that does not provision counts %v, %v", r, err)
	}
	if got := metricsOf(t, none, "dominion_nodes"); len(got) != 0 {
		t.Errorf("an overlord that does not provision has %q", got)
	}
}

// SIGHUP reads the rules that approve nodes again; what does not hold leaves the
// older ones in force.
func TestReloadOfApproval(t *testing.T) {
	hup := make(chan os.Signal)
	cfg := fleettest.Config()
	cfg.Provision = overlord.ProvisionConfig{Enabled: true, Statedir: filepath.Join(t.TempDir(), "perceus"), Listen: "127.0.0.1:0"}
	file := filepath.Join(t.TempDir(), "overlord.yaml")
	cfg.Reload = hup
	cfg.Reread = func() (overlord.Config, error) {
		c, err := overlord.LoadConfig(file)
		c.Name, c.State = cfg.Name, cfg.State
		return c, err
	}
	s := &site{Fleet: fleettest.Start(t, cfg), statedir: cfg.Provision.Statedir}
	for i, tt := range []struct {
		text     string
		approved bool
	}{
		{"provision: {enabled: true}", false},
		{"provision: {enabled: true, approve: all}", true},
		{"provision: {approve: [{mac: '[', network: 127.0.0.0/8}]}", true},
		{"provision: {approve: [{network: 192.0.2.0/24}]}", false},
		{"provision: {approve: [{network: 127.0.0.0/8}]}", true},
		{"{", true},
	} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		hup <- syscall.SIGHUP
		hup <- syscall.SIGHUP // it has been seen: the first is carried out
		mac := "52:54:00:00:01:0" + string(rune('0'+i))
		if text := s.metal(mac, "", nil).boot(); strings.Contains(text, "dominion.nonce=") != tt.approved {
			t.Errorf("%s: a new machine boots with %q", tt.text, text)
		}
	}
}
