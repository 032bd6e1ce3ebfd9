//go:build fleet || soak

package fleettest_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/fleettest"
)

// faultyBinary gives a program built for fault tests: that of
// DOMINION_FAULTS_BINARY, or one made now.
func faultyBinary(t *testing.T) string {
	t.Helper()
	b := os.Getenv("DOMINION_FAULTS_BINARY")
	if b == "" {
		b = filepath.Join(t.TempDir(), "dominion")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "faults", "-o", b, "dominion/cmd/dominion")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "DOMINION_FAULTS_SEED") {
		t.Fatalf("%s was not built with -tags faults", b)
	}
	return b
}

// site is an overlord and minions, each a process of its own, with a proxy
// between them.
type site struct {
	t      *testing.T
	binary string
	dir    string
	state  string // of the overlord
	proxy  *fleettest.Proxy
	conn   *client.Conn // over the socket; it outlives the overlord's process
	seed   uint64
	faults []string // of the environment of every process

	overlord *agent
	names    []string // sorted
	agents   map[string]*agent
}

// agent is a daemon of a site that can be killed and started again.
type agent struct {
	s    *site
	name string
	args []string
	env  []string
	log  string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // of cmd
	kills []time.Time
	stops []stop
}

// stop is when a process was stopped, and for how long.
type stop struct {
	began time.Time
	lasts time.Duration
}

// newSite starts an overlord and n minions, and returns when all are connected.
func newSite(t *testing.T, binary string, n int, seed uint64, faults ...string) *site {
	t.Helper()
	s := &site{t: t, binary: binary, dir: t.TempDir(), seed: seed, faults: faults, agents: make(map[string]*agent)}
	s.state = filepath.Join(s.dir, "overlord")
	empty := filepath.Join(s.dir, "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen := fleettest.FreePort(t)
	s.overlord = s.agent("overlord", 0, "overlord", "--state", s.state, "--listen", listen, "--name", "overlord", "--config", empty, "--autosign", "m*")
	s.overlord.up()
	s.awaitSocket()
	conn, err := client.Dial(t.Context(), client.Endpoint{State: s.state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.conn = conn
	st, err := conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	s.proxy = fleettest.NewProxy(t, listen, seed)
	for i := range n {
		name := fmt.Sprintf("m%03d", i+1)
		a := s.agent(name, uint64(i+1), "minion", "--state", filepath.Join(s.dir, name), "--name", name, "--config", empty, "--pin", st.Msg.Pin, "--overlord", s.proxy.Address())
		s.names, s.agents[name] = append(s.names, name), a
		a.up()
	}
	s.await(n)
	return s
}

func (s *site) agent(name string, n uint64, args ...string) *agent {
	env := slices.Concat(os.Environ(), s.faults, []string{fmt.Sprintf("DOMINION_FAULTS_SEED=%d", s.seed+n)})
	a := &agent{s: s, name: name, args: args, env: env, log: filepath.Join(s.dir, name+".log")}
	s.t.Cleanup(func() {
		a.kill()
		b, err := os.ReadFile(a.log)
		if err != nil {
			s.t.Error(err)
		}
		for _, word := range []string{"panic:", "fatal error:", "DATA RACE"} {
			if strings.Contains(string(b), word) {
				s.t.Errorf("the log of %s has %q:\n%s", name, word, b)
			}
		}
		if os.Getenv("DOMINION_TEST_LOG") != "" {
			keep := filepath.Join(os.Getenv("DOMINION_TEST_LOG"), name+".log")
			if err := os.WriteFile(keep, b, 0o600); err != nil {
				s.t.Error(err)
			}
		}
	})
	return a
}

// up starts the process, unless it runs.
func (a *agent) up() {
	a.s.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd != nil {
		return
	}
	log, err := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		a.s.t.Error(err)
		return
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(a.s.binary, a.args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = a.env, a.s.dir, log, log
	if err := cmd.Start(); err != nil {
		a.s.t.Error(err)
		return
	}
	ended := make(chan struct{})
	go func() { // ends with the process, which the test kills
		defer close(ended)
		_ = cmd.Wait() // how it ended is asked of ProcessState
	}()
	a.cmd, a.ended = cmd, ended
}

// kill ends the process with SIGKILL, if it runs, and gives when.
func (a *agent) kill() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.cmd == nil {
		return now
	}
	a.signal(syscall.SIGKILL)
	<-a.ended
	a.cmd = nil
	a.kills = append(a.kills, now)
	return now
}

// signal sends one to the process; mu is held.
func (a *agent) signal(sig syscall.Signal) {
	if err := a.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		a.s.t.Errorf("signal %v to %s: %v", sig, a.name, err)
	}
}

// pause stops the process for a while.
func (a *agent) pause(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return
	}
	a.stops = append(a.stops, stop{time.Now(), d})
	a.signal(syscall.SIGSTOP)
	<-time.After(d)
	a.signal(syscall.SIGCONT)
}

// killsSince gives when the process was killed.
func (a *agent) killsSince(t time.Time) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.kills, t.Before)
	if i < 0 {
		return nil
	}
	return slices.Clone(a.kills[i:])
}

// pausedSince gives how long the process was stopped.
func (a *agent) pausedSince(t time.Time) (sum time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.stops {
		if s.began.After(t) {
			sum += s.lasts
		}
	}
	return sum
}

// exited gives the daemons that ended without being killed.
func (s *site) exited() (names []string) {
	for _, a := range append([]*agent{s.overlord}, s.all()...) {
		a.mu.Lock()
		if a.cmd != nil {
			select {
			case <-a.ended:
				names = append(names, a.name)
			default:
			}
		}
		a.mu.Unlock()
	}
	return names
}

func (s *site) all() []*agent {
	list := make([]*agent, len(s.names))
	for i, n := range s.names {
		list[i] = s.agents[n]
	}
	return list
}

func (s *site) awaitSocket() {
	s.t.Helper()
	fleettest.Until(s.t, "the overlord answers", func() bool {
		c, err := net.Dial("unix", filepath.Join(s.state, "overlord.sock"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// await waits until n minions are connected.
func (s *site) await(n int) {
	s.t.Helper()
	late := time.After(2 * time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.conn.Fleet.Status(s.t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
		if err == nil && st.Msg.Connected == uint64(n) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			s.t.Fatalf("%d minions do not connect: %v, %v; ended by themselves: %v", n, st, err, s.exited())
		}
	}
}
