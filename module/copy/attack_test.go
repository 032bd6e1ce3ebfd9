package copy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"dominion/blob"
)

// Somebody on the machine puts links, FIFOs and directories where files are copied to,
// all the time: 1,000 rounds, and nothing outside is touched, and no part of a file is
// ever seen under its name.
func TestAttacker(t *testing.T) {
	dir := t.TempDir()
	if d, err := os.MkdirTemp("/dev/shm", "attack"); err == nil { //nolint:usetesting // a disk would be waited for 3,000 times
		t.Cleanup(func() { os.RemoveAll(d) })
		dir = d
	}
	outside, his := filepath.Join(dir, "outside"), filepath.Join(dir, "his")
	for _, d := range []string{outside, filepath.Join(outside, "d"), his, filepath.Join(his, "top"), filepath.Join(his, "top", "d")} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"f", "d/f", "secret"} {
		if err := os.WriteFile(filepath.Join(outside, f), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for !stop.Load() {
			swap(outside, filepath.Join(his, "top"), "d")
			swap(outside, filepath.Join(his, "top"), "d/f")
			for range rand.IntN(2000) {
				_, _ = os.Lstat(his)
			}
		}
	})
	var seen atomic.Int64
	done.Go(func() {
		for !stop.Load() {
			if b := read(filepath.Join(his, "top/d/f")); b != nil {
				seen.Add(1)
				whole(t, b)
			}
		}
	})
	o := &overlordOf{cut: 30_000}
	wrote, refused := 0, 0
	for round := range 1000 {
		text := strings.Repeat(string(rune('a'+round%26)), 100_000)
		in := o.order(t, filepath.Join(his, "top"), dirOf("."), dirOf("d"), o.file("d/f", text, 0o644), blob.Entry{Path: "d/l", Type: blob.Link, Target: "f"})
		in.Checksum = round%2 == 0
		if _, err := o.put(t, in); err != nil {
			refused++
		} else {
			wrote++
		}
	}
	stop.Store(true)
	done.Wait()
	t.Logf("wrote %d, refused %d, seen %d", wrote, refused, seen.Load())
	if wrote == 0 || refused == 0 || seen.Load() == 0 {
		t.Errorf("wrote %d, refused %d, seen %d times: some of each should be", wrote, refused, seen.Load())
	}
	for _, f := range []string{"f", "d/f", "secret"} {
		b, err := os.ReadFile(filepath.Join(outside, f))
		st, serr := os.Stat(filepath.Join(outside, f))
		if err != nil || serr != nil || string(b) != "secret" || st.Mode() != 0o600 {
			t.Errorf("outside/%s: %q %v, %v", f, b, st.Mode(), err)
		}
	}
	if names := append(inDir(t, outside), inDir(t, filepath.Join(outside, "d"))...); len(names) != 4 {
		t.Errorf("names outside: %q", names)
	}
	if st, err := os.Stat(filepath.Join(outside, "d")); err != nil || st.Mode().Perm() != 0o777 {
		t.Errorf("outside/d: %v, %v", st.Mode(), err)
	}
}

// swap puts something in the place of a name, and takes it away again.
func swap(outside, top, name string) {
	path, aside := filepath.Join(top, name), filepath.Join(filepath.Dir(top), "aside")
	if os.Rename(path, aside) != nil {
		return
	}
	defer os.RemoveAll(aside)
	switch rand.IntN(4) {
	case 0:
		_ = os.Symlink(filepath.Join(outside, name), path)
	case 1:
		_ = syscall.Mkfifo(path, 0o666)
	case 2:
		_ = os.Link(filepath.Join(outside, "secret"), path)
	case 3:
		_ = os.Symlink(outside, path)
	}
	for range rand.IntN(200) {
		_, _ = os.Lstat(path)
	}
	_ = os.Remove(path)
	if name == "d" { // unless it was made anew meanwhile
		_ = os.Rename(aside, path)
	}
}

// read reads a file that is not one of the attacker's.
func read(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() == int64(len("secret")) {
		return nil
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	return b
}

// whole fails for a part of a file.
func whole(t *testing.T, b []byte) {
	if len(b) != 100_000 || !bytes.Equal(b, bytes.Repeat(b[:1], len(b))) {
		t.Errorf("seen: %d bytes, %.20q", len(b), b)
	}
}
