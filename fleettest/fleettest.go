// Package fleettest starts a real overlord and real minions on loopback, in
// this process or in others, for tests and for measuring the budgets.
package fleettest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/minion"
	"dominion/overlord"
)

// Patience is how long a test waits for what must happen.
const Patience = 30 * time.Second

// Fleet is an overlord and its minions in this process. It ends with the test.
type Fleet struct {
	T       testing.TB
	State   string // of the overlord
	Address string // of the overlord, host:port
	Pin     string
	Conn    *client.Conn // over the socket, as root

	cfg     overlord.Config
	log     *slog.Logger
	stop    context.CancelFunc
	stopped chan error
	mu      sync.Mutex
	minions []*Minion // several may have one name
}

// Minion is one agent of a fleet.
type Minion struct {
	Name  string
	State string
	stop  context.CancelFunc
	done  chan error
}

// New starts an overlord and n minions, m01 and on, enrolled by autosign. It
// returns when all have a session.
func New(t testing.TB, n int) *Fleet {
	t.Helper()
	f := Start(t, Config())
	for i := range n {
		f.Enrol(fmt.Sprintf("m%02d", i+1), minion.Config{})
	}
	f.Await(n)
	return f
}

// Start starts an overlord without minions. State, name and address are chosen
// here unless cfg has them.
func Start(t testing.TB, cfg overlord.Config) *Fleet {
	t.Helper()
	if cfg.State == "" {
		cfg.State = filepath.Join(t.TempDir(), "overlord")
	}
	if cfg.Name == "" {
		cfg.Name = "overlord"
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	f := &Fleet{T: t, State: cfg.State, cfg: cfg, log: logger(t)}
	f.Up()
	t.Cleanup(f.end)
	return f
}

// logger writes to the test's log when it fails or is verbose.
func logger(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("DOMINION_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// Up starts the overlord, again after Down. It keeps its address.
func (f *Fleet) Up() {
	f.T.Helper()
	ready := make(chan string, 1)
	cfg := f.cfg
	cfg.Ready = func(address string) { ready <- address }
	ctx, stop := context.WithCancel(context.WithoutCancel(f.T.Context()))
	f.stop, f.stopped = stop, make(chan error, 1)
	go func(done chan error) { done <- overlord.Run(ctx, cfg, f.log) }(f.stopped)
	select {
	case f.Address = <-ready:
	case err := <-f.stopped:
		f.stopped <- err
		f.T.Fatalf("overlord: %v", err)
	case <-time.After(Patience):
		f.T.Fatal("the overlord is not ready")
	}
	f.cfg.Listen = f.Address
	conn, err := client.Dial(f.T.Context(), client.Endpoint{State: f.State})
	if err != nil {
		f.T.Fatal(err)
	}
	f.Conn = conn
	st, err := conn.Fleet.Status(f.T.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		f.T.Fatal(err)
	}
	f.Pin = st.Msg.Pin
}

// Down stops the overlord in order.
func (f *Fleet) Down() {
	f.T.Helper()
	f.Conn.Close()
	f.stop()
	select {
	case err := <-f.stopped:
		f.stopped <- nil
		if err != nil {
			f.T.Errorf("overlord: %v", err)
		}
	case <-time.After(Patience + 30*time.Second):
		f.T.Fatal("the overlord does not stop")
	}
}

func (f *Fleet) end() {
	f.mu.Lock()
	minions := f.minions
	f.minions = nil
	f.mu.Unlock()
	for _, m := range minions {
		m.Stop()
	}
	f.Down()
}

// Enrol starts a minion. Name, state and overlord are set here; cfg may add
// more. It does not wait for a session.
func (f *Fleet) Enrol(name string, cfg minion.Config) *Minion {
	f.T.Helper()
	if cfg.State == "" {
		cfg.State = filepath.Join(f.T.TempDir(), name)
	}
	cfg.Name, cfg.Pin = name, f.Pin
	if cfg.Confd.Listen == "" {
		cfg.Confd.Listen = "127.0.0.1:0" // there is one port 1814, and many fleets
	}
	if cfg.ModulesDir == "" {
		cfg.ModulesDir = filepath.Join(cfg.State, "modules.d") // and not this machine's; it need not be there
	}
	if len(cfg.Overlords) == 0 && cfg.Listen == "" {
		cfg.Overlords = []string{f.Address}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(f.T.Context()))
	m := &Minion{Name: name, State: cfg.State, stop: stop, done: make(chan error, 1)}
	go func() { m.done <- minion.Run(ctx, cfg, f.log.With("minion", name)) }()
	f.mu.Lock()
	f.minions = append(f.minions, m)
	f.mu.Unlock()
	return m
}

// Stop ends the minion in order and gives what its Run returned.
func (m *Minion) Stop() error {
	m.stop()
	err := <-m.done
	m.done <- err
	return err
}

// Connected is how many minions have a session.
func (f *Fleet) Connected() int {
	f.T.Helper()
	st, err := f.Conn.Fleet.Status(f.T.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		f.T.Fatal(err)
	}
	return int(st.Msg.Connected)
}

// Await waits until n minions have a session.
func (f *Fleet) Await(n int) {
	f.T.Helper()
	f.Until(fmt.Sprintf("%d minions are connected", n), func() bool { return f.Connected() == n })
}

// Until waits for what must come true, and fails the test when it does not.
func (f *Fleet) Until(what string, ok func() bool) {
	f.T.Helper()
	Until(f.T, what, ok)
}

// Until polls for what must come true within Patience.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(Patience); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// FreePort gives a loopback address that nobody listened on a moment ago.
func FreePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Exists says whether a file is there.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Config is that of an overlord which signs the requests of minions m*.
func Config() overlord.Config {
	return overlord.Config{Autosign: []overlord.AutosignRule{{Names: "m*"}}}
}
