//go:build fleet

package main_test

import (
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
	unnamed  bool         // it is started without --name
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
	s.launch(flags...)
	s.answers()
}

// launch is up without the waiting.
func (s *site) launch(flags ...string) {
	s.t.Helper()
	if len(flags) > 0 || s.flags == nil {
		s.flags = flags
	}
	listen := s.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	args := []string{"overlord", "--state", s.state, "--listen", listen}
	if !s.unnamed {
		args = append(args, "--name", "overlord")
	}
	if !slices.Contains(s.flags, "--config") {
		args = append(args, "--config", s.config)
	}
	s.overlord = s.daemon("overlord", append(args, s.flags...)...)
}

// answers returns when the overlord that was launched answers.
func (s *site) answers() {
	s.t.Helper()
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
	return s.process(name, append([]string{s.binary}, args...)...)
}

// process is daemon for another program.
func (s *site) process(name string, argv ...string) *daemon {
	s.t.Helper()
	d := &daemon{t: s.t, name: name, log: filepath.Join(s.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	d.cmd = exec.Command(argv[0], argv[1:]...)
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
		healthy(s.t, name, d.said())
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
