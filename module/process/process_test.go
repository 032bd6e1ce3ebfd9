package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var methods = sync.OnceValues(func() (*module.Table, error) { return module.NewTable([]module.Module{Module}) })

func run[T any](t *testing.T, name, args string) (out T, err error) {
	t.Helper()
	tab, err := methods()
	must(t, err)
	m, ok := tab.Lookup("process." + name)
	if !ok {
		t.Fatalf("no method %s", name)
	}
	b, err := m.Run(t.Context(), &module.Env{}, []byte(args))
	if len(b) > 0 {
		must(t, json.Unmarshal(b, &out))
	}
	return out, err
}

const roleVar = "DOMINION_TEST_ROLE"

// TestMain is also the processes that the tests signal: they wait until their
// standard input ends, one that is deaf without minding SIGTERM.
func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "deaf", "plain", "parent":
		if role == "deaf" {
			ignore()
		}
		if role == "parent" {
			c := exec.Command("/proc/self/exe", "the-child")
			c.Env, c.Stdin = []string{roleVar + "=plain"}, os.Stdin
			if err := c.Start(); err != nil {
				os.Exit(1)
			}
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// start starts a process whose program file has that name.
func start(t *testing.T, role, name string, args ...string) *exec.Cmd {
	t.Helper()
	file := t.TempDir() + "/" + name
	self, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(self, file))
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Env = []string{roleVar + "=" + role}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// ended says how a process that the test waits for was ended.
func ended(t *testing.T, cmd *exec.Cmd) syscall.Signal {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatalf("ended with %v", err)
	}
	return exit.Sys().(syscall.WaitStatus).Signal()
}

func TestList(t *testing.T) {
	const name = "a) R 1 (b"
	cmd := start(t, "plain", name, "with", "two words")
	got, err := run[List](t, "list", `{"command":"with two words$"}`)
	must(t, err)
	if len(got.Processes) != 1 || got.Total != 1 {
		t.Fatalf("found %+v", got)
	}
	p := got.Processes[0]
	if p.PID != cmd.Process.Pid || p.Parent != os.Getpid() || p.Name != name || p.State == "" || p.MemoryBytes < 1<<16 || p.Threads < 1 ||
		!strings.HasSuffix(p.Command, name+" with two words") || time.Since(p.Started) > time.Minute || time.Until(p.Started) > 2*time.Second {
		t.Errorf("process %+v", p)
	}
	for _, filter := range []string{`{"name":"a) R*"}`, fmt.Sprintf(`{"name":"a) R*","user":"%d","sort":"memory"}`, os.Geteuid()), `{"name":"a) R*","sort":"cpu"}`} {
		if got, err := run[List](t, "list", filter); err != nil || got.Total != 1 {
			t.Errorf("list %s = %+v, %v; want one", filter, got, err)
		}
	}
	if got, err := run[List](t, "list", `{"name":"a) R*","user":"54321"}`); err != nil || got.Total != 0 || got.Processes == nil {
		t.Errorf("list of another user = %+v, %v", got, err)
	}
	all, err := run[List](t, "list", `{"limit":2,"sort":"age"}`)
	if err != nil || len(all.Processes) != 2 || all.Total < 3 || all.Processes[0].Start > all.Processes[1].Start {
		t.Errorf("the oldest two: %+v, %v", all, err)
	}
	for _, bad := range []string{`{"name":"["}`, `{"command":"("}`, `{"user":"no such user"}`, `{"sort":"size"}`} {
		if _, err := run[List](t, "list", bad); err == nil {
			t.Errorf("list %s: no error", bad)
		}
	}
}

func TestTree(t *testing.T) {
	start(t, "parent", "the-parent")
	got, err := run[List](t, "tree", fmt.Sprintf(`{"pid":%d}`, os.Getpid()))
	must(t, err)
	at := slices.IndexFunc(got.Processes, func(p Process) bool { return p.Name == "the-parent" })
	if at < 1 || at+1 >= len(got.Processes) || got.Processes[0].PID != os.Getpid() || got.Processes[at].Depth != 1 ||
		got.Processes[at+1].Depth != 2 || got.Processes[at+1].Parent != got.Processes[at].PID || !strings.HasSuffix(got.Processes[at+1].Command, "the-child") {
		t.Errorf("tree %+v", got)
	}
	if _, err := run[List](t, "tree", `{"pid":4194304}`); call.CodeOf(err) != call.Failed {
		t.Errorf("tree of nobody: %v", err)
	}
}

