package place

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind names what a file is, for people: "a FIFO".
func Kind(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a regular file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// Regular says what is wrong with what should be a regular file: an error that
// wraps ErrKind, or nil.
func Regular(info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%w but %s", ErrKind, Kind(info.Mode()))
}

// Links is the number of names that a file has.
func Links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}

// File opens a regular file that exists, with flag as for os.OpenFile, less
// O_CREATE and O_TRUNC. The caller closes it.
func (p *Place) File(flag int) (*os.File, fs.FileInfo, error) {
	info, err := p.Lstat() // first: to open a device can be to use it
	if err != nil {
		return nil, nil, err
	}
	if err := Regular(info); err != nil {
		return nil, nil, p.fault("open", err)
	}
	var fd int
	err = p.dirfd(func(dir int) (err error) {
		fd, err = unix.Openat(dir, p.Base, flag&^(os.O_CREATE|os.O_TRUNC)|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, nil, p.fault("open", err)
	}
	f := os.NewFile(uintptr(fd), p.path)
	if info, err = f.Stat(); err == nil {
		err = Regular(info)
	}
	if err != nil {
		f.Close()
		return nil, nil, p.fault("open", err)
	}
	return f, info, nil
}

// dirfd lends the descriptor of the directory. os.Root would follow a link in
// its own directory where we follow none.
func (p *Place) dirfd(do func(fd int) error) error {
	d, err := p.Dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// Directory opens the directory that has the name. The caller closes it.
func (p *Place) Directory() (*os.Root, error) {
	info, err := p.Lstat()
	if err != nil {
		return nil, err
	}
	dir, err := enter(p.Dir, p.Base, info)
	if err != nil {
		return nil, p.fault("open", err)
	}
	return dir, nil
}

// Link gives a regular file, that at to, this name as well. Both are on one
// file system.
func (p *Place) Link(to *Place) error {
	f, info, err := to.File(os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	err = p.dirfd(func(here int) error {
		return to.dirfd(func(there int) error { return unix.Linkat(there, to.Base, here, p.Base, 0) })
	})
	if err != nil {
		return p.fault("link", err)
	}
	if now, err := p.Lstat(); err != nil || !os.SameFile(now, info) {
		_ = p.Dir.Remove(p.Base) // whoever put another there did so in his own directory
		return p.fault("link", errChanged)
	}
	return nil
}
