package job

import (
	"context"
	"slices"
	"strings"
	"time"

	"dominion/call"
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
	type to struct {
		hop  int16
		sent bool
	}
	moved := make(map[to][]int32)
	for _, i := range rest {
		if !b.holds(i) {
			continue
		}
		h, ok := b.another(i, lost)
		back := !ok && !lost && r.backToFirst(i, b.hop)
		if back {
			h, ok = r.Plan.ways.more[i][0].hop, true
		}
		if !ok {
			left = append(left, i)
			continue
		}
		if lost && b.sent {
			r.mayHaveBegun(i)
		}
		if b.left == nil {
			b.left = make(map[int32]bool)
		}
		b.left[i] = true
		r.via[i].Store(int32(h)) // nobody else moves what this batch holds
		if h == direct {
			r.tell(int(i), func(n *news) { n.rerouted = true })
			continue
		}
		x := to{h, back || r.resumed}
		moved[x] = append(moved[x], i)
	}
	for x, at := range moved {
		r.log.Info("machines are reached another way", "job", r.Plan.ID.String(), "hop", b.name, "through", r.Plan.ways.hops[x.hop].name, "machines", len(at))
		r.carryBatch(ctx, b.w, x.hop, at, b.deadline, x.sent)
	}
	return left
}

// backToFirst says whether a machine that no other way leads to any more is to wait
// for the sub-overlord where it began, which may have given it the call, and
// counts that as tried.
func (r *Run) backToFirst(i int32, from int16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ways := r.Plan.ways.more[i]
	if !r.otherwiseLocked(int(i)) || len(ways) == 0 || ways[0].hop == direct || ways[0].hop == from || r.tried[i]&1 != 0 {
		return false
	}
	if r.tried == nil {
		r.tried = make(map[int32]uint16)
	}
	r.tried[i] |= 1
	return true
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

// counting gives those machines of which a result counts that the sub-overlord tells:
// of one that goes another way now, only what the machine itself says.
func (b *batch) counting(at []int32, res call.Result) []int32 {
	if len(b.r.Plan.ways.more) == 0 || !neverBegan(res) && res.Code != call.SessionLost && res.Code != call.NoAnswer {
		return at
	}
	return slices.DeleteFunc(slices.Clone(at), func(i int32) bool { return !b.holds(i) })
}

// neverBegan says whether a result means that the call did not begin by this way.
func neverBegan(res call.Result) bool {
	switch res.Code {
	case call.OK, call.Failed, call.Timeout, call.Internal, call.Unknown, call.SessionLost, call.NoAnswer, call.Repeated:
		return false
	case call.Cancelled:
		return strings.HasPrefix(res.Detail, cancelledBefore)
	}
	return true
}

// otherwiseLocked says whether a machine's call may have begun by another way than the
// present one; r.mu is held.
func (r *Run) otherwiseLocked(i int) bool {
	return r.begun[int32(i)] || r.resumed && r.Plan.ways != nil && r.Plan.ways.more[int32(i)] != nil
}

// honest gives the result of a machine by the way that it goes now as it is to be
// told where another way, which failed, may have begun the call.
func honest(res call.Result) call.Result {
	return call.Result{Machine: res.Machine, Code: call.SessionLost, Detail: detailOtherwise + res.Code.String() + ": " + res.Detail}
}
