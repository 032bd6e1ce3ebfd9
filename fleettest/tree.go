package fleettest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"dominion/api/apipb"
	"dominion/pki"
)

// TreeConfig says what a Tree is made of.
type TreeConfig struct {
	// Binary is the program to run. Empty: this test binary, which then calls
	// Play at its start; its trees have no machines but simulated ones.
	Binary string
	// Levels is how many overlords are below each one of the level above: 3, 3 makes
	// three below the top and three below each of these.
	Levels []int
	// Machines is how many agents, each a process, are below each of the lowest overlords.
	Machines int
	// Rooms gives each agent that is a process of its own a working directory of its
	// own, State and ".room", so that /proc/self/cwd is another place on each.
	Rooms bool
	// Config is what overlord.yaml says at every overlord. Empty: nothing.
	Config string
	// Env is added to the environment of every process.
	Env []string
	// Patience is how long the whole tree may take to come up, and anything that is
	// awaited of it; 0: twice Patience of the package.
	Patience time.Duration
}

// Tree is overlords in levels and machines below the lowest, each a process of
// its own on loopback. It ends with the test.
//
// The top is called "top", the overlords of the next levels dc1, dc2 …, rack1 …,
// shelf1 …, and the machines m1 …, numbered through from left to right, with as
// many digits as the highest number has.
type Tree struct {
	T   testing.TB
	Dir string // of logs and state directories
	Top *TreeNode
	Pin string // of the root

	cfg    TreeConfig
	began  time.Time
	empty  string // a configuration file with nothing in it
	config string // that of the overlords
	all    []*TreeNode
	named  map[string]*TreeNode
}

