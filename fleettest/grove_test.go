//go:build fleet || soak

package fleettest_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/fleettest"
	"dominion/pki"
)

// grove is overlords below overlords and machines below them, each a process of
// its own, with a proxy before every overlord. Some machines have two overlords.
type grove struct {
	*site
	top    *hop
	hops   []*hop // without the top, the upper ones first
	leaves []*leaf
}

// hop is an overlord of a grove.
type hop struct {
	*agent
	state string
	door  *fleettest.Proxy // whoever dials it comes through here
	conn  *client.Conn     // over the socket; it outlives the process
}

// leaf is a machine of a grove.
type leaf struct {
	*agent
	above []*hop
}

// newGrove starts everything, makes the map and returns when all are connected. Each
// word of machines names the overlords of some.
func newGrove(t *testing.T, binary string, seed uint64, faults []string, machines map[string]int) *grove {
	t.Helper()
	s := &site{t: t, binary: binary, dir: t.TempDir(), seed: seed, faults: faults, agents: make(map[string]*agent)}
	g := &grove{site: s}
	g.top = g.hop("top", nil)
	st, err := g.top.conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*hop{"top": g.top}
	for _, x := range []struct{ name, parent string }{{"dc1", "top"}, {"dc2", "top"}, {"dc3", "top"}, {"rack1", "dc1"}} {
		byName[x.name] = g.hop(x.name, byName[x.parent], "--pin", st.Msg.Pin)
		g.hops = append(g.hops, byName[x.name])
	}
	for _, words := range slices.Sorted(mapKeys(machines)) {
		for range machines[words] {
			g.leaf(byName, words, st.Msg.Pin)
		}
	}
	for _, l := range g.leaves {
		for _, h := range l.above {
			h.holds(t, l.name)
		}
	}
	if out, err := command(t, binary, "map", "build", "--state", g.top.state); err != nil {
		t.Fatalf("map build: %v\n%s", err, out)
	}
	return g
}

// hop starts an overlord, below another or at the top, and waits until it is connected.
func (g *grove) hop(name string, parent *hop, args ...string) *hop {
	t := g.t
	t.Helper()
	h := &hop{state: filepath.Join(g.dir, name)}
	listen := fleettest.FreePort(t)
	args = append([]string{"overlord", "--state", h.state, "--listen", listen, "--name", name, "--config", "/dev/null", "--autosign", "m*"}, args...)
	env := ""
	if parent != nil {
		args = append(args, "--parent", parent.door.Address())
		resp, err := g.top.conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: name, Role: string(pki.Overlord)}))
		if err != nil {
			t.Fatal(err)
		}
		env = "DOMINION_TOKEN=" + resp.Msg.Token
	}
	h.agent = g.agent(name, uint64(1000+len(g.hops)), args...)
	h.env = append(h.env, env)
	h.up()
	fleettest.Until(t, name+" answers", func() bool {
		c, err := net.Dial("unix", filepath.Join(h.state, client.Socket))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	conn, err := client.Dial(t.Context(), client.Endpoint{State: h.state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.conn, h.door = conn, fleettest.NewProxy(t, listen, g.seed+uint64(len(g.hops)))
	if parent != nil {
		parent.holds(t, name)
	}
	return h
}

// leaf starts a machine below the overlords that are named.
func (g *grove) leaf(byName map[string]*hop, words, pin string) {
	name := fmt.Sprintf("m%02d", len(g.leaves)+1)
	args := []string{"minion", "--state", filepath.Join(g.dir, name), "--name", name, "--config", "/dev/null", "--pin", pin}
	l := new(leaf)
	for _, h := range split(words) {
		l.above = append(l.above, byName[h])
		args = append(args, "--overlord", byName[h].door.Address())
	}
	l.agent = g.agent(name, uint64(len(g.leaves)+1), args...)
	g.leaves, g.names = append(g.leaves, l), append(g.names, name)
	g.agents[name] = l.agent
	l.up()
}

// holds waits until an overlord has a session with a machine or another overlord.
func (h *hop) holds(t *testing.T, name string) {
	t.Helper()
	fleettest.Until(t, h.name+" has a session with "+name, func() bool {
		resp, err := h.conn.Fleet.Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{Target: name}))
		return err == nil && len(resp.Msg.Minions) == 1 && resp.Msg.Minions[0].Connected
	})
}

// overlords gives all of them, the top first.
func (g *grove) overlords() []*hop { return append([]*hop{g.top}, g.hops...) }

// fallen gives the daemons that ended by themselves.
func (g *grove) fallen() (names []string) {
	for _, h := range g.overlords() {
		if h.fell() {
			names = append(names, h.name)
		}
	}
	for _, l := range g.leaves {
		if l.fell() {
			names = append(names, l.name)
		}
	}
	return names
}

func (a *agent) fell() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// end ends the process with SIGTERM, if it runs, and waits for that.
func (a *agent) end(patience time.Duration) {
	a.s.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return
	}
	a.signal(syscall.SIGTERM)
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.s.t.Errorf("%s does not end within %s of SIGTERM", a.name, patience)
		a.signal(syscall.SIGKILL)
		<-a.ended
	}
	a.cmd = nil
}
