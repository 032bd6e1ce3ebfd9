//go:build fleet

package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/fleettest"
)

// hang is when a command that should have ended long ago is killed.
const hang = 60 * time.Second

// site is an overlord, its minions and their users, each a process of its own,
// below one directory. All of it ends with the test.
type site struct {
	t       *testing.T
	binary  string
	dir     string
	state   string // of the overlord
	config  string // an empty file, so that nothing of this machine is read
	address string
	pin     string

	root     *user // on the overlord's host
	overlord *daemon
	flags    []string     // of the overlord, for its next start
	conn     *client.Conn // as root, for waiting
}

// newSite makes a site without any process.
func newSite(t *testing.T, binary string) *site {
	t.Helper()
	s := &site{t: t, binary: binary, dir: t.TempDir()}
	s.state, s.config = filepath.Join(s.dir, "overlord"), filepath.Join(s.dir, "empty.yaml")
	s.write("empty.yaml", "")
	s.root = s.user("root", "DOMINION_STATE="+s.state)
	return s
}

// startSite starts an overlord that signs minions m* at once, and n of them,
// m01 and on; it returns when all are connected.
func startSite(t *testing.T, binary string, n int) *site {
	t.Helper()
	s := newSite(t, binary)
	s.up("--autosign", "m*")
	for i := range n {
		s.minion(fmt.Sprintf("m%02d", i+1))
	}
	s.await(n)
	return s
}

// write makes a file of the site and gives its path.
func (s *site) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// up starts the overlord, with the same flags and address as before unless
// there are new flags, and returns when it answers.
func (s *site) up(flags ...string) {
	s.t.Helper()
	if len(flags) > 0 || s.flags == nil {
		s.flags = flags
	}
	listen := s.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	args := []string{"overlord", "--state", s.state, "--name", "overlord", "--listen", listen}
	if !slices.Contains(s.flags, "--config") {
		args = append(args, "--config", s.config)
	}
	s.overlord = s.daemon("overlord", append(args, s.flags...)...)
	s.until("the overlord answers", func() bool {
		if s.overlord.hasEnded() {
			s.t.Fatalf("the overlord ended: %s", s.overlord.tail())
		}
		c, err := net.Dial("unix", filepath.Join(s.state, "overlord.sock"))
		if err != nil {
			return false
		}
		c.Close()
		b, err := os.ReadFile(filepath.Join(s.state, "address"))
		s.address = strings.TrimSpace(string(b))
		return err == nil && s.address != ""
	})
	if s.conn == nil {
		conn, err := client.Dial(s.t.Context(), client.Endpoint{State: s.state})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { conn.Close() })
		s.conn = conn
	}
	s.pin = s.status().Pin
}

func (s *site) status() *apipb.StatusResponse {
	s.t.Helper()
	st, err := s.conn.Fleet.Status(s.t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Msg
}

// machine gives what the overlord knows of a minion; nil: nothing.
func (s *site) machine(name string) *apipb.Minion {
	s.t.Helper()
	resp, err := s.conn.Fleet.Minions(s.t.Context(), connect.NewRequest(&apipb.MinionsRequest{Target: name}))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(resp.Msg.Minions) == 0 {
		return nil
	}
	return resp.Msg.Minions[0]
}

// await waits until exactly n minions are connected.
func (s *site) await(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d minions are connected", n), func() bool { return s.status().Connected == uint64(n) })
}

// until polls for what must come true.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	fleettest.Until(s.t, what, ok)
}

// minion starts the agent called name, with its own state directory, towards
// the site's overlord.
func (s *site) minion(name string, flags ...string) *daemon {
	s.t.Helper()
	return s.agent(name, append([]string{"--overlord", s.address}, flags...)...)
}

// agent is minion without an overlord to dial.
func (s *site) agent(name string, flags ...string) *daemon {
	s.t.Helper()
	args := []string{"minion", "--state", filepath.Join(s.dir, name), "--name", name, "--config", s.config}
	if !slices.Contains(flags, "--pin") {
		args = append(args, "--pin", s.pin)
	}
	return s.daemon(name, append(args, flags...)...)
}

// daemon is a process that runs until it is ended, at the latest by the end of
// the test.
type daemon struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	log   string // file of its standard error
	ended chan struct{}
}