func TestKill(t *testing.T) {
	cmd := start(t, "plain", "victim")
	pid := cmd.Process.Pid
	dry, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d,"dry_run":true}`, pid))
	if err != nil || !dry.Changed || dry.Process.PID != pid || dry.Process.Name != "victim" {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if _, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d,"start":%d}`, pid, dry.Process.Start+1)); call.CodeOf(err) != call.Conflict {
		t.Errorf("another start: %v; want a conflict", err)
	}
	got, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d,"start":%d,"wait":"1m"}`, pid, dry.Process.Start))
	if err != nil || !got.Changed || !got.Ended {
		t.Errorf("kill = %+v, %v", got, err)
	}
	if sig := ended(t, cmd); sig != syscall.SIGTERM {
		t.Errorf("ended by %v", sig)
	}
	if _, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d}`, pid)); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "no process") {
		t.Errorf("kill of nobody: %v", err)
	}
}

func TestKillOfOneWhoDoesNotMind(t *testing.T) {
	cmd := start(t, "deaf", "deaf")
	if _, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d,"wait":"100ms"}`, cmd.Process.Pid)); err == nil || !strings.Contains(err.Error(), "not ended within 100ms") {
		t.Errorf("TERM: %v", err)
	}
	if got, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d,"wait":"1m","signal":"KILL"}`, cmd.Process.Pid)); err != nil || !got.Ended {
		t.Errorf("KILL: %+v, %v", got, err)
	}
}

func TestGuarded(t *testing.T) {
	for _, pid := range []int{1, os.Getpid()} {
		if _, err := run[Killed](t, "kill", fmt.Sprintf(`{"pid":%d}`, pid)); call.CodeOf(err) != call.Denied {
			t.Errorf("kill %d: %v; want denied", pid, err)
		}
	}
	if err := guarded(process{Process: Process{PID: 2}, kernel: true}); call.CodeOf(err) != call.Denied {
		t.Errorf("a thread of the kernel: %v", err)
	}
	if _, err := run[Matched](t, "match", `{"signal":"KILL"}`); call.CodeOf(err) != call.Invalid {
		t.Errorf("match of everything: %v", err)
	}
}

func TestMatch(t *testing.T) {
	a, b := start(t, "plain", "matchme1"), start(t, "plain", "matchme2")
	dry, err := run[Matched](t, "match", `{"name":"matchme?","dry_run":true}`)
	if err != nil || dry.Signalled != 2 || len(dry.Processes) != 2 || !dry.Changed {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if got, err := run[Matched](t, "match", `{"name":"matchme?","older":"1h"}`); err != nil || got.Changed || got.Signalled != 0 {
		t.Errorf("older than an hour: %+v, %v", got, err)
	}
	got, err := run[Matched](t, "match", `{"name":"matchme?","signal":"HUP"}`)
	if err != nil || got.Signalled != 2 || !got.Changed {
		t.Errorf("match = %+v, %v", got, err)
	}
	for _, cmd := range []*exec.Cmd{a, b} {
		if sig := ended(t, cmd); sig != syscall.SIGHUP {
			t.Errorf("ended by %v", sig)
		}
	}
	if got, err := run[Matched](t, "match", `{"name":"matchme?"}`); err != nil || got.Changed {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

// Processes that start and end all the time disturb nobody.
func TestListWhileProcessesEnd(t *testing.T) {
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = exec.CommandContext(t.Context(), "/bin/true").Run()
			}
		}
	})
	for range 50 {
		if _, err := run[List](t, "list", `{}`); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wait.Wait()
}

func TestAnswerIsBounded(t *testing.T) {
	p := process{Process: Process{Name: "\x01", Command: strings.Repeat("\x01", maxCommand)}}
	out := answer(slices.Repeat([]process{p}, 2000), 2000)
	b, err := json.Marshal(out)
	if err != nil || len(b) > module.MaxOutput || len(out.Processes) == 2000 || out.Total != 2000 {
		t.Errorf("%d bytes for %d of %d, %v", len(b), len(out.Processes), out.Total, err)
	}
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte("1 () S"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseStat(b)
		if err != nil {
			if !errors.Is(err, errStat) {
				t.Fatalf("error %v is not errStat", err)
			}
			return
		}
		if p.PID < 1 || len(p.State) != 1 || p.CPUSeconds < 0 {
			t.Fatalf("accepted %q as %+v", b, p)
		}
	})
}
