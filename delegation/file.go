package delegation

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	fileMode = 0o644 // as Func's: names are no secret, and the state directory is closed anyway
	// staleAfter is when the rest of an interrupted Save is removed: longer
	// than any that is still writing.
	staleAfter = time.Hour
)

// Load reads a map's file; what Parse says of the text holds. A file that is
// not there is fs.ErrNotExist, and one that holds something else is ErrMap.
func Load(path string) (Map, error) {
	text, err := read(path)
	if err != nil {
		return Map{}, fmt.Errorf("read map: %w", err)
	}
	m, err := Parse(text)
	if err != nil {
		return Map{}, fmt.Errorf("read map %s: %w; mend it, or write a fresh one: dominion map build", path, err)
	}
	return m, nil
}

func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; name the map's file", path)
	}
	return io.ReadAll(io.LimitReader(f, MaxFile+1)) // one more, for Parse to refuse
}

// Save writes a map's file as a whole or not at all, and returns when it is on
// the disk: beside it, synced, and then renamed. Whatever interrupts it, the
// old file stays until the new one takes its place. A link at path is replaced,
// not followed. A map of more than MaxNodes places is refused with ErrMap,
// since it could not be read again.
func Save(path string, m Map) error {
	if n := m.Count().Places; n > MaxNodes {
		return fmt.Errorf("write map %s: %w", path, faultf("%d places of machines are more than %d; build it anew without those that are gone: dominion map build", n, MaxNodes))
	}
	text := m.Append(nil)
	if len(text) > MaxFile {
		return fmt.Errorf("write map %s: %w", path, faultf("%d bytes are more than %d", len(text), MaxFile))
	}
	if err := replace(path, text); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write map %s: %w; make the directory first", path, err)
		}
		return fmt.Errorf("write map %s: %w", path, err)
	}
	return nil
}

func replace(path string, text []byte) error {
	dir, prefix := filepath.Dir(path), "."+filepath.Base(path)+".new-"
	sweep(dir, prefix)
	f, err := os.CreateTemp(dir, prefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(fileMode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// sweep removes what Saves that were killed left behind. Nothing depends on it.
func sweep(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