// daemon starts a process; its log goes on where one of that name left off.
func (s *site) daemon(name string, args ...string) *daemon {
	s.t.Helper()
	d := &daemon{t: s.t, name: name, log: filepath.Join(s.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	d.cmd = exec.Command(s.binary, args...)
	d.cmd.Env, d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = s.user(name).env, s.dir, log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { // ends with the process, which the test ends
		_ = d.cmd.Wait() // how it ended is asked of ProcessState
		close(d.ended)
	}()
	s.t.Cleanup(func() {
		d.kill()
		if s.t.Failed() {
			s.t.Logf("the end of the log of %s:\n%s", name, d.tail())
		}
	})
	return d
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

func (d *daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Errorf("signal %v to %s: %v", sig, d.name, err)
	}
}

// kill ends the process at once.
func (d *daemon) kill() {
	d.t.Helper()
	d.signal(syscall.SIGKILL)
	<-d.ended
}

// stop ends the process in order and wants it to say that all went well.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.code(); code != 0 {
		d.t.Errorf("%s ended with exit code %d; want 0: %s", d.name, code, d.tail())
	}
}

// code waits for the end and gives the exit code.
func (d *daemon) code() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(hang):
		d.t.Fatalf("%s does not end: %s", d.name, d.tail())
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *daemon) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// said gives everything that processes of this name have logged.
func (d *daemon) said() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

func (d *daemon) tail() string {
	b := d.said()
	return b[max(0, len(b)-3000):]
}

// awaitSaid waits until the log holds every one of those texts.
func (d *daemon) awaitSaid(texts ...string) {
	d.t.Helper()
	for _, x := range texts {
		fleettest.Until(d.t, d.name+" logs "+x, func() bool { return strings.Contains(d.said(), x) })
	}
}

// user is somebody who types commands.
type user struct {
	t      *testing.T
	binary string
	dir    string // working directory
	home   string
	env    []string
}

// user makes a user with an empty home, who has nothing of this process's
// environment but PATH.
func (s *site) user(name string, env ...string) *user {
	s.t.Helper()
	u := &user{t: s.t, binary: s.binary, dir: s.dir, home: filepath.Join(s.dir, "home-"+name)}
	if err := os.MkdirAll(u.home, 0o700); err != nil {
		s.t.Fatal(err)
	}
	u.env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "TMPDIR=" + s.dir}, env...)
	return u
}

// command is one command line at work.
type command struct {
	t        *testing.T
	line     string
	cmd      *exec.Cmd
	out, err *output
	began    time.Time
	done     chan struct{}
	took     time.Duration // once done
}

// start starts a command; a test that ends early ends it, too.
func (u *user) start(args ...string) *command {
	u.t.Helper()
	return u.startTo(nil, args...)
}

// startTo is start with another standard output than one that is kept, unless
// that is nil.
func (u *user) startTo(out *os.File, args ...string) *command {
	u.t.Helper()
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.t.Context()), hang)
	c := &command{
		t: u.t, line: "dominion " + strings.Join(args, " "), cmd: exec.CommandContext(ctx, u.binary, args...), out: new(output), err: new(output),
		began: time.Now(), done: make(chan struct{}),
	}
	c.cmd.Env, c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = u.env, u.dir, c.out, c.err
	if out != nil {
		c.cmd.Stdout = out
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		stop()
		u.t.Fatal(err)
	}
	go func() { // ends with the process
		_ = c.cmd.Wait() // how it ended is asked of ProcessState
		c.took = time.Since(c.began)
		stop()
		close(c.done)
	}()
	u.t.Cleanup(func() {
		stop()
		<-c.done
	})
	return c
}

// run runs a command to its end.
func (u *user) run(args ...string) *command {
	u.t.Helper()
	c := u.start(args...)
	<-c.done
	return c
}

// exits waits for the end and wants that exit code.
func (c *command) exits(code int) *command {
	c.t.Helper()
	<-c.done
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.t.Fatalf("%s: exit code %d after %s; want %d\nstdout: %s\nstderr: %s", c.line, got, c.took.Round(time.Millisecond), code, c.out, c.err)
	}
	return c
}

// prints wants texts on standard output.
func (c *command) prints(texts ...string) *command {
	c.t.Helper()
	c.has("stdout", c.out, texts)
	return c
}

// tells wants texts on standard error.
func (c *command) tells(texts ...string) *command {
	c.t.Helper()
	c.has("stderr", c.err, texts)
	return c
}

func (c *command) has(what string, o *output, texts []string) {
	c.t.Helper()
	for _, x := range texts {
		if !strings.Contains(o.String(), x) {
			c.t.Errorf("%s: %s does not hold %q\nstdout: %s\nstderr: %s", c.line, what, x, c.out, c.err)
		}
	}
}

