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
	for _, name := range r.Plan.Unknown {
		if r.unknown[name] {
			continue
		}
		r.mu.Lock()
		r.addLocked(call.Result{Machine: name, Code: call.UnknownName, Detail: "no machine of that name has enrolled"})
		r.mu.Unlock()
	}
	var driving sync.WaitGroup
	done := make(chan struct{})
	driving.Go(func() { r.drive(ctx, w, done) })
	err := r.gather(ctx, w, k)
	close(done)
	driving.Wait()
	if err == nil {
		err = r.insist(ctx, "job not closed in the store, trying again", "job closed in the store after all", func() error {
			return k.CloseJob(ctx, r.Plan.Order.Job, r.Watch(0).Counts)
		})
	}
	r.mu.Lock()
	r.budget.used.Add(-r.held)
	r.held = 0
	r.closed, r.stopped = err == nil, err != nil
	r.tellLocked()
	r.mu.Unlock()
	return err
}

// gather folds and stores results until all are stored.
func (r *Run) gather(ctx context.Context, w wire, k keeper) error {
	if r.allStored() { // before it was resumed
		return nil
	}
	for fold := firstFold; ; fold = min(2*fold, lastFold) {
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

// store writes what has been folded.
func (r *Run) store(ctx context.Context, w wire, k keeper) error {
	r.mu.Lock()
	groups := r.fold.fold(r.base + len(r.groups))
	r.mu.Unlock()
	if len(groups) == 0 {
		return nil
	}
	if err := r.insist(ctx, "results not stored, trying again", "results stored after all", func() error {
		return k.KeepResults(ctx, r.Plan.Order.Job, groups)
	}); err != nil {
		return err
	}
	r.mu.Lock()
	r.problem = ""
	r.groups = append(r.groups, groups...)
	if r.held > maxHeld {
		r.letGoLocked()
	}
	for _, g := range groups {
		r.known.Add(g.Status, len(g.Names))
	}
	r.tellLocked()
	r.mu.Unlock()
	for _, g := range groups {
		w.Stored(g.Names)
	}
	return nil
}

// letGoLocked lets the stored groups go whose outputs would stay in memory as
// long as the job is open, which can be days, at the expense of other jobs.
// Watchers find them in the store.
func (r *Run) letGoLocked() {
	for _, g := range r.groups {
		for _, name := range g.Names {
			if i, ok := r.Plan.Tree.Index(name); ok {
				r.state[i].Store(uint32(call.Stored))
			}
		}
		r.held -= int64(len(g.Output))
		r.budget.used.Add(-int64(len(g.Output)))
	}
	r.base += len(r.groups)
	r.groups = nil // snapshots share the old one
}

// insist does what the store may refuse until it does not, or ctx ends: what
// is not written waits in memory, and watchers see why. The log is told at most
// once a minute, and when it works again.
func (r *Run) insist(ctx context.Context, failed, worked string, do func() error) error {
	log, told := r.log.With("job", r.Plan.Order.Job.String()), false
	for {
		err := do()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); r.told.IsZero() || now.Sub(r.told) >= tellStore {
			log.Error(failed, "error", err)
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
		log.Info(worked)
	}
	return nil
}

func (r *Run) tellLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}
