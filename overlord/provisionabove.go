package overlord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"dominion/api/fleetpb"
	"dominion/blob"
	"dominion/call"
	"dominion/pki"
	"dominion/provision"
	"dominion/session"
)

// Times and bounds of looking for files at the overlord above.
const (
	aboveFor      = 5 * time.Second  // that an answer is remembered
	aboveTime     = 10 * time.Minute // for an answer: the digest of a large file takes time
	maxAbove      = 4096             // answers that are remembered
	aboveWidth    = 16               // questions at once
	strangerBurst = 50               // questions for who has proved nothing, at once
	strangerEvery = time.Second      // and then one in that time

	maxLooking    = 64             // questions of sub-overlords that are worked on
	maxLookingSub = 2 * aboveWidth // of these, of one: it may have been started again meanwhile
)

// above looks for files at the overlord above, and remembers for some seconds what
// it said.
type above struct {
	o         *Overlord
	width     *semaphore.Weighted
	strangers pace

	mu    sync.Mutex // covers known
	known map[string]*aboveReply
}

// aboveReply is the answer to one question; ready is closed when it is there.
type aboveReply struct {
	ready  chan struct{}
	until  time.Time
	remote *provision.Remote
	err    error
}

func newAbove(o *Overlord) *above {
	return &above{
		o: o, width: semaphore.NewWeighted(aboveWidth), known: make(map[string]*aboveReply),
		strangers: pace{burst: strangerBurst, every: strangerEvery},
	}
}

// look is provision.Above.
func (a *above) look(ctx context.Context, name string, hops int, stranger bool) (*provision.Remote, error) {
	if hops > call.MaxHops {
		return nil, call.Errorf(call.Invalid, "the question went through %d overlords", hops)
	}
	f, err := a.find(name, hops, stranger)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.ready:
		return f.remote, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// find gives the answer to a question, which is asked if nobody has asked it lately.
func (a *above) find(name string, hops int, stranger bool) (*aboveReply, error) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.known[name]
	if old != nil && (old.until.IsZero() || now.Before(old.until)) {
		return old, nil
	}
	// What was there may be asked for again: strangers who ask for names that they made
	// up must not keep others from booting.
	there := old != nil && old.err == nil
	if stranger && !there && !a.strangers.take(now) {
		return nil, call.Errorf(call.Busy, "too many files are looked for at the overlord above")
	}
	if len(a.known) >= maxAbove {
		for n, f := range a.known {
			if !f.until.IsZero() && now.After(f.until) {
				delete(a.known, n)
			}
		}
		if len(a.known) >= maxAbove {
			return nil, call.Errorf(call.Busy, "too many files are looked for at the overlord above")
		}
	}
	f := &aboveReply{ready: make(chan struct{})}
	a.known[name] = f
	a.o.background.Go(func() { a.ask(f, name, hops) }) // whoever asked first may leave
	return f, nil
}

// ask asks the overlord above.
func (a *above) ask(f *aboveReply, name string, hops int) {
	ctx, cancel := context.WithTimeoutCause(a.o.life, aboveTime, call.Errorf(call.Timeout, "the overlord above did not answer within %s", aboveTime))
	defer cancel()
	remote, err := a.remote(ctx, name, hops)
	a.mu.Lock()
	defer a.mu.Unlock()
	f.remote, f.err, f.until = remote, err, time.Now().Add(aboveFor)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		delete(a.known, name) // the next one asks again
	}
	close(f.ready)
}

func (a *above) remote(ctx context.Context, name string, hops int) (*provision.Remote, error) {
	info, d, err := a.question(ctx, name, hops)
	if err != nil {
		return nil, err
	}
	from := func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return a.pull(ctx, name, hops, d, offset)
	}
	return &provision.Remote{FileInfo: info, Open: func(ctx context.Context) (provision.Body, error) {
		r, err := a.o.blobs.store.Fetch(ctx, d, info.Size, from)
		if err != nil {
			return nil, err
		}
		return r, nil
	}}, nil
}

// question is one session.MethodProvisionFile.
func (a *above) question(ctx context.Context, name string, hops int) (info provision.FileInfo, d blob.Digest, err error) {
	if err := a.width.Acquire(ctx, 1); err != nil {
		return info, d, context.Cause(ctx)
	}
	defer a.width.Release(1)
	p := a.o.parent
	var out session.ProvisionFileResult
	err = p.agent.Ask(ctx, session.MethodProvisionFile, session.ProvisionFileArgs{Path: name, Hops: hops}, &out)
	switch call.CodeOf(err) {
	case call.OK:
	case call.NotFound:
		return info, d, fs.ErrNotExist
	case call.Denied:
		return info, d, fmt.Errorf("overlord/%s denies it: %w: %w", p.Name, fs.ErrNotExist, err)
	case call.NoSession, call.SessionLost:
		return info, d, call.Errorf(call.Unavailable, "overlord/%s cannot be asked now: %v", p.Name, err)
	default:
		return info, d, err
	}
	d, err = blob.ParseDigest(out.Digest)
	if err != nil || out.Size < 0 {
		return info, d, call.Errorf(call.Internal, "overlord/%s answers with a file of %d bytes, digest %.80q", p.Name, out.Size, out.Digest)
	}
	info = provision.FileInfo{Size: out.Size, Sum: d}
	if out.MtimeMs != 0 {
		info.Mod = time.UnixMilli(out.MtimeMs)
	}
	return info, d, nil
}

