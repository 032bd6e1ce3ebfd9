package minion

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/module"
)

// Defaults of the bounds on running calls.
const (
	defaultRunning = 64
	defaultQueued  = 1024
)

// maxDetail is the length of a result's detail in bytes.
const maxDetail = 4 << 10

// work is one accepted call.
type work struct {
	link    *link
	id      uint64 // of the call on its session
	verdict verdict
	book    book
	args    []byte
	timeout time.Duration // zero: none
	stream  bool

	cancel context.CancelCauseFunc // set when it runs
}

// A crew runs calls, a bounded number at a time; the rest waits in order. It
// has a goroutine for each running call and none when idle.
type crew struct {
	running int // most at a time
	queued  int // most that wait
	do      func(ctx context.Context, w *work)

	mu      sync.Mutex
	active  map[*work]struct{}
	waiting []*work
	stopped error // set when no more calls are taken
	done    chan struct{}
}

// add runs w now or later. The error is a *call.Error with Busy, or what stop
// was given.
func (c *crew) add(ctx context.Context, w *work) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped != nil:
		return c.stopped
	case len(c.active) < c.running:
		c.start(ctx, w)
	case len(c.waiting) < c.queued:
		c.waiting = append(c.waiting, w)
	default:
		return call.Errorf(call.Busy, "%d calls run and %d wait on this machine", len(c.active), len(c.waiting))
	}
	return nil
}

// room says whether add would take another call now.
func (c *crew) room() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped != nil:
		return c.stopped
	case len(c.active) >= c.running && len(c.waiting) >= c.queued:
		return call.Errorf(call.Busy, "%d calls run and %d wait on this machine", len(c.active), len(c.waiting))
	}
	return nil
}

// start is called with mu held.
func (c *crew) start(ctx context.Context, w *work) {
	if c.active == nil {
		c.active = make(map[*work]struct{})
	}
	// A call outlives the session that brought it.
	ctx, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.active[w] = struct{}{}
	go func() {
		for w != nil {
			c.do(ctx, w)
			w.cancel(nil)
			w, ctx = c.next(ctx, w)
		}
	}()
}

// next ends one call and gives the longest waiting one to the same goroutine.
func (c *crew) next(ctx context.Context, ended *work) (*work, context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, ended)
	if len(c.waiting) == 0 {
		if len(c.active) == 0 {
			c.active = nil
			if c.done != nil {
				close(c.done)
				c.done = nil
			}
		}
		return nil, nil
	}
	w := c.waiting[0]
	c.waiting[0] = nil
	if c.waiting = c.waiting[1:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
	c.active[w] = struct{}{}
	ctx, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return w, ctx
}

// withdraw takes w out of the queue, or cancels it when it runs. It says
// whether w was still waiting, and so never runs.
func (c *crew) withdraw(w *work, cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, q := range c.waiting {
		if q == w {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			return true
		}
	}
	if _, ok := c.active[w]; ok {
		w.cancel(cause)
	}
	return false
}

// find gives the call of a job that waits or runs; nil when there is none.
func (c *crew) find(job call.JobID) *work {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.active {
		if w.verdict.order.Job == job {
			return w
		}
	}
	for _, w := range c.waiting {
		if w.verdict.order.Job == job {
			return w
		}
	}
	return nil
}

// stop takes no more calls; add answers with reason. What runs and waits goes on.
func (c *crew) stop(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = reason
}

// wait returns when nothing runs and nothing waits, or when ctx ends. It is
// called by one goroutine, after stop.
func (c *crew) wait(ctx context.Context) error {
	c.mu.Lock()
	if len(c.active) == 0 {
		c.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	c.done = done
	c.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cancelAll ends what runs with cause and gives back what never ran.
func (c *crew) cancelAll(cause error) []*work {
	c.mu.Lock()
	defer c.mu.Unlock()
	never := c.waiting
	c.waiting = nil
	for w := range c.active {
		w.cancel(cause)
	}
	return never
}

// perform runs one method and makes its result; nil when that comes after a
// restart. Output beyond what is sent is the method's business; here it is bounded
// once more by the frame's limits.
func (a *Agent) perform(ctx context.Context, w *work) *fleetpb.Result {
	o := w.verdict.order
	if w.timeout > 0 {
		var stop context.CancelFunc
		// Without a detail: what remained of the time-out is another span on each
		// machine, and says nothing to the operator. The overlord knows what was given.
		ctx, stop = context.WithTimeoutCause(ctx, w.timeout, &call.Error{Code: call.Timeout})
		defer stop()
	}
	env := &module.Env{
		Machine: a.name, Job: o.Job, Operator: w.verdict.operator, Version: a.version,
		Keep: a.keeper(w), Blob: w.blob,
	}
	var out, errs *live
	if w.stream {
		out, errs = &live{ctx: ctx, w: w, name: "stdout"}, &live{ctx: ctx, w: w, name: "stderr"}
		env.Stdout, env.Stderr = out, errs
	}
	begun := time.Now()
	output, err := w.verdict.method.Run(ctx, env, w.args)
	took := time.Since(begun)
	if w.stream {
		out.close()
		errs.close()
	}
	if errors.Is(err, module.ErrLater) {
		return nil
	}
	a.dropNote(o.Job)
	r := &fleetpb.Result{Output: output, TookUs: uint64(max(took.Microseconds(), 1))}
	if err != nil {
		f := failure(reason(ctx, err))
		r.Code, r.Detail = f.Code, f.Detail
	}
	return r
}

// reason prefers why the context ended to how the method put it.
func reason(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if e, ok := errors.AsType[*call.Error](context.Cause(ctx)); ok {
		return e
	}
	return err
}

// failure makes the result of a call that did not succeed.
func failure(err error) *fleetpb.Result {
	e, ok := errors.AsType[*call.Error](err)
	if !ok {
		e = call.Errorf(call.Internal, "%v", err)
	}
	return &fleetpb.Result{Code: uint32(e.Code), Detail: cut(e.Detail, maxDetail)}
}

// cut shortens text to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	s = validUTF8(s)
	if len(s) <= n {
		return s
	}
	const mark = " …"
	s = s[:n-len(mark)]
	for !utf8.ValidString(s) { // at most three times: it was valid before it was cut
		s = s[:len(s)-1]
	}
	return s + mark
}

// live sends output to the overlord while the method runs. The stream is
// opened with the first byte. When it is lost the method goes on, unheard.
type live struct {
	ctx  context.Context //nolint:containedctx // io.Writer has no parameter for it; live ends with the call
	w    *work
	name string

	mu   sync.Mutex
	st   io.WriteCloser
	lost bool
}

// Write implements io.Writer. It waits for the reader's credit, which is what
// slows a method down to its reader's speed.
func (l *live) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return len(p), nil
	}
	if l.st == nil {
		st, err := l.w.link.session.Open(l.ctx, l.w.id, l.name)
		if err != nil {
			l.lost = true
			return len(p), nil
		}
		l.st = st
	}
	if _, err := l.st.Write(p); err != nil {
		l.lost = true
	}
	return len(p), nil
}

func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.st != nil {
		l.st.Close()
	}
}
