package overlord

import (
	"context"
	"slices"
	"sync"
	"time"

	"dominion/call"
)

// jobTable holds the jobs that have calls in the air.
type jobTable struct {
	mu       sync.RWMutex
	reserved int
	byCall   map[uint64]*running
	byJob    map[call.JobID]*running
	asks     map[uint64]*asking
}

func (t *jobTable) reserve(limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved >= limit {
		return false
	}
	t.reserved++
	return true
}

func (t *jobTable) release() {
	t.mu.Lock()
	t.reserved--
	t.mu.Unlock()
}

func (t *jobTable) add(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byCall == nil {
		t.byCall, t.byJob = make(map[uint64]*running), make(map[call.JobID]*running)
	}
	t.byCall[r.id] = r
	t.byJob[r.run.Plan.Order.Job] = r
}

func (t *jobTable) remove(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byJob, r.run.Plan.Order.Job)
	t.reserved--
}

// rename makes a job known by another call id; old or id may be 0.
func (t *jobTable) rename(r *running, old, id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byCall, old)
	if id != 0 {
		t.byCall[id] = r
	}
}

func (t *jobTable) asking(a *asking) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asks == nil {
		t.asks = make(map[uint64]*asking)
	}
	t.asks[a.id] = a
}

func (t *jobTable) asked(a *asking) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.asks, a.id)
}

func (t *jobTable) ask(id uint64) *asking {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.asks[id]
}

func (t *jobTable) call(id uint64) *running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byCall[id]
}

func (t *jobTable) job(id call.JobID) *running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byJob[id]
}

// all gives every job that has calls in the air.
func (t *jobTable) all() []*running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*running, 0, len(t.byJob))
	for _, r := range t.byJob {
		out = append(out, r)
	}
	return out
}

// wait returns when no job is left that is worth waiting for, or ctx has ended.
func (t *jobTable) wait(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(t.all(), (*running).busy) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *jobTable) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byJob)
}
