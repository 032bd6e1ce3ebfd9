package copy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"dominion/blob"
	"dominion/call"
	"dominion/module"
	"dominion/module/place"
)

// progressEvery is how often it is told how far a copy is.
const progressEvery = 500 * time.Millisecond

// putter writes the files of one manifest.
type putter struct {
	ctx   context.Context //nolint:containedctx // of the one call that it is for
	env   *module.Env
	in    PutIn
	out   PutOut
	stack []*level
	buf   []byte

	have int64 // bytes of files that are done, and of the one that is written
	told time.Time
}

// level is a directory that the walk is in.
type level struct {
	entry *blob.Entry
	root  *os.Root // nil: it does not exist, and nothing is written
	set   bool     // its mode, owner and time are to be set when everything is in it
}

func put(ctx context.Context, env *module.Env, in PutIn) (PutOut, error) {
	p := &putter{ctx: ctx, env: env, in: in, buf: make([]byte, 128<<10)}
	err := p.put()
	return p.out, err
}

func (p *putter) put() error {
	if p.env.Blob == nil {
		return call.Errorf(call.Unavailable, "no overlord brought this call, so there is nobody to get the files from")
	}
	m, err := p.manifest()
	if err != nil {
		return err
	}
	at, err := place.Follow(p.in.Path)
	if err != nil {
		return err
	}
	defer at.Close()
	defer func() { _ = p.leave(0, false) }() // closes only, after an error
	for i := range m.Entries {
		if err := p.ctx.Err(); err != nil {
			return context.Cause(p.ctx)
		}
		if err := p.entry(at, &m.Entries[i]); err != nil {
			return err
		}
	}
	err = p.leave(0, true)
	p.tell(true)
	return err
}

// entry brings one entry about.
func (p *putter) entry(top *place.Place, e *blob.Entry) error {
	at := top
	if e.Path != "." {
		up := path.Dir(e.Path)
		n := len(p.stack)
		for n > 0 && p.stack[n-1].entry.Path != up {
			n--
		}
		if err := p.leave(n, true); err != nil {
			return err
		}
		dir := p.stack[n-1] // the manifest was checked: it is there
		if dir.root == nil {
			return p.missing(e)
		}
		var err error
		if at, err = place.In(dir.root, path.Base(e.Path)); err != nil {
			return err
		}
	}
	switch e.Type {
	case blob.Dir:
		return p.dir(at, e)
	case blob.Link:
		return p.link(at, e)
	}
	return p.file(at, e)
}

// missing counts what would be written into a directory that is not there.
func (p *putter) missing(e *blob.Entry) error {
	p.count(e)
	if e.Type == blob.Dir {
		p.stack = append(p.stack, &level{entry: e})
	}
	return nil
}

func (p *putter) count(e *blob.Entry) {
	p.out.Changed = true
	p.out.Written++
	p.out.Bytes += e.Size
}

// leave ends the directories from the n-th on; with set they get their modes and times.
func (p *putter) leave(n int, set bool) (err error) {
	for len(p.stack) > n {
		l := p.stack[len(p.stack)-1]
		p.stack = p.stack[:len(p.stack)-1]
		if l.root == nil {
			continue
		}
		if set && l.set && err == nil {
			err = dress(l.root, l.entry)
		}
		l.root.Close()
	}
	return err
}

// dir makes a directory, or goes into the one that is there.
func (p *putter) dir(at *place.Place, e *blob.Entry) error {
	l := &level{entry: e, set: e.Path != "."}
	info, err := at.Lstat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.count(e)
		l.set = true
		if !p.in.DryRun {
			err = makeDir(at, e)
		} else {
			p.stack = append(p.stack, l)
			return nil
		}
	case err == nil && l.set && !dressed(info, e):
		p.count(e)
		l.set = !p.in.DryRun
	case err == nil:
		l.set = l.set && !p.in.DryRun
	}
	if err != nil {
		return err
	}
	if l.root, err = at.Directory(); err != nil {
		return err
	}
	p.stack = append(p.stack, l)
	return nil
}

