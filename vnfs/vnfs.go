// Package vnfs keeps capsules: what a node boots and runs, in a directory of its
// own below STATEDIR/vnfs. STATEDIR is that of provisioning, so that nodes fetch
// a capsule's files as vnfs/NAME/FILE.
//
// A capsule has these files, each of which may be missing, and whatever else its maker
// put there:
//
//	rootfs.tar.gz  or another rootfs.tar*, rootfs.squashfs, vnfs.img: the root file system
//	kernel         what its nodes boot to be provisioned
//	initramfs      likewise: it holds provisiond and the modules of that kernel
//	nodescripts/   STATE/FILE: node scripts that apply to nodes with this capsule
//
// A root file system is imported by packing it into rootfs.tar.gz, with owners,
// modes, times, hard links, devices and extended attributes. What is a capsule
// already, a directory or what Export or Perceus wrote, is copied file by file.
//
// Perceus' capsules (.vnfs, a bzip2 tar) are read, too. Their programs (mount,
// configure, install …) are kept and never run.
package vnfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names within STATEDIR.
const (
	folder  = "vnfs"
	scripts = "nodescripts"
	temp    = ".new-" // begins the names of what is not complete
)

// MaxName is the longest name of a capsule, in bytes.
const MaxName = 64

// The errors that a user can mend. What wraps them says more.
var (
	ErrName   = errors.New("no name of a capsule")
	ErrExists = errors.New("there is a capsule of that name")
	ErrNone   = errors.New("there is no capsule of that name")
	ErrSource = errors.New("neither a capsule nor a root file system")
)

// CheckName says whether a capsule can be called so: letters, digits, "-", "_" and
// ".", not first, at most MaxName. The error wraps ErrName.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName && name[0] != '.' && name[0] != '-' &&
		strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") == ""
	if !ok {
		return fmt.Errorf("%.80q is %w: letters, digits, \"-\", \"_\" and \".\", at most %d, beginning with a letter, a digit or \"_\"", name, ErrName, MaxName)
	}
	return nil
}

// Capsule is what is known of one. Paths are relative to STATEDIR, as getfile takes
// them; an empty one means that there is no such file.
type Capsule struct {
	Name      string
	Kernel    string
	Initramfs string
	Image     string
	Scripts   []string // STATE/FILE of its node scripts, sorted
	Size      int64    // bytes of its files
	Made      time.Time
}

// Store is the capsules of one STATEDIR. Several may be changed at a time; a
// capsule is there as a whole or not at all.
type Store struct {
	root *os.Root
	dir  string
}

// Open opens the capsules below a directory, which must be there.
func Open(statedir string) (*Store, error) {
	dir, err := filepath.Abs(statedir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory of provisioning: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory of provisioning: %w", err)
	}
	return &Store{root: root, dir: dir}, nil
}

// Dir is the directory that the capsules are below, STATEDIR.
func (s *Store) Dir() string { return s.dir }

// Close ends the use of the directory.
func (s *Store) Close() error { return s.root.Close() }

// names gives the names of the entries of a directory; none when it is not there.
func (s *Store) names(dir string) ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// List gives all capsules, by name.
func (s *Store) List() ([]Capsule, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var out []Capsule
	for _, name := range names {
		c, err := s.Get(name)
		if errors.Is(err, ErrNone) { // gone meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// Names gives the names of all capsules, sorted, without looking into them.
func (s *Store) Names() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list capsules: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Get gives one capsule. The error wraps ErrName or ErrNone.
func (s *Store) Get(name string) (Capsule, error) {
	if err := CheckName(name); err != nil {
		return Capsule{}, err
	}
	at := path.Join(folder, name)
	info, err := s.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return Capsule{}, fmt.Errorf("%q: %w", name, ErrNone)
	}
	if err != nil {
		return Capsule{}, fmt.Errorf("read capsule %q: %w", name, err)
	}
	c := Capsule{Name: name, Made: info.ModTime()}
	err = fs.WalkDir(s.root.FS(), at, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			c.Size += info.Size()
		}
		c.take(strings.TrimPrefix(p, at+"/"))
		return nil
	})
	if err != nil {
		return Capsule{}, fmt.Errorf("read capsule %q: %w", name, err)
	}
	slices.Sort(c.Scripts)
	return c, nil
}

// Names of files with a role; of the images the first that is there counts.
const (
	kernelName    = "kernel"
	initramfsName = "initramfs"
	perceusKernel = "vmlinuz" // of a Perceus capsule, for kexec: nothing that provisions a node
	perceusImage  = "vnfs.img"
)

var imageNames = []string{"rootfs.tar.gz", "rootfs.tar.zst", "rootfs.tar.xz", "rootfs.tar", "rootfs.squashfs", perceusImage}

// take notes a file of the capsule.
func (c *Capsule) take(file string) {
	at := path.Join(folder, c.Name, file)
	switch rank, had := slices.Index(imageNames, file), slices.Index(imageNames, path.Base(c.Image)); {
	case file == kernelName:
		c.Kernel = at
	case file == initramfsName:
		c.Initramfs = at
	case rank >= 0 && (had < 0 || rank < had):
		c.Image = at
	}
	if rest, ok := strings.CutPrefix(file, scripts+"/"); ok && strings.Count(rest, "/") == 1 {
		c.Scripts = append(c.Scripts, rest)
	}
}

