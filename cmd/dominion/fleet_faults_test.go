//go:build fleet

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/target"
)

var five = []string{"m01", "m02", "m03", "m04", "m05"}

// Ctrl-C cancels what runs and ends with 130; a second one leaves at once.
func testInterrupt(t *testing.T, binary string) {
	s := startSite(t, binary, 5)
	nap, sleeping := naps(t, 100)
	c := s.root.start("run", "*", "--", "sleep", nap)
	s.until("the command runs everywhere", func() bool { return len(sleeping()) == 5 })
	began := time.Now()
	c.signal(syscall.SIGINT)
	c.exits(130).tells("interrupted: cancelling what has not started", "still running on m[01-05]", "cancelled")
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("the command ended %s after Ctrl-C; want it soon", d)
	}
	s.until("nothing of it sleeps", func() bool { return len(sleeping()) == 0 })

	c = s.root.start("run", "*", "-o", "json", "--", "sleep", nap)
	s.until("the command runs everywhere", func() bool { return len(sleeping()) == 5 })
	c.signal(syscall.SIGINT)
	if a := c.exits(130).account(five...); a.Counts.Skipped+a.Counts.Failed != 5 {
		t.Errorf("counts %+v; want all cancelled", a.Counts)
	}

	// What does not end when it is told to is waited for; the second Ctrl-C is not.
	c = s.root.start("run", "*", "--shell", "--", "trap '' TERM; sleep "+nap+"; sleep "+nap)
	s.until("the command runs everywhere", func() bool { return len(sleeping()) >= 5 })
	c.signal(syscall.SIGINT)
	c.awaitTells("still running on m[01-05]")
	began = time.Now()
	c.signal(syscall.SIGINT)
	c.exits(130)
	if d := time.Since(began); d > time.Second {
		t.Errorf("the command ended %s after the second Ctrl-C; want it at once", d)
	}
	s.until("nothing of it sleeps", func() bool { return len(sleeping()) == 0 })
	s.until("no job is left", func() bool { return s.status().RunningJobs == 0 })
	s.root.run("call", "*", "test.ping").exits(0)
}

// An overlord that is told to end lets a call finish; the machines find its
// successor by themselves.
func testTermination(t *testing.T, binary string) {
	s := startSite(t, binary, 5)
	c := s.root.start("call", "*", "test.sleep", "3", "-o", "json")
	s.until("the call runs", func() bool { return s.status().RunningJobs == 1 })
	s.overlord.signal(syscall.SIGTERM)
	s.overlord.awaitSaid(`"msg":"stopping"`)
	s.root.run("ping", "m01").exits(1)
	a := c.exits(0).account(five...)
	if code := s.overlord.code(); code != 0 {
		t.Errorf("the overlord ended with exit code %d; want 0", code)
	}
	s.up()
	s.await(5)
	s.root.run("call", "*", "test.ping").exits(0)
	s.accounted(a.Job, "answered", five...)
	s.root.run("audit", "verify").exits(0)
}

// accounted wants the audit log to hold exactly one result of each machine of
// a job, with that status.
func (s *site) accounted(job, status string, machines ...string) {
	s.t.Helper()
	c := s.root.run("audit", "show", job, "-o", "json").exits(0)
	var doc struct {
		Records []struct {
			Action  string
			Results *struct{ Names, Status, Reason string }
		}
	}
	if err := json.Unmarshal(c.out.Bytes(), &doc); err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, r := range doc.Records {
		if r.Results == nil {
			continue
		}
		if r.Results.Status != status {
			s.t.Errorf("job %s: %+v; want %s", job, *r.Results, status)
		}
		more, err := target.Expand(r.Results.Names)
		if err != nil {
			s.t.Fatal(err)
		}
		names = append(names, more...)
	}
	if slices.Sort(names); !slices.Equal(names, machines) {
		s.t.Errorf("job %s has results of %q; want each of %q once: %s", job, names, machines, c.out)
	}
}

