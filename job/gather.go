package job

import (
	"context"
	"sync"
	"time"

	"dominion/call"
)

// Do sends the calls, gathers the results and keeps them, and returns when
// every machine has exactly one stored result and the job is closed in the
// store; only then watchers see that it is. Cancelling ctx ends it early
// with ctx's error: the job stays open, and what was not stored by then is
// found at the machines when it is resumed.
func (r *Run) Do(ctx context.Context, w wire, k keeper) error {
	for k, name := range r.Plan.Unknown {
		if r.unknown[name] {
			continue
		}
		r.mu.Lock()
		r.addLocked(len(r.Plan.Machines())+k, call.Result{Machine: name, Code: call.UnknownName, Detail: r.Plan.unknownWhy(name)})
		r.mu.Unlock()
	}
	var driving sync.WaitGroup
	done := make(chan struct{})
	life, end := context.WithCancel(ctx)
	d := r.newDriver(w)
	r.carry(life, w, d.deadline) // first: what a machine of ours does may end us
	driving.Go(func() { d.drive(life, done) })
	err := r.gather(ctx, w, k)
	if err == nil && r.Plan.Stream {
		r.drain(ctx)
	}
	close(done)
	end()
	driving.Wait()
	r.carrying.Wait()
	if err == nil && r.end == nil {
		r.end = &End{r.Watch(0).Counts, r.reason()}
		err = r.insist(ctx, "the end of the job", func() error { return k.CloseJob(ctx, r.Plan.ID, *r.end) })
	}
	r.mu.Lock()
	r.budget.used.Add(-r.held)
	r.held = 0
	if r.closed, r.stopped = err == nil, err != nil; r.closed {
		r.why = r.end.Reason
	}
	r.tellLocked()
	r.mu.Unlock()
	close(r.over)
	return err
}

// tailTime is how long live output of sub-overlords that have given all results is
// awaited when none comes.
const tailTime = 10 * time.Second

// drain waits for live output that is still on its way behind the results: until the
// sub-overlords say that it has ended, or nothing more of it comes.
func (r *Run) drain(ctx context.Context) {
	over := make(chan struct{})
	go func() { // ends with the batches, which Do waits for
		r.carrying.Wait()
		close(over)
	}()
	tick := time.NewTicker(tailTime / 10)
	defer tick.Stop()
	for since := time.Now(); ; {
		select {
		case <-over:
			return
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if since = later(since, time.Unix(0, r.flowed.Load())); r.flowing.Load() > 0 {
				since = now
			}
			if now.Sub(since) >= tailTime {
				return
			}
		}
	}
}

// Flow says that a piece of live output from a sub-overlord came; done is to be called when it was passed on.
func (r *Run) Flow() (done func()) {
	r.flowing.Add(1)
	return func() {
		r.flowed.Store(time.Now().UnixNano())
		r.flowing.Add(-1)
	}
}

// gather folds and stores results until all are stored.
func (r *Run) gather(ctx context.Context, w wire, k keeper) error {
	if r.allStored() { // before it was resumed
		return nil
	}
	for fold, last := r.Plan.folds(); ; fold = min(2*fold, last) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
		pause(ctx, fold, r.complete)
		if err := r.store(ctx, w, k); err != nil {
			return err
		}
		if r.allStored() {
			return nil
		}
	}
}

// folds says how close together results arrive that share groups and a write: at
// first, for a quick sign of life, and after that up to last, as each write costs a
// transaction, a signed checkpoint and an event at everybody who watches. With
// thousands of machines that is most of what they cost (measured at 5,000: 6 µs of
// CPU a call with 5 ms throughout), so windows grow with their number; and for
// who is only a hop nobody looks on. When all have answered nothing is waited for.
func (p *Plan) folds() (first, last time.Duration) {
	n := time.Duration(len(p.machines))
	first = min(max(n*20*time.Microsecond, 5*time.Millisecond), 100*time.Millisecond)
	last = min(max(n*100*time.Microsecond, 100*time.Millisecond), 500*time.Millisecond)
	if p.Part {
		first, last = min(max(n*time.Millisecond, 100*time.Millisecond), 500*time.Millisecond), 500*time.Millisecond
	}
	return first, last
}

// pause waits for d, or until early is closed (nil: never).
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}

func (r *Run) allStored() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known.Done() == r.known.Targeted
}

// store writes what has been folded, and with the last results that the job is
// closed: each write costs a transaction and a signed checkpoint. What may still
// have live output is closed when that has been passed on.
func (r *Run) store(ctx context.Context, w wire, k keeper) error {
	r.mu.Lock()
	groups := r.fold.fold(r.base + len(r.groups))
	counts := r.known
	r.mu.Unlock()
	if len(groups) == 0 {
		return nil
	}
	for _, g := range groups {
		counts.Add(g.Status, len(g.Names))
	}
	var end *End
	if counts.Done() == counts.Targeted && !r.Plan.Stream {
		end = &End{counts, r.reason()}
	}
	if err := r.insist(ctx, "results", func() error { return k.KeepResults(ctx, r.Plan.ID, groups, end) }); err != nil {
		return err
	}
	r.end = end
	r.mu.Lock()
	r.problem = ""
	r.groups = append(r.groups, groups...)
	if r.held > maxHeld {
		r.letGoLocked()
	}
	r.known = counts
	r.tellLocked()
	r.mu.Unlock()
	for _, g := range groups {
		if own := r.Plan.ownOf(g.Names); len(own) > 0 { // the others' overlords tell them
			w.Stored(own)
		}
	}
	return nil
}

// letGoLocked lets the stored groups go whose outputs would stay in memory as
// long as the job is open, which can be days, at the expense of other jobs.
// Watchers find them in the store.
func (r *Run) letGoLocked() {
	for _, g := range r.groups {
		for _, name := range g.Names {
			if i, ok := r.Plan.index(name); ok {
				r.state[i].Store(uint32(call.Stored))
			}
		}
		r.held -= int64(len(g.Output))
		r.budget.used.Add(-int64(len(g.Output)))
	}
	r.base += len(r.groups)
	r.groups = nil // snapshots share the old one
}

// insist writes something until the store does not refuse it any more, or ctx
// ends: until then it waits in memory, and watchers see why. The log is told at
// most once a minute, and when it works again; what says of what.
func (r *Run) insist(ctx context.Context, what string, do func() error) error {
	log, told := r.log.With("job", r.Plan.ID.String(), "what", what), false
	for {
		err := do()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); r.told.IsZero() || now.Sub(r.told) >= tellStore {
			log.Error("not stored, trying again", "error", err)
			r.told, told = now, true
		}
		r.mu.Lock()
		if r.problem == "" {
			r.problem = err.Error()
			r.tellLocked()
		}
		r.mu.Unlock()
		pause(ctx, retryStore, nil)
	}
	if told {
		log.Info("stored after all")
	}
	return nil
}

func (r *Run) tellLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}
