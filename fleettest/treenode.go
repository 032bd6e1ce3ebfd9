package fleettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/audit"
	"dominion/call"
	"dominion/client"
)

// TreeNode is an overlord or a machine of a Tree.
type TreeNode struct {
	Name    string
	Machine bool   // an agent without an overlord around it
	State   string // directory
	Parent  *TreeNode
	Below   []*TreeNode // in the order of their names
	// Address of an overlord, host:port; it is kept when the overlord is started again.
	Address string
	Conn    *client.Conn // to an overlord as root of its host; it outlives the process

	tree   *Tree
	token  string
	others []*TreeNode // further overlords of a machine

	mu    sync.Mutex
	proc  *Process // nil: it does not run
	steps steps
}

// steps are when a process came to them, at the latest.
type steps struct{ started, ready, connected time.Time }

func (n *TreeNode) log() string { return n.State + ".log" }

// start starts the process and, for an overlord, waits until it answers.
func (n *TreeNode) start(ctx context.Context) error {
	if err := n.launch(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	if n.Machine {
		return nil
	}
	err := n.until(ctx, "answers", func() (bool, error) {
		c, err := net.Dial("unix", filepath.Join(n.State, client.Socket))
		if err != nil {
			return false, nil //nolint:nilerr // it is asked again
		}
		c.Close()
		b, err := os.ReadFile(filepath.Join(n.State, "address"))
		n.Address = strings.TrimSpace(string(b))
		return err == nil && n.Address != "", nil
	})
	if err != nil {
		return err
	}
	if n.Conn == nil {
		if n.Conn, err = client.Dial(ctx, client.Endpoint{State: n.State}); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.steps.ready = time.Now()
	n.mu.Unlock()
	return nil
}

// joined waits until the process has a session with an overlord above it.
func (n *TreeNode) joined(ctx context.Context, parent *TreeNode) error {
	err := n.until(ctx, "is connected to "+parent.Name, func() (bool, error) { return parent.holds(ctx, n.Name) })
	n.mu.Lock()
	n.steps.connected = time.Now()
	n.mu.Unlock()
	return err
}

// holds says whether an overlord has a session with a machine. One that does
// not answer has none.
func (n *TreeNode) holds(ctx context.Context, name string) (bool, error) {
	resp, err := n.Conn.Fleet.Minions(ctx, connect.NewRequest(&apipb.MinionsRequest{Target: name}))
	if err != nil {
		return false, nil //nolint:nilerr // it is asked again
	}
	return len(resp.Msg.Minions) == 1 && resp.Msg.Minions[0].Connected, nil
}

// until polls for what must come true while the process runs.
func (n *TreeNode) until(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		n.mu.Lock()
		proc := n.proc
		n.mu.Unlock()
		if proc == nil {
			return fmt.Errorf("%s does not run any more; want that it %s", n.Name, what)
		}
		select {
		case <-tick.C:
		case <-proc.ended:
			return fmt.Errorf("%s ended by itself; want that it %s: %s", n.Name, what, n.tail())
		case <-ctx.Done():
			return fmt.Errorf("it did not come true that %s %s: %w: %s", n.Name, what, context.Cause(ctx), n.tail())
		}
	}
}

// launch starts the process unless it runs. What it tells goes on in its log.
func (n *TreeNode) launch() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil {
		return nil
	}
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	cmd, err := n.command()
	if err != nil {
		return err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.tree.Dir, log, log
	if n.Machine && n.tree.cfg.Rooms {
		cmd.Dir = n.State + ".room"
		if err := os.MkdirAll(cmd.Dir, 0o700); err != nil {
			return err
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &Process{t: n.tree.T, cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process, which the test ends
		_ = cmd.Wait() // how it ended is asked of ProcessState
		close(p.ended)
	}()
	n.proc, n.steps = p, steps{started: time.Now()}
	return nil
}

// command is how the process is started: the program, or this test binary.
func (n *TreeNode) command() (*exec.Cmd, error) {
	listen := n.Address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	tr, parent := n.tree, ""
	if n.Parent != nil {
		parent = n.Parent.Address
	}
	if tr.cfg.Binary == "" {
		return part{Overlord: &overlordPart{
			State: n.State, Name: n.Name, Listen: listen, Parent: parent, Pin: tr.pinBelow(n), Token: n.token, Autosign: "m*",
		}}.command(tr.cfg.Env...)
	}
	env := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + tr.Dir, "TMPDIR=" + tr.Dir}, tr.cfg.Env...)
	var args []string
	config := tr.config
	if n.Machine {
		config = tr.empty
		args = []string{"minion", "--overlord", parent}
		for _, o := range n.others {
			args = append(args, "--overlord", o.Address)
		}
	} else {
		args = []string{"overlord", "--listen", listen, "--autosign", "m*"}
		if parent != "" {
			args = append(args, "--parent", parent)
		}
		if n.token != "" {
			env = append(env, "DOMINION_TOKEN="+n.token)
		}
	}
	args = append(args, "--name", n.Name, "--state", n.State, "--config", config)
	if parent != "" {
		args = append(args, "--pin", tr.Pin)
	}
	cmd := exec.Command(tr.cfg.Binary, args...)
	cmd.Env = env
	return cmd, nil
}

// pinBelow is the pin that a node needs; the top has none.
func (tr *Tree) pinBelow(n *TreeNode) string {
	if n.Parent == nil {
		return ""
	}
	return tr.Pin
}

// Up starts the process again, and returns when an overlord answers.
func (n *TreeNode) Up() {
	n.tree.T.Helper()
	ctx, cancel := n.tree.limit()
	defer cancel()
	if err := n.start(ctx); err != nil {
		n.tree.T.Fatal(err)
	}
}

// Process is the running one; it fails the test when there is none.
func (n *TreeNode) Process() *Process {
	n.tree.T.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		n.tree.T.Fatalf("%s does not run", n.Name)
	}
	return n.proc
}