// pull asks the overlord above for bytes.
func (a *above) pull(ctx context.Context, name string, hops int, d blob.Digest, offset int64) (io.ReadCloser, error) {
	in, err := a.bytes(ctx, name, hops, d, offset)
	if call.CodeOf(err) == call.NotFound {
		a.forget(name)
	}
	return in, err
}

// forget drops what was said of a file.
func (a *above) forget(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.known[name]; f != nil && !f.until.IsZero() {
		delete(a.known, name)
	}
}

// bytes is pull; an overlord that does not know any more that we may have them, because
// it was started again, is asked for the file once more.
func (a *above) bytes(ctx context.Context, name string, hops int, d blob.Digest, offset int64) (io.ReadCloser, error) {
	args, err := json.Marshal(session.BlobArgs{Digest: d.String(), Offset: offset})
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	in, err := a.o.parent.agent.Pull(ctx, session.MethodBlob, args, session.BlobStream)
	if call.CodeOf(err) != call.Denied {
		return in, err
	}
	if _, now, err := a.question(ctx, name, hops); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = call.Errorf(call.NotFound, "%s is gone at the overlord above", name)
		}
		return nil, err
	} else if now != d {
		return nil, call.Errorf(call.NotFound, "%s has other content now", name)
	}
	return a.o.parent.agent.Pull(ctx, session.MethodBlob, args, session.BlobStream)
}

// lookers counts the questions of sub-overlords that are worked on. The zero value works.
type lookers struct {
	mu  sync.Mutex // covers what follows
	all int
	of  map[string]int
}

// enter says whether there is room for one more of a sub-overlord; leave gives it back.
func (l *lookers) enter(peer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxLooking || l.of[peer] >= maxLookingSub {
		return false
	}
	if l.of == nil {
		l.of = make(map[string]int)
	}
	l.all++
	l.of[peer]++
	return true
}

func (l *lookers) leave(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.of[peer]--; l.of[peer] == 0 {
		delete(l.of, peer)
	}
}

// provisionFile answers a sub-overlord that looks for a file. It is not counted with
// what machines ask else: every file of a boot is asked for.
func (h handler) provisionFile(s *session.Session, id uint64, c *fleetpb.Call) {
	if s.Peer().Role != pki.Overlord {
		h.reply(s, id, nil, call.Errorf(call.NotFound, "minions may not call %q", c.Method))
		return
	}
	peer := s.Peer().Name
	if !h.o.looking.enter(peer) {
		h.reply(s, id, nil, call.Errorf(call.Busy, "too many files are looked for at once"))
		return
	}
	h.o.background.Go(func() {
		defer h.o.looking.leave(peer)
		ctx, cancel := context.WithTimeout(h.o.life, aboveTime)
		defer cancel()
		out, err := h.o.fileBelow(ctx, peer, c.Args)
		h.reply(s, id, out, err)
	})
}

// fileBelow describes a file to a sub-overlord, and lets it read the bytes.
func (o *Overlord) fileBelow(ctx context.Context, peer string, args []byte) (*session.ProvisionFileResult, error) {
	var in session.ProvisionFileArgs
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if len(in.Path) > session.MaxProvisionPath || in.Hops < 0 || in.Hops >= call.MaxHops {
		return nil, call.Errorf(call.Invalid, "a path of %d bytes, through %d overlords", len(in.Path), in.Hops)
	}
	nodes, err := o.nodes()
	if err != nil {
		return nil, call.Errorf(call.NotFound, "overlord/%s does not provision", o.cfg.Name)
	}
	info, err := nodes.Look(ctx, in.Path, in.Hops+1)
	if err != nil {
		return nil, notHere(err)
	}
	o.blobs.grant(peer, in.Path, info.Sum)
	out := &session.ProvisionFileResult{Digest: blob.Digest(info.Sum).String(), Size: info.Size}
	if !info.Mod.IsZero() {
		out.MtimeMs = info.Mod.UnixMilli()
	}
	return out, nil
}

// notHere gives what an overlord below is told of a file that nodes may not have.
func notHere(err error) error {
	f, ok := errors.AsType[*provision.Refusal](err)
	switch {
	case !ok:
		return err
	case f.Status == http.StatusNotFound:
		return call.Errorf(call.NotFound, "%s", f.Detail)
	case f.Status == http.StatusForbidden:
		return call.Errorf(call.Denied, "no node may have that")
	}
	return call.Errorf(call.Unavailable, "%s", f.Detail)
}

// pace bounds how often something may be done: burst times at once, and then once in
// every.
type pace struct {
	burst float64
	every time.Duration
	used  float64
	last  time.Time
}

// take says whether it may be done now, and counts it; the caller holds a mutex.
func (p *pace) take(now time.Time) bool {
	p.used = max(0, p.used-float64(now.Sub(p.last))/float64(p.every))
	p.last = now
	if p.used > p.burst-1 {
		return false
	}
	p.used++
	return true
}
