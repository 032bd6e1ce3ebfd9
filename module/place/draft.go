package place

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dominion/call"
)

// DraftPrefix begins the names of drafts.
const DraftPrefix = ".dominion-"

// Draft is a file being written beside the place that it is for.
type Draft struct {
	File *os.File // for reading and writing; Commit and Discard close it
	Name string   // in the directory of the place

	place *Place
}

// As says what a draft becomes. What is left nil is that of the file which it
// replaces, with its extended attributes (access control lists, labels and
// users' own); without one, mode 0644 and the agent's user and group.
type As struct {
	Mode     *fs.FileMode // permissions, ModeSetuid, ModeSetgid, ModeSticky; nil never keeps setuid and setgid
	UID, GID *int
	ModTime  *time.Time // nil: now
	New      bool       // an error that wraps fs.ErrExist when the name is taken
	Fresh    bool       // nothing is kept of the file which it replaces
}

// Create begins a draft. What it is for is missing or a regular file; anything
// else is an error that wraps ErrKind. The draft must not outlive the place.
func (p *Place) Create() (*Draft, error) {
	return p.begin(DraftPrefix+strings.ToLower(rand.Text()), os.O_CREATE|os.O_EXCL)
}

// Resume is Create with a name that the caller chooses, at most MaxName bytes:
// it takes up the draft of that name which Keep left, and begins one when there
// is none. Somebody else's file of that name is an error that wraps ErrKind.
func (p *Place) Resume(name string) (*Draft, error) {
	if _, err := In(p.Dir, name); err != nil {
		return nil, err
	}
	d, err := p.begin(name, os.O_CREATE|os.O_EXCL)
	if !errors.Is(err, fs.ErrExist) {
		return d, err
	}
	if d, err = p.begin(name, 0); err != nil {
		return nil, err
	}
	info, err := d.File.Stat()
	if err == nil && (Regular(info) != nil || info.Mode().Perm()&0o077 != 0 || Links(info) != 1 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid())) {
		err = fmt.Errorf("%w that is the agent's alone", ErrKind)
	}
	if err != nil {
		d.File.Close()
		return nil, &fs.PathError{Op: "resume", Path: p.path, Err: err}
	}
	return d, nil
}

func (p *Place) begin(name string, flag int) (*Draft, error) {
	if p.Base == "." {
		return nil, p.fault("write", syscall.EISDIR)
	}
	if err := p.free(); err != nil {
		return nil, err
	}
	var fd int
	err := p.dirfd(func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, flag|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, p.fault("write beside", err)
	}
	return &Draft{File: os.NewFile(uintptr(fd), p.path), Name: name, place: p}, nil
}

// free says whether a draft may take the name.
func (p *Place) free() error {
	info, err := p.Lstat()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = p.fault("write", Regular(info))
	}
	return err
}

// Discard ends a draft and removes it. After Commit or Keep it does nothing.
func (d *Draft) Discard() {
	if d.File == nil {
		return
	}
	if info, err := d.File.Stat(); err == nil && d.at(d.Name, info) {
		_ = d.place.Dir.Remove(d.Name) // what is left over has its own name and mode 0600
	}
	d.close()
}

// Keep ends a draft and leaves what was written, for Resume.
func (d *Draft) Keep() error {
	err := d.File.Sync()
	d.close()
	if err != nil {
		return d.place.fault("sync", err)
	}
	return nil
}

func (d *Draft) close() {
	d.File.Close()
	d.File = nil
}

// at says that a name in the directory is that file.
func (d *Draft) at(name string, file fs.FileInfo) bool {
	info, err := d.place.Dir.Lstat(name)
	return err == nil && os.SameFile(info, file)
}

// Commit puts the draft, durably and as a whole, in place of what has the name.
// On an error nothing has changed and the draft is gone, with two exceptions:
// when somebody put something else in the draft's place, or in that of the file
// right after it was there, the error has the code call.Conflict; and when only
// the directory could not be synced the file is there.
func (d *Draft) Commit(as As) error {
	defer d.Discard()
	p := d.place
	if err := d.dress(as); err != nil {
		return err
	}
	if err := d.File.Sync(); err != nil {
		return p.fault("sync", err)
	}
	info, err := d.File.Stat()
	if err != nil {
		return p.fault("write", err)
	}
	if !d.at(d.Name, info) {
		return call.Errorf(call.Conflict, "write %s: somebody moved the file while it was written", p.path)
	}
	if err := d.rename(as.New); err != nil {
		return err
	}
	if !d.at(p.Base, info) {
		return call.Errorf(call.Conflict, "write %s: somebody put something else there at the same time", p.path)
	}
	d.close()
	return p.Sync()
}

func (d *Draft) rename(fresh bool) error {
	p := d.place
	if fresh {
		if err := d.renameNew(); err != nil {
			return p.fault("create", err)
		}
		return nil
	}
	if err := p.free(); err != nil {
		return err
	}
	if err := p.Dir.Rename(d.Name, p.Base); err != nil {
		return p.fault("write", err)
	}
	return nil
}

// renameNew takes no name that is taken.
func (d *Draft) renameNew() error {
	p := d.place
	err := p.dirfd(func(dir int) error { return unix.Renameat2(dir, d.Name, dir, p.Base, unix.RENAME_NOREPLACE) })
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// The file system does not know how, as NFS: a second name, then no first.
	if err := p.Dir.Link(d.Name, p.Base); err != nil {
		return err
	}
	return p.Dir.Remove(d.Name)
}

// Sync makes the names in the directory durable.
func (p *Place) Sync() error {
	d, err := p.Dir.Open(".")
	if err != nil {
		return p.fault("sync the directory of", err)
	}
	defer d.Close()
	// Some file systems cannot sync a directory, and say so with EINVAL.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return p.fault("sync the directory of", err)
	}
	return nil
}

// dress gives the draft owner, attributes, mode and time, in this order: a new
// owner takes the setuid bit away.
func (d *Draft) dress(as As) error {
	p := d.place
	mode, uid, gid := fs.FileMode(0o644), -1, -1
	if !as.Fresh && !as.New {
		old, info, err := p.File(os.O_RDONLY)
		switch {
		case err == nil:
			defer old.Close()
			st := info.Sys().(*syscall.Stat_t)
			mode, uid, gid = info.Mode().Perm()|info.Mode()&fs.ModeSticky, int(st.Uid), int(st.Gid)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := d.own(as, uid, gid); err != nil {
			return err
		}
		if old != nil {
			copyAttributes(old, d.File)
		}
	} else if err := d.own(as, uid, gid); err != nil {
		return err
	}
	if as.Mode != nil {
		mode = *as.Mode
	}
	if err := d.File.Chmod(mode); err != nil {
		return p.fault("set mode of", err)
	}
	if as.ModTime != nil {
		if err := setTime(d.File, *as.ModTime); err != nil {
			return p.fault("set time of", err)
		}
	}
	return nil
}

func (d *Draft) own(as As, uid, gid int) error {
	if as.UID != nil {
		uid = *as.UID
	}
	if as.GID != nil {
		gid = *as.GID
	}
	if uid < 0 && gid < 0 {
		return nil
	}
	if err := d.File.Chown(uid, gid); err != nil {
		return d.place.fault("set owner of", err)
	}
	return nil
}

// setTime is futimens(3), for which there is no function that takes a file.
func setTime(f *os.File, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	times := [2]unix.Timespec{ts, ts}
	_, _, no := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0) //nolint:gosec // the array outlives the call
	if no != 0 {
		return no
	}
	return nil
}
