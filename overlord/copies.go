package overlord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"dominion/blob"
	"dominion/call"
	"dominion/job"
	"dominion/module/copy"
	"dominion/pki"
	"dominion/session"
)

// copied is what the machines of orders may read by digest: a manifest that their
// arguments name, and the files that it names.
type copied struct {
	b        *blobs
	manifest blob.Digest
	size     int64

	refs int // jobs; blobs.mu covers it

	loading sync.Mutex // held while the manifest is read
	mu      sync.Mutex // covers what follows
	over    bool       // end was called for the last of the jobs
	sizes   map[blob.Digest]int64
	unpin   []func()
}

// begin notes that a job is open whose machines copy files; nil: they do not. end
// takes the note back.
func (b *blobs) begin(p *job.Plan) *copied {
	if p.Order.Method != copy.MethodPut {
		return nil
	}
	var in copy.PutIn
	if json.Unmarshal(p.Args, &in) != nil {
		return nil
	}
	d, err := blob.ParseDigest(in.Manifest)
	if err != nil || in.ManifestSize < 0 || in.ManifestSize > blob.MaxManifest {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.copies[d]
	if c == nil {
		c = &copied{b: b, manifest: d, size: in.ManifestSize, unpin: []func(){b.store.Pin([]blob.Digest{d})}}
		b.copies[d] = c
	}
	c.refs++
	return c
}

func (c *copied) end() {
	if c == nil {
		return
	}
	c.b.mu.Lock()
	c.refs--
	last := c.refs == 0
	if last {
		delete(c.b.copies, c.manifest)
	}
	c.b.mu.Unlock()
	if !last {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, f := range c.unpin {
		f()
	}
}

// openCopied opens a file that an open order lets a peer read.
func (b *blobs) openCopied(ctx context.Context, peer pki.Identity, d blob.Digest, text string) (bytesOf, int64, error) {
	denied := call.Errorf(call.Denied, "%s may not read %s now: no open order names it", peer, d)
	id, err := call.ParseJobID(text)
	if err != nil {
		return nil, 0, call.Errorf(call.Invalid, "%v", err)
	}
	for _, r := range b.o.jobs.of(id) {
		if r.copied == nil || !r.run.Awaits(peer.Name) && (peer.Role != pki.Overlord || !r.run.Hop(peer.Name)) {
			continue
		}
		size, ok, err := r.copied.sizeOf(ctx, d, text)
		if err != nil {
			return nil, 0, err
		}
		if !ok {
			continue
		}
		f, err := b.fetch(ctx, d, size, text)
		if err != nil {
			return nil, 0, err
		}
		return f, size, nil
	}
	return nil, 0, denied
}

// fetch opens a file that an order names: it is here, or the overlord above has it.
func (b *blobs) fetch(ctx context.Context, d blob.Digest, size int64, job string) (*blob.Reader, error) {
	if b.o.parent == nil {
		r, err := b.store.Open(d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, call.Errorf(call.NotFound, "%s is not here any more; give the order again", d)
		}
		return r, err
	}
	return b.store.Fetch(ctx, d, size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		args, err := json.Marshal(session.BlobArgs{Digest: d.String(), Offset: offset, Job: job})
		if err != nil {
			return nil, fmt.Errorf("encode the question: %w", err)
		}
		return b.o.parent.agent.Pull(ctx, session.MethodBlob, args, session.BlobStream)
	})
}

// sizeOf gives the size of a file that the order names; false: it names none such.
func (c *copied) sizeOf(ctx context.Context, d blob.Digest, job string) (int64, bool, error) {
	if d == c.manifest {
		return c.size, true, nil
	}
	c.loading.Lock()
	defer c.loading.Unlock()
	c.mu.Lock()
	sizes := c.sizes
	c.mu.Unlock()
	if sizes == nil {
		var err error
		if sizes, err = c.load(ctx, job); err != nil {
			return 0, false, err
		}
	}
	size, ok := sizes[d]
	return size, ok, nil
}

// load reads the manifest; c.loading is held.
func (c *copied) load(ctx context.Context, job string) (map[blob.Digest]int64, error) {
	r, err := c.b.fetch(ctx, c.manifest, c.size, job)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { r.Close() })()
	m, err := blob.ReadManifest(r)
	if err == nil {
		err = r.Whole(ctx)
	}
	if errors.Is(err, blob.ErrManifest) {
		return nil, call.Errorf(call.Invalid, "%s: %v", c.manifest, err)
	}
	if err != nil {
		return nil, err
	}
	sizes := make(map[blob.Digest]int64)
	var list []blob.Digest
	for _, e := range m.Entries {
		if e.Digest == nil {
			continue
		}
		if _, twice := sizes[*e.Digest]; !twice {
			list = append(list, *e.Digest)
		}
		sizes[*e.Digest] = e.Size
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over { // while the manifest was read: nobody would take the pins off any more
		return sizes, nil
	}
	c.sizes, c.unpin = sizes, append(c.unpin, c.b.store.Pin(list))
	return sizes, nil
}
