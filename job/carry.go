package job

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

// A carrier passes the order on to sub-overlords.
type carrier interface {
	// Delegate sends a sub-overlord the order and gives take each group of results
	// that it answers, in their order; a group that comes again is given again. It returns nil
	// when the sub-overlord says that it has answered for all. When withdraw is
	// closed it tells it so and goes on; when ctx ends, it returns ctx's cause, and tells
	// it so if that wraps ErrGivenUp. Other errors are *call.Error: NoSession (it was not sent), SessionLost and
	// Unavailable (it can be asked again), NoAnswer (what it answers is none), Cancelled (it is withdrawn, and the
	// sub-overlord had not begun), or why the sub-overlord refuses.
	Delegate(ctx context.Context, hop string, d *fleetpb.Delegate, withdraw <-chan struct{}, take func(Told)) error
	// Arrival gives a channel that is closed when a sub-overlord has a session; one
	// that is closed already when it has one now.
	Arrival(hop string) <-chan struct{}
}

// Told is a group of equal results as a sub-overlord tells them.
type Told struct {
	At     []int32  // positions in Plan.Machines, ascending
	Others []string // names that are none of Plan.Machines
	Code   call.Code
	Detail string
	Output []byte   // JSON
	Cut    uint64   // bytes of output that were not kept
	Took   []uint64 // microseconds, of each of At; nil: not told
}

// ErrGivenUp is wrapped by the cause of a delegation's end when the sub-overlord is
// to stop; otherwise the job goes on without us, for now or as all results are known.
var ErrGivenUp = errors.New("given up")

var (
	errDeadline    = fmt.Errorf("%w: the time-out is over", ErrGivenUp)
	errUnconfirmed = fmt.Errorf("%w: it was not confirmed", ErrGivenUp)
)

// batch is a set of machines that one sub-overlord is sent the order for. One
// goroutine owns it.
type batch struct {
	r     *Run
	w     carrier
	hop   int16
	name  string
	depth int
	at    []int32 // positions in Plan.Machines, ascending
	reach *fleetpb.Branch
	left  map[int32]bool // those of at that went another way, be it that they came back since, in another batch

	deadline  time.Time // zero: none
	made      time.Time // when the machines came here
	begun     time.Time // when it was sent last
	sent      bool      // it may have begun; so may what an overlord before this one had
	resent    bool      // it was sent once more because what came did not cover all
	lost      time.Time // since when its session is lost; zero: it is not
	cancelled time.Time // when we noticed; zero: it is not
	seen      uint64    // groups of results that came
	skipped   bool      // the last attempt asked for what came after some
}

// carried says whether a machine's call goes through a sub-overlord.
func (r *Run) carried(i int) bool { return r.via != nil && r.via[i].Load() >= 0 }

// hopOf names the sub-overlord that a machine's call goes through; empty: none.
func (r *Run) hopOf(i int) string {
	if r.via == nil {
		return ""
	}
	if h := r.via[i].Load(); h >= 0 {
		return r.Plan.ways.hops[h].name
	}
	return ""
}

// Through says whether a machine's call goes through that sub-overlord.
func (r *Run) Through(machine, hop string) bool {
	i, ok := r.Plan.index(machine)
	return ok && r.hopOf(i) == hop
}

const unreachable = "unreachable behind "

// behind is how a result of a machine reads whose sub-overlord failed.
func behind(hop, why string) string { return unreachable + hop + ": " + why }

// carry sends every sub-overlord the order, and ends the machines that nothing leads to.
func (r *Run) carry(ctx context.Context, w carrier, deadline time.Time) {
	if r.Plan.ways == nil {
		return
	}
	for _, i := range r.Plan.ways.none {
		r.finish(int(i), call.Result{Machine: r.name(int(i)), Code: call.UnknownName, Detail: detailNoWay})
	}
	for h := range r.Plan.ways.hops {
		r.carryBatch(ctx, w, int16(h), r.Plan.ways.hops[h].best, deadline, r.resumed)
	}
}

