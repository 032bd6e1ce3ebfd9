package place

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"dominion/call"
)

// TestAttacker writes and reads below a directory in which somebody else puts
// links, FIFOs and directories in the place of what he finds, all the time.
// Nothing outside is read or touched, and no half of a file is ever seen.
func TestAttacker(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/outside/f", "secret")
	put(t, dir+"/outside/d/f", "secret")
	must(t, os.MkdirAll(dir+"/his/d", 0o755))
	must(t, os.Chmod(dir+"/his", 0o777))
	must(t, os.Chmod(dir+"/his/d", 0o777))
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Go(func() { swap(dir, &stop) })
	var got outcome
	var seen atomic.Int64
	done.Go(func() {
		for !stop.Load() {
			if b, err := read(dir + "/his/d/f"); err == nil {
				whole(t, b)
				seen.Add(1)
			} else {
				known(t, err)
			}
		}
	})
	for round := range 1000 {
		got.round(t, dir+"/his/d/f", round)
	}
	stop.Store(true)
	done.Wait()
	t.Logf("%+v, read %d times", got, seen.Load())
	if got.wrote == 0 || got.refused == 0 || seen.Load() == 0 {
		t.Errorf("%+v, read %d times: some writes should succeed, some be refused, and some be seen", got, seen.Load())
	}
	for _, name := range []string{"/outside/f", "/outside/d/f"} {
		if b, err := os.ReadFile(dir + name); err != nil || string(b) != "secret" {
			t.Errorf("%s has %q, %v", name, b, err)
		}
	}
	if names := append(list(t, dir+"/outside"), list(t, dir+"/outside/d")...); len(names) != 3 {
		t.Errorf("names outside: %q", names)
	}
}

// swap changes what is at his/d and his/d/f. Most of the time he only looks.
func swap(dir string, stop *atomic.Bool) {
	his := dir + "/his"
	f := his + "/d/f"
	look := func(times int) {
		for range rand.IntN(times) {
			_, _ = os.Lstat(f)
		}
	}
	for !stop.Load() {
		look(1000)
		switch rand.IntN(6) {
		case 0:
			os.Remove(f)
			_ = os.Symlink(dir+"/outside/f", f)
			look(100)
			os.Remove(f)
		case 1:
			os.Remove(f)
			_ = syscall.Mkfifo(f, 0o666)
			look(100)
			os.Remove(f)
		case 2:
			_ = os.Rename(his+"/d", his+"/moved")
			_ = os.Symlink(dir+"/outside/d", his+"/d")
			look(20)
			os.Remove(his + "/d")
			_ = os.Rename(his+"/moved", his+"/d")
		case 3:
			_ = os.Rename(his+"/d", his+"/moved")
			_ = syscall.Mkfifo(his+"/d", 0o666)
			look(20)
			os.Remove(his + "/d")
			_ = os.Rename(his+"/moved", his+"/d")
		case 4:
			_ = os.Symlink(dir+"/outside/f", his+"/next")
			_ = os.Rename(his+"/next", f)
			look(100)
			os.Remove(f)
		case 5: // one that gives zeros; only root can make it
			os.Remove(f)
			_ = syscall.Mknod(f, syscall.S_IFCHR|0o666, 1<<8|5)
			look(100)
			os.Remove(f)
		}
	}
}

type outcome struct{ wrote, refused int }

func (o *outcome) round(t *testing.T, name string, round int) {
	err := write(name, bytes.Repeat([]byte{'a' + byte(round%26)}, size))
	if err == nil {
		o.wrote++
		return
	}
	o.refused++
	known(t, err)
}

const size = 100_000

// whole fails for a file of which a part is missing, or that is none of ours.
func whole(t *testing.T, b []byte) {
	if len(b) != size || !bytes.Equal(b, bytes.Repeat(b[:1], len(b))) {
		t.Errorf("read %d bytes, %.20q", len(b), b)
	}
}

// known fails for an error that an attacker should not be able to cause.
func known(t *testing.T, err error) {
	for _, want := range []error{ErrLink, ErrKind, errChanged, fs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO} {
		if errors.Is(err, want) {
			return
		}
	}
	if call.CodeOf(err) != call.Conflict {
		t.Errorf("unexpected error %v", err)
	}
}

func write(name string, b []byte) error {
	p, err := Open(name)
	if err != nil {
		return err
	}
	defer p.Close()
	d, err := p.Create()
	if err != nil {
		return err
	}
	defer d.Discard()
	for part := range slices.Chunk(b, 10_000) {
		if _, err := d.File.Write(part); err != nil {
			return err
		}
	}
	return d.Commit(As{Fresh: true})
}

func read(name string) ([]byte, error) {
	p, err := Follow(name)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	f, _, err := p.File(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
