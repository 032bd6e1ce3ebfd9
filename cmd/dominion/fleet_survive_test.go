//go:build fleet

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ledger is a file to which a command adds a line for each time that it runs.
type ledger struct {
	t    *testing.T
	path string
}

func (s *site) ledger(name string) *ledger { return &ledger{s.t, filepath.Join(s.dir, name)} }

// command adds the agent's process id and then works for some seconds.
func (l *ledger) command(seconds int) string {
	return fmt.Sprintf("echo $PPID >> %s; sleep %d; echo done", l.path, seconds)
}

// lines are the process ids of the agents that ran it, sorted.
func (l *ledger) lines() []string {
	l.t.Helper()
	b, err := os.ReadFile(l.path)
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	lines := strings.Fields(string(b))
	slices.Sort(lines)
	return lines
}

// once wants each of n machines to have run it once.
func (l *ledger) once(n int) {
	l.t.Helper()
	lines := l.lines()
	if len(lines) != n || len(slices.Compact(slices.Clone(lines))) != n {
		l.t.Errorf("%s holds %q; want one line of each of %d machines", l.path, lines, n)
	}
}

// An overlord that is killed in the middle of jobs goes on with them when it is
// back: what ran runs on, what ended meanwhile is told, nothing runs twice, and
// the very commands that waited see the end.
func testKilledOverlord(t *testing.T, binary string) {
	s := startSite(t, binary, 5)
	short, long := s.ledger("short"), s.ledger("long")
	quick := s.root.start("run", "*", "--shell", "-o", "json", "--", short.command(2))
	slow := s.root.start("run", "*", "--shell", "-o", "json", "--", long.command(8))
	reads := s.root.start("call", "*", "test.sleep", "8", "-o", "json")
	s.until("all commands run", func() bool { return len(short.lines()) == 5 && len(long.lines()) == 5 })
	s.until("the call runs", func() bool { return s.status().RunningJobs == 3 })
	s.overlord.kill()
	killed := time.Now()
	time.Sleep(3 * time.Second) // the quick ones end while nobody is there
	s.up()
	s.await(5)
	t.Logf("all five were back %s after the kill", time.Since(killed).Round(time.Millisecond))
	for _, c := range []*command{quick, slow, reads} {
		s.accounted(c.exits(0).account(five...).Job, "answered", five...)
	}
	short.once(5)
	long.once(5)
	s.until("no job is left", func() bool { return s.status().RunningJobs == 0 })
	s.root.run("audit", "verify").exits(0)

	// Twice in a row, and at once after the order.
	again := s.ledger("again")
	c := s.root.start("run", "*", "--shell", "-o", "json", "--", again.command(4))
	s.until("it is ordered", func() bool { return s.status().RunningJobs == 1 })
	for range 2 {
		s.overlord.kill()
		s.up()
	}
	job := c.exits(0).account(five...).Job
	s.accounted(job, "answered", five...)
	again.once(5)
	s.overlord.kill()
	s.up()
	s.root.run("job", "results", job, "-o", "json").exits(0).account(five...)
	s.accounted(job, "answered", five...) // it was closed once and for all
	s.root.run("audit", "verify").exits(0)
}

// What was withdrawn stays so, whoever is killed in between.
func testKilledAfterCancel(t *testing.T, binary string) {
	s := startSite(t, binary, 4)
	m05 := s.minion("m05")
	s.await(5)
	long, sleeping := naps(t, 60)
	job := strings.TrimSpace(s.root.run("run", "*", "--async", "--wait-for", "1h", "--", "sleep", long).exits(0).out.String())
	s.until("it sleeps everywhere", func() bool { return len(sleeping()) == 5 })
	m05.signal(syscall.SIGSTOP) // it does not hear of the end
	s.root.run("job", "cancel", job, "--no-wait").exits(0)
	s.overlord.kill()
	m05.signal(syscall.SIGCONT)
	s.up()
	c := s.root.run("job", "watch", job, "-o", "json")
	if a := c.exits(3).account(five...); a.Counts.Skipped+a.Counts.Failed != 5 {
		t.Errorf("counts %+v; want all cancelled", a.Counts)
	}
	s.until("nothing sleeps", func() bool { return len(sleeping()) == 0 })
	s.root.run("job", "show", job).exits(0).prints("cancelled")
}

