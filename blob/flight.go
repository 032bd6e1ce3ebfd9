package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"time"

	"dominion/call"
)

// Waits between questions to a source that gives nothing.
const (
	firstWait = 50 * time.Millisecond
	mostWait  = 2 * time.Second
)

// piece is how much is read, hashed and written at a time.
const piece = 128 << 10

// flight is one file on its way.
type flight struct {
	s      *Store
	f      *file
	size   int64
	from   From
	cancel context.CancelCauseFunc

	// Of the goroutine that runs it.
	file *os.File
	have int64
	sum  hash.Hash
}

// launch begins to fetch a file of that size; mu is held.
func (s *Store) launch(ctx context.Context, f *file, size int64, from From) error {
	if size > s.opt.Max {
		return call.Errorf(call.Busy, "a file of %d bytes is larger than all that is kept here: %d", size, s.opt.Max)
	}
	if f.have > size { // of another file: the digest cannot be both's
		s.used -= f.have
		f.have = 0
	}
	if err := s.room(size-f.have, f); err != nil {
		return err
	}
	h, err := s.root.OpenFile(f.name(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("keep blob %s: %w", f.digest, err)
	}
	s.used += size - f.have
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{s: s, f: f, size: size, from: from, cancel: cancel, file: h, have: f.have, sum: sha256.New()}
	f.size, f.flight, f.err = size, fl, nil
	s.files[f.digest] = f
	s.flights.Go(func() {
		defer cancel(nil)
		fl.end(ctx, fl.run(ctx))
	})
	return nil
}

// errBytes says that the source has other bytes than those of the digest.
var errBytes = errors.New("the bytes that came are not those of the digest")

// run fetches until the file is whole on the disk.
func (fl *flight) run(ctx context.Context) error {
	defer fl.file.Close()
	if err := fl.file.Truncate(fl.have); err != nil {
		return err
	}
	buf := make([]byte, piece)
	if n, err := io.CopyBuffer(fl.sum, onlyReader{io.NewSectionReader(fl.file, 0, fl.have)}, buf); err != nil || n != fl.have {
		return fmt.Errorf("read %d bytes of what was fetched before: %d came: %w", fl.have, n, err)
	}
	if err := fl.fill(ctx, buf); err != nil {
		return err
	}
	if d := Digest(fl.sum.Sum(nil)); d != fl.f.digest {
		return call.Errorf(call.Failed, "%v: they have %s, not %s", errBytes, d, fl.f.digest)
	}
	fl.arrived(fl.have, true)
	// Who reads need not wait for the disk.
	if err := fl.file.Sync(); err != nil {
		return err
	}
	fl.s.mu.Lock()
	defer fl.s.mu.Unlock()
	if err := fl.s.root.Rename(fl.f.name(), fl.f.digest.hex()); err != nil {
		return err
	}
	fl.f.kept = true
	return nil
}

// onlyReader hides that a file could copy itself, so that our buffer is used.
type onlyReader struct{ io.Reader }

// fill asks the source until all bytes are there.
func (fl *flight) fill(ctx context.Context, buf []byte) error {
	wait, last := firstWait, time.Now()
	for fl.have < fl.size {
		before := fl.have
		err := fl.ask(ctx, buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case fl.have > before:
			wait, last = firstWait, time.Now()
		case final(err):
			return err
		case time.Since(last) > fl.s.opt.Patience:
			return fmt.Errorf("nothing came for %s: %w", fl.s.opt.Patience, err)
		}
		if fl.have == fl.size {
			break
		}
		if w, ok := errors.AsType[*writeError](err); ok {
			return w.error
		}
		fl.s.opt.Log.Debug("the source of a blob broke off; asking again", "blob", fl.f.digest.String(), "have", fl.have, "size", fl.size, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(2*wait, mostWait)
	}
	return nil
}

// final says whether an answer will not become another one.
func final(err error) bool {
	if _, ok := errors.AsType[*writeError](err); ok {
		return true
	}
	return Lasting(err)
}

// Lasting says whether a source that refuses so will not give the bytes later: it is of
// no use to ask it again.
func Lasting(err error) bool {
	switch call.CodeOf(err) {
	case call.NotFound, call.Denied, call.Invalid, call.Conflict, call.Failed, call.Revoked:
		return true
	}
	return false
}

// writeError is trouble with our own disk.
type writeError struct{ error }

// Unwrap gives the disk's.
func (w *writeError) Unwrap() error { return w.error }

// ask takes what the source gives in answer to one question.
func (fl *flight) ask(ctx context.Context, buf []byte) error {
	src, err := fl.from(ctx, fl.have)
	if err != nil {
		return err
	}
	defer src.Close()
	defer context.AfterFunc(ctx, func() { src.Close() })()
	late := time.AfterFunc(fl.s.opt.Patience, func() { src.Close() }) // a source that is silent does not end by itself
	defer late.Stop()
	for fl.have < fl.size {
		late.Reset(fl.s.opt.Patience)
		n, err := src.Read(buf[:min(int64(len(buf)), fl.size-fl.have)])
		late.Stop() // our disk may take its time
		if n > 0 {
			if err := WriteSparse(fl.file, buf[:n], fl.have); err != nil {
				return &writeError{fmt.Errorf("keep blob %s: %w", fl.f.digest, err)}
			}
			fl.sum.Write(buf[:n])
			fl.have += int64(n)
			fl.arrived(fl.have, false)
		}
		if errors.Is(err, io.EOF) && fl.have < fl.size {
			return fmt.Errorf("it ended after %d of %d bytes", fl.have, fl.size)
		}
		if err != nil && fl.have < fl.size {
			return err
		}
	}
	return nil
}

// arrived lets readers have what came.
func (fl *flight) arrived(have int64, whole bool) {
	fl.s.mu.Lock()
	defer fl.s.mu.Unlock()
	fl.f.have = have
	if whole {
		fl.f.whole = true
	}
	fl.f.news()
}

// end tells who waits how it went.
func (fl *flight) end(ctx context.Context, err error) {
	s, f := fl.s, fl.f
	s.mu.Lock()
	defer s.mu.Unlock()
	f.flight = nil
	s.used -= fl.size - f.have
	if err != nil {
		useless := f.have == fl.size // all came, and were others, or the disk does not keep them
		f.whole, f.err = false, err
		level := slog.LevelWarn
		if useless {
			level = slog.LevelError
		}
		s.opt.Log.Log(ctx, level, "blob not fetched", "blob", f.digest.String(), "have", f.have, "size", fl.size, "error", err)
		if useless || f.have == 0 {
			s.drop(f)
		}
	}
	f.at = time.Now()
	f.news()
}
