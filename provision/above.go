package provision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"dominion/api/auditpb"
)

// FileInfo describes a file that nodes may have.
type FileInfo struct {
	Size int64
	Sum  [32]byte  // SHA-256 of its bytes
	Mod  time.Time // zero: not known
}

// Body is an open file. Close may come from any goroutine and ends a Read that waits.
type Body interface {
	io.ReadSeeker
	io.Closer
}

// Remote is a file that the overlord above has.
type Remote struct {
	FileInfo
	// Open gives its bytes, also while they are still on their way. A Body that has
	// a method Err() error says with it why it could not be read to its end.
	Open func(ctx context.Context) (Body, error)
}

// Above looks up a file that is not here at the overlord above; the error wraps
// fs.ErrNotExist when there is none. hops is how many overlords have asked on, and
// stranger says that it is not for a node that has proved itself.
type Above func(ctx context.Context, name string, hops int, stranger bool) (*Remote, error)

// Look describes a file that nodes may have, for the overlord below which asks: ours,
// or that of the overlord above. The error is a *Refusal when there is none for it.
func (s *Service) Look(ctx context.Context, name string, hops int) (FileInfo, error) {
	info, body, err := s.own(ctx, "", s.anyFile(name))
	if err == nil {
		return info, body.Close()
	}
	r, err := s.above(ctx, err, "", name, hops, false)
	if err != nil {
		return FileInfo{}, err
	}
	return r.FileInfo, nil
}

// Open is Look that gives the bytes as well; the caller closes them.
func (s *Service) Open(ctx context.Context, name string) (FileInfo, Body, error) {
	return s.open(ctx, "", s.anyFile(name))
}

// Handed notes on the audit log that an overlord below gets a file: once an hour.
func (s *Service) Handed(ctx context.Context, overlord, name string, info FileInfo) error {
	return s.noteFile(ctx, "overlord/"+overlord, overlord, seenKey{node: "overlord/" + overlord, path: name, sum: info.Sum}, fmt.Sprintf("%s, %d bytes", cut(name, 1000), info.Size))
}

// anyFile asks for a file of the directory of files.
func (s *Service) anyFile(name string) fileAsk { return fileAsk{root: s.root, below: name, name: name} }

// open opens a file: ours, or that of the overlord above if any file may be asked for.
func (s *Service) open(ctx context.Context, node string, a fileAsk) (FileInfo, Body, error) {
	info, f, err := s.own(ctx, node, a)
	if err == nil {
		return info, f, nil
	}
	if a.root != s.root {
		return FileInfo{}, nil, err
	}
	r, err := s.above(ctx, err, node, a.name, 0, false)
	if err != nil {
		return FileInfo{}, nil, err
	}
	body, err := r.Open(ctx)
	if err != nil {
		return FileInfo{}, nil, fmt.Errorf("get %s from the overlord above: %w", a.name, err)
	}
	return r.FileInfo, body, nil
}

// own opens a file of ours, of which nobody else may change what is read.
func (s *Service) own(ctx context.Context, node string, a fileAsk) (FileInfo, *os.File, error) {
	f, st, err := s.openFile(node, a)
	if err != nil {
		return FileInfo{}, nil, err
	}
	sum, err := s.sums.of(ctx, a.name, f, st)
	if err != nil {
		f.Close()
		return FileInfo{}, nil, fmt.Errorf("read %s: %w", a.name, err)
	}
	return FileInfo{Size: st.Size(), Sum: sum, Mod: st.ModTime()}, f, nil
}

// above asks for a file when the reason why it is not ours is that it does not exist.
func (s *Service) above(ctx context.Context, reason error, node, name string, hops int, stranger bool) (*Remote, error) {
	if f, ok := errors.AsType[*Refusal](reason); s.cfg.Above == nil || !ok || f.Status != http.StatusNotFound {
		return nil, reason
	}
	r, err := s.cfg.Above(ctx, name, hops, stranger)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, noFile(node, name)
	case err != nil:
		return nil, fmt.Errorf("look for %s at the overlord above: %w", name, err)
	}
	return r, nil
}

// serve answers with a file. One that comes from above and does not arrive whole ends
// the connection, so that nobody takes a part for all.
func (s *Service) serve(w http.ResponseWriter, r *http.Request, body Body) {
	ours, here := body.(*os.File)
	if here {
		http.ServeContent(w, r, "", time.Time{}, ours)
		return
	}
	defer context.AfterFunc(r.Context(), func() { body.Close() })()
	http.ServeContent(w, r, "", time.Time{}, body)
	if b, ok := body.(interface{ Err() error }); ok && b.Err() != nil {
		s.cfg.Log.Warn("a file from above did not arrive whole", "path", cut(r.URL.Path, 300), "from", r.RemoteAddr, "error", b.Err())
		panic(http.ErrAbortHandler)
	}
}

// bootAbove is the file of a capsule that is not here.
func (s *Service) bootAbove(ctx context.Context, name string) (Body, error) {
	dir := name[:strings.LastIndexByte(name, '/')]
	if _, err := s.root.Stat(dir); err == nil && dir != "boot" { // the capsule is ours: so is what it lacks
		return nil, fs.ErrNotExist
	}
	if s.cfg.Above == nil {
		return nil, fs.ErrNotExist
	}
	r, err := s.cfg.Above(ctx, name, 0, true)
	if err != nil {
		return nil, err
	}
	return r.Open(ctx)
}

// noteFile writes the record of a file that somebody gets, unless it is there.
func (s *Service) noteFile(ctx context.Context, actor, subject string, key seenKey, detail string) error {
	now := s.cfg.Now()
	if s.seen.has(key, now) {
		return nil
	}
	err := s.cfg.Store.Update(ctx, func(tx Tx) error {
		return tx.Audit(&auditpb.Record{TimeMs: now.UnixMilli(), Actor: actor, Action: "node.file", Subject: subject, Detail: detail, Digest: key.sum[:]})
	})
	if err == nil {
		s.seen.add(key, now)
	}
	return err
}
