package copy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dominion/blob"
	"dominion/call"
	"dominion/module/place"
)

// partName is what a file is called while it is written.
func partName(d blob.Digest) string {
	return place.DraftPrefix + "copy-" + hex.EncodeToString(d[:8]) + ".part"
}

func sumOf(b []byte) blob.Digest { return sha256.Sum256(b) }

// limited keeps what is written to it, up to a limit.
type limited struct {
	buf bytes.Buffer
	max int64
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	if int64(l.buf.Len()+len(b)) > l.max {
		return 0, errors.New("more than it was said to be")
	}
	return l.buf.Write(b)
}

// modeOf gives the permissions of an entry. Who runs a file with another's rights must
// be said with it.
func modeOf(e *blob.Entry) fs.FileMode {
	mode := fs.FileMode(e.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&bit != 0 && (e.Owner != nil || bit == 0o1000) {
			mode |= m
		}
	}
	return mode
}

const permissions = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// ids gives the numbers of an owner here; false: it is nobody in particular.
func ids(o *blob.Owner) (uid, gid int, ok bool) {
	if o == nil {
		return -1, -1, false
	}
	uid, gid = int(o.UID), int(o.GID)
	if u, err := user.Lookup(o.User); err == nil && o.User != "" {
		if n, err := strconv.Atoi(u.Uid); err == nil {
			uid = n
		}
	}
	if g, err := user.LookupGroup(o.Group); err == nil && o.Group != "" {
		if n, err := strconv.Atoi(g.Gid); err == nil {
			gid = n
		}
	}
	return uid, gid, true
}

// dressed says whether something has the mode, owner and time of its entry.
func dressed(info fs.FileInfo, e *blob.Entry) bool {
	if info.Mode()&permissions != modeOf(e) || info.ModTime().UnixNano() != e.Mtime {
		return false
	}
	uid, gid, ok := ids(e.Owner)
	st, known := info.Sys().(*syscall.Stat_t)
	return !ok || known && int(st.Uid) == uid && int(st.Gid) == gid
}

// file brings a file about.
func (p *putter) file(at *place.Place, e *blob.Entry) error {
	done := p.have + e.Size
	defer func() { p.have = done; p.tell(false) }()
	info, err := at.Lstat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if err := place.Regular(info); err != nil {
			return fmt.Errorf("write %s: %w", at.Path(), err)
		}
		same, err := p.same(at, info, e)
		if err != nil {
			return err
		}
		if same && dressed(info, e) {
			return nil
		}
		if same {
			if done, err := p.mend(at, e); done || err != nil {
				return err
			}
		}
	}
	if !p.in.DryRun {
		if err := p.write(at, e); err != nil {
			return err
		}
	}
	p.count(e)
	return nil
}