func (n *TreeNode) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil
}

// PID is the process's id.
func (n *TreeNode) PID() int {
	n.tree.T.Helper()
	return n.Process().PID()
}

// Signal sends a signal to the process.
func (n *TreeNode) Signal(s syscall.Signal) {
	n.tree.T.Helper()
	n.Process().Signal(s)
}

// Kill ends the process with SIGKILL.
func (n *TreeNode) Kill() {
	n.tree.T.Helper()
	n.Process()
	n.kill()
}

// kill is Kill, and nothing when there is no process.
func (n *TreeNode) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil {
		n.proc.Kill()
		n.proc = nil
	}
}

// Stop ends the process with SIGTERM and wants it to say that all went well.
func (n *TreeNode) Stop() {
	n.tree.T.Helper()
	p := n.Process()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(n.tree.cfg.Patience):
		n.tree.T.Fatalf("%s does not end: %s", n.Name, n.tail())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		n.tree.T.Errorf("%s ended with exit code %d; want 0: %s", n.Name, code, n.tail())
	}
	n.mu.Lock()
	n.proc = nil
	n.mu.Unlock()
}

// Said gives everything that the processes of this node have logged.
func (n *TreeNode) Said() string {
	b, err := os.ReadFile(n.log())
	if err != nil {
		n.tree.T.Error(err)
	}
	return string(b)
}

func (n *TreeNode) tail() string {
	said := n.Said()
	return said[max(0, len(said)-tailBytes):]
}

// Connected gives the names of those that have a session with an overlord, sorted.
func (n *TreeNode) Connected() (names []string) {
	n.tree.T.Helper()
	resp, err := n.Conn.Fleet.Minions(n.tree.T.Context(), connect.NewRequest(&apipb.MinionsRequest{}))
	if err != nil {
		n.tree.T.Fatal(err)
	}
	for _, m := range resp.Msg.Minions {
		if m.Connected {
			names = append(names, m.Name)
		}
	}
	return names
}

// Audit gives the records of an overlord's audit log about a subject, a job's id
// for one; all when it is empty.
func (n *TreeNode) Audit(subject string) (list []*audit.Record) {
	n.tree.T.Helper()
	stream, err := n.Conn.Audit.List(n.tree.T.Context(), connect.NewRequest(&apipb.AuditListRequest{Subject: subject}))
	if err != nil {
		n.tree.T.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		r, err := audit.Decode(stream.Msg().Body)
		if err != nil {
			n.tree.T.Fatal(err)
		}
		list = append(list, r)
	}
	if err := stream.Err(); err != nil {
		n.tree.T.Fatal(err)
	}
	return list
}

// OwnLog gives what an agent has written into its own log of what it ran: that of
// a machine, or the one that is embedded in an overlord. The process may run.
func (n *TreeNode) OwnLog() []*audit.MinionRecord {
	n.tree.T.Helper()
	list, err := n.ownLog()
	if err != nil {
		n.tree.T.Fatalf("own log of %s: %v", n.Name, err)
	}
	return list
}

// ownLog reads a copy: opening a log may mend it.
func (n *TreeNode) ownLog() (list []*audit.MinionRecord, err error) {
	from := filepath.Join(n.State, "log")
	if !n.Machine {
		from = filepath.Join(n.State, "minion", "log")
	}
	dir, err := os.MkdirTemp(n.tree.Dir, "log-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	to := filepath.Join(dir, "log")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return nil, err
	}
	l, err := audit.OpenFileLog(to, audit.FileLogOptions{})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	for int64(len(list)) < l.Size() {
		page, err := l.Read(int64(len(list)), 1000)
		if err != nil {
			return nil, err
		}
		for _, leaf := range page.Leaves {
			r, err := audit.DecodeMinion(leaf)
			if err != nil {
				return nil, err
			}
			list = append(list, r)
		}
	}
	return list, nil
}

// Ran says how often an agent's own log has a job.
func (n *TreeNode) Ran(id call.JobID) (times int) {
	n.tree.T.Helper()
	for _, r := range n.OwnLog() {
		if string(r.Job) == string(id[:]) {
			times++
		}
	}
	return times
}
