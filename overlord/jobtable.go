package overlord

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/call"
	"dominion/job"
)

// jobTable holds the jobs that have calls in the air.
type jobTable struct {
	mu       sync.RWMutex
	reserved int
	parts    int // of which the parent's orders began
	cost     int // of those
	byCall   map[uint64]*running
	byJob    map[call.JobID]*running   // by what it is called here
	byOrder  map[call.JobID][]*running // by the order: what machines know it by; several when it came by several ways
	asks     map[uint64]*asking
	hops     map[uint64]*hopCall
}

// Limits of the jobs that the parent's orders begin, beside their number: what they
// take in memory, which one order that comes again and again for other machines, and
// by ever longer ways, would otherwise multiply.
const (
	maxPartCost = 1 << 30 // bytes, estimated
	costOfName  = 128     // bytes of a machine of the order, with its part of the tree
)

// partCost estimates the memory of a job that an order of the parent begins; 0: it is none.
func partCost(p *job.Plan) int {
	if !p.Part {
		return 0
	}
	return 1 + 3*proto.Size(p.Reach) + costOfName*p.Tree.Len()
}

// reserve takes a place for a job, of limit in all and of partLimit for those that
// the parent's orders begin, which have a cost. A single one may cost anything.
func (t *jobTable) reserve(limit, partLimit, cost int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved >= limit || cost > 0 && (t.parts >= partLimit || t.parts > 0 && t.cost+cost > maxPartCost) {
		return false
	}
	t.takeLocked(1, cost)
	return true
}

// resume takes a place for a job whatever there is.
func (t *jobTable) resume(cost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeLocked(1, cost)
}

func (t *jobTable) release(cost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeLocked(-1, cost)
}

func (t *jobTable) takeLocked(n, cost int) {
	t.reserved += n
	if cost > 0 {
		t.parts += n
		t.cost += n * cost
	}
}

func (t *jobTable) add(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byCall == nil {
		t.byCall, t.byJob, t.byOrder = make(map[uint64]*running), make(map[call.JobID]*running), make(map[call.JobID][]*running)
	}
	t.byCall[r.id] = r
	t.byJob[r.run.Plan.ID] = r
	order := r.run.Plan.Order.Job
	t.byOrder[order] = append(t.byOrder[order], r)
}

func (t *jobTable) remove(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byJob, r.run.Plan.ID)
	order := r.run.Plan.Order.Job
	if left := slices.DeleteFunc(t.byOrder[order], func(x *running) bool { return x == r }); len(left) > 0 {
		t.byOrder[order] = left
	} else {
		delete(t.byOrder, order)
	}
	t.takeLocked(-1, partCost(r.run.Plan))
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

// awaiting gives the job of an order that concerns a machine; nil: none.
func (t *jobTable) awaiting(order call.JobID, machine string) *running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, r := range t.byOrder[order] {
		if r.run.Concerns(machine) {
			return r
		}
	}
	return nil
}

func (t *jobTable) passing(c *hopCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hops == nil {
		t.hops = make(map[uint64]*hopCall)
	}
	t.hops[c.id] = c
}

func (t *jobTable) passed(c *hopCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.hops, c.id)
}

func (t *jobTable) hop(id uint64) *hopCall {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.hops[id]
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