// carryBatch sends a sub-overlord the order for some machines; sent says that it may
// have been sent it for them before.
func (r *Run) carryBatch(ctx context.Context, w carrier, h int16, at []int32, deadline time.Time, sent bool) {
	if len(at) == 0 {
		return
	}
	hop := &r.Plan.ways.hops[h]
	b := &batch{r: r, w: w, hop: h, name: hop.name, depth: hop.depth, at: at, reach: hop.branch, deadline: deadline, made: time.Now(), sent: sent}
	if len(b.rest()) == 0 {
		return
	}
	if len(r.spared) > 0 { // it is not changed any more
		b.at = slices.DeleteFunc(slices.Clone(at), func(i int32) bool { return r.spared[i] })
	}
	if len(r.Plan.ways.more) > 0 || len(b.at) < len(at) {
		var err error
		b.reach, err = only(hop.branch, func(name string) bool {
			i, ok := r.Plan.index(name)
			if ok {
				_, ok = slices.BinarySearch(b.at, int32(i))
			}
			return ok
		})
		if err != nil { // it was read before
			b.end(b.at, call.CodeOf(err), err.Error())
			return
		}
	}
	r.carrying.Go(func() { b.run(ctx) })
}

// own gives those of some positions, ascending, that belong to the batch, and the names
// of the others.
func (b *batch) own(at []int32) (own []int32, others []string) {
	if len(at) > 0 {
		from, _ := slices.BinarySearch(b.at, at[0])
		if slices.Equal(at, b.at[from:min(from+len(at), len(b.at))]) { // all, most often
			return at, nil
		}
	}
	k := 0
	for _, i := range at {
		for k < len(b.at) && b.at[k] < i {
			k++
		}
		if k < len(b.at) && b.at[k] == i {
			own = append(own, i)
		} else {
			others = append(others, b.r.name(int(i)))
		}
	}
	return own, others
}

// holds says whether a machine of the batch still goes this way.
func (b *batch) holds(i int32) bool { return b.r.via[i].Load() == int32(b.hop) && !b.left[i] }

// rest gives the machines of which no result is known and that still go this way.
func (b *batch) rest() []int32 {
	var out []int32
	for k, i := range b.at {
		if b.r.at(int(i)) < call.Finished && b.holds(i) {
			if out == nil {
				out = make([]int32, 0, len(b.at)-k)
			}
			out = append(out, i)
		}
	}
	return out
}

// run sends the order until every machine has a result, or ctx ends.
func (b *batch) run(ctx context.Context) {
	for {
		err := b.once(ctx)
		rest := b.rest()
		if len(rest) == 0 || ctx.Err() != nil {
			return
		}
		code, why := call.CodeOf(err), ""
		if e, ok := errors.AsType[*call.Error](err); ok {
			why = e.Detail
		} else if err != nil {
			why = err.Error()
		}
		switch {
		case err == nil && b.skipped && !b.resent: // its store is another than it was
			b.resent, b.seen = true, 0
		case err == nil:
			b.end(rest, call.NoAnswer, behind(b.name, "it gave no result"))
			return
		case errors.Is(err, errDeadline):
			b.late(rest)
			return
		case errors.Is(err, errUnconfirmed):
			b.end(rest, call.NoAnswer, behind(b.name, "cancelled, and it did not confirm"))
			return
		case code == call.Cancelled:
			b.end(rest, call.Cancelled, cancelledBefore+b.name+" had the order")
			return
		case code == call.NoAnswer:
			b.end(rest, code, behind(b.name, why))
			return
		case code == call.NoSession, code == call.SessionLost, code == call.Unavailable, code == call.Busy && b.r.Plan.Wait:
			if !b.again(ctx, rest, code, why) {
				return
			}
			if b.sent {
				b.breathe(ctx)
			}
		default:
			b.end(rest, code, b.name+": "+why)
			return
		}
	}
}

// once sends the order once and takes what comes.
func (b *batch) once(life context.Context) error {
	ctx := life
	if !b.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, b.deadline, errDeadline)
		defer cancel()
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	for _, i := range b.rest() { // first: what Cancel has ended by now it has told us
		b.r.advance(int(i), call.Sent)
	}
	select {
	case <-b.r.stop:
		b.withdrawn()
	default:
	}
	goesOn, withdrawn := b.sent || b.r.resumed, b.cancelled
	over := make(chan struct{})
	defer close(over)
	go func() { // ends with this attempt
		select {
		case <-b.r.stop:
		case <-over:
			return
		}
		if withdrawn.IsZero() {
			withdrawn = time.Now()
		}
		t := time.NewTimer(b.patience(goesOn, withdrawn))
		defer t.Stop()
		select {
		case <-t.C:
			giveUp(errUnconfirmed)
		case <-over:
		}
	}()
	for i := range b.left { // it is asked for them, too
		b.r.mayHaveBegun(i)
	}
	b.skipped = b.seen > 0
	b.begun = time.Now()
	err := b.w.Delegate(ctx, b.name, b.request(), b.r.stop, func(g Told) { b.take(life, g) })
	b.sent = b.sent || call.CodeOf(err) != call.NoSession
	if time.Since(b.begun) > 2*retryEvery {
		b.lost = time.Time{} // until now it was there
	}
	return err
}

