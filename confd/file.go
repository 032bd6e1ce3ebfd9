package confd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	// pollEvery is how often a file is looked at.
	pollEvery = 100 * time.Millisecond
	// settled is how old a file's change must be before its time stamp is
	// believed to tell it from a later one.
	settled = 2 * time.Second
	// goneAfter is how many looks in a row must miss the file before its data
	// are dropped: whoever replaces it may remove it first.
	goneAfter = 3
)

// Follower keeps a server's data those of a file.
type Follower struct{ follower }

// Load reads a file for a server. Follow, of what it gives, goes on from there.
// There is no error: without good data the server answers why.
func (s *Server) Load(path string) *Follower {
	f := &Follower{follower{s: s, path: path}}
	f.look()
	return f
}

// Follow reads the file again whenever it is replaced or rewritten, which is
// seen within 0.1 s, until ctx ends. A new version that is broken does not
// replace good data; the log says so. A file that is removed takes the data with
// it, as in the original: a machine that is no candidate any more loses it.
func (f *Follower) Follow(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look()
		}
	}
}

type follower struct {
	s    *Server
	path string

	seen   version
	young  bool // the file may have changed since without showing it
	sum    [sha256.Size]byte
	have   bool // sum is that of something
	misses int
	last   string // the last error in the log
}

// version tells one state of a file from another.
type version struct {
	dev, inode   uint64
	size         int64
	mtime, ctime int64 // in nanoseconds
}

func versionOf(info fs.FileInfo) version {
	v := version{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.dev, v.inode, v.ctime = uint64(st.Dev), st.Ino, st.Ctim.Nano()
	}
	return v
}

// look reads the file if it may have changed.
func (f *follower) look() {
	info, err := os.Stat(f.path)
	if err != nil {
		f.missing(err)
		return
	}
	f.misses = 0
	if v := versionOf(info); v == f.seen && !f.young {
		return
	}
	b, v, err := readVersion(f.path)
	if err != nil {
		f.missing(err)
		return
	}
	f.seen, f.young = v, time.Since(time.Unix(0, max(v.mtime, v.ctime))).Abs() < settled
	sum := sha256.Sum256(b)
	if f.have && sum == f.sum {
		return
	}
	f.sum, f.have = sum, true
	f.take(b)
}

// take makes new data of the file's content.
func (f *follower) take(b []byte) {
	c, err := ParseConfig(b)
	if err == nil {
		f.s.SetData(c)
		f.last = ""
		f.s.log.Info("cluster data loaded", "file", f.path, "serial", c.Serial(), "nodes", c.Nodes())
		return
	}
	if old := f.s.Data(); old != nil {
		if !f.told(err) {
			f.s.log.Error("cluster data broken, serving the last good ones", "file", f.path, "error", err, "serial", old.Serial())
		}
		return
	}
	f.s.SetError(fmt.Sprintf("Cannot load configuration from %s: %v", f.path, err))
	if !f.told(err) {
		f.s.log.Error("cluster data broken, and there are none to serve", "file", f.path, "error", err)
	}
}

// missing notes that the file cannot be read.
func (f *follower) missing(err error) {
	if f.misses++; f.misses < goneAfter && f.s.Data() != nil {
		return
	}
	why := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err
	}
	text := fmt.Sprintf("Failure during configuration update: %s: getFileStatus: %v", f.path, why)
	if errors.Is(err, fs.ErrNotExist) {
		text = fmt.Sprintf("Failure during configuration update: %s: getFileStatus: does not exist (No such file or directory)", f.path)
	}
	f.s.SetError(text)
	f.seen, f.have = version{}, false
	if !f.told(err) {
		f.s.log.Error("cluster data cannot be read", "file", f.path, "error", err)
	}
}

// told says whether an error was the last one in the log already, and notes it.
func (f *follower) told(err error) bool {
	before := f.last
	f.last = err.Error()
	return f.last == before
}

// readVersion reads a file and says which version of it that was.
func readVersion(path string) ([]byte, version, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, version{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, version{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, version{}, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no regular file")}
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(file, MaxConfig+1))
	return b.Bytes(), versionOf(info), err
}