// An overlord whose process is stopped keeps its connections and says nothing:
// what users started ends by itself and says why, and when the overlord goes
// on, so does the fleet.
func testStoppedOverlord(t *testing.T, binary string) {
	s := startSite(t, binary, 2)
	s.overlord.signal(syscall.SIGSTOP)
	var all []*command
	for _, words := range [][]string{{"ping", "*"}, {"status"}, {"minions"}, {"call", "*", "test.ping"}, {"cert", "list"}, {"audit", "list"}} {
		all = append(all, s.root.start(words...))
	}
	for _, c := range all {
		c.exits(1).within(50 * time.Second).silent().tells("says nothing for")
	}
	s.overlord.signal(syscall.SIGCONT)
	s.until("both machines are back", func() bool { return s.root.run("ping", "*", "--timeout", "1s").cmd.ProcessState.ExitCode() == 0 })
	s.root.run("call", "*", "test.ping").exits(0)
	s.root.run("audit", "verify").exits(0)
}

func jobID(t *testing.T, text string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "job ")
	id, _, found := strings.Cut(rest, ":")
	if !ok || !found {
		t.Fatalf("no job is named in %q", text)
	}
	return id
}

// On a full disk orders are refused and everything else goes on; nothing that
// was acknowledged is lost.
func testFullDisk(t *testing.T, binary string) {
	s := newSite(t, binary)
	small := smallDisk(t, filepath.Join(s.dir, "small"))
	s.state = filepath.Join(small, "state")
	s.root = s.user("root", "DOMINION_STATE="+s.state)
	s.up("--autosign", "m*")
	s.minion("m01")
	s.minion("m02")
	s.await(2)
	var acknowledged []string
	order := func() *command {
		c := s.root.run("call", "*", "test.ping", "-o", "json")
		if c.cmd.ProcessState.ExitCode() == 0 {
			acknowledged = append(acknowledged, c.account("m01", "m02").Job)
		}
		return c
	}
	for range 3 {
		order().exits(0)
	}
	// The disk becomes full while a call runs: it is told, and waits.
	waiting := s.root.start("call", "*", "test.sleep", "2", "-o", "json")
	s.until("the call runs", func() bool { return s.status().RunningJobs == 1 })
	fill := filepath.Join(small, "fill")
	fillDisk(t, fill)
	waiting.awaitTells("the results are not on the overlord's disk yet: ")
	waiting.tells("the disk under the store " + s.state + "/store.db is full")
	refused := order()
	refused.exits(1).silent().tells("the disk under the store " + s.state + "/store.db is full")
	s.root.run("ping", "*").exits(0).prints("m[01-02] (2): alive")
	s.root.run("minions").exits(0).prints("connected")
	s.root.run("status").exits(3).prints("is full")
	s.root.run("token", "create", "--name", "x").exits(1).silent().tells("is full")
	s.root.run("run", "m01", "--", "true").exits(1).tells("is full")
	if n := s.status().Connected; n != 2 {
		t.Errorf("%d minions are connected; want both undisturbed", n)
	}

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	acknowledged = append(acknowledged, waiting.exits(0).account("m01", "m02").Job)
	order().exits(0)
	s.root.run("status").exits(0)
	s.root.run("audit", "verify").exits(0)

	// Killed on a full disk, it goes on with the job when there is room.
	waiting = s.root.start("run", "*", "-o", "json", "--", "sleep", "2")
	s.until("the command runs", func() bool { return s.status().RunningJobs == 1 })
	fillDisk(t, fill)
	waiting.awaitTells("the results are not on the overlord's disk yet: ")
	s.overlord.kill()
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.up()
	acknowledged = append(acknowledged, waiting.exits(0).account("m01", "m02").Job)
	s.await(2)
	s.overlord.kill() // what was acknowledged is on the disk, not in memory
	s.up()
	s.await(2)
	order().exits(0)
	for _, job := range acknowledged {
		s.accounted(job, "answered", "m01", "m02")
	}
	s.root.run("audit", "verify").exits(0)

	s.overlord.stop()
	fillDisk(t, fill)
	s.root.run("overlord", "--state", s.state, "--listen", s.address, "--config", s.config).exits(1).tells("store.db", "is full")
}

