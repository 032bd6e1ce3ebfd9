package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/target"
)

const (
	demoStart = 60 * time.Second // until every process of the demo is up
	demoGrace = 10 * time.Second // until a process that was asked to end is killed
)

func (a *app) demoCmd() *cobra.Command {
	var (
		minions int
		once    bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a whole fleet on this machine",
		Long: `Demo starts an overlord and minions as processes of their own in a temporary
directory, on ports of the loopback that the system chooses, enrols them with a
token, makes a few calls before your eyes, and says what to try in another
terminal. Ctrl-C ends every process and removes the directory.`,
		Example: "  dominion demo\n  dominion demo --minions 3",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, _ *cobra.Command, _ []string) error {
		if minions < 1 || minions > 500 {
			return usagef("--minions %d: give 1 to 500", minions)
		}
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		return a.demo(ctx, minions, once)
	})
	cmd.Flags().IntVar(&minions, "minions", 12, "how `MANY` minions")
	cmd.Flags().BoolVar(&once, "once", false, "end after the tour")
	return cmd
}

// demo is a fleet of child processes.
type demo struct {
	a    *app
	exe  string
	dir  string
	env  []string // of the daemons
	kids []*child // in the order of their start
	died chan *child
}

// child is one daemon of the demo.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string // file of its standard error
	done chan struct{}
}

func (a *app) demo(ctx context.Context, minions int, once bool) (err error) {
	// Children are killed when the thread that started them ends, so that they
	// do not outlive a demo that was killed; the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "dominion-demo-")
	if err != nil {
		return fmt.Errorf("make the demo's directory: %w", err)
	}
	d := &demo{a: a, exe: exe, dir: dir, env: demoEnv(), died: make(chan *child, minions+1)}
	defer func() {
		d.stop()
		if rerr := os.RemoveAll(dir); err == nil && rerr != nil {
			err = fmt.Errorf("remove the demo's directory: %w", rerr)
		}
	}()
	start, cancel := context.WithTimeoutCause(ctx, demoStart, fmt.Errorf("the demo did not start within %s", demoStart))
	defer cancel()
	switch err := d.start(start, minions); {
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return d.explain(err)
	}
	if err := d.tour(ctx); err != nil || once {
		return err
	}
	if err := a.text(demoHints, d.state()); err != nil {
		return err
	}
	if err := a.flush(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case c := <-d.died:
		return d.explain(fmt.Errorf("%s ended by itself", c.name))
	}
}

const demoHints = `
The fleet runs until you press Ctrl-C here. In another terminal:

  export DOMINION_STATE=%s
  dominion minions
  dominion modules
  dominion call 'web*' test.add 1 2
  dominion run '@web' -- uptime
  dominion call web01 facts.all
  dominion audit list
`

// demoEnv is our environment without what would lead commands elsewhere.
func demoEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DOMINION_") && !strings.HasPrefix(kv, "XDG_CONFIG_HOME=") {
			env = append(env, kv)
		}
	}
	return env
}

func (d *demo) state() string { return filepath.Join(d.dir, "overlord") }

// demoNames gives n names, a quarter of them databases.
func demoNames(n int) []string {
	var names []string
	for i := range n {
		if i < n-n/4 {
			names = append(names, fmt.Sprintf("web%02d", i+1))
		} else {
			names = append(names, fmt.Sprintf("db%02d", i-(n-n/4)+1))
		}
	}
	return names
}

// start brings the fleet up and returns when every minion is connected.
func (d *demo) start(ctx context.Context, minions int) error {
	empty := filepath.Join(d.dir, "empty.yaml") // the daemons shall not read this machine's own configuration
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		return fmt.Errorf("write the demo's configuration: %w", err)
	}
	if err := d.say("starting an overlord and %s in %s\n", plural(minions, "minion"), d.dir); err != nil {
		return err
	}
	if err := d.spawn("overlord", "overlord", "--state", d.state(), "--name", "demo", "--listen", "127.0.0.1:0", "--config", empty); err != nil {
		return err
	}
	addr, err := d.address(ctx)
	if err != nil {
		return err
	}
	conn, err := client.Dial(ctx, client.Endpoint{State: d.state()})
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is asked of it any more
	status, err := d.status(ctx, conn, func(*apipb.StatusResponse) bool { return true })
	if err != nil {
		return err
	}
	names := demoNames(minions)
	token, err := conn.Admin.CreateToken(ctx, connect.NewRequest(&apipb.CreateTokenRequest{Name: target.Fold(names), Uses: uint64(minions), LifeMs: uint64(time.Hour.Milliseconds())}))
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	file := filepath.Join(d.dir, "token")
	if err := os.WriteFile(file, []byte(token.Msg.GetToken()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the token: %w", err)
	}
	for i, n := range names {
		config, err := d.minionConfig(n, i)
		if err != nil {
			return err
		}
		if err := d.spawn(n, "minion", "--state", filepath.Join(d.dir, n), "--name", n, "--overlord", addr, "--pin", status.GetPin(),
			"--token-file", file, "--config", config); err != nil {
			return err
		}
	}
	if _, err := d.status(ctx, conn, func(s *apipb.StatusResponse) bool { return s.GetConnected() == uint64(minions) }); err != nil {
		return err
	}
	var web []string
	for _, n := range names {
		if strings.HasPrefix(n, "web") {
			web = append(web, n)
		}
	}
	if _, err := conn.Fleet.SetGroup(ctx, connect.NewRequest(&apipb.SetGroupRequest{Name: "web", Members: target.Fold(web)})); err != nil {
		return fmt.Errorf("make a group: %w", err)
	}
	return nil
}

