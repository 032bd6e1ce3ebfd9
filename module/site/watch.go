package site

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	settle   = 200 * time.Millisecond // after a change, for those that come with it
	lookOver = time.Minute            // between looks where the kernel does not tell of changes
)

// Run keeps the Set as the directory is until ctx ends: it reads it when something
// changes in it, and whatever is disabled again for each value that reload yields.
func (s *Set) Run(ctx context.Context, reload <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	events := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { s.watch(watching, events) })
	for {
		again := false
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			s.onChange(ctx)
			continue
		case <-reload:
			again = true
		case <-events:
			if !pause(ctx, settle) {
				return
			}
		}
		if s.Load(ctx, again) {
			s.onChange(ctx)
		}
	}
}

// poke has Run tell of a change that somebody else has found.
func (s *Set) poke() { signal(s.wake) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// watch signals changes of the directory until ctx ends. Where the kernel does not
// tell of them it signals now and then.
func (s *Set) watch(ctx context.Context, events chan<- struct{}) {
	for ctx.Err() == nil {
		err := s.listen(ctx, events)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Debug("changes of modules are looked for", "dir", s.dir, "every", lookOver.String(), "err", err)
			if !pause(ctx, lookOver) {
				return
			}
		}
		signal(events)
	}
}

// inMask are the changes that count. A file that is written counts when it is closed.
const inMask = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// listen watches the directory or, while that is missing, the lowest one above it
// that is there (inotify(7)). It returns nil when another has to be watched.
func (s *Set) listen(ctx context.Context, events chan<- struct{}) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })()
	at := s.dir
	for {
		_, err := unix.InotifyAddWatch(fd, at, inMask)
		if err == nil {
			break
		}
		if at == "/" || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("watch %s: %w", at, err)
		}
		at = filepath.Dir(at)
	}
	next := "" // the directory that is waited for
	if at != s.dir {
		below, err := filepath.Rel(at, s.dir)
		if err != nil {
			return err
		}
		next, _, _ = cutPath(below)
		if _, err := os.Lstat(filepath.Join(at, next)); err == nil && next != "" {
			if info, err := os.Stat(filepath.Join(at, next)); err == nil && info.IsDir() {
				return nil // it came meanwhile
			}
		}
	} else {
		signal(events) // what came before the watch
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch %s: %w", at, err)
		}
		changed, moved := heard(buf[:n], next)
		if changed {
			signal(events)
		}
		if moved || changed && next != "" {
			return nil
		}
	}
}

// cutPath divides a relative path after its first element.
func cutPath(p string) (first, rest string, found bool) {
	for i := range len(p) {
		if p[i] == filepath.Separator {
			return p[:i], p[i+1:], true
		}
	}
	return p, "", false
}

// heard reads what inotify tells: whether something changed, of a file of that
// name alone unless it is empty, and whether the directory is another one now.
// Names that begin with a dot do not count.
func heard(b []byte, only string) (changed, moved bool) {
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		size := min(int(binary.NativeEndian.Uint32(b[12:])), len(b)-unix.SizeofInotifyEvent)
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]
		for len(name) > 0 && name[len(name)-1] == 0 {
			name = name[:len(name)-1]
		}
		b = b[unix.SizeofInotifyEvent+size:]
		switch {
		case mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
			changed, moved = true, true
		case mask&unix.IN_Q_OVERFLOW != 0:
			changed = true
		case only != "":
			changed = changed || string(name) == only
		default:
			changed = changed || len(name) == 0 || name[0] != '.'
		}
	}
	return changed, moved
}
