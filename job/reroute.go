package job

import (
	"context"
	"time"
)

// reroute sends those machines another way that have one whose sub-overlord has a
// session, or that are our own; it gives the others. lost says that the session of
// this one is lost, so that it may have begun what it was sent; otherwise it says
// itself that it cannot reach them. A machine runs the order
// once whatever comes of it: its journal sees to that.
func (b *batch) reroute(ctx context.Context, rest []int32, lost bool) (left []int32) {
	r := b.r
	if len(r.Plan.ways.more) == 0 || !b.cancelled.IsZero() {
		return rest
	}
	byHop := make(map[int16][]int32)
	for _, i := range rest {
		if r.via[i].Load() != int32(b.hop) {
			continue
		}
		h, ok := b.another(i, lost)
		if !ok {
			left = append(left, i)
			continue
		}
		if lost && b.sent {
			r.mayHaveBegun(i)
		}
		if !r.via[i].CompareAndSwap(int32(b.hop), int32(h)) {
			continue
		}
		if h == direct {
			r.tell(int(i), func(n *news) { n.rerouted = true })
			continue
		}
		byHop[h] = append(byHop[h], i)
	}
	for h, at := range byHop {
		r.log.Info("machines are reached another way", "job", r.Plan.ID.String(), "hop", b.name, "through", r.Plan.ways.hops[h].name, "machines", len(at))
		r.carryBatch(ctx, b.w, h, at, b.deadline)
	}
	return left
}

// mayHaveBegun notes that a machine's call may have begun by the way that it leaves.
func (r *Run) mayHaveBegun(i int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun == nil {
		r.begun = make(map[int32]bool)
	}
	r.begun[i] = true
}

// another gives a way to a machine that was not tried. Where calls wait, and the
// sub-overlord has been away for some time, those that were are tried again.
func (b *batch) another(i int32, lost bool) (int16, bool) {
	again := lost && b.r.Plan.Wait && time.Since(b.made) >= retryEvery
	return b.r.another(i, b.hop, again, func(hop string) bool { return isClosed(b.w.Arrival(hop)) })
}

// another gives the next way to a machine whose sub-overlord is up, and counts it as
// tried; the way where it began is the last of them.
func (r *Run) another(i int32, from int16, again bool, up func(hop string) bool) (int16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ways := r.Plan.ways.more[i]
	for n := range ways {
		k := (n + 1) % len(ways)
		w := ways[k]
		if w.hop == from || !again && r.tried[i]&(1<<k) != 0 {
			continue
		}
		if w.hop != direct && !up(r.Plan.ways.hops[w.hop].name) {
			continue
		}
		if r.tried == nil {
			r.tried = make(map[int32]uint16)
		}
		r.tried[i] |= 1 << k
		return w.hop, true
	}
	return 0, false
}