// link makes the capsule's node scripts apply to its nodes.
func (s *Store) link(c Capsule) error {
	for _, script := range c.Scripts {
		state, file := path.Split(script)
		dir := path.Join(scripts, state, folder, c.Name)
		if err := s.root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("link the node scripts of capsule %q: %w", c.Name, err)
		}
		at, to := path.Join(dir, file), linkTo(c.Name, script)
		if had, err := s.root.Readlink(at); err == nil && had == to {
			continue
		}
		if err := s.root.Symlink(to, at); err != nil {
			return fmt.Errorf("link the node scripts of capsule %q: %w", c.Name, err)
		}
	}
	return nil
}

// linkTo is where the link of a capsule's script leads: from nodescripts/STATE/vnfs/NAME.
func linkTo(name, script string) string {
	return path.Join("../../../..", folder, name, scripts, script)
}

// unlink removes the links that lead into a capsule, and gives what else is in their
// place, which stays.
func (s *Store) unlink(name string) (stays []string, err error) {
	states, err := s.names(scripts)
	if err != nil {
		return nil, fmt.Errorf("unlink the node scripts of capsule %q: %w", name, err)
	}
	for _, state := range states {
		dir := path.Join(scripts, state, folder, name)
		files, err := s.names(dir)
		if err != nil {
			return stays, fmt.Errorf("unlink the node scripts of capsule %q: %w", name, err)
		}
		kept := 0
		for _, file := range files {
			at := path.Join(dir, file)
			to, err := s.root.Readlink(at)
			if err != nil || !s.leadsInto(dir, to, name) {
				stays = append(stays, at)
				kept++
				continue
			}
			if err := s.root.Remove(at); err != nil {
				return stays, fmt.Errorf("unlink the node scripts of capsule %q: %w", name, err)
			}
		}
		if kept == 0 && len(files) > 0 {
			if err := s.root.Remove(dir); err != nil {
				return stays, fmt.Errorf("unlink the node scripts of capsule %q: %w", name, err)
			}
		}
	}
	return stays, nil
}

// leadsInto says whether a link in a directory leads into a capsule, written
// relatively or, as Perceus did, absolutely.
func (s *Store) leadsInto(dir, to, name string) bool {
	if path.IsAbs(to) {
		rest, ok := strings.CutPrefix(path.Clean(to), s.dir+"/")
		return ok && strings.HasPrefix(rest, folder+"/"+name+"/")
	}
	return strings.HasPrefix(path.Join(dir, to), folder+"/"+name+"/")
}

// Delete removes a capsule and the links to its scripts. It gives node scripts of its
// nodes that are not the capsule's and stay.
func (s *Store) Delete(name string) (stays []string, err error) {
	if _, err := s.Get(name); err != nil {
		return nil, err
	}
	gone := path.Join(folder, temp+randomText())
	if err := s.root.Rename(path.Join(folder, name), gone); err != nil { // nodes see all of it, or nothing
		return nil, fmt.Errorf("delete capsule %q: %w", name, err)
	}
	stays, err = s.unlink(name)
	if rest := s.root.RemoveAll(gone); rest != nil {
		err = errors.Join(err, fmt.Errorf("delete capsule %q: %w", name, rest))
	}
	return stays, err
}

// claim gives a temporary directory for a new capsule, and what puts it in its place
// or, without keep, away.
func (s *Store) claim(name string) (at string, end func(keep bool) error, err error) {
	if err := CheckName(name); err != nil {
		return "", nil, err
	}
	if _, err := s.root.Lstat(path.Join(folder, name)); err == nil {
		return "", nil, fmt.Errorf("%q: %w", name, ErrExists)
	}
	at = path.Join(folder, temp+randomText())
	if err := s.root.MkdirAll(at, 0o755); err != nil {
		return "", nil, fmt.Errorf("make capsule %q: %w", name, err)
	}
	return at, func(keep bool) error {
		if !keep {
			return s.root.RemoveAll(at)
		}
		// A directory does not take the place of one that is not empty (rename(2)).
		if err := s.root.Rename(at, path.Join(folder, name)); err != nil {
			if errors.Is(err, fs.ErrExist) {
				err = fmt.Errorf("%q: %w", name, ErrExists)
			}
			return errors.Join(err, s.root.RemoveAll(at))
		}
		return nil
	}, nil
}

// Clone copies a capsule.
func (s *Store) Clone(name, to string) (Capsule, error) {
	if _, err := s.Get(name); err != nil {
		return Capsule{}, err
	}
	at, end, err := s.claim(to)
	if err != nil {
		return Capsule{}, err
	}
	if err := s.copyTree(path.Join(folder, name), at); err != nil {
		return Capsule{}, errors.Join(fmt.Errorf("clone capsule %q: %w", name, err), end(false))
	}
	return s.finish(to, end)
}

// finish puts a new capsule in its place and links its scripts.
func (s *Store) finish(name string, end func(keep bool) error) (Capsule, error) {
	if err := end(true); err != nil {
		return Capsule{}, fmt.Errorf("make capsule %q: %w", name, err)
	}
	c, err := s.Get(name)
	if err != nil {
		return c, err
	}
	return c, s.link(c)
}