// minionConfig writes the configuration of one minion: all are on this machine, and
// each answers confd queries, once it is a candidate, at a loopback address of its
// own.
func (d *demo) minionConfig(name string, i int) (path string, err error) {
	path = filepath.Join(d.dir, name+".yaml")
	text := fmt.Sprintf("confd: {listen: 127.0.%d.%d}\n", 1+i/250, 1+i%250)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return path, nil
}

func (d *demo) say(format string, args ...any) error {
	if err := d.a.text(format, args...); err != nil {
		return err
	}
	return d.a.flush()
}

// spawn starts a daemon; its log goes to a file of its name.
func (d *demo) spawn(name string, args ...string) error {
	c := &child{name: name, log: filepath.Join(d.dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()                    // the child has its own
	c.cmd = exec.Command(d.exe, args...) //nolint:gosec,noctx // this very program; stop ends it, in order
	c.cmd.Env, c.cmd.Stderr, c.cmd.Dir = d.env, log, d.dir
	// Their own process groups: Ctrl-C is for us, who end them in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	d.kids = append(d.kids, c)
	go func() { // ends with the child, for which stop waits
		_ = c.cmd.Wait() // that it ended is what matters
		close(c.done)
		d.died <- c
	}()
	return nil
}

// address waits until the overlord has written where it listens.
func (d *demo) address(ctx context.Context) (string, error) {
	var addr string
	err := d.poll(ctx, "the overlord's address", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(d.state(), "address"))
		addr = strings.TrimSpace(string(b))
		return err == nil && addr != "", nil
	})
	return addr, err
}

func (d *demo) status(ctx context.Context, conn *client.Conn, enough func(*apipb.StatusResponse) bool) (*apipb.StatusResponse, error) {
	var s *apipb.StatusResponse
	err := d.poll(ctx, "the fleet", func() (bool, error) {
		resp, err := conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
		if err != nil {
			return false, err
		}
		s = resp.Msg
		return enough(s), nil
	})
	return s, err
}

// poll asks again every 50 ms until it is so; the last error is told when it
// never is. A child that ends meanwhile is an error.
func (d *demo) poll(ctx context.Context, what string, so func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := so()
		if ok && err == nil {
			return nil
		}
		select {
		case c := <-d.died:
			return &childError{c}
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

// childError says that a daemon of the demo ended.
type childError struct{ c *child }

func (e *childError) Error() string { return e.c.name + " ended by itself" }

// explain adds the end of the log of the child that an error is about.
func (d *demo) explain(err error) error {
	c := d.kids
	name := "overlord"
	if ce, ok := errors.AsType[*childError](err); ok {
		name = ce.c.name
	}
	for _, k := range c {
		if k.name != name {
			continue
		}
		b, rerr := os.ReadFile(k.log)
		if rerr == nil && len(b) > 0 {
			return fmt.Errorf("%w; the end of its log:\n%s", err, b[max(0, len(b)-2000):])
		}
	}
	return err
}

// stop ends the minions, then the overlord, and waits for each.
func (d *demo) stop() {
	end := func(kids []*child) {
		for _, c := range kids {
			_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		}
		late := time.NewTimer(demoGrace)
		defer late.Stop()
		for _, c := range kids {
			select {
			case <-c.done:
				continue
			case <-late.C:
				late.Reset(0) // the others are late as well
			}
			_ = c.cmd.Process.Kill() // it may have ended
			<-c.done
		}
	}
	if len(d.kids) > 0 {
		end(d.kids[1:])
		end(d.kids[:1])
	}
}