// A machine that is away when the order is given gets it when it comes, if that
// was asked for; the overlord may be killed meanwhile.
func testAwaited(t *testing.T, binary string) {
	s := startSite(t, binary, 3)
	m04, m05 := s.minion("m04"), s.minion("m05")
	s.await(5)
	m05.stop()
	s.await(4)
	l := s.ledger("awaited")
	c := s.root.start("run", "*", "--shell", "--wait-for", "1h", "-o", "json", "--", l.command(0))
	s.until("four have run it", func() bool { return len(l.lines()) == 4 })
	s.overlord.kill()
	s.up()
	s.await(4)
	s.minion("m05")
	s.accounted(c.exits(0).account(five...).Job, "answered", five...)
	l.once(5)
	// An overlord that is told to end does not wait for machines that are away.
	m04.stop()
	s.await(4)
	late := s.ledger("late")
	c = s.root.start("run", "m03,m04", "--shell", "--wait-for", "1h", "-o", "json", "--", late.command(0))
	s.until("the other has run it", func() bool { return len(late.lines()) == 1 })
	began := time.Now()
	s.overlord.stop()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the overlord took %s to stop", d)
	}
	s.up()
	s.minion("m04")
	c.exits(0).account("m03", "m04")
	late.once(2)
}

// A machine that is killed in the middle of a change does not know what became
// of it, and says so when it is back; one that only read reads again.
func testKilledMachine(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	m02 := s.minion("m02")
	s.await(2)
	l := s.ledger("killed")
	changes := s.root.start("run", "m01,m02", "--shell", "-o", "jsonl", "--", l.command(3))
	reads := s.root.start("call", "m01,m02", "test.sleep", "3", "-o", "jsonl")
	s.until("it runs on both", func() bool { return len(l.lines()) == 2 && s.status().RunningJobs == 2 })
	m02.kill()
	s.await(1)
	s.minion("m02")
	rows := changes.exits(3).lines("m01", "m02")
	if rows["m01"].Status != "answered" || rows["m02"].Status != "failed" || !strings.Contains(rows["m02"].Reason, "unknown") {
		t.Errorf("%+v; want m01 answered and m02 unknown", rows)
	}
	reads.exits(0).lines("m01", "m02")
	l.once(2)
}

// A machine that lost what it remembers, between an order and its restart, does
// not know what became of the order, and nothing runs twice: not when its whole
// state directory was wiped and it enrolled anew, not when only its journal was.
func testWipedMachine(t *testing.T, binary string) {
	for _, x := range []struct {
		name, wiped string // below the machine's state directory
	}{{"journal", "journal"}, {"everything", ""}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t, binary, 1)
			m02 := s.minion("m02")
			s.await(2)
			l := s.ledger("wiped")
			running := s.root.start("run", "*", "--shell", "--wait-for", "10m", "-o", "jsonl", "--", l.command(2))
			s.until("it runs on both", func() bool { return len(l.lines()) == 2 })
			m02.kill()
			s.await(1)
			away := s.ledger("away")
			waiting := s.root.start("run", "*", "--shell", "--wait-for", "10m", "-o", "jsonl", "--", away.command(0))
			s.until("the other has run it", func() bool { return len(away.lines()) == 1 })
			if err := os.RemoveAll(filepath.Join(s.dir, "m02", x.wiped)); err != nil {
				t.Fatal(err)
			}
			s.minion("m02")
			if x.wiped == "" {
				s.until("the request is held", func() bool {
					return strings.Contains(s.root.run("cert", "pending", "m02").exits(0).out.String(), "m02")
				})
				s.root.run("cert", "sign", "m02", "--replace").exits(0)
			}
			rows := running.exits(3).lines("m01", "m02")
			if rows["m01"].Status != "answered" || rows["m02"].Status != "failed" || !strings.Contains(rows["m02"].Reason, "unknown") {
				t.Errorf("%+v; want m01 answered and m02 unknown", rows)
			}
			// It was never sent: this the machine itself refuses, for all it knows.
			rows = waiting.exits(3).lines("m01", "m02")
			if rows["m01"].Status != "answered" || rows["m02"].Status != "failed" {
				t.Errorf("%+v; want m01 answered and m02 too young", rows)
			}
			l.once(2)
			away.once(1)
			s.root.run("run", "m02", "--shell", "--", away.command(0)).exits(0) // what is ordered now runs
			if n := len(away.lines()); n != 2 {
				t.Errorf("%d lines; want one more", n)
			}
			s.root.run("audit", "verify").exits(0)
		})
	}
}
