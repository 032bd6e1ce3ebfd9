package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/module/run/runtest"
)

// ownHome gives a cgroup of the test's own in which calls make theirs; it is
// gone at the end only if nothing was left in it.
func ownHome(t *testing.T) string {
	t.Helper()
	home, err := Cgroup()
	if err != nil {
		t.Skipf("SKIPPED: it needs a version 2 cgroup that this user may write to: %v", err)
	}
	dir, err := os.MkdirTemp(home, "runtest-*") //nolint:usetesting // a cgroup, and no directory of files
	if err != nil {
		t.Skipf("SKIPPED: it needs a version 2 cgroup that this user may write to: %v", err)
	}
	t.Cleanup(func() {
		if left := groupsIn(t, dir); len(left) > 0 {
			t.Errorf("cgroups are left: %q", left)
		}
		runtest.Until(t, "the test's cgroup is removed", func() bool {
			removeEmpty(dir)
			_, err := os.Stat(dir)
			return errors.Is(err, fs.ErrNotExist)
		})
	})
	return dir
}

func groupsIn(t *testing.T, home string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(home, groupPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// TestNoneIsLeft: those that left the process group end with the call too.
func TestNoneIsLeft(t *testing.T) {
	deaf := "trap '' TERM; "
	for _, test := range []struct {
		name, script string
		n            int // that sleep
	}{
		{"a session of its own", "setsid sleep NAP & wait", 1},
		{"forked twice, its parent gone", "(setsid sh -c 'sleep NAP & exit' &) ; sleep NAP", 2},
		{"without output", "setsid sleep NAP >/dev/null 2>&1 </dev/null & sleep NAP", 2},
		{"deaf", deaf + "setsid sh -c \"" + deaf + "sleep NAP & wait; sleep NAP\" & wait; sleep NAP", 1},
		{"in the group", "sleep NAP & wait", 1},
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, old kernel %t", test.name, old), func(t *testing.T) {
				home := ownHome(t)
				seconds, sleeping := runtest.Nap(t)
				quick := Runner{Grace: 200 * time.Millisecond, Cancel: 200 * time.Millisecond, Idle: 20 * time.Millisecond, Cgroup: func() (string, error) { return home, nil }}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				p := &process{}
				go func() {
					var err error
					if p, err = startIn(quick, strings.ReplaceAll(test.script, "NAP", seconds)); err != nil {
						ended <- err
						return
					}
					if old { // cgroup.kill is not there
						err = p.stopByHand(ctx)
					} else if !p.wait(ctx) {
						err = errors.New("it ended by itself")
					}
					p.group.release()
					ended <- err
				}()
				runtest.Until(t, "all sleep", func() bool { return len(sleeping()) == test.n })
				cancel()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if left := sleeping(); len(left) > 0 {
					t.Errorf("processes %v still sleep", left)
				}
			})
		}
	}
}

// shell is a script with an environment, given to sh.
func shell(script string, live io.Writer) Command {
	return Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: Environment(), Dir: "/", Stdout: live,
		KeepStdout: 1 << 10, KeepStderr: 1 << 10, Job: call.NewJobID(time.Now()),
	}
}

// live calls each with every piece that is written to it.
type live func(p []byte)

func (l live) Write(p []byte) (int, error) {
	l(p)
	return len(p), nil
}

// startIn begins a script as Run does.
func startIn(r Runner, script string) (*process, error) {
	c := shell(script, nil)
	p, err := r.spawn(&c)
	if err == nil && p.group == nil {
		err = errors.New("it has no cgroup")
	}
	return p, err
}

// stopByHand does what kill does where cgroup.kill is not there.
func (p *process) stopByHand(ctx context.Context) error {
	<-ctx.Done()
	for range 1000 {
		if p.group.empty() {
			break
		}
		p.group.signal(syscall.SIGKILL, 0)
		<-time.After(time.Millisecond)
	}
	p.wait(ctx)
	if !p.group.empty() {
		return errors.New("something lives in the cgroup")
	}
	return nil
}

// TestDaemonLives: what a program leaves behind goes on, and its cgroup is
// removed by a call after its end.
func TestDaemonLives(t *testing.T) {
	home := ownHome(t)
	seconds, sleeping := runtest.Nap(t)
	quick := Runner{Grace: time.Second, Cancel: time.Second, Idle: 20 * time.Millisecond, Cgroup: func() (string, error) { return home, nil }}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := quick.Run(ctx, shell("setsid sleep "+seconds+" >/dev/null 2>&1 </dev/null &", nil)); err != nil {
		t.Fatal(err)
	}
	cancel() // as the agent does at the end of each call
	again := func() {
		t.Helper()
		if _, err := quick.Run(t.Context(), shell("true", nil)); err != nil {
			t.Fatal(err)
		}
	}
	again()
	if n := len(groupsIn(t, home)); n != 1 {
		t.Errorf("%d cgroups; want that of the daemon alone", n)
	}
	runtest.Until(t, "the daemon sleeps", func() bool { return len(sleeping()) == 1 }) // it is a shell at first
	_ = syscall.Kill(sleeping()[0], syscall.SIGKILL)
	runtest.Until(t, "its cgroup is removed by a later call", func() bool { again(); return len(groupsIn(t, home)) == 0 })
}