// makeDir makes a directory with its mode and owner, so that what is cut off leaves
// one that can be used.
func makeDir(at *place.Place, e *blob.Entry) error {
	if err := at.Dir.Mkdir(at.Base, 0o700); err != nil {
		return err
	}
	dir, err := at.Directory()
	if err != nil {
		return err
	}
	defer dir.Close()
	return dress(dir, e)
}

// dress gives a directory its owner, mode and time.
func dress(dir *os.Root, e *blob.Entry) error {
	if uid, gid, ok := ids(e.Owner); ok {
		if err := dir.Chown(".", uid, gid); err != nil {
			return err
		}
	}
	if err := dir.Chmod(".", modeOf(e)); err != nil {
		return err
	}
	t := time.Unix(0, e.Mtime)
	return dir.Chtimes(".", t, t)
}

// manifest gets the list of what is to be written.
func (p *putter) manifest() (*blob.Manifest, error) {
	d, err := blob.ParseDigest(p.in.Manifest)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	b := &limited{max: p.in.ManifestSize}
	if err := p.pull(d, p.in.ManifestSize, 0, b); err != nil {
		return nil, err
	}
	if sumOf(b.buf.Bytes()) != d {
		return nil, call.Errorf(call.Failed, "the manifest that came is not the one of %s", d)
	}
	m, err := blob.ReadManifest(&b.buf)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	return m, nil
}

// Patience with a source that gives nothing.
const (
	firstWait    = 100 * time.Millisecond
	mostWait     = 5 * time.Second
	pullPatience = 2 * time.Minute
	// An overlord that was just started again may not know the order yet.
	deniedPatience = 10 * time.Second
)

// pull gets the bytes of a file from an offset on, over breaks of the connection.
func (p *putter) pull(d blob.Digest, size, have int64, to io.Writer) error {
	wait, last := firstWait, time.Now()
	for have < size {
		n, err := p.ask(d, have, size-have, to)
		if have += n; n > 0 {
			wait, last = firstWait, time.Now()
		}
		silent := time.Since(last)
		_, ours := errors.AsType[*writeError](err)
		switch {
		case err == nil:
			continue
		case p.ctx.Err() != nil:
			return context.Cause(p.ctx)
		case ours:
			return err
		case call.CodeOf(err) == call.Denied && silent < deniedPatience:
		case blob.Lasting(err) || silent > pullPatience:
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return context.Cause(p.ctx)
		}
		wait = min(2*wait, mostWait)
	}
	return nil
}

// writeError is trouble with our own disk.
type writeError struct{ error }

// Unwrap gives the disk's.
func (w *writeError) Unwrap() error { return w.error }

// ask takes what comes in answer to one question.
func (p *putter) ask(d blob.Digest, offset, rest int64, to io.Writer) (n int64, err error) {
	src, err := p.env.Blob(p.ctx, d.String(), offset)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	defer context.AfterFunc(p.ctx, func() { src.Close() })()
	for n < rest {
		k, err := src.Read(p.buf[:min(int64(len(p.buf)), rest-n)])
		if k > 0 {
			if _, err := to.Write(p.buf[:k]); err != nil {
				return n, &writeError{err}
			}
			n += int64(k)
		}
		if err != nil && n < rest {
			if errors.Is(err, io.EOF) {
				err = call.Errorf(call.Unavailable, "it ended after %d of %d bytes", offset+n, offset+rest)
			}
			return n, err
		}
	}
	return n, nil
}

// tell says how far the copy is.
func (p *putter) tell(now bool) {
	if p.env.Stdout == nil || !now && time.Since(p.told) < progressEvery {
		return
	}
	p.told = time.Now()
	if b, err := json.Marshal(Progress{Have: p.have}); err == nil {
		_, _ = p.env.Stdout.Write(append(b, '\n')) // who does not listen any more need not know
	}
}
