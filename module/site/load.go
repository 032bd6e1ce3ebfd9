package site

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"dominion/module"
)

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// identity tells one state of a file from another without reading it.
type identity struct {
	path                   string // that a link leads to
	device, inode          uint64
	size, modified, change int64
	mode                   fs.FileMode
	owner                  uint32
}

// Load reads the directory, has new and changed programs describe themselves, with
// again those that are disabled too, and says whether anything is another than
// before. It takes up to some seconds when one hangs.
func (s *Set) Load(ctx context.Context, again bool) (changed bool) {
	s.loading.Lock()
	defer s.loading.Unlock()
	return s.load(ctx, again)
}

// load is Load with s.loading held.
func (s *Set) load(ctx context.Context, again bool) (changed bool) {
	names, whole := s.files()
	if whole == "" && !s.tidied {
		s.tidy()
		s.tidied = true
	}
	known := make(map[string]*entry)
	for _, e := range s.all() {
		known[e.name] = e
	}
	entries := make([]*entry, len(names))
	slots := make(chan struct{}, describeWidth)
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			entries[i] = s.look(ctx, filepath.Join(s.dir, name), known[name], again)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return false // what was cut off would look broken
	}
	bound(entries)
	s.mu.Lock()
	before, wholeBefore := s.entries, s.whole
	s.entries, s.whole = entries, whole
	s.mu.Unlock()
	s.tell(known, entries)
	if whole != wholeBefore && whole != "" {
		s.log.Error("no module of the site can be used", "dir", s.dir, "reason", whole)
	}
	return whole != wholeBefore || !slices.EqualFunc(before, entries, sameEntry)
}

func sameEntry(a, b *entry) bool {
	return a == b || a.name == b.name && a.digest == b.digest && a.reason == b.reason
}

// tell logs what changed.
func (s *Set) tell(known map[string]*entry, entries []*entry) {
	for _, e := range entries {
		old := known[e.name]
		delete(known, e.name)
		switch {
		case old != nil && sameEntry(old, e):
		case e.reason != "":
			s.log.Warn("module of the site is disabled", "module", e.name, "reason", e.reason)
		default:
			s.log.Info("module of the site is offered", "module", e.name, "version", e.description.Version, "digest", e.digest)
		}
	}
	for name := range known {
		s.log.Info("module of the site is gone", "module", name)
	}
}

// files gives the names in the directory that may be modules, sorted. Directories
// and names that begin with a dot or end with ~ are the site's own business. whole says why none
// can be used.
func (s *Set) files() (names []string, whole string) {
	if err := safeDir(s.dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ""
		}
		return nil, err.Error()
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err.Error()
	}
	for _, f := range list {
		if !f.IsDir() && !strings.HasPrefix(f.Name(), ".") && !strings.HasSuffix(f.Name(), "~") {
			names = append(names, f.Name())
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Sprintf("%d files are more than %d", len(names), maxFiles)
	}
	return names, ""
}

// bound disables modules whose schemas are too much for one message, the last by
// name first.
func bound(entries []*entry) {
	sum := 0
	for i, e := range entries {
		if e.reason != "" {
			continue
		}
		b, err := module.EncodeSchemas(e.description.Methods)
		if sum += len(b); err != nil || sum > maxSchemas {
			cut := *e
			cut.reason = fmt.Sprintf("this and the modules before it describe more than %d bytes of schemas", maxSchemas)
			entries[i] = &cut
			sum -= len(b)
		}
	}
}

// look gives the entry of one file: the old one when the file is the same.
func (s *Set) look(ctx context.Context, path string, old *entry, again bool) *entry {
	for try := 1; ; try++ {
		e := &entry{name: filepath.Base(path)}
		var err error
		if e.found, err = s.identify(path); err == nil {
			if old != nil && old.found == e.found && (old.reason == "" || !again && old.reason != changing) {
				return old
			}
			err = s.read(ctx, e)
		}
		if err == nil {
			return e
		}
		e.reason = short(err.Error())
		if e.reason != changing || try == changingTries {
			return e
		}
	}
}

