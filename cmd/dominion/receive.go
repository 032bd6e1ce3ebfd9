package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"dominion/blob"
	"dominion/module/copy"
)

// minResume is the size from which on a file goes on where it broke off.
const minResume = 1 << 20

// receiver writes what one machine sends below a directory of its own, and never
// outside of it, whatever it sends.
type receiver struct {
	dir  string
	path string // what was asked for, on the machine

	root *os.Root
	err  error // why nothing more is taken
	done bool  // the end came

	head  []byte // a frame that has not come whole, or a digest
	frame *copy.Frame
	file  *os.File // of frame; nil: it is to be begun
	part  string
	left  int64 // bytes that are to come of it
	at    int64
	sum   hash.Hash
}

func newReceiver(dir, machine, asked string) *receiver {
	return &receiver{dir: filepath.Join(dir, machine), path: asked}
}

func (r *receiver) fail(err error) {
	if r.err == nil && !r.done {
		r.err = err
	}
}

// problem says what did not arrive; empty: everything did.
func (r *receiver) problem() string {
	switch {
	case r.err != nil:
		return r.err.Error()
	case !r.done:
		return "the end is missing"
	}
	return ""
}

func (r *receiver) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
	if r.root != nil {
		r.root.Close()
		r.root = nil
	}
}

// take takes the next bytes that the machine sent.
func (r *receiver) take(b []byte) {
	for len(b) > 0 && r.err == nil {
		if r.done {
			r.err = errors.New("it sent something after the end")
			return
		}
		n, err := r.some(b)
		if err != nil {
			r.err = err
			r.close()
			return
		}
		b = b[n:]
	}
}

// some takes at least one byte.
func (r *receiver) some(b []byte) (int, error) {
	switch {
	case r.frame == nil:
		return r.header(b)
	case r.left > 0:
		n := int(min(int64(len(b)), r.left))
		if err := r.write(b[:n]); err != nil {
			return 0, fmt.Errorf("write %s: %w", r.frame.Path, err)
		}
		return n, nil
	}
	n := min(sha256.Size-len(r.head), len(b))
	if r.head = append(r.head, b[:n]...); len(r.head) < sha256.Size {
		return n, nil
	}
	err := r.finish(blob.Digest(r.head))
	r.head, r.frame = nil, nil
	return n, err
}

// header takes bytes of a frame's head.
func (r *receiver) header(b []byte) (int, error) {
	before := len(r.head)
	r.head = append(r.head, b[:min(len(b), copy.MaxFrame+binary.MaxVarintLen64)]...)
	length, n := binary.Uvarint(r.head)
	if n < 0 || length > copy.MaxFrame || n == 0 && len(r.head) >= binary.MaxVarintLen64 {
		return 0, errFrame
	}
	if n == 0 || uint64(len(r.head)-n) < length {
		return len(r.head) - before, nil
	}
	end := n + int(length)
	f := new(copy.Frame)
	if err := json.Unmarshal(r.head[n:end], f); err != nil {
		return 0, errFrame
	}
	r.head = nil
	return end - before, r.begin(f)
}

var errFrame = errors.New("it sent something that cannot be read")

// begin begins with what a frame describes.
func (r *receiver) begin(f *copy.Frame) error {
	if f.End {
		r.done = true
		r.close()
		r.forget()
		return nil
	}
	if err := blob.CheckPath(f.Path); err != nil || f.Size < 0 || f.Offset < 0 || f.Offset > f.Size || f.Mode > 0o777 || f.Type != blob.File && f.Type != blob.Dir {
		return errFrame
	}
	if r.root == nil {
		if err := os.MkdirAll(r.dir, 0o755); err != nil { //nolint:gosec // as the user's umask says
			return err
		}
		root, err := os.OpenRoot(r.dir)
		if err != nil {
			return err
		}
		r.root = root
	}
	name := r.name(f.Path)
	if f.Type == blob.Dir {
		return r.makeDir(name, fs.FileMode(f.Mode))
	}
	if up := path.Dir(name); up != "." {
		if err := r.root.MkdirAll(up, 0o755); err != nil {
			return err
		}
	}
	r.frame, r.at, r.left, r.sum = f, f.Offset, f.Size-f.Offset, sha256.New()
	return r.open(name)
}