// silent wants nothing on standard output.
func (c *command) silent() *command {
	c.t.Helper()
	if c.out.String() != "" {
		c.t.Errorf("%s: stdout is %q; want nothing", c.line, c.out)
	}
	return c
}

// within wants the command to have ended in that time, with a second for the
// start of its process.
func (c *command) within(d time.Duration) *command {
	c.t.Helper()
	<-c.done
	if c.took > d+time.Second {
		c.t.Errorf("%s took %s; want %s at most\nstderr: %s", c.line, c.took, d, c.err)
	}
	return c
}

func (c *command) signal(sig syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Errorf("signal %v to %s: %v", sig, c.line, err)
	}
}

// awaitTells waits until a running command has told something.
func (c *command) awaitTells(text string) {
	c.t.Helper()
	c.awaits("tells", c.err, text)
}

// awaitPrints waits until a running command has printed something.
func (c *command) awaitPrints(text string) {
	c.t.Helper()
	c.awaits("prints", c.out, text)
}

func (c *command) awaits(how string, o *output, text string) {
	c.t.Helper()
	fleettest.Until(c.t, fmt.Sprintf("%s %s %q", c.line, how, text), func() bool {
		select {
		case <-c.done:
			if !strings.Contains(o.String(), text) {
				c.t.Fatalf("%s ended before it %s %q\nstdout: %s\nstderr: %s", c.line, how, text, c.out, c.err)
			}
		default:
		}
		return strings.Contains(o.String(), text)
	})
}

// row is one machine's result in json.
type row struct {
	Machine string
	Status  string
	Reason  string
	Result  json.RawMessage
}

// account is a job in json.
type account struct {
	Job    string
	Counts struct{ Targeted, Answered, Failed, Unreachable, Skipped int }
	// Results are in the order of the machines' names.
	Results []row
}

// account reads the output of -o json and wants it to account for every one of
// those machines exactly once.
func (c *command) account(machines ...string) account {
	c.t.Helper()
	var a account
	if err := json.Unmarshal(c.out.Bytes(), &a); err != nil {
		c.t.Fatalf("%s: %v\nstdout: %s\nstderr: %s", c.line, err, c.out, c.err)
	}
	n, statuses := a.Counts, map[string]int{}
	var names []string
	for _, r := range a.Results {
		statuses[r.Status]++
		names = append(names, r.Machine)
	}
	want := map[string]int{"answered": n.Answered, "failed": n.Failed, "unreachable": n.Unreachable, "skipped": n.Skipped}
	for s, k := range want {
		if statuses[s] != k {
			c.t.Errorf("%s: %d results are %s, and it counts %d", c.line, statuses[s], s, k)
		}
	}
	if n.Answered+n.Failed+n.Unreachable+n.Skipped != n.Targeted || !slices.Equal(names, machines) {
		c.t.Errorf("%s: %+v for %q; want the sum to be what is targeted, and exactly %q", c.line, n, names, machines)
	}
	return a
}

// lines reads the output of -o jsonl and wants exactly one line for each of
// those machines, in any order.
func (c *command) lines(machines ...string) map[string]row {
	c.t.Helper()
	rows := make(map[string]row)
	text := strings.TrimSuffix(c.out.String(), "\n")
	for l := range strings.SplitSeq(text, "\n") {
		var r row
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			c.t.Fatalf("%s: line %q: %v", c.line, l, err)
		}
		if _, twice := rows[r.Machine]; twice || !slices.Contains(machines, r.Machine) {
			c.t.Errorf("%s: a line too many for %q: %s", c.line, r.Machine, l)
		}
		rows[r.Machine] = r
	}
	if len(rows) != len(machines) {
		c.t.Errorf("%s: lines for %d machines; want %q\n%s", c.line, len(rows), machines, text)
	}
	return rows
}

// processes gives the ids of the processes whose command line, words joined by
// blanks, fits.
func processes(t *testing.T, fits func(line string) bool) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if fits(strings.ReplaceAll(strings.TrimSuffix(string(b), "\x00"), "\x00", " ")) {
			var pid int
			if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// holding fits command lines with text in them.
func holding(text string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, text) }
}

// naps gives a duration for sleep(1) that no other test uses, and how to find
// the processes that sleep so long. What is left of them ends with the test.
func naps(t *testing.T, seconds int) (argument string, find func() []int) {
	t.Helper()
	argument = fmt.Sprintf("%d.%09d", seconds, time.Now().UnixNano()%1e9)
	find = func() []int { return processes(t, func(line string) bool { return line == "sleep "+argument }) }
	t.Cleanup(func() {
		for _, pid := range find() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	return argument, find
}