// patience is how long a sub-overlord has from now on to confirm that the order is
// withdrawn: it gives its own machines confirmTime, and those that are away the time to
// come back where it awaits them, as it does for an order that waits and for one
// that it goes on with. Losing its session again and again gives it no more.
func (b *batch) patience(goesOn bool, withdrawn time.Time) time.Duration {
	hops := time.Duration(b.depth) * time.Second
	if !goesOn && !b.r.Plan.Wait {
		return confirmTime + hops
	}
	return min(returnGrace+confirmTime, time.Until(withdrawn.Add(2*returnGrace))) + hops
}

// breathe keeps a sub-overlord that loses its session whenever it is sent the order
// from being sent it without a pause.
func (b *batch) breathe(ctx context.Context) {
	wait := hurry - time.Since(b.begun)
	if !b.deadline.IsZero() {
		wait = min(wait, time.Until(b.deadline))
	}
	if wait > 0 {
		pause(ctx, wait, nil)
	}
}

func (b *batch) withdrawn() {
	if b.cancelled.IsZero() {
		b.cancelled = time.Now()
	}
}

// request is what the sub-overlord is sent now. Who sends it adds the names of the
// order and through whom it came.
func (b *batch) request() *fleetpb.Delegate {
	p := b.r.Plan
	d := &fleetpb.Delegate{
		Order: p.Signed.Order, Signature: p.Signed.Signature, OperatorCert: p.Signed.Cert, Salt: p.Salt, Args: p.Args, Reach: b.reach,
		NominalMs: uint64(p.Nominal.Milliseconds()), Stream: p.Stream, Wait: p.Wait, Seen: b.seen, Cancel: !b.cancelled.IsZero(), Target: p.Target,
	}
	switch {
	case p.Timeout == 0:
	case p.Wait:
		d.TimeoutMs = uint64(max((p.Timeout - margin(p.Timeout)).Milliseconds(), 1))
	default:
		d.TimeoutMs = uint64(max(time.Until(b.deadline.Add(-margin(p.Timeout))).Milliseconds(), 1))
	}
	return d
}

// again waits until the order can be sent again; false when it cannot, and the rest
// is ended or goes another way.
func (b *batch) again(ctx context.Context, rest []int32, code call.Code, why string) bool {
	p := b.r.Plan
	switch code {
	case call.NoSession:
		if b.sent {
			code, why = call.SessionLost, detailLost
		}
	case call.SessionLost:
		why = detailLost
	}
	if b.lost.IsZero() {
		b.lost = time.Now()
	}
	if !b.sent && !b.cancelled.IsZero() {
		b.end(rest, call.Cancelled, detailNeverSent)
		return false
	}
	var until time.Time // zero: as long as the deadline allows
	switch {
	case !b.sent && !p.Wait:
		until = b.lost
	case !b.sent:
		until = p.Order.Expiry
	default:
		until = b.awaitedUntil()
	}
	for {
		if rest = b.reroute(ctx, rest, true); len(rest) == 0 {
			return false
		}
		switch b.await(ctx, until, code) {
		case arrived:
			if code == call.NoSession || code == call.SessionLost {
				b.lost = time.Time{}
			}
			return true
		case tooLate:
			b.late(rest)
			return false
		case nobody:
			if b.sent && !isClosed(b.w.Arrival(b.name)) { // whatever it said before it went
				code, why = call.SessionLost, detailLost
			}
			b.end(rest, code, behind(b.name, why))
			return false
		case stopped:
			return false
		case look:
		}
		switch {
		case b.cancelled.IsZero():
		case !b.sent:
			b.end(rest, call.Cancelled, detailNeverSent)
			return false
		default:
			until = b.awaitedUntil()
		}
	}
}

