package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Limits of a path, those of Linux.
const (
	MaxPath  = 4095 // bytes
	MaxName  = 255  // bytes of one component
	maxLinks = 40   // followed in one path
)

// What is refused. Errors of this package are *fs.PathError or wrap one.
var (
	ErrLink = errors.New("a symbolic link that is not followed: it, or a directory that it lies in, belongs to another user or can be written by others")
	ErrKind = errors.New("not a regular file")
	ErrPath = errors.New("not an absolute path of at most 4095 bytes, 255 in each name")
)

// Place is a name in a directory that was reached safely. It holds the
// directory open until Close.
type Place struct {
	Dir  *os.Root // the directory
	Base string   // the name in it, one component; "." for the directory itself

	// Trusted says that nobody but root and the agent's user could have made
	// or moved what has this name, hard links included.
	Trusted bool

	path  string
	owned bool // Dir is closed by Close
}

// Open walks to the directory of an absolute path. The last component is not
// looked at: it may be missing, or a symbolic link, which no method of Place
// follows.
func Open(name string) (*Place, error) { return find(name, false) }

// Follow is Open, and follows the last component too when that is a symbolic
// link that may be followed.
func Follow(name string) (*Place, error) { return find(name, true) }

// In is the place of one name in a directory that the caller holds and closes.
// Nothing in it counts as trusted.
func In(dir *os.Root, name string) (*Place, error) {
	if name == "" || name == ".." || len(name) > MaxName || strings.ContainsAny(name, "/\x00") {
		return nil, &fs.PathError{Op: "find", Path: name, Err: ErrPath}
	}
	return &Place{Dir: dir, Base: name, path: path.Join(dir.Name(), name)}, nil
}

// Path is where the place is, links resolved, for people.
func (p *Place) Path() string { return p.path }

// Close gives the directory back, unless it came from In.
func (p *Place) Close() error {
	if p == nil || !p.owned {
		return nil
	}
	return p.Dir.Close()
}

// Lstat tells about what has the name, which may be a symbolic link.
func (p *Place) Lstat() (fs.FileInfo, error) {
	info, err := p.Dir.Lstat(p.Base)
	if err != nil {
		return nil, p.fault("stat", err)
	}
	return info, nil
}

// fault is err with the whole path, and what was being done.
func (p *Place) fault(op string, err error) error {
	return &fs.PathError{Op: op, Path: p.path, Err: bare(err)}
}

// bare takes off what names a part of the path.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// walk is a walk under way.
type walk struct {
	given  string
	steps  []step
	left   []string // components still to go
	links  int
	follow bool // the last one too
}

// step is a directory that the walk is in.
type step struct {
	dir     *os.Root
	name    string
	trusted bool // see the package's documentation
	sealed  bool // trusted, and nobody else can write there
}

func find(name string, follow bool) (*Place, error) {
	w := &walk{given: name, follow: follow}
	var err error
	if w.left, err = split(name); err != nil || !strings.HasPrefix(name, "/") {
		return nil, &fs.PathError{Op: "find", Path: name, Err: ErrPath}
	}
	if err := w.root(); err != nil {
		return nil, err
	}
	base, err := w.all()
	top := w.steps[len(w.steps)-1]
	for _, s := range w.steps[:len(w.steps)-1] {
		s.dir.Close()
	}
	if err != nil {
		top.dir.Close()
		return nil, err
	}
	return &Place{Dir: top.dir, Base: base, Trusted: top.sealed, path: w.where(base), owned: true}, nil
}

// split gives the components of a path, without empty ones and ".".
func split(name string) ([]string, error) {
	if name == "" || len(name) > MaxPath || strings.ContainsRune(name, 0) {
		return nil, ErrPath
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > MaxName {
			return nil, ErrPath
		}
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// root begins the walk.
func (w *walk) root() error {
	dir, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	s := step{dir: dir, name: "/", trusted: true}
	info, err := dir.Stat(".")
	if err != nil {
		dir.Close()
		return err
	}
	s.judge(info)
	w.steps = append(w.steps, s)
	return nil
}

// judge completes a step whose trusted says what the directory above passes on.
func (s *step) judge(info fs.FileInfo) {
	others := info.Mode().Perm()&0o022 != 0
	s.trusted = s.trusted && ours(info) && (!others || info.Mode()&fs.ModeSticky != 0)
	s.sealed = s.trusted && !others
}

// ours says that something belongs to root or to the agent's user.
func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}

// all walks until one component is left, and gives it.
func (w *walk) all() (base string, err error) {
	for {
		if len(w.left) == 0 {
			return ".", nil
		}
		name := w.left[0]
		w.left = w.left[1:]
		top := w.steps[len(w.steps)-1]
		if name == ".." {
			if len(w.steps) > 1 {
				top.dir.Close()
				w.steps = w.steps[:len(w.steps)-1]
			}
			continue
		}
		last := len(w.left) == 0
		if last && !w.follow {
			return name, nil
		}
		info, err := top.dir.Lstat(name)
		switch {
		case last && (err != nil || info.Mode()&fs.ModeSymlink == 0):
			return name, nil // whoever opens it meets the error, if it is one
		case err != nil:
			return "", &fs.PathError{Op: "find", Path: w.where(name), Err: bare(err)}
		case info.Mode()&fs.ModeSymlink != 0:
			err = w.link(name, info)
		default:
			err = w.enter(name, info)
		}
		if err != nil {
			return "", &fs.PathError{Op: "find", Path: w.where(name), Err: bare(err)}
		}
	}
}

// enter goes down into a directory.
func (w *walk) enter(name string, info fs.FileInfo) error {
	top := w.steps[len(w.steps)-1]
	dir, err := enter(top.dir, name, info)
	if err != nil {
		return err
	}
	s := step{dir: dir, name: name, trusted: top.trusted}
	s.judge(info)
	w.steps = append(w.steps, s)
	return nil
}

// enter opens the directory that info told about, and no other.
func enter(dir *os.Root, name string, info fs.FileInfo) (*os.Root, error) {
	if !info.IsDir() {
		return nil, syscall.ENOTDIR
	}
	// With "/." the kernel opens directories only: a FIFO in its place does not
	// hold us up.
	next, err := dir.OpenRoot(name + "/.")
	if _, system := errors.AsType[syscall.Errno](err); err != nil && !system {
		return nil, errChanged // os.Root met a link that leads out of the directory
	}
	if err != nil {
		return nil, err
	}
	now, err := next.Stat(".")
	if err == nil && !os.SameFile(info, now) {
		err = errChanged
	}
	if err != nil {
		next.Close()
		return nil, err
	}
	return next, nil
}

var errChanged = errors.New("somebody put another in its place meanwhile")

// link puts the components of a symbolic link before those that are left.
func (w *walk) link(name string, info fs.FileInfo) error {
	top := w.steps[len(w.steps)-1]
	if !top.sealed || !ours(info) {
		return ErrLink
	}
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	target, err := top.dir.Readlink(name)
	if err != nil {
		return err
	}
	parts, err := split(target)
	if err != nil {
		return fmt.Errorf("link to %.64q: %w", target, err)
	}
	if strings.HasPrefix(target, "/") {
		for _, s := range w.steps[1:] {
			s.dir.Close()
		}
		w.steps = w.steps[:1]
	}
	w.left = append(parts, w.left...)
	return nil
}

// where is the path of a name where the walk is.
func (w *walk) where(name string) string {
	parts := make([]string, 0, len(w.steps)+1)
	for _, s := range w.steps {
		parts = append(parts, s.name)
	}
	return path.Join(append(parts, name)...)
}
