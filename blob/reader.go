package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Reader reads one file, also while it is fetched: Read waits for what has not come
// yet. One goroutine at a time reads and seeks; Close may come from any, and ends a
// Read that waits.
type Reader struct {
	s    *Store
	f    *file
	file *os.File
	size int64

	offset int64
	err    error // what Read gave besides io.EOF
	closed chan struct{}
	once   sync.Once
}

// reader makes a Reader; mu is held.
func (s *Store) reader(f *file) (*Reader, error) {
	h, err := s.root.OpenFile(f.name(), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) && f.flight == nil { // somebody removed it
		s.drop(f)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", f.digest, err)
	}
	f.readers++
	f.at = time.Now()
	return &Reader{s: s, f: f, file: h, size: f.size, closed: make(chan struct{})}, nil
}

// Size is how many bytes the whole file has.
func (r *Reader) Size() int64 { return r.size }

// Err is what Read gave last if that was an error, and not the end: why the file
// cannot be read to its end.
func (r *Reader) Err() error { return r.err }

// Read implements io.Reader. The last byte comes when the file is whole. The error is
// fs.ErrClosed after Close, or why the file is not fetched on.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.offset >= r.size && r.size > 0 {
		return 0, io.EOF
	}
	n, err := r.wait()
	if err == nil && n > 0 {
		n, err = r.file.ReadAt(p[:min(int64(len(p)), int64(n))], r.offset)
		r.offset += int64(n)
		if n > 0 {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // somebody cut it
		}
	}
	if err == nil { // it is whole, and empty
		return 0, io.EOF
	}
	if !errors.Is(err, fs.ErrClosed) {
		r.err = err
	}
	return 0, err
}

// most is what one Read gives at most.
const most = 1 << 30

// wait gives how many bytes are there from the offset on; none only of an empty file.
func (r *Reader) wait() (int, error) {
	for {
		r.s.mu.Lock()
		there, whole, flying, err, change := r.f.have, r.f.whole, r.f.flight != nil, r.f.err, r.f.change
		r.s.mu.Unlock()
		if !whole && there == r.size {
			there--
		}
		select {
		case <-r.closed:
			return 0, fs.ErrClosed
		default:
		}
		switch {
		case there > r.offset:
			return int(min(there-r.offset, most)), nil
		case whole:
			return 0, nil
		case !flying:
			return 0, err
		}
		select {
		case <-change:
		case <-r.closed:
			return 0, fs.ErrClosed
		}
	}
}

// Seek implements io.Seeker. It waits for nothing.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, fmt.Errorf("seek blob %s: %w", r.f.digest, fs.ErrInvalid)
	}
	r.offset = offset
	return offset, nil
}

// Whole waits until the file is whole, and gives why it will not be.
func (r *Reader) Whole(ctx context.Context) error {
	for {
		r.s.mu.Lock()
		whole, flying, err, change := r.f.whole, r.f.flight != nil, r.f.err, r.f.change
		r.s.mu.Unlock()
		switch {
		case whole:
			return nil
		case !flying:
			return err
		}
		select {
		case <-change:
		case <-r.closed:
			return fs.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close gives the file back. It never fails.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		r.s.left(r.f)
		r.file.Close()
	})
	return nil
}

// left notes that a reader is gone.
func (s *Store) left(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.readers--
	f.at = time.Now()
	if f.readers > 0 {
		return
	}
	if fl := f.flight; fl != nil {
		time.AfterFunc(linger, func() { s.abandon(f, fl) })
	}
	if f.kept && f.at.Sub(f.noted) > touchEvery && s.files[f.digest] == f {
		f.noted = f.at
		_ = s.root.Chtimes(f.name(), f.at, f.at) // it only decides what goes first
	}
}

// abandon ends a flight that nobody has come for.
func (s *Store) abandon(f *file, fl *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.flight == fl && f.readers == 0 {
		fl.cancel(errUnwanted)
	}
}

var errUnwanted = errors.New("nobody reads it any more")