// smallDisk mounts 16 MiB of memory.
func smallDisk(t *testing.T, path string) string {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("SKIPPED FullDisk: it needs root, to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return path
}

// fillDisk writes until nothing more fits.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(bytes.Repeat([]byte("x"), size)); errors.Is(err, syscall.ENOSPC) {
			size /= 4
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A gigabyte passes through the overlord while the machine is pinged: neither
// process keeps it.
func testBigOutput(t *testing.T, binary string) {
	s := startSite(t, binary, 0)
	m := s.minion("m01")
	s.await(1)
	const size = 1 << 30
	big := s.write("big", "")
	if err := os.Truncate(big, size); err != nil {
		t.Fatal(err)
	}
	s.root.run("run", "m01", "--raw", "--", "head", "-c", "1000000", big).exits(0) // what is made once, is made
	daemons := map[string]int{"overlord": s.overlord.pid(), "minion": m.pid()}
	before := make(map[string]int64)
	for name, pid := range daemons {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			t.Logf("the peak of %s is not reset: %v", name, err)
		}
		before[name] = memory(t, pid, "VmRSS")
	}
	for _, x := range []struct {
		name  string
		words []string
	}{
		{"streamed", []string{"run", "m01", "--raw", "--", "cat", big}},
		{"folded", []string{"run", "m01", "--", "cat", big}},
	} {
		began := time.Now()
		c := s.root.discards(x.words...)
		pings := 0
		for slowest := time.Duration(0); ; pings++ {
			select {
			case <-c.done:
				c.exits(0)
				t.Logf("%s: %d MiB in %s beside %d pings, the slowest %s", x.name, size>>20, time.Since(began).Round(time.Millisecond), pings, slowest)
			default:
				p := s.root.run("ping", "m01", "--timeout", "5s").exits(0)
				slowest = max(slowest, p.took)
				continue
			}
			break
		}
	}
	for name, pid := range daemons {
		grown := memory(t, pid, "VmHWM") - before[name]
		t.Logf("%s: %d KiB resident before, its peak %d KiB more", name, before[name]>>10, grown>>10)
		if grown > 64<<20 {
			t.Errorf("%s grew by %d bytes; want less than 64 MiB", name, grown)
		}
	}
}

// discards starts a command whose standard output is /dev/null.
func (u *user) discards(args ...string) *command {
	u.t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		u.t.Fatal(err)
	}
	defer null.Close() // the command has its own
	return u.startTo(null, args...)
}

// The demo shows its tour and leaves nothing behind, whether it ends by itself
// or by Ctrl-C.
func testDemo(t *testing.T, binary string) {
	s := newSite(t, binary)
	u := s.user("visitor")
	temp := filepath.Join(s.dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	u.env = append(u.env, "TMPDIR="+temp)
	nothing := func(when string) {
		t.Helper()
		left, err := os.ReadDir(temp)
		if err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v are left in the temporary directory", when, left, err)
		}
		if pids := processes(t, holding(temp)); len(pids) > 0 {
			t.Errorf("%s: processes %v are left", when, pids)
		}
	}
	u.run("demo", "--once").exits(0).prints("12 minions", "$ dominion call '*' test.ping\ndb[01-03],web[01-09] (12): ok: true\n", "sum: 3", "(exit code 3: incomplete)", "records hold").
		tells("web01: disk is full", "nosuch: unknown name")
	nothing("after demo --once")

	c := u.start("demo", "--minions", "3")
	c.awaitPrints("export DOMINION_STATE=")
	_, rest, _ := strings.Cut(c.out.String(), "export DOMINION_STATE=")
	state, _, _ := strings.Cut(rest, "\n")
	s.user("other", "DOMINION_STATE="+state).run("call", "*", "test.ping").exits(0)
	c.signal(syscall.SIGINT)
	c.exits(0)
	nothing("after Ctrl-C")

	c = u.start("demo", "--minions", "3")
	c.awaitPrints("starting an overlord")
	c.signal(syscall.SIGINT)
	c.exits(130)
	nothing("after an early Ctrl-C")
}
