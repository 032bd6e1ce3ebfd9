package file

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const attackVar = "DOMINION_TEST_ATTACK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(attackVar); dir != "" {
		attack(dir)
		return
	}
	os.Exit(m.Run())
}

// attack is another user's process. Until its standard input ends it puts
// links to outside, FIFOs, hard links and directories in the place of f, g and
// the directory d that both lie in, and moves d away and back.
func attack(dir string) {
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	his := dir + "/his"
	outside := dir + "/outside"
	look := func(times int) {
		for range rand.IntN(times) {
			_, _ = os.Lstat(his + "/d/f")
		}
	}
	for !stop.Load() {
		look(500)
		f := his + "/d/" + []string{"f", "g", "e"}[rand.IntN(3)]
		switch rand.IntN(7) {
		case 0:
			_ = os.RemoveAll(f)
			_ = os.Symlink(outside+"/f", f)
		case 1:
			_ = os.RemoveAll(f)
			_ = syscall.Mkfifo(f, 0o666)
		case 2:
			_ = os.Symlink(outside+"/f", his+"/d/next")
			_ = os.Rename(his+"/d/next", f)
		case 3:
			_ = os.RemoveAll(f)
			_ = os.Link(outside+"/f", f) // the kernel may let him, or not
		case 4:
			_ = os.RemoveAll(f)
			_ = os.Symlink(outside, f)
		default:
			_ = os.Rename(his+"/d", his+"/moved")
			if rand.IntN(2) == 0 {
				_ = os.Symlink(outside, his+"/d")
			} else {
				_ = syscall.Mkfifo(his+"/d", 0o666)
			}
			look(20)
			_ = os.Remove(his + "/d")
			_ = os.Rename(his+"/moved", his+"/d")
			continue
		}
		look(100)
		_ = os.RemoveAll(f)
	}
}

// startAttack starts the attacker as the user nobody.
func startAttack(t *testing.T, dir string) (stop func()) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe") // by this name nobody may run it, wherever it lies
	cmd.Env = []string{attackVar + "=" + dir}
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	must(t, cmd.Start())
	r.Close()
	return func() {
		w.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attacker: %v", err)
		}
	}
}

// TestAttacker is 1,000 rounds of every method on names that another user
// changes all the time: nothing outside of his directory is touched, and no
// part of a file is ever seen in the place of the whole.
func TestAttacker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED an attacker who is another user needs root")
	}
	dir := memory(t)
	for _, name := range []string{"/outside/f", "/outside/g", "/outside/e/f"} {
		put(t, dir+name, "secret")
		must(t, os.Chmod(dir+name, 0o604))
	}
	must(t, os.MkdirAll(dir+"/his/d", 0o755))
	must(t, os.Chmod(dir+"/his", 0o777))
	must(t, os.Chmod(dir+"/his/d", 0o777))
	must(t, os.Chown(dir+"/his/d", 65534, 65534))
	before := snapshot(t, dir+"/outside")
	stop := startAttack(t, dir)
	var over atomic.Bool
	var watch sync.WaitGroup
	var seen int
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Microsecond) // leaves the processor to the others
		defer tick.Stop()
		for ; !over.Load(); <-tick.C {
			if b := peek(dir + "/his/d/f"); b != "" && b != "secret" {
				seen++
				if len(b) != size || strings.Trim(b, b[:1]) != "" {
					t.Errorf("a part of a file was seen: %d bytes, %.20q", len(b), b)
				}
			}
		}
	})
	his, err := os.OpenRoot(dir + "/his/d") // where the attacker leads is not where these are to go
	must(t, err)
	defer his.Close()
	watch.Go(func() { devices(his, &over) })
	count := rounds(t, dir)
	over.Store(true)
	watch.Wait()
	stop()
	t.Logf("%v; whole files seen: %d", count, seen)
	if after := snapshot(t, dir+"/outside"); after != before {
		t.Errorf("outside was\n%s\nand is\n%s", before, after)
	}
	if count["write done"] == 0 || count["write refused"] == 0 || seen == 0 {
		t.Errorf("%v; whole files seen: %d: of each there should be some", count, seen)
	}
}

const size = 60_000

// memory makes a directory in memory where there is a place for that: what is
// not synced to a disk meets the attacker more often.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "dominion-test-") //nolint:usetesting // t.TempDir has no choice of the file system
	if err != nil {
		return tree(t)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// others are called in turn beside write. chmod and chown give nothing away.
var others = []step{
	{"append", `{"path":"$D/his/d/g","content":"added"}`, "", ""},
	{"append", `{"path":"$D/his/d/g","content":"added","in_place":true}`, "", ""},
	{"block", `{"path":"$D/his/d/g","content":"line"}`, "", ""},
	{"chmod", `{"path":"$D/his/d/g","mode":"0666"}`, "", ""},
	{"chown", `{"path":"$D/his/d/g","owner":"65534"}`, "", ""},
	{"mkdir", `{"path":"$D/his/d/e/new","parents":true,"mode":"0777"}`, "", ""},
	{"remove", `{"path":"$D/his/d/e","recursive":true}`, "", ""},
	{"remove", `{"path":"$D/his/d/g"}`, "", ""},
	{"read", `{"path":"$D/his/d/f"}`, "", ""},
	{"checksum", `{"path":"$D/his/d/f"}`, "", ""},
	{"list", `{"path":"$D/his/d/e"}`, "", ""},
	{"stat", `{"path":"$D/his/d/f","follow":true}`, "", ""},
	{"link", `{"path":"$D/his/h","target":"$D/his/d/f","hard":true,"replace":true}`, "", ""},
	{"link", `{"path":"$D/his/d/g","target":"/nowhere","replace":true}`, "", ""},
}

// rounds calls the methods and counts what came of it.
func rounds(t *testing.T, dir string) map[string]int {
	count := map[string]int{}
	for i := range 1000 {
		write := step{"write", `{"path":"$D/his/d/f","content":"` + strings.Repeat(string(rune('a'+i%26)), size) + `","mode":"0644","owner":"0"}`, "", ""}
		for _, s := range []step{write, others[i%len(others)]} {
			out, err := run(t, dir, s.method, s.args)
			if strings.Contains(out, "secret") || strings.Contains(out, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b") {
				t.Errorf("%s read outside: %s", s.method, out)
			}
			if err == nil {
				count[s.method+" done"]++
			} else {
				count[s.method+" refused"]++
			}
		}
	}
	return count
}

// devices puts a device in the place of f now and then, which only root can
// make.
func devices(dir *os.Root, over *atomic.Bool) {
	d, err := dir.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ; !over.Load(); <-tick.C {
		_ = unix.Mknodat(int(d.Fd()), "null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		_ = dir.Rename("null", "f")
		for range 100 {
			_, _ = dir.Lstat("f")
		}
		if info, err := dir.Lstat("f"); err == nil && info.Mode()&fs.ModeDevice != 0 {
			_ = dir.Remove("f")
		}
	}
}

// peek reads what has a name when it is a regular file that is not outside.
func peek(name string) string {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// snapshot tells about all files below a directory, and what they have.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d %d", name, info.Mode(), st.Uid, st.Gid, st.Ino)
		if info.Mode().IsRegular() {
			fmt.Fprintf(&b, " %s", get(t, name))
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}
