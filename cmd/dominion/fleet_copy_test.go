//go:build fleet

package main_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rooms gives each machine of a site a directory of its own under one name.
type rooms struct {
	s    *site
	name string // what it is called on every machine
}

// newRooms needs root: each machine has a mount namespace.
func newRooms(s *site) *rooms {
	s.t.Helper()
	r := &rooms{s: s, name: filepath.Join(s.dir, "room")}
	if err := os.Mkdir(r.name, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.CommandContext(s.t.Context(), "unshare", "-m", "true").CombinedOutput(); err != nil {
		s.t.Skipf("SKIPPED %s: it needs root and unshare, to give each machine its own files: %v %s", s.t.Name(), err, out)
	}
	return r
}

// of is the directory of a machine as this test sees it.
func (r *rooms) of(machine string) string { return filepath.Join(r.s.dir, machine+".room") }

// minion starts a machine's agent; disk is the size of a disk of its own, empty: ours.
func (r *rooms) minion(name, disk, address string) *daemon {
	r.s.t.Helper()
	if err := os.MkdirAll(r.of(name), 0o700); err != nil {
		r.s.t.Fatal(err)
	}
	mount := `mount --bind "$1" "$2"`
	if disk != "" { // it is seen in the machine alone
		mount = `mount -t tmpfs -o size=` + disk + ` tmpfs "$2"`
	}
	return r.s.process(name, "unshare", "-m", "--propagation", "private", "sh", "-c", mount+` && shift 2 && exec "$@"`, "sh", r.of(name), r.name,
		r.s.binary, "minion", "--state", filepath.Join(r.s.dir, name), "--name", name, "--config", r.s.config, "--pin", r.s.pin, "--overlord", address)
}

// image writes a file of so many bytes, of which every 16th MiB is random and the
// others are zeros, with holes if wanted, and gives its digest.
func image(t *testing.T, path string, size int64, holes bool) [sha256.Size]byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random, piece, zero := rand.NewChaCha8([32]byte{byte(size)}), make([]byte, 1<<20), make([]byte, 1<<20)
	sum := sha256.New()
	for at := int64(0); at < size; at += int64(len(piece)) {
		n := min(size-at, int64(len(piece)))
		b := zero[:n]
		if at>>20%16 == 0 || !holes {
			b = piece[:n]
			random.Read(b)
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		sum.Write(b)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// sumOf gives the digest of a file; false: there is none.
func sumOf(t *testing.T, path string) (sum [sha256.Size]byte, ok bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		return sum, false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil)), true
}

// peak is the most memory that a process ever had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no VmHWM of %d", pid)
	return 0
}

// listing names what is in a directory, with types, modes, times and contents.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", rel, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " to %s", to)
		case info.Mode().IsRegular():
			sum, _ := sumOf(t, p)
			fmt.Fprintf(&b, " %x", sum[:4])
			fallthrough
		default:
			fmt.Fprintf(&b, " %d", info.ModTime().UnixNano())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sourceTree makes a directory with one of each kind.