// awaitedUntil is driver's, for a sub-overlord whose session was lost.
func (b *batch) awaitedUntil() time.Time {
	p := b.r.Plan
	patient := p.Wait || b.r.resumed
	switch {
	case !b.cancelled.IsZero() && patient:
		return later(b.lost, b.cancelled).Add(returnGrace)
	case !b.cancelled.IsZero():
		return b.cancelled.Add(confirmTime)
	case !p.Wait:
		return b.lost.Add(returnGrace)
	case p.Timeout == 0:
		return later(b.lost, p.Order.Expiry).Add(returnGrace)
	}
	return time.Time{}
}

// event is what ended a wait.
type event int

const (
	arrived event = iota
	tooLate       // the deadline has come
	nobody        // it did not come back in time
	look          // see whether there is another way, or the order is withdrawn
	stopped
)

// await waits for the sub-overlord's session; after a refusal for a while.
func (b *batch) await(ctx context.Context, until time.Time, code call.Code) event {
	wait, why := time.Hour, look
	if !b.deadline.IsZero() {
		wait, why = time.Until(b.deadline), tooLate
	}
	if d := time.Until(until); !until.IsZero() && d < wait {
		wait, why = d, nobody
	}
	if wait > retryEvery {
		wait, why = retryEvery, look
	}
	arrival := b.w.Arrival(b.name)
	if code == call.Busy || code == call.Unavailable { // it is there, and takes nothing now
		arrival = nil
		if why == look {
			why = arrived
		}
	}
	if wait <= 0 {
		return why
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	stop := b.r.stop
	if !b.cancelled.IsZero() {
		stop = nil
	}
	select {
	case <-ctx.Done():
		return stopped
	case <-arrival:
		return arrived
	case <-stop:
		b.withdrawn()
		return look
	case <-t.C:
		return why
	}
}

// late ends machines whose time is over.
func (b *batch) late(rest []int32) {
	code, why := call.NoAnswer, "no answer within "+b.r.Plan.Nominal.String()
	if !b.lost.IsZero() {
		code, why = call.SessionLost, detailLost
	}
	b.end(rest, code, behind(b.name, why))
}

// end gives machines a result that we, not they, give.
func (b *batch) end(rest []int32, code call.Code, detail string) {
	b.r.finishAll(rest, call.Result{Code: code, Detail: detail}, nil)
}

// take takes a group of results from the sub-overlord. What it says of machines that
// it was not sent is dropped, and noted.
func (b *batch) take(ctx context.Context, g Told) {
	b.seen++
	at, others := b.own(g.At)
	if len(others) > 0 || len(g.Others) > 0 {
		b.r.note(b.name, slices.Concat(others, g.Others))
	}
	if len(others) > 0 || len(g.Took) != len(at) {
		g.Took = nil
	}
	res := call.Result{Code: g.Code, Detail: g.Detail, Output: g.Output, Cut: g.Cut}
	left := b.counting(at, res)
	if g.Code == call.NoSession { // it cannot reach them; somebody else may
		left = b.reroute(ctx, left, false)
	}
	if len(left) < len(at) {
		g.Took = nil
	}
	b.r.finishAll(left, res, g.Took)
}

// finishAll gives machines one result, except those that have one. took are their
// times in microseconds; nil: not known. The list of machines is not changed.
func (r *Run) finishAll(at []int32, res call.Result, took []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	doubted := len(at) > 0 && (len(r.begun) > 0 || r.resumed) && neverBegan(res)
	ended, all := at, true
	for k, i := range at {
		counts := r.advance(int(i), call.Finished)
		if counts && doubted && r.otherwiseLocked(int(i)) {
			r.addAllLocked([]int32{i}, honest(res))
			counts = false
		}
		switch {
		case counts && took != nil:
			r.fold.took[i] = Micros(took[k])
		case !counts && all:
			ended, all = slices.Clone(at[:k]), false
		}
		if counts && !all {
			ended = append(ended, i)
		}
	}
	if len(ended) > 0 {
		r.addAllLocked(ended, res)
	}
}

// Micros gives a time that a machine names in microseconds, whatever it is.
func Micros(us uint64) time.Duration {
	return time.Duration(min(us, uint64(math.MaxInt64/time.Microsecond))) * time.Microsecond
}
