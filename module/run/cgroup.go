package run

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
)

const (
	groupPrefix = "dominion-" // begins the name of every cgroup made here
	sweepMost   = 16          // cgroups of earlier calls that a call looks at
)

// Waits for a cgroup.
const (
	emptyTick = 10 * time.Millisecond // between looks whether it is empty
	emptyTime = time.Second           // after SIGKILL; what the kernel still holds then is swept later
)

// Cgroup gives the directory below which each call gets a cgroup of its own:
// that of this process in the version 2 hierarchy (cgroups(7)), be it the only
// one or, on a hybrid machine, mounted beside version 1. The error says why
// calls get none here; they run all the same, in a process group alone.
func Cgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup of this process: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the cgroup of this process: %w", err)
	}
	dir, err := ownCgroup(mounts, own)
	if err != nil {
		return "", fmt.Errorf("find the cgroup of this process: %w", err)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS); err != nil {
		return "", fmt.Errorf("cgroup %s: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
		return "", fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return dir, nil
}

// ownCgroup finds the directory in the texts of /proc/self/mountinfo (proc(5))
// and /proc/self/cgroup (cgroups(7)).
func ownCgroup(mounts, own []byte) (string, error) {
	path := ""
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	if !strings.HasPrefix(path, "/") || strings.Contains(path+"/", "/../") {
		return "", fmt.Errorf("it is not in a version 2 hierarchy that can be seen from here (%q)", path)
	}
	sc := bufio.NewScanner(bytes.NewReader(mounts))
	for sc.Scan() {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		f := strings.Fields(before)
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root, point := unescape(f[3]), unescape(f[4])
		if below, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")); ok && (below == "" || below[0] == '/') {
			return filepath.Join(point, below), nil
		}
	}
	return "", errors.New("no version 2 hierarchy is mounted")
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// group is the cgroup of one call.
type group struct {
	dir string
	// file is the directory, locked (flock(2)) as long as the call runs, so
	// that nobody else removes it while it is empty.
	file *os.File
}

// newGroup makes a cgroup below home, and removes those that earlier calls
// left because something lived on in them, and nothing does any more.
func newGroup(home string, job call.JobID) (*group, error) {
	sweep(home)
	for range 10 { // a sweeper can come between making it and locking it
		dir, err := os.MkdirTemp(home, groupPrefix+job.String()+"-*")
		if err != nil {
			return nil, err
		}
		f, err := lockDir(dir)
		if err == nil {
			return &group{dir: dir, file: f}, nil
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("make a cgroup below %s: others remove it at once", home)
}

// lockDir opens and locks a directory, if it is there and nobody else has
// locked it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		var held, there os.FileInfo
		if held, err = f.Stat(); err == nil {
			if there, err = os.Stat(dir); err == nil && !os.SameFile(held, there) {
				err = fs.ErrNotExist
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes cgroups of earlier calls that are empty by now: a few, chosen
// at random, as they may be many, and many calls may begin at once. Of those in
// which something lives the kernel refuses the removal.
func sweep(home string) {
	entries, err := os.ReadDir(home)
	if err != nil {
		return
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() || !strings.HasPrefix(e.Name(), groupPrefix) })
	for i := range min(sweepMost, len(entries)) {
		j := i + rand.IntN(len(entries)-i)
		entries[i], entries[j] = entries[j], entries[i]
		dir := filepath.Join(home, entries[i].Name())
		if f, err := lockDir(dir); err == nil { // else a call runs in it
			removeEmpty(dir)
			f.Close()
		}
	}
}

// removeEmpty removes a cgroup and those that a program made below it, as far
// as nothing lives in them.
func removeEmpty(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeEmpty(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir) // EBUSY: something lives in it
}

// release ends the group: it is removed if nothing lives in it, and else left
// for a later call to remove.
func (g *group) release() {
	if g == nil {
		return
	}
	removeEmpty(g.dir)
	g.file.Close()
}

// empty says whether nothing lives in the group or in those below it.
func (g *group) empty() bool {
	if g == nil {
		return true
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	return err != nil || bytes.Contains(b, []byte("populated 0"))
}

// kill ends everything in the group, waits until it is gone, for a second at
// most, and sees to it that what forks meanwhile ends too.
func (g *group) kill() {
	if g == nil || g.empty() {
		return
	}
	// The kernel's own way misses nothing, forks neither; since Linux 5.14.
	whole := os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0) == nil
	tick := time.NewTicker(emptyTick)
	defer tick.Stop()
	for late := time.After(emptyTime); !g.empty(); {
		if !whole {
			g.signal(syscall.SIGKILL, 0)
		}
		select {
		case <-tick.C:
		case <-late:
			return
		}
	}
}

// signal sends a signal to every process of the group and of those below it,
// but not to those of process group except, which got it otherwise.
func (g *group) signal(sig syscall.Signal, except int) {
	if g == nil {
		return
	}
	_ = filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // removed meanwhile
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(b)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err == nil && pid > 1 { // 0: a process that cannot be seen from here
				g.signalOne(pid, sig, except)
			}
		}
		return nil
	})
}

// signalOne does not meet a stranger who got the id of a process that ended:
// it takes hold of the process first, and then looks where it belongs.
func (g *group) signalOne(pid int, sig syscall.Signal, except int) {
	p, err := os.FindProcess(pid) // holds a pidfd, if it is there
	if err != nil {
		return
	}
	defer p.Release() //nolint:errcheck // it only closes the pidfd
	if pg, err := syscall.Getpgid(pid); err != nil || except != 0 && pg == except {
		return
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !bytes.Contains(b, []byte("/"+filepath.Base(g.dir))) {
		return
	}
	_ = p.Signal(sig) // it may have ended
}