func sourceTree(t *testing.T, dir string) {
	t.Helper()
	old := time.Unix(1_700_000_000, 123456789)
	for _, d := range []string{"", "a", "a/deep", "empty", "é ß"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"a/x": 0o644, "a/deep/run": 0o755, "a-b": 0o600, "é ß/n": 0o444, "none": 0o644} {
		text := bytes.Repeat([]byte(name), 1000)
		if name == "none" {
			text = nil
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../a-b", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	image(t, filepath.Join(dir, "holes"), 20<<20+5, true)
	if err := os.Chmod(filepath.Join(dir, "a"), 0o750); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/deep", "a", "empty", "é ß", ""} {
		if err := os.Chtimes(filepath.Join(dir, d), old, old); err != nil {
			t.Fatal(err)
		}
	}
}

// What a user sees of copy and fetch.
func testCopyAndFetch(t *testing.T, binary string) {
	s := newSite(t, binary)
	r := newRooms(s)
	s.up("--autosign", "m*")
	for _, m := range []string{"m01", "m02", "m03"} {
		r.minion(m, "", s.address)
	}
	s.await(3)
	src := filepath.Join(s.dir, "src")
	sourceTree(t, src)
	want := listing(t, src)
	s.root.run("copy", src, "*:"+r.name+"/tree", "--dry-run").exits(0).prints("m[01-03] (3)", "changed: true")
	if list, err := os.ReadDir(r.of("m01")); err != nil || len(list) > 0 {
		t.Errorf("a dry run wrote %v, %v", list, err)
	}
	s.root.run("copy", src, "*:"+r.name+"/tree").exits(0).prints("m[01-03] (3)", "changed: true", "written: 12")
	for _, m := range []string{"m01", "m02", "m03"} {
		if got := listing(t, filepath.Join(r.of(m), "tree")); got != want {
			t.Errorf("%s has\n%swant\n%s", m, got, want)
		}
		st, err := os.Stat(filepath.Join(r.of(m), "tree", "holes"))
		if err != nil {
			t.Fatal(err)
		}
		if on := st.Sys().(*syscall.Stat_t).Blocks * 512; on > 4<<20 {
			t.Errorf("%s: a file with holes takes %d bytes on the disk", m, on)
		}
	}
	s.root.run("copy", src, "*:"+r.name+"/tree").exits(0).prints("m[01-03] (3)", "changed: false", "written: 0")
	s.root.run("copy", src, "*:"+r.name+"/tree", "--checksum").exits(0).prints("changed: false")
	// One machine's file has other bytes, with the same size and time.
	odd := filepath.Join(r.of("m02"), "tree", "a", "x")
	info, err := os.Stat(odd)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(odd, bytes.Repeat([]byte("X"), int(info.Size())), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(odd, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	s.root.run("copy", src, "*:"+r.name+"/tree").exits(0).prints("m[01-03] (3)", "changed: false")
	s.root.run("copy", src, "*:"+r.name+"/tree", "--checksum").exits(0).prints("m[01,03] (2)", "m02:", "changed: true")
	if got := listing(t, filepath.Join(r.of("m02"), "tree")); got != want {
		t.Errorf("m02 has\n%swant\n%s", got, want)
	}
	one := s.write("one.conf", "one\n")
	s.root.run("copy", one, "m01:"+r.name+"/").exits(0)
	if b, err := os.ReadFile(filepath.Join(r.of("m01"), "one.conf")); err != nil || string(b) != "one\n" {
		t.Errorf("one file: %q, %v", b, err)
	}
	s.root.run("copy", one, "m01:"+r.name+"/none/one").exits(3).tells("no such file or directory")
	s.root.run("copy", one, "m01:"+r.name+"/tree").exits(3).tells("not a regular file but a directory")
	s.root.run("copy", one, "nobody*:/x").exits(4)
	s.root.run("copy", one, "m01").exits(2).tells("TARGET:PATH")
	s.root.run("copy", filepath.Join(s.dir, "nothing"), "m01:/x").exits(1).tells("no such file")
	s.root.run("copy", "/dev/null", "m01:/x").exits(2).tells("neither a file nor a directory")

	got := filepath.Join(s.dir, "got")
	s.root.run("fetch", "*:"+r.name+"/tree", got).exits(0).prints("m[01-03] (3)", "files: 6", "left_out", "a/link")
	for _, m := range []string{"m01", "m02", "m03"} {
		for _, name := range []string{"a/x", "a/deep/run", "a-b", "é ß/n", "none", "holes"} {
			a, _ := sumOf(t, filepath.Join(src, name))
			b, ok := sumOf(t, filepath.Join(got, m, r.name, "tree", name))
			if !ok || a != b {
				t.Errorf("%s: %s is another file", m, name)
			}
		}
		if st, err := os.Stat(filepath.Join(got, m, r.name, "tree", "holes")); err != nil || st.Sys().(*syscall.Stat_t).Blocks*512 > 4<<20 {
			t.Errorf("%s: the holes are filled: %v", m, err)
		}
	}
	s.root.run("fetch", "m01:"+r.name+"/one.conf", got).exits(0)
	if b, err := os.ReadFile(filepath.Join(got, "m01", r.name, "one.conf")); err != nil || string(b) != "one\n" {
		t.Errorf("one file: %q, %v", b, err)
	}
	s.root.run("fetch", "*:"+r.name+"/one.conf", got).exits(3).tells("m[02-03]", "no such file")
	parts, err := filepath.Glob(filepath.Join(got, "*", "*", ".dominion*"))
	if err != nil || len(parts) > 0 {
		t.Errorf("left: %v, %v", parts, err)
	}
}
