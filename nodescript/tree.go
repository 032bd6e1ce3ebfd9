package nodescript

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Bounds of a tree.
const (
	maxLinks  = 40   // symbolic links on the way to a file, as path_resolution(7)
	maxFolder = 4096 // entries of one folder
)

var (
	// ErrOutside is wrapped by the error about a symbolic link that leaves
	// STATEDIR.
	ErrOutside = errors.New("the link leaves the state directory")
	errSpecial = errors.New("it is no regular file")
	errTooMany = fmt.Errorf("more than %d entries", maxFolder)
)

// Tree is STATEDIR, opened for reading. Symbolic links are followed as long as
// they stay in it; absolute ones may lead to where STATEDIR is by either of its
// names, as given and without links.
type Tree struct {
	root *os.Root
	dirs []string // the names of STATEDIR, clean
	path string   // STATEDIR as scripts are told, with a slash at its end
}

// Open opens STATEDIR; the caller closes it. That nodescripts/ is missing there
// is no error: no script runs then.
func Open(statedir string) (*Tree, error) {
	dir, err := filepath.Abs(statedir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory of provisioning: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory of provisioning: %w", err)
	}
	t := &Tree{root: root, dirs: []string{dir}, path: strings.TrimSuffix(dir, "/") + "/"}
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
		t.dirs = append(t.dirs, real)
	}
	return t, nil
}

// Close ends the use of the directory.
func (t *Tree) Close() error { return t.root.Close() }

// scripts is where node scripts are in STATEDIR.
const scripts = "nodescripts"

// resolve follows the symbolic links of a path relative to STATEDIR. What it
// gives has none, and is relative to STATEDIR too. A link that leaves STATEDIR
// is ErrOutside; a missing file is fs.ErrNotExist.
func (t *Tree) resolve(name string) (string, fs.FileInfo, error) {
	var at []string
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		switch word {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return "", nil, ErrOutside
			}
			at = at[:len(at)-1]
			continue
		}
		here := strings.Join(append(slices.Clip(at), word), "/")
		fi, err := t.root.Lstat(here)
		if err != nil {
			return "", nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at = append(slices.Clip(at), word)
			continue
		}
		if links++; links > maxLinks {
			return "", nil, fmt.Errorf("more than %d symbolic links", maxLinks)
		}
		to, err := t.root.Readlink(here)
		if err != nil {
			return "", nil, err
		}
		if filepath.IsAbs(to) {
			if to, err = t.within(to); err != nil {
				return "", nil, err
			}
			at = nil
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	where := "."
	if len(at) > 0 {
		where = strings.Join(at, "/")
	}
	info, err := t.root.Lstat(where)
	return where, info, err
}

// within makes the target of an absolute link relative to STATEDIR.
func (t *Tree) within(to string) (string, error) {
	for _, dir := range t.dirs {
		if to == dir {
			return ".", nil
		}
		if below, ok := strings.CutPrefix(to, strings.TrimSuffix(dir, "/")+"/"); ok {
			return below, nil
		}
	}
	return "", ErrOutside
}

// entry is one name in a folder.
type entry struct {
	name string
	mode fs.FileMode // of what a link leads to
	link string      // what a symbolic link says; empty: it is none
	err  error       // why what a link leads to cannot be used
}

// list gives what is in a folder, sorted by name; nothing when it is missing.
func (t *Tree) list(folder string) ([]entry, error) {
	where, info, err := t.resolve(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", folder, err)
	case !info.IsDir():
		return nil, fmt.Errorf("read %s: it is no folder", folder)
	}
	f, err := t.root.Open(where)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", folder, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(maxFolder + 1)
	if err != nil && len(names) == 0 && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", folder, err)
	}
	if len(names) > maxFolder {
		return nil, fmt.Errorf("read %s: %w", folder, errTooMany)
	}
	slices.Sort(names)
	var entries []entry
	for _, name := range names {
		e, err := t.entry(where, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", folder, name, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// entry looks at one name in a folder without links in its path.
func (t *Tree) entry(folder, name string) (entry, error) {
	e := entry{name: name}
	fi, err := t.root.Lstat(folder + "/" + name)
	if err != nil {
		return e, err
	}
	e.mode = fi.Mode()
	if e.mode&fs.ModeSymlink == 0 {
		return e, nil
	}
	if e.link, err = t.root.Readlink(folder + "/" + name); err != nil {
		return e, err
	}
	_, fi, e.err = t.resolve(folder + "/" + name)
	if e.err == nil {
		e.mode = fi.Mode()
	}
	return e, nil
}

// open opens the file that a path leads to, which is regular.
func (t *Tree) open(name string) (*os.File, fs.FileInfo, error) {
	where, info, err := t.resolve(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() { // opening a device can act on it
		return nil, nil, errSpecial
	}
	f, err := t.root.OpenFile(where, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = errSpecial
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