// TestWithoutCgroups: where none can be made the program runs and its process
// group ends all the same.
func TestWithoutCgroups(t *testing.T) {
	plain := t.TempDir() // no cgroup at all: the kernel refuses to start in it
	for _, test := range []struct {
		name   string
		cgroup func() (string, error)
	}{
		{"not found", func() (string, error) { return "", errors.New("none here") }},
		{"not there", func() (string, error) { return filepath.Join(plain, "nosuch"), nil }},
		{"not allowed", func() (string, error) { return "/proc/self/fd", nil }},
		{"no cgroup", func() (string, error) { return plain, nil }},
		{"not wanted", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			seconds, sleeping := runtest.Nap(t)
			quick := Runner{Grace: 100 * time.Millisecond, Cancel: 100 * time.Millisecond, Idle: 20 * time.Millisecond, Cgroup: test.cgroup}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			live := live(func([]byte) { cancel() })
			r, err := quick.Run(ctx, shell("sleep "+seconds+"& echo begun; wait", live))
			if !errors.Is(err, context.Canceled) || r.Signal != "SIGTERM" || string(r.Stdout.Bytes()) != "begun\n" {
				t.Errorf("%+v, %v; want it to be stopped", r, err)
			}
			if left := sleeping(); len(left) > 0 {
				t.Errorf("processes %v still sleep", left)
			}
			if left, err := os.ReadDir(plain); err != nil || len(left) > 0 {
				t.Errorf("%v, %v are left", left, err)
			}
			if r, err := quick.Run(t.Context(), shell("echo x", nil)); err != nil || string(r.Stdout.Bytes()) != "x\n" {
				t.Errorf("%+v, %v; want it to run", r, err)
			}
		})
	}
}

// TestGrace: who cancels waits for less than a call that is out of time.
func TestGrace(t *testing.T) {
	quick := Runner{Grace: 400 * time.Millisecond, Cancel: 50 * time.Millisecond, Idle: 20 * time.Millisecond}
	for _, test := range []struct {
		code       call.Code
		from, till time.Duration
	}{
		{call.Cancelled, 50 * time.Millisecond, 400 * time.Millisecond},
		{call.Timeout, 400 * time.Millisecond, 20 * time.Second},
	} {
		t.Run(test.code.String(), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var began time.Time
			live := live(func([]byte) { began = time.Now(); cancel(call.Errorf(test.code, "so it is")) })
			_, err := quick.Run(ctx, shell("trap '' TERM; echo begun; exec sleep 60", live))
			if took := time.Since(began); call.CodeOf(err) != test.code || took < test.from || took > test.till {
				t.Errorf("it ended after %v with %v; want %v to %v", took, err, test.from, test.till)
			}
		})
	}
	if System.Cancel > 1500*time.Millisecond {
		t.Errorf("a program that is cancelled has %v; a whole fleet is to be cancelled in 2s", System.Cancel)
	}
}

func TestOwnCgroup(t *testing.T) {
	const hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw\n"
	for _, test := range []struct{ name, mounts, own, want string }{
		{"one hierarchy", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n", "0::/system.slice/dominion.service\n", "/sys/fs/cgroup/system.slice/dominion.service"},
		{"hybrid", hybrid, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified"},
		{"a part is mounted", "30 23 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/1/init\n", "/sys/fs/cgroup/init"},
		{"another part is mounted", "30 23 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/12\n", ""},
		{"a blank", `30 23 0:26 / /sys/fs/c\040g rw - cgroup2 cgroup2 rw` + "\n", "0::/x\n", "/sys/fs/c g/x"},
		{"outside of the namespace", hybrid, "0::/../..\n", ""},
		{"version 1", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "1:cpu:/\n", ""},
		{"version 2 is not mounted", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "0::/\n", ""},
		{"nonsense", "\n - \n - cgroup2\nx - cgroup2 \n", "0::/\n0::\n", ""},
	} {
		got, err := ownCgroup([]byte(test.mounts), []byte(test.own))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

// TestCgroupsAtOnce: calls that begin and end together do not remove each other's.
func TestCgroupsAtOnce(t *testing.T) {
	home := ownHome(t)
	quick := Runner{Grace: time.Second, Cancel: time.Second, Idle: 20 * time.Millisecond, Cgroup: func() (string, error) { return home, nil }}
	ended := make(chan error)
	const n, rounds = 8, 20
	for range n {
		go func() {
			for range rounds {
				p, err := startIn(quick, "exit 0")
				if err != nil {
					ended <- err
					return
				}
				p.wait(t.Context())
				p.group.release()
			}
			ended <- nil
		}()
	}
	for range n {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	if _, err := Cgroup(); err != nil {
		b.Skip(err)
	}
	for _, r := range []struct {
		name string
		Runner
	}{{"cgroup", System}, {"group", Runner{Grace: System.Grace, Cancel: System.Cancel, Idle: System.Idle}}} {
		b.Run(r.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Run(b.Context(), shell("true", nil)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
