package overlord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/blob"
	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// dirBlobs is the directory of files by digest, in the state directory.
const dirBlobs = "blobs"

// Bounds of what is sent by session.blob.
const (
	maxSending    = 1024 // streams at once
	maxSendingSub = 64   // of these, to one sub-overlord
	maxSendingOne = 4    // and to one machine
	blobChunk     = 64 << 10
)

// blobs is what the overlord passes on by digest.
type blobs struct {
	o     *Overlord
	store *blob.Store

	buffers sync.Pool // *[blobChunk]byte

	mu      sync.Mutex // covers what follows
	all     int        // streams that are sent
	sending map[string]int
	grants  map[grantKey]grant
	copies  map[blob.Digest]*copied
}

// grantKey is one file in the hands of a sub-overlord.
type grantKey struct {
	peer   string
	digest blob.Digest
}

// grant says for how long, and what the file is called here.
type grant struct {
	path  string
	until time.Time
}

// Bounds of grants.
const (
	grantLife = time.Hour
	maxGrants = 16_384
)

// openBlobs opens the directory of files by digest.
func (o *Overlord) openBlobs() error {
	s, err := blob.Open(filepath.Join(o.dir.Path(), dirBlobs), blob.Options{Max: int64(o.cfg.Blobs.Max), Log: o.log})
	if err != nil {
		return err
	}
	o.blobs = &blobs{
		o: o, store: s, buffers: sync.Pool{New: func() any { return new([blobChunk]byte) }},
		sending: make(map[string]int), grants: make(map[grantKey]grant), copies: make(map[blob.Digest]*copied),
	}
	return nil
}

func (b *blobs) close() error {
	if b == nil {
		return nil
	}
	return b.store.Close()
}

// grant lets a sub-overlord read a file for some time.
func (b *blobs) grant(peer, path string, d blob.Digest) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.grants) >= maxGrants {
		for k, g := range b.grants {
			if now.After(g.until) {
				delete(b.grants, k)
			}
		}
		if len(b.grants) >= maxGrants { // who needs one asks again
			clear(b.grants)
		}
	}
	b.grants[grantKey{peer, d}] = grant{path, now.Add(grantLife)}
}

func (b *blobs) granted(peer string, d blob.Digest) (path string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g, ok := b.grants[grantKey{peer, d}]
	return g.path, ok && time.Now().Before(g.until)
}

// enter takes a place for a stream, which leave gives back.
func (b *blobs) enter(peer pki.Identity) (leave func(), err error) {
	limit := maxSendingOne
	if peer.Role == pki.Overlord {
		limit = maxSendingSub
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= maxSending || b.sending[peer.Name] >= limit {
		return nil, call.Errorf(call.Busy, "too many files are sent at once: %d in all, %d to %s", b.all, b.sending[peer.Name], peer.Name)
	}
	b.all++
	b.sending[peer.Name]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all--
		if b.sending[peer.Name]--; b.sending[peer.Name] == 0 {
			delete(b.sending, peer.Name)
		}
	}, nil
}

// blob answers a machine that asks for a file's bytes. It is not counted with what
// machines ask else: there may be many files.
func (h handler) blob(s *session.Session, id uint64, c *fleetpb.Call) {
	b := h.o.blobs
	leave, err := b.enter(s.Peer())
	if err != nil {
		h.reply(s, id, nil, err)
		return
	}
	h.o.background.Go(func() {
		defer leave()
		h.reply(s, id, struct{}{}, b.answer(h.o.life, s, id, c.Args))
	})
}

// bytesOf is a file that is sent.
type bytesOf interface {
	io.ReadSeeker
	io.Closer
}

// answer sends what is asked for, from the offset on.
func (b *blobs) answer(ctx context.Context, s *session.Session, id uint64, args []byte) error {
	var in session.BlobArgs
	if err := json.Unmarshal(args, &in); err != nil {
		return call.Errorf(call.Invalid, "arguments: %v", err)
	}
	d, err := blob.ParseDigest(in.Digest)
	if err != nil {
		return call.Errorf(call.Invalid, "%v", err)
	}
	file, size, err := b.open(ctx, s.Peer(), d, in.Job)
	if err != nil {
		return err
	}
	defer file.Close()
	if in.Offset < 0 || in.Offset > size {
		return call.Errorf(call.Invalid, "offset %d of %d bytes", in.Offset, size)
	}
	if _, err := file.Seek(in.Offset, io.SeekStart); err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	go func() { // ends with this answer: a file that is still on its way must not be waited for then
		select {
		case <-s.Done():
			file.Close()
		case <-over:
		}
	}()
	return b.send(ctx, s, id, file, size-in.Offset)
}

// open opens a file that a peer may read now; everything else is denied.
func (b *blobs) open(ctx context.Context, peer pki.Identity, d blob.Digest, job string) (bytesOf, int64, error) {
	if job != "" {
		return b.openCopied(ctx, peer, d, job)
	}
	path, ok := b.granted(peer.Name, d)
	if peer.Role != pki.Overlord || !ok {
		return nil, 0, call.Errorf(call.Denied, "%s may not read %s now", peer, d)
	}
	nodes, err := b.o.nodes()
	if err != nil {
		return nil, 0, err
	}
	info, body, err := nodes.Open(ctx, path)
	if err != nil {
		return nil, 0, notHere(err)
	}
	if info.Sum != d {
		body.Close()
		return nil, 0, call.Errorf(call.NotFound, "%s has other content now", path)
	}
	if err := nodes.Handed(ctx, peer.Name, path, info); err != nil {
		body.Close()
		return nil, 0, err
	}
	return body, info.Size, nil
}

// send sends the rest of a file as a stream of a call.
func (b *blobs) send(ctx context.Context, s *session.Session, id uint64, from io.Reader, rest int64) error {
	st, err := s.Open(ctx, id, session.BlobStream)
	if err != nil {
		return err
	}
	buf, _ := b.buffers.Get().(*[blobChunk]byte)
	defer b.buffers.Put(buf)
	for rest > 0 {
		n, err := from.Read(buf[:min(rest, blobChunk)])
		if n > 0 {
			if _, err := st.Write(buf[:n]); err != nil { // the peer left, or wants no more
				st.CloseWithReason("not sent")
				return call.Errorf(call.Cancelled, "%v", err)
			}
			rest -= int64(n)
			b.o.metrics.blobSent.Add(float64(n))
		}
		if err != nil && rest > 0 {
			st.CloseWithReason("it cannot be read to its end")
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return cutOff(err)
		}
	}
	return st.Close()
}

// cutOff is what a machine is told of a file that cannot be read to its end.
func cutOff(err error) error {
	if call.CodeOf(err) == call.Internal {
		return call.Errorf(call.Unavailable, "the file cannot be read to its end: %v", err)
	}
	return fmt.Errorf("the file cannot be read to its end: %w", err)
}
