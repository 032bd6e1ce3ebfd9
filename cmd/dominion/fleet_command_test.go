//go:build fleet

package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/fleettest"
)

// user is somebody who types commands.
type user struct {
	t      *testing.T
	binary string
	dir    string // working directory
	home   string
	env    []string
	hang   time.Duration // in place of hang; 0: that
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
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.t.Context()), cmp.Or(u.hang, hang))
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
		healthy(u.t, c.line, c.err.String())
	})
	return c
}

// healthy wants no trace of a bug of ours in what a process told.
func healthy(t *testing.T, name, told string) {
	t.Helper()
	for _, x := range []string{"panic:", "fatal error:", "DATA RACE"} {
		if i := strings.Index(told, x); i >= 0 {
			t.Errorf("%s: %.4000s", name, told[i:])
		}
	}
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

// output is what a running process has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// Bytes gives a copy.
func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes())
}

// String implements fmt.Stringer.
func (o *output) String() string { return string(o.Bytes()) }
