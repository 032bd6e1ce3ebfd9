package job

import (
	"context"
)

// reroute sends those machines another way that have one whose sub-overlord has a
// session, or that are our own; it gives the others. A machine runs the order
// once whatever comes of it: its journal sees to that.
func (b *batch) reroute(ctx context.Context, rest []int32) (left []int32) {
	r := b.r
	if len(r.Plan.ways.more) == 0 || !b.cancelled.IsZero() {
		return rest
	}
	byHop := make(map[int16][]int32)
	for _, i := range rest {
		h, ok := b.another(i)
		if !ok {
			left = append(left, i)
			continue
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

// another gives a way to a machine that was not tried.
func (b *batch) another(i int32) (int16, bool) {
	return b.r.another(i, func(hop string) bool { return isClosed(b.w.Arrival(hop)) })
}

// another gives the next way to a machine whose sub-overlord is up, and counts it as tried.
func (r *Run) another(i int32, up func(hop string) bool) (int16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, w := range r.Plan.ways.more[i] {
		if k == 0 || r.tried[i]&(1<<k) != 0 { // the first is where it began
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