// same says whether a file has the bytes that it is to have. Without checksum a file of
// the same size and time is believed to.
func (p *putter) same(at *place.Place, info fs.FileInfo, e *blob.Entry) (bool, error) {
	if info.Size() != e.Size {
		return false, nil
	}
	if !p.in.Checksum && info.ModTime().UnixNano() == e.Mtime {
		return true, nil
	}
	f, _, err := at.File(os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := p.hash(sum, f, e.Size+1); err != nil {
		return false, err
	}
	return blob.Digest(sum.Sum(nil)) == *e.Digest, nil
}

// hash reads at most n bytes.
func (p *putter) hash(sum hash.Hash, f io.Reader, n int64) (int64, error) {
	var read int64
	for r := io.LimitReader(f, n); ; {
		if p.ctx.Err() != nil {
			return read, context.Cause(p.ctx)
		}
		k, err := r.Read(p.buf)
		sum.Write(p.buf[:k])
		read += int64(k)
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
}

// mend gives a file that has its bytes the mode, owner and time. One that may have
// other names, which are somebody else's affair, is written anew: false. So is one that
// runs with its owner's rights: whoever can write to the directory could have put his own
// there, of the same size and time, or in the moment since its bytes were read.
func (p *putter) mend(at *place.Place, e *blob.Entry) (bool, error) {
	f, info, err := at.File(os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !at.Trusted && (place.Links(info) != 1 || modeOf(e)&(fs.ModeSetuid|fs.ModeSetgid) != 0) {
		return false, nil
	}
	p.out.Changed = true
	p.out.Written++
	if p.in.DryRun {
		return true, nil
	}
	if uid, gid, ok := ids(e.Owner); ok {
		if err := f.Chown(uid, gid); err != nil {
			return true, err
		}
	}
	if err := f.Chmod(modeOf(e)); err != nil {
		return true, err
	}
	return true, place.SetTime(f, time.Unix(0, e.Mtime))
}

// write writes a file anew. What came is kept when the rest does not, unless the disk
// is full.
func (p *putter) write(at *place.Place, e *blob.Entry) error {
	d, err := p.alone(at, e)
	if err != nil {
		return err
	}
	defer d.Discard()
	w := &writer{p: p, file: d.File, sparse: e.Sparse, sum: sha256.New(), began: p.have}
	if err := w.resume(e); err != nil {
		return fmt.Errorf("write %s: %w", at.Path(), err)
	}
	if err := p.pull(*e.Digest, e.Size, w.have, w); err != nil {
		if _, ours := errors.AsType[*writeError](err); !ours {
			return errors.Join(fmt.Errorf("write %s: %w", at.Path(), err), d.Keep())
		}
		return fmt.Errorf("write %s: %w", at.Path(), err)
	}
	if got := blob.Digest(w.sum.Sum(nil)); got != *e.Digest {
		return call.Errorf(call.Failed, "write %s: other bytes came than those of %s", at.Path(), e.Digest)
	}
	if err := d.File.Truncate(e.Size); err != nil {
		return fmt.Errorf("write %s: %w", at.Path(), err)
	}
	as := place.As{Mode: new(modeOf(e)), ModTime: new(time.Unix(0, e.Mtime))}
	if uid, gid, ok := ids(e.Owner); ok {
		as.UID, as.GID = &uid, &gid
	}
	return d.Commit(as)
}

// How long another copy that writes the same file is waited for: one that the overlord
// has given up ends soon.
const (
	alonePatience = time.Minute
	aloneEvery    = 50 * time.Millisecond
	goneTries     = 20
)

// alone begins, or takes up, the draft of a file when nobody else writes it.
func (p *putter) alone(at *place.Place, e *blob.Entry) (*place.Draft, error) {
	gone := 0
	for began := time.Now(); ; {
		d, err := at.Resume(partName(*e.Digest))
		waited := time.Since(began)
		if errors.Is(err, fs.ErrNotExist) { // it was there, and then put in place; or the directory is gone
			gone++
		}
		busy := errors.Is(err, place.ErrKind) && dressing(at, e) || errors.Is(err, fs.ErrNotExist) && gone <= goneTries
		if err != nil && (!busy || waited > alonePatience) {
			return nil, err
		}
		if err == nil {
			err = unix.Flock(int(d.File.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if info, statErr := d.File.Stat(); err == nil && statErr == nil && place.Links(info) == 1 {
				return d, nil
			}
			d.File.Close() // the other one's: it is not to be discarded
			if err != nil && !errors.Is(err, unix.EWOULDBLOCK) || waited > alonePatience {
				return nil, call.Errorf(call.Busy, "write %s: another copy writes the same file at this moment", at.Path())
			}
		}
		t := time.NewTimer(aloneEvery)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return nil, context.Cause(p.ctx)
		}
	}
}

// dressing says whether another copy has given the draft its mode already, and is about
// to put it in place.
func dressing(at *place.Place, e *blob.Entry) bool {
	info, err := at.Dir.Lstat(partName(*e.Digest))
	if errors.Is(err, fs.ErrNotExist) { // it just was; or what is in the place is the trouble
		info, err = at.Lstat()
		return err == nil && info.Mode().IsRegular()
	}
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	uid, _, _ := ids(e.Owner)
	return ok && info.Mode().IsRegular() && (int(st.Uid) == os.Geteuid() || int(st.Uid) == uid)
}

// writer appends to a file that is written.
type writer struct {
	p      *putter
	file   *os.File
	sparse bool
	sum    hash.Hash
	have   int64
	began  int64 // what the putter had before this file
}

// resume reads what came before, and looks whether there is room for the rest.
func (w *writer) resume(e *blob.Entry) error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= e.Size {
		if w.have, err = w.p.hash(w.sum, w.file, e.Size); err != nil {
			return err
		}
	}
	if w.have < e.Size || info.Size() > e.Size {
		if err := w.file.Truncate(w.have); err != nil {
			return err
		}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(w.file.Fd()), &st); err == nil && !w.sparse {
		if free, need := int64(st.Bavail)*st.Bsize, e.Size-w.have; need > free { //nolint:unconvert // of another type on other machines
			return call.Errorf(call.Failed, "no space left on the disk: %d more bytes are needed and %d are free", need, free)
		}
	}
	return nil
}

// Write implements io.Writer.
func (w *writer) Write(b []byte) (int, error) {
	var err error
	if w.sparse {
		err = blob.WriteSparse(w.file, b, w.have)
	} else {
		_, err = w.file.WriteAt(b, w.have)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // whoever tells of it names the file
	}
	if err != nil {
		return 0, err
	}
	w.sum.Write(b)
	w.have += int64(len(b))
	w.p.have = w.began + w.have
	w.p.tell(false)
	return len(b), nil
}

// link makes a symbolic link, in the place of another one or of a file.
func (p *putter) link(at *place.Place, e *blob.Entry) error {
	info, err := at.Lstat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		if to, err := at.Dir.Readlink(at.Base); err == nil && to == e.Target {
			return nil
		}
	default:
		if err := place.Regular(info); err != nil {
			return fmt.Errorf("write %s: %w", at.Path(), err)
		}
	}
	p.count(e)
	if p.in.DryRun {
		return nil
	}
	draft := place.DraftPrefix + strings.ToLower(rand.Text())
	if err := at.Dir.Symlink(e.Target, draft); err != nil {
		return err
	}
	if err := at.Dir.Rename(draft, at.Base); err != nil {
		return errors.Join(err, at.Dir.Remove(draft))
	}
	return nil
}
