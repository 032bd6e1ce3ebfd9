package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"dominion/call"
)

const (
	uploadSuffix = ".up"
	uploadLife   = 24 * time.Hour // of one that nobody goes on with
	uploadIdle   = time.Minute    // and that may go when there is no room
)

// UploadID names a file that is being sent here, before its digest is known.
type UploadID [16]byte

func (id UploadID) name() string { return hex.EncodeToString(id[:]) + uploadSuffix }

// upload is one; Store.mu covers it but for sum, which belongs to who is at it.
type upload struct {
	have int64
	at   time.Time
	busy bool
	sum  hash.Hash // of what is there; nil: to be made
}

// Received says how much of an upload is here: 0 when it was never begun, or is gone.
func (s *Store) Received(id UploadID) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[id]; u != nil {
		return u.have
	}
	return 0
}

// Receive appends to an upload what comes at an offset, which must be Received, and
// gives how much is here then. One caller at a time may be at an upload: the error
// has the code Busy. Other codes: Conflict for another offset, Busy without room.
func (s *Store) Receive(ctx context.Context, id UploadID, offset int64, from io.Reader) (int64, error) {
	u, err := s.grab(id, true)
	if err != nil {
		return 0, err
	}
	defer s.release(u)
	if u.have != offset {
		return u.have, call.Errorf(call.Conflict, "%d bytes are here, and it goes on at %d", u.have, offset)
	}
	f, err := s.root.OpenFile(id.name(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return u.have, fmt.Errorf("keep what is sent: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(u.have); err != nil { // what failed half-way
		return u.have, fmt.Errorf("keep what is sent: %w", err)
	}
	buf := make([]byte, piece)
	if err := u.summed(f, buf); err != nil {
		return u.have, err
	}
	for ctx.Err() == nil {
		n, err := from.Read(buf)
		if n > 0 {
			if err := s.append(f, u, buf[:n]); err != nil {
				return u.have, err
			}
		}
		if errors.Is(err, io.EOF) {
			return u.have, nil
		}
		if err != nil {
			return u.have, err
		}
	}
	return u.have, context.Cause(ctx)
}

// append writes a piece.
func (s *Store) append(f *os.File, u *upload, b []byte) error {
	s.mu.Lock()
	err := s.room(int64(len(b)), nil)
	if err == nil {
		s.used += int64(len(b))
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := WriteSparse(f, b, u.have); err != nil {
		s.mu.Lock()
		s.used -= int64(len(b))
		s.mu.Unlock()
		return fmt.Errorf("keep what is sent: %w", err)
	}
	u.sum.Write(b)
	s.mu.Lock()
	u.have += int64(len(b))
	s.mu.Unlock()
	return nil
}

// summed makes the sum of what an earlier process took.
func (u *upload) summed(f *os.File, buf []byte) error {
	if u.sum != nil {
		return nil
	}
	sum := sha256.New()
	if n, err := io.CopyBuffer(sum, onlyReader{io.NewSectionReader(f, 0, u.have)}, buf); err != nil || n != u.have {
		return fmt.Errorf("read what was sent before: %d of %d bytes: %w", n, u.have, err)
	}
	u.sum = sum
	return nil
}

// Commit makes of an upload the file of a digest and a size. When that is not what was
// sent the upload is gone, and the error has the code Failed.
func (s *Store) Commit(id UploadID, d Digest, size int64) error {
	u, err := s.grab(id, size == 0)
	if err != nil {
		return err
	}
	defer s.release(u)
	f, err := s.root.OpenFile(id.name(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("keep what was sent: %w", err)
	}
	defer f.Close()
	if err := u.summed(f, make([]byte, piece)); err != nil {
		return err
	}
	if got := Digest(u.sum.Sum(nil)); got != d || u.have != size {
		s.forget(id, u)
		return call.Errorf(call.Failed, "what was sent has %d bytes and %s, not %d and %s", u.have, got, size, d)
	}
	if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
		return fmt.Errorf("keep what was sent: %w", err)
	}
	s.mu.Lock()
	old := s.files[d]
	if old != nil && (old.whole || old.flight != nil) { // it is here by another way
		old.at = time.Now()
		s.mu.Unlock()
		s.forget(id, u)
		return nil
	}
	defer s.mu.Unlock()
	if old != nil {
		s.drop(old)
	}
	if err := s.root.Rename(id.name(), d.hex()); err != nil {
		return fmt.Errorf("keep what was sent: %w", err)
	}
	delete(s.uploads, id)
	now := time.Now()
	s.files[d] = &file{digest: d, size: size, have: size, whole: true, kept: true, at: now, noted: now, change: make(chan struct{})}
	return nil
}

// grab takes an upload for one caller.
func (s *Store) grab(id UploadID, begin bool) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	switch {
	case s.closed:
		return nil, errClosed
	case u == nil && !begin:
		return nil, call.Errorf(call.NotFound, "nothing of that was sent")
	case u == nil && len(s.uploads) >= maxUploads && !s.oldUploads(uploadLife) && !s.oldUploads(uploadIdle):
		return nil, call.Errorf(call.Busy, "%d files are being sent", len(s.uploads))
	case u == nil:
		u = &upload{sum: sha256.New()}
		s.uploads[id] = u
	case u.busy:
		return nil, call.Errorf(call.Busy, "it is being sent at this moment")
	}
	u.busy = true
	return u, nil
}

const maxUploads = 1024

func (s *Store) release(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.busy, u.at = false, time.Now()
}

// forget removes an upload.
func (s *Store) forget(id UploadID, u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(id, u)
}

func (s *Store) forgetLocked(id UploadID, u *upload) {
	if s.uploads[id] != u {
		return
	}
	delete(s.uploads, id)
	s.used -= u.have
	if err := s.root.Remove(id.name()); err != nil {
		s.opt.Log.Error("upload not removed", "error", err)
	}
}

// oldUploads removes what nobody goes on with for that long; mu is held.
func (s *Store) oldUploads(life time.Duration) (any bool) {
	for id, u := range s.uploads {
		if !u.busy && time.Since(u.at) > life {
			s.forgetLocked(id, u)
			any = true
		}
	}
	return any
}

// Has says whether a file is here, whole.
func (s *Store) Has(d Digest) (size int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[d]
	if f == nil || !f.whole {
		return 0, false
	}
	f.at = time.Now()
	return f.size, true
}

// HasSize says whether a whole file of that size is here, so that it is worth knowing
// the digest of another one before it is sent.
func (s *Store) HasSize(size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.whole && f.size == size {
			return true
		}
	}
	return false
}

// Pin keeps files, which may be here or not, from being removed to make room, until
// release is called.
func (s *Store) Pin(list []Digest) (release func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range list {
			if s.pins[d] += n; s.pins[d] == 0 {
				delete(s.pins, d)
			}
		}
	}
	add(1)
	return func() { add(-1) }
}

// UploadOf gives the number of an upload that somebody chose, which is another one for
// everybody else.
func UploadOf(who string, number []byte) UploadID {
	sum := sha256.Sum256(append([]byte(who+"\x00"), number...))
	return UploadID(sum[:len(UploadID{})])
}