// NewTree starts a tree and returns when everybody has a session.
func NewTree(t testing.TB, cfg TreeConfig) *Tree {
	t.Helper()
	cfg.Patience = cmp.Or(cfg.Patience, 2*Patience)
	tr := &Tree{T: t, Dir: t.TempDir(), cfg: cfg, began: time.Now(), named: make(map[string]*TreeNode)}
	if cfg.Binary == "" && cfg.Machines > 0 {
		t.Fatal("a tree of this test binary has no machines that are processes; use Crowd")
	}
	tr.empty = filepath.Join(tr.Dir, "empty.yaml")
	if err := os.WriteFile(tr.empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tr.config = filepath.Join(tr.Dir, "overlord.yaml")
	if err := os.WriteFile(tr.config, []byte(cfg.Config), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.plan()
	t.Cleanup(tr.end)
	ctx, cancel := context.WithTimeoutCause(t.Context(), cfg.Patience, fmt.Errorf("the tree is not up within %s", cfg.Patience))
	defer cancel()
	if err := tr.grow(ctx); err != nil {
		t.Fatal(err)
	}
	return tr
}

// In makes t, a part of the test, the one that fails, until back is called.
func (tr *Tree) In(t testing.TB) (back func()) {
	whole := tr.T
	tr.T = t
	return func() { tr.T = whole }
}

// levelNames are those of the overlords below the top.
var levelNames = [...]string{"dc", "rack", "shelf", "box"}

// plan makes the nodes, the levels one after the other.
func (tr *Tree) plan() {
	tr.Top = tr.node("top", nil, false)
	level := []*TreeNode{tr.Top}
	for depth, each := range tr.cfg.Levels {
		level = tr.level(level, levelNames[depth], each, false)
	}
	tr.level(level, "m", tr.cfg.Machines, true)
}

func (tr *Tree) level(above []*TreeNode, prefix string, each int, machine bool) (made []*TreeNode) {
	width := len(fmt.Sprint(len(above) * each))
	for _, parent := range above {
		for range each {
			made = append(made, tr.node(fmt.Sprintf("%s%0*d", prefix, width, len(made)+1), parent, machine))
		}
	}
	return made
}

func (tr *Tree) node(name string, parent *TreeNode, machine bool) *TreeNode {
	n := &TreeNode{Name: name, Machine: machine, Parent: parent, State: filepath.Join(tr.Dir, name), tree: tr}
	if parent != nil {
		parent.Below = append(parent.Below, n)
	}
	tr.all, tr.named[name] = append(tr.all, n), n
	return n
}

// Node gives that of a name.
func (tr *Tree) Node(name string) *TreeNode {
	tr.T.Helper()
	n := tr.named[name]
	if n == nil {
		tr.T.Fatalf("the tree has no %s", name)
	}
	return n
}

// Overlords gives all of them, the top first, level by level.
func (tr *Tree) Overlords() []*TreeNode { return tr.pick(false) }

// Machines gives the agents that are processes of their own, in the order of their names.
func (tr *Tree) Machines() []*TreeNode { return tr.pick(true) }

func (tr *Tree) pick(machine bool) (list []*TreeNode) {
	for _, n := range tr.all {
		if n.Machine == machine {
			list = append(list, n)
		}
	}
	return list
}

// Lowest gives the overlords that have none below them.
func (tr *Tree) Lowest() (list []*TreeNode) {
	for _, n := range tr.Overlords() {
		if len(n.Below) == 0 || n.Below[0].Machine {
			list = append(list, n)
		}
	}
	return list
}

// grow starts the top, and then each one as soon as its parent has a session
// with its own: what it asks for is passed on there.
func (tr *Tree) grow(ctx context.Context) error {
	if err := tr.Top.start(ctx); err != nil {
		return err
	}
	st, err := tr.Top.Conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		return err
	}
	tr.Pin = st.Msg.Pin
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range tr.Top.Below {
		g.Go(func() error { return n.grow(ctx) })
	}
	return g.Wait()
}

func (n *TreeNode) grow(ctx context.Context) error {
	if !n.Machine {
		resp, err := n.tree.Top.Conn.Admin.CreateToken(ctx, connect.NewRequest(&apipb.CreateTokenRequest{Name: n.Name, Role: string(pki.Overlord)}))
		if err != nil {
			return fmt.Errorf("token for %s: %w", n.Name, err)
		}
		n.token = resp.Msg.Token
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	if err := n.joined(ctx, n.Parent); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range n.Below {
		g.Go(func() error { return b.grow(ctx) })
	}
	return g.Wait()
}

// Machine starts one more agent, whose sessions are with several overlords, and
// returns when it has them all.
func (tr *Tree) Machine(name string, parents ...*TreeNode) *TreeNode {
	tr.T.Helper()
	n := tr.node(name, parents[0], true)
	n.others = parents[1:]
	n.Up()
	ctx, cancel := tr.limit()
	defer cancel()
	for _, p := range parents {
		if err := n.joined(ctx, p); err != nil {
			tr.T.Fatal(err)
		}
	}
	return n
}

// limit is the time that may be waited for something.
func (tr *Tree) limit() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(tr.T.Context(), tr.cfg.Patience, fmt.Errorf("not within %s", tr.cfg.Patience))
}

// Await waits until everybody who runs has a session with the overlord above,
// unless that one does not run.
func (tr *Tree) Await() {
	tr.T.Helper()
	ctx, cancel := tr.limit()
	defer cancel()
	var g errgroup.Group
	for _, n := range tr.all {
		if n.Parent != nil && n.running() && n.Parent.running() {
			g.Go(func() error { return n.joined(ctx, n.Parent) })
		}
	}
	if err := g.Wait(); err != nil {
		tr.T.Fatal(err)
	}
}

// Timing tells how long the tree took to come up, and level by level when the
// processes were started, ready to be asked, and connected: the first and the last of them.
func (tr *Tree) Timing() string {
	var b strings.Builder
	level := []*TreeNode{tr.Top}
	for len(level) > 0 {
		var next []*TreeNode
		var started, ready, connected span
		for _, n := range level {
			n.mu.Lock()
			started.add(n.steps.started.Sub(tr.began))
			ready.add(n.steps.ready.Sub(tr.began))
			connected.add(n.steps.connected.Sub(tr.began))
			n.mu.Unlock()
			next = append(next, n.Below...)
		}
		first, last := level[0], level[len(level)-1]
		fmt.Fprintf(&b, "%s to %s (%d): started %s", first.Name, last.Name, len(level), started)
		if !first.Machine {
			fmt.Fprintf(&b, ", ready %s", ready)
		}
		if first.Parent != nil {
			fmt.Fprintf(&b, ", connected %s", connected)
		}
		b.WriteByte('\n')
		level = next
	}
	return b.String()
}

// Crowd starts simulated machines in one process, each below one of the lowest
// overlords, whose issuing CA signs them, and returns when all have sessions.
// They are called m0001 and on, numbered through from left to right.
func (tr *Tree) Crowd(each int) *Process {
	tr.T.Helper()
	var crowds []Simulation
	for i, n := range tr.Lowest() {
		crowds = append(crowds, Simulation{Overlord: n.Address, Name: n.Name, State: n.State, Prefix: "m", First: i * each, Count: each})
	}
	p := StartCrowd(tr.T, crowds...)
	ctx, cancel := tr.limit()
	defer cancel()
	var g errgroup.Group
	for _, n := range tr.Lowest() {
		g.Go(func() error {
			return n.until(ctx, fmt.Sprintf("holds %d machines", each), func() (bool, error) {
				st, err := n.Conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
				return err == nil && st.Msg.Connected == uint64(each+len(n.Below)), nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		tr.T.Fatal(err)
	}
	return p
}

// span is from the first to the last of some times since the beginning.
type span struct {
	any         bool
	first, last time.Duration
}

func (s *span) add(d time.Duration) {
	if !s.any {
		s.first, s.last, s.any = d, d, true
	}
	s.first, s.last = min(s.first, d), max(s.last, d)
}

func (s span) String() string {
	return fmt.Sprintf("%.2f to %.2f s", s.first.Seconds(), s.last.Seconds())
}

// Resident is the memory of all overlords and of all machines that run, in bytes.
func (tr *Tree) Resident() (overlords, machines int64) {
	tr.T.Helper()
	for _, n := range tr.all {
		if !n.running() {
			continue
		}
		if b := RSS(tr.T, n.PID()); n.Machine {
			machines += b
		} else {
			overlords += b
		}
	}
	return overlords, machines
}

// tailBytes is how much of a log is shown when a test failed.
const tailBytes = 3000

// end ends all processes by their ids, and looks at what they told. With
// DOMINION_TEST_LOG, a directory, the logs are kept there.
func (tr *Tree) end() {
	var wg sync.WaitGroup
	for _, n := range tr.all {
		wg.Go(n.kill)
	}
	wg.Wait()
	for _, n := range tr.all {
		if n.Conn != nil {
			n.Conn.Close()
		}
		if !Exists(n.log()) {
			continue
		}
		said := n.Said()
		for _, word := range []string{"panic:", "fatal error:", "DATA RACE"} {
			if i := strings.Index(said, word); i >= 0 {
				tr.T.Errorf("the log of %s: %.4000s", n.Name, said[i:])
			}
		}
		if dir := os.Getenv("DOMINION_TEST_LOG"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, n.Name+".log"), []byte(said), 0o600); err != nil {
				tr.T.Log(err) // DOMINION_TEST_LOG may be only a word
			}
		}
		if tr.T.Failed() {
			tr.T.Logf("the end of the log of %s:\n%s", n.Name, said[max(0, len(said)-tailBytes):])
		}
	}
}
