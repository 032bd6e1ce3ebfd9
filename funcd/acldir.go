package funcd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxFiles = 1000            // access lists in a directory
	unsure   = 2 * time.Second // a file changed this lately may change again without a trace
)

// ACL is a directory of access lists, files named *.acl. They are read again when
// one of them, or the directory, has changed: each question looks. What cannot be
// read, or others than root and this user may write, grants nothing.
type ACL struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	rules *Rules
	seen  []stamp // what the rules were made of
	names []string
	again bool   // the rules may be older than the files although nothing shows it
	said  string // the problems that were logged last
}

// stamp is what changes when a file does.
type stamp struct {
	name         string
	size         int64
	mtime, ctime time.Time
	inode        uint64
	mode         fs.FileMode
	uid          uint32
}

// OpenACL reads the access lists of a directory. There is no error: a directory
// that is missing is logged, and grants nothing until it is there.
func OpenACL(path string, log *slog.Logger) *ACL {
	a := &ACL{path: path, log: log, rules: NewRules()}
	a.Reload()
	return a
}

// Reload reads everything again.
func (a *ACL) Reload() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = true
	a.look()
}

// Rules gives the access lists as they are now.
func (a *ACL) Rules() *Rules {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	return a.rules
}

// look reads the lists again if they changed; a.mu is held.
func (a *ACL) look() {
	now := time.Now()
	seen, err := a.stamps()
	if err == nil && !a.again && slices.Equal(seen, a.seen) {
		return
	}
	if err != nil {
		a.seen, a.names, a.rules, a.again = nil, nil, NewRules(), true
		a.say(fmt.Errorf("read access lists: %w; nobody may call anything", err))
		return
	}
	var problems []error
	rules := NewRules()
	root, err := os.OpenRoot(a.path)
	if err == nil {
		defer root.Close()
		for _, name := range a.names {
			entries, err := readACL(root, name)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s/%s: %w", a.path, name, err))
			}
			rules.entries = append(rules.entries, entries...)
		}
	} else {
		problems = append(problems, err)
	}
	changed := !slices.Equal(seen, a.seen)
	a.rules, a.seen, a.again = rules, seen, false
	for _, s := range seen {
		if now.Sub(s.ctime).Abs() < unsure {
			a.again = true
		}
	}
	a.say(errors.Join(problems...))
	if changed {
		a.log.Info("access lists read", "path", a.path, "files", len(a.names), "lines", len(rules.entries))
	}
}

// say logs problems once.
func (a *ACL) say(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != a.said {
		a.log.Error("access lists of the Func face: what is wrong grants nothing", "err", text)
	}
	a.said = text
}

// stamps looks at the directory and its files without opening them. The names are
// listed anew only when the directory has changed.
func (a *ACL) stamps() ([]stamp, error) {
	dir, err := os.Stat(a.path)
	if err != nil {
		return nil, err
	}
	if !dir.IsDir() {
		return nil, fmt.Errorf("%s is no directory", a.path)
	}
	if err := trusted(dir); err != nil {
		return nil, fmt.Errorf("%s %w", a.path, err)
	}
	seen := []stamp{stampOf(dir)}
	if a.again || len(a.seen) == 0 || a.seen[0] != seen[0] {
		if a.names, err = listACL(a.path); err != nil {
			return nil, err
		}
	}
	for _, name := range a.names {
		info, err := os.Stat(a.path + "/" + name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // reading it says so
			seen = append(seen, stamp{name: name})
		case err != nil:
			return nil, err
		default:
			s := stampOf(info)
			s.name = name
			seen = append(seen, s)
		}
	}
	return seen, nil
}

func listACL(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".acl") {
			names = append(names, e.Name())
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s has %d access lists, more than %d", path, len(names), maxFiles)
	}
	return names, nil
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{name: info.Name(), size: info.Size(), mtime: info.ModTime(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode, s.uid, s.ctime = st.Ino, st.Uid, time.Unix(st.Ctim.Unix())
	}
	return s
}

// trusted wants a file that only root, or the user that we are, can change.
func trusted(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.New("has no owner")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d; it must be root's or this agent's", st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("has mode %04o: its group, or others, may write it", info.Mode().Perm())
	}
	return nil
}

// readACL reads one file; links that lead out of the directory are not followed.
func readACL(root *os.Root, name string) ([]Entry, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	if err := trusted(info); err != nil {
		return nil, fmt.Errorf("it %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxACL+1))
	if err != nil {
		return nil, err
	}
	return ParseACL(text)
}