const changingTries = 3 // while a file is replaced again and again

// changing is a reason that passes by itself: the file is looked at again.
const changing = "it changed while it described itself"

// read fills an entry with what its program says.
func (s *Set) read(ctx context.Context, e *entry) (err error) {
	if !nameShape.MatchString(e.name) {
		return fmt.Errorf("its name is no module's: lower-case letters, digits and underscores, without an ending such as .sh or .py")
	}
	if why := s.nameTaken(e.name); why != "" {
		return errors.New(why)
	}
	if e.digest, err = digestOf(e.found.path); err != nil {
		return err
	}
	if e.description, err = s.describe(ctx, e.found.path, e.name); err != nil {
		return err
	}
	now, err := s.identify(filepath.Join(s.dir, e.name))
	if err != nil {
		return err
	}
	if now != e.found {
		return errors.New(changing)
	}
	return nil
}

// nameTaken says why a site's module cannot have a name; empty: it can.
func (s *Set) nameTaken(name string) string {
	switch {
	case module.Reserved(name):
		return fmt.Sprintf("the name %q is reserved: administrative actions begin with it", name)
	case s.taken != nil && s.taken(name):
		return fmt.Sprintf("the agent has a module %q of its own", name)
	}
	return ""
}

// identify checks that a file may be run, and gives what it is now. A link may
// lead to another file below the same directory.
func (s *Set) identify(path string) (identity, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return identity{}, plain(err)
	}
	home, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return identity{}, plain(err)
	}
	if below, err := filepath.Rel(home, real); err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return identity{}, fmt.Errorf("the link leads out of its directory, to %s", real)
	}
	if err := safeDir(filepath.Dir(real)); err != nil {
		return identity{}, err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return identity{}, plain(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.Mode().IsRegular():
		return identity{}, errors.New("it is not a regular file")
	case !trusted(st.Uid):
		return identity{}, fmt.Errorf("it belongs to uid %d, and not to root or the agent's user", st.Uid)
	case info.Mode()&0o022 != 0:
		return identity{}, fmt.Errorf("others can write it (mode %04o): chmod go-w", info.Mode().Perm())
	case info.Mode()&0o111 == 0:
		return identity{}, errors.New("it is not executable")
	}
	return identity{
		path: real, device: st.Dev, inode: st.Ino, size: st.Size, modified: st.Mtim.Nano(), change: st.Ctim.Nano(),
		mode: info.Mode(), owner: st.Uid,
	}, nil
}

func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// safeDir says whether only root and the agent's user can change what a directory,
// which is absolute, holds and where it is. Directories above it may be writable
// by all when they are sticky, as /tmp is: nobody can move what is not his there.
func safeDir(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("directory %s: %w", dir, plain(err))
	}
	// Links on the way are as safe as the directories that they are in.
	for _, path := range slices.Compact([]string{real, filepath.Clean(dir)}) {
		for at := path; ; at = filepath.Dir(at) {
			info, err := os.Stat(at)
			if err != nil {
				return fmt.Errorf("directory %s: %w", at, plain(err))
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			open := info.Mode()&0o022 != 0
			switch {
			case !ok || !info.IsDir():
				return fmt.Errorf("%s is not a directory", at)
			case !trusted(st.Uid):
				return fmt.Errorf("directory %s belongs to uid %d, and not to root or the agent's user", at, st.Uid)
			case open && (at == real || info.Mode()&fs.ModeSticky == 0):
				return fmt.Errorf("others can write in directory %s (mode %04o): chmod go-w", at, info.Mode().Perm())
			}
			if at == "/" || at == "." {
				break
			}
		}
	}
	return nil
}

func digestOf(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", plain(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", plain(err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// plain leaves out what the kernel was asked; the path is known.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// short makes a reason that fits into an offer, on one line.
func short(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\ufffd")), " ")
	if len(s) <= module.MaxReason {
		return s
	}
	const mark = "…"
	n := module.MaxReason - len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
