package blob

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"dominion/call"
)

// DefaultMax is how much a Store keeps when it is not told.
const DefaultMax = 20 << 30

// Times of fetching.
const (
	defaultPatience = time.Minute
	linger          = 5 * time.Second // that a file is fetched on when nobody reads it any more
	touchEvery      = time.Minute     // between notes on the disk that a file was used
)

// Options are what a Store is made of. The zero value works.
type Options struct {
	// Max is how many bytes are kept; 0: DefaultMax. What was not used for the longest
	// time goes first, and what is being read or fetched stays.
	Max int64
	// Patience is how long a source may give nothing before who waits for it is told;
	// 0: a minute.
	Patience time.Duration
	Log      *slog.Logger // nil: silent
}

// From asks a source for the bytes of a file from an offset on. The Store reads what
// it gives in one goroutine and closes it, also from another one, to end that. An
// error, or an end that is too early, makes the Store ask again, unless its code is
// one of those that say that there is no use: see call.Error.
type From func(ctx context.Context, offset int64) (io.ReadCloser, error)

// Store is a directory of files. Its methods are safe for concurrent use. Nobody
// else writes to the directory.
type Store struct {
	opt     Options
	root    *os.Root
	flights sync.WaitGroup

	mu      sync.Mutex // covers what follows, and every file
	files   map[Digest]*file
	uploads map[UploadID]*upload
	pins    map[Digest]int
	used    int64 // bytes of all files, with those that are still to come of what is fetched
	closed  bool
}

// file is one file; Store.mu covers it.
type file struct {
	digest Digest
	size   int64 // -1: an earlier process began to fetch it
	have   int64 // bytes on the disk
	whole  bool  // they have the digest
	kept   bool  // and their name
	at     time.Time
	noted  time.Time // at, on the disk

	readers int
	flight  *flight       // nil: nobody fetches it
	err     error         // why it is not fetched on
	change  chan struct{} // closed and made anew when any of the above changes that a reader may wait for
}

const partSuffix = ".part"

func (f *file) name() string {
	if f.kept {
		return f.digest.hex()
	}
	return f.digest.hex() + partSuffix
}

// news wakes who reads; mu is held.
func (f *file) news() {
	close(f.change)
	f.change = make(chan struct{})
}

// Open opens a directory, which it makes with mode 0700 if it is missing. The caller
// closes the Store.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Max == 0 {
		opt.Max = DefaultMax
	}
	if opt.Patience == 0 {
		opt.Patience = defaultPatience
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of blobs: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of blobs: %w", err)
	}
	s := &Store{opt: opt, root: root, files: make(map[Digest]*file), uploads: make(map[UploadID]*upload), pins: make(map[Digest]int)}
	if err := s.load(); err != nil {
		root.Close()
		return nil, fmt.Errorf("read the directory of blobs: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.room(0, nil) // what is over the limit and cannot go was logged
	return s, nil
}

// load finds what an earlier process kept.
func (s *Store) load() error {
	list, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range list {
		if s.loadUpload(e) {
			continue
		}
		digits, part := strings.CutSuffix(e.Name(), partSuffix)
		d, err := ParseDigest(digestPrefix + digits)
		if err != nil || !e.Type().IsRegular() {
			s.opt.Log.Warn("not a blob, and left alone", "name", e.Name())
			continue
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		f := &file{digest: d, size: st.Size(), have: st.Size(), whole: !part, kept: !part, at: st.ModTime(), noted: st.ModTime(), change: make(chan struct{})}
		if part {
			f.size = -1
			if s.files[d] != nil { // the whole one, whose name sorts before
				s.remove(f)
				continue
			}
		}
		s.files[d] = f
		s.used += f.have
	}
	return nil
}

// loadUpload says whether something in the directory is an upload.
func (s *Store) loadUpload(e fs.DirEntry) bool {
	digits, ok := strings.CutSuffix(e.Name(), uploadSuffix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(UploadID{}) || UploadID(b).name() != e.Name() || !e.Type().IsRegular() {
		return false
	}
	id := UploadID(b)
	st, err := e.Info()
	if err != nil {
		return false
	}
	s.uploads[id] = &upload{have: st.Size(), at: st.ModTime()}
	s.used += st.Size()
	return true
}

// Close ends what is fetched and waits for it. Readers stay for their owners to close.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, f := range s.files {
		if f.flight != nil {
			f.flight.cancel(errClosed)
		}
	}
	s.mu.Unlock()
	s.flights.Wait()
	return s.root.Close()
}

var errClosed = call.Errorf(call.Unavailable, "the directory of blobs is closed")

// Open gives a reader of a file that is here or being fetched; the error wraps
// fs.ErrNotExist if it is neither. The caller closes the reader.
func (s *Store) Open(d Digest) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[d]
	switch {
	case s.closed:
		return nil, errClosed
	case f == nil || !f.whole && f.flight == nil:
		return nil, fmt.Errorf("open blob %s: %w", d, fs.ErrNotExist)
	}
	return s.reader(f)
}

// Fetch gives a reader of a file of that size, and begins to fetch it unless it is
// here or being fetched. It does not wait for the source. ctx gives from its values;
// it does not end the fetching, which goes on while somebody reads the file and some
// seconds longer. The caller closes the reader. Errors: code Busy when there is no
// room, Conflict when the file is here with another size.
func (s *Store) Fetch(ctx context.Context, d Digest, size int64, from From) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	f := s.files[d]
	switch {
	case size < 0:
		return nil, call.Errorf(call.Invalid, "a blob of %d bytes", size)
	case f == nil:
		f = &file{digest: d, size: -1, at: time.Now(), change: make(chan struct{})}
	case f.size >= 0 && f.size != size:
		return nil, call.Errorf(call.Conflict, "blob %s has %d bytes, not %d", d, f.size, size)
	}
	if !f.whole && f.flight == nil {
		if err := s.launch(ctx, f, size, from); err != nil {
			return nil, err
		}
	}
	r, err := s.reader(f)
	if err != nil && f.readers == 0 && f.flight != nil { // nobody would be there to give it up
		f.flight.cancel(err)
	}
	return r, err
}

// room makes room for so many more bytes by removing what was not used for the
// longest time, but not keep; mu is held.
func (s *Store) room(more int64, keep *file) error {
	s.oldUploads(uploadLife)
	for s.used+more > s.opt.Max {
		var oldest *file
		for _, f := range s.files {
			if f != keep && f.readers == 0 && f.flight == nil && s.pins[f.digest] == 0 && (oldest == nil || f.at.Before(oldest.at)) {
				oldest = f
			}
		}
		if oldest == nil && s.oldUploads(uploadIdle) {
			continue
		}
		if oldest == nil {
			s.opt.Log.Warn("no room for blobs", "bytes", more, "used", s.used, "max", s.opt.Max)
			return call.Errorf(call.Busy, "there is no room for %d more bytes: %d of %d are in use by others", more, s.used, s.opt.Max)
		}
		s.opt.Log.Info("blob removed to make room", "blob", oldest.digest.String(), "bytes", oldest.have, "used_last", oldest.at)
		s.drop(oldest)
	}
	return nil
}

// drop forgets a file and removes it; mu is held.
func (s *Store) drop(f *file) {
	if s.files[f.digest] == f {
		delete(s.files, f.digest)
	}
	s.used -= f.have
	s.remove(f)
}

func (s *Store) remove(f *file) {
	if err := s.root.Remove(f.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opt.Log.Error("blob not removed", "blob", f.digest.String(), "error", err)
	}
}

// Used gives how many bytes are kept, and how many files.
func (s *Store) Used() (bytes int64, files int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used, len(s.files)
}