// name is where something goes, below the machine's directory.
func (r *receiver) name(p string) string {
	return path.Join(strings.TrimPrefix(r.path, "/"), p)
}

func (r *receiver) makeDir(name string, mode fs.FileMode) error {
	if name == "." || name == "" {
		return nil
	}
	if err := r.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	return r.root.Chmod(name, mode|0o700)
}

// partOf is what a file is called until it is whole.
func partOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return path.Join(path.Dir(name), ".dominion-"+hex.EncodeToString(sum[:8])+".part")
}

// open opens the file that is written, at the offset where it goes on.
func (r *receiver) open(name string) error {
	r.part = partOf(name)
	flag := os.O_RDWR | os.O_CREATE
	if r.at == 0 {
		if err := r.root.Remove(r.part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		flag |= os.O_EXCL
	}
	f, err := r.root.OpenFile(r.part, flag, 0o600)
	if err != nil {
		return err
	}
	r.file = f
	if n, err := io.Copy(r.sum, io.LimitReader(f, r.at)); err != nil || n != r.at {
		return fmt.Errorf("it goes on at %d of %s, of which %d bytes are here: %v", r.at, r.frame.Path, n, err)
	}
	if err := f.Truncate(r.at); err != nil {
		return err
	}
	return r.note()
}

func (r *receiver) write(b []byte) error {
	var err error
	if r.frame.Sparse {
		err = blob.WriteSparse(r.file, b, r.at)
	} else {
		_, err = r.file.WriteAt(b, r.at)
	}
	if err != nil {
		return err
	}
	r.sum.Write(b)
	r.at += int64(len(b))
	r.left -= int64(len(b))
	return nil
}

// finish gives a file its name, if it has the digest.
func (r *receiver) finish(d blob.Digest) error {
	f, name := r.file, r.name(r.frame.Path)
	r.file = nil
	defer f.Close()
	if blob.Digest(r.sum.Sum(nil)) != d {
		return errors.Join(fmt.Errorf("%s arrived with other bytes", r.frame.Path), r.root.Remove(r.part))
	}
	t := time.Unix(0, r.frame.Mtime)
	if err := errors.Join(f.Chmod(fs.FileMode(r.frame.Mode)), f.Sync(), r.root.Chtimes(r.part, t, t)); err != nil {
		return err
	}
	return r.root.Rename(r.part, name)
}

// notePath is where it is noted of which file a part is here.
func notePath(asked string) string {
	sum := sha256.Sum256([]byte(asked))
	return ".dominion-fetch-" + hex.EncodeToString(sum[:8])
}

// note notes what is written, if it is worth to go on with it.
func (r *receiver) note() error {
	if r.frame.Size < minResume {
		return nil
	}
	text := copy.Resume{Size: r.frame.Size, Mtime: r.frame.Mtime, Path: r.frame.Path}.String()
	return r.root.WriteFile(notePath(r.path), []byte(text), 0o600)
}

func (r *receiver) forget() {
	_ = os.Remove(filepath.Join(r.dir, notePath(r.path))) // it says nothing any more
}

// resumeOf says where a machine is to go on.
func resumeOf(dir, asked string) (text string, ok bool) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", false
	}
	defer root.Close()
	b, err := root.ReadFile(notePath(asked))
	if err != nil {
		return "", false
	}
	n, err := copy.ParseResume(string(bytes.TrimSpace(b)))
	if err != nil || blob.CheckPath(n.Path) != nil {
		return "", false
	}
	name := path.Join(strings.TrimPrefix(asked, "/"), n.Path)
	if st, err := root.Lstat(partOf(name)); err == nil && st.Mode().IsRegular() && st.Size() <= n.Size {
		n.Offset = st.Size()
		return n.String(), true
	}
	if _, err := root.Lstat(name); err == nil { // it is whole: what follows is missing
		n.Offset = 0
		return n.String(), true
	}
	return "", false
}

// timeSince gives seconds.
func timeSince(t time.Time) float64 { return time.Since(t).Seconds() }
