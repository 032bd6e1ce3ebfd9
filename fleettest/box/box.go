// Package box gives tests a machine with systemd: Debian's own, as the first
// process of namespaces of its own, with the programs of this machine and
// nothing else of it. It is as good as a machine for what systemd, its journal
// and logind do; the kernel, the network and the devices are those of the host.
package box

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dominion/module/run"
)

//go:embed box.sh
var script string

const bootTime = 60 * time.Second // on a machine that is busy with other tests

// Box is a machine. Its /run is Run on the host, so that the sockets there can
// be used from outside.
type Box struct {
	Run   string // its /run
	Files string // its /srv, and the only place that survives a reboot

	t      testing.TB
	units  string
	cgroup string
	cmd    *exec.Cmd
	out    bytes.Buffer  // of the first process; read it after ended
	ended  chan struct{} // closed when it does not run any more
}

// New boots a machine that has the given unit files too, name → text. Its
// default target wants those whose name begins with "boot-". It is gone when
// the test ends. Without root or systemd's programs the test is skipped, and
// says so.
func New(t testing.TB, units map[string]string) *Box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("SKIPPED %s: it needs root, to run systemd in namespaces", t.Name())
	}
	for _, tool := range []string{"/usr/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/unshare", "/usr/bin/nsenter"} {
		if _, err := os.Stat(tool); err != nil {
			t.Skipf("SKIPPED %s: %v (Debian: systemd, dbus, util-linux)", t.Name(), err)
		}
	}
	home, err := run.Cgroup()
	if err != nil {
		t.Skipf("SKIPPED %s: systemd needs a cgroup of version 2: %v", t.Name(), err)
	}
	// Short: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("/tmp", "box") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	b := &Box{t: t, Run: dir + "/run", Files: dir + "/srv", units: dir + "/units"}
	if b.cgroup, err = os.MkdirTemp(home, "box-"); err != nil { //nolint:usetesting // a cgroup
		t.Skipf("SKIPPED %s: systemd needs a cgroup of version 2: %v", t.Name(), err)
	}
	t.Cleanup(func() { b.remove(dir) })
	for _, d := range []string{b.Files, b.units, dir + "/root"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(b.units, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.Boot()
	return b
}

// Boot starts the machine, after its end again, and waits until it is up.
func (b *Box) Boot() {
	b.t.Helper()
	if err := os.RemoveAll(b.Run); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Mkdir(b.Run, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.out.Reset()
	b.ended = make(chan struct{})
	b.cmd = exec.Command("/bin/sh", "-c", `echo $$ >"$1/cgroup.procs" && exec unshare --fork --pid --mount --uts --ipc --cgroup --kill-child /bin/sh -c "$2" box "$3"`,
		"box", b.cgroup, script, filepath.Dir(b.Run))
	b.cmd.Env = run.Environment()
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		defer close(ended)
		_ = cmd.Wait() // a machine that reboots is killed by the kernel
	}(b.cmd, b.ended)
	b.await("the machine is up", func() bool {
		if _, err := os.Stat(b.Run + "/box-is-up"); err == nil {
			return true
		}
		select {
		case <-b.ended:
			b.t.Fatalf("systemd ended at once:\n%s", b.out.String())
		default:
		}
		return false
	})
}

func (b *Box) await(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(bootTime); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("it did not come true that %s", what)
		}
	}
}

// Ended is closed when the machine went down.
func (b *Box) Ended() <-chan struct{} { return b.ended }

// Command is a program to run in the machine, with a minimal environment.
func (b *Box) Command(ctx context.Context, argv ...string) *exec.Cmd {
	b.t.Helper()
	pid, err := b.first()
	if err != nil {
		b.t.Fatal(err)
	}
	args := append([]string{"-t", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd=/", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", args...)
	cmd.Env = run.Environment()
	return cmd
}

// Do runs a program in the machine, which must succeed, and gives its output.
func (b *Box) Do(argv ...string) string {
	b.t.Helper()
	out, err := b.Command(b.t.Context(), argv...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%q in the box: %v\n%s", argv, err, out)
	}
	return string(out)
}

// inside is the variable that a test in a box finds in its environment.
const inside = "DOMINION_INSIDE_BOX"

// Inside says whether this test was started by DoTest.
func Inside() bool { return os.Getenv(inside) != "" }

// DoTest runs one test of the calling test's own program in the machine,
// where Inside is true, and which must pass.
func (b *Box) DoTest(name string) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.Copy(self, "box.test")
	cmd := b.Command(b.t.Context(), "/srv/box.test", "-test.v", "-test.run", "^"+name+"$")
	cmd.Env = append(cmd.Env, inside+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+name)) {
		b.t.Fatalf("%s in the box: %v\n%s", name, err, out)
	}
}

// Copy puts a program of the host into the machine's /srv.
func (b *Box) Copy(file, name string) {
	b.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.Files, name), text, 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// first is the machine's first process, as the host numbers it.
func (b *Box) first() (int, error) {
	p := b.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p, p))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Kill ends the machine as a power cut does.
func (b *Box) Kill() {
	_ = b.cmd.Process.Kill() // --kill-child ends the first process with it, and the kernel all others
	<-b.ended
}

func (b *Box) remove(dir string) {
	if b.cmd != nil && b.cmd.Process != nil {
		b.Kill()
		if b.t.Failed() {
			b.t.Logf("what systemd said:\n%s", b.out.String())
		}
	}
	b.await("the machine's cgroup is empty", func() bool {
		removeGroups(b.cgroup)
		_, err := os.Stat(b.cgroup)
		return errors.Is(err, fs.ErrNotExist)
	})
	if err := os.RemoveAll(dir); err != nil {
		b.t.Errorf("remove the box: %v", err)
	}
}

// removeGroups removes a cgroup and all below it, as far as they are empty.
func removeGroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir) // EBUSY: something ends still
}
