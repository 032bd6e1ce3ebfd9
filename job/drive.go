package job

import (
	"context"
	"errors"
	"slices"
	"time"

	"dominion/call"
)

const (
	confirmTime = 5 * time.Second       // for calls to confirm that they were cancelled
	returnGrace = 30 * time.Second      // for a machine whose session was lost to come back
	retryEvery  = 5 * time.Second       // between attempts at a machine that refuses a call for now
	hurry       = time.Second           // between two asks that a machine itself provokes
	glance      = 50 * time.Millisecond // between two looks at all calls that are late
)

// AskEvery is how long a machine with a session may keep us waiting before it
// is asked how far it has come: a result that got lost is found then.
const AskEvery = 10 * time.Second

// Details of results that we, not the machines, give.
const (
	detailLost      = "the connection ended before the answer; whether the call ran is not known"
	cancelledBefore = "cancelled before " // begins those of calls that were cancelled and never began
	detailNeverSent = cancelledBefore + "it was sent"
	detailOtherwise = "another way, which failed, may have begun it, and whether the call ran is not known; by this one: "
)

// driver sends the calls of one run and looks after those that are late. All
// of it belongs to one goroutine.
type driver struct {
	r         *Run
	w         wire
	start     time.Time
	deadline  time.Time // of all calls; zero: none
	expiry    time.Time // of what has not started, where calls wait; zero: nothing waits, or it has passed
	confirm   time.Time // when calls must have confirmed that they were cancelled; zero: not cancelled, or it has passed
	cancelled time.Time // zero: not
	sent      time.Time // when all had been sent
	patrol    time.Time // when to look for answers that got lost; zero: no call is in the air
	next      time.Time // when late has something due; zero: nothing
	late      map[int]*late
	asks      uint64
	moved     map[int16][]int32 // machines that another way leads to, by sub-overlord
	part      []byte
	timer     *time.Timer
}

func (r *Run) newDriver(w wire) *driver {
	d := &driver{r: r, w: w, start: time.Now(), late: make(map[int]*late), part: make([]byte, 0, 1024)}
	d.limits()
	return d
}

// drive sends the calls, sends or asks again where sessions were lost, and ends
// those that are late or cancelled, until done is closed.
func (d *driver) drive(ctx context.Context, done <-chan struct{}) {
	if d.r.resumed {
		d.resume()
	} else {
		d.sendAll(ctx)
	}
	d.move(ctx)
	d.sent = time.Now()
	d.patrol = d.sent.Add(AskEvery)
	d.timer = time.NewTimer(d.pause())
	defer d.timer.Stop()
	for stop := d.r.stop; ; {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-stop:
			stop = nil
			d.cancel()
		case <-d.r.poke:
			d.hear()
		case <-d.timer.C:
			d.look()
		}
		d.move(ctx)
		d.timer.Reset(d.pause())
	}
}

// limits sets until when calls may start and must have ended.
func (d *driver) limits() {
	p := d.r.Plan
	switch {
	case p.Wait:
		d.expiry = p.Order.Expiry
		if p.Timeout > 0 {
			d.deadline = p.Order.Expiry.Add(p.Timeout)
		}
	case p.Timeout == 0:
	case d.r.resumed:
		d.deadline = later(p.Created.Add(p.Timeout), d.start.Add(returnGrace))
	default:
		d.deadline = d.start.Add(p.Timeout)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// pause is the time until something is due.
func (d *driver) pause() time.Duration {
	wait := time.Hour
	for _, t := range [...]time.Time{d.deadline, d.expiry, d.confirm, d.patrol, d.next} {
		if !t.IsZero() {
			wait = min(wait, time.Until(t))
		}
	}
	return max(wait, 0)
}

// sendAll sends every call once.
func (d *driver) sendAll(ctx context.Context) {
	for i, name := range d.r.Plan.Machines() {
		select {
		case <-ctx.Done():
			return
		case <-d.r.stop:
			return
		default:
		}
		if !d.r.carried(i) {
			d.send(i, name, false)
		}
	}
}

// move sends calls through sub-overlords whose machines have no session with us.
func (d *driver) move(ctx context.Context) {
	for h, at := range d.moved {
		slices.Sort(at)
		d.r.carryBatch(ctx, d.w, h, at, d.deadline, d.r.resumed)
	}
	d.moved = nil
}

// elsewhere says whether another way leads to a machine that has no session with us.
func (d *driver) elsewhere(i int) bool {
	r := d.r
	if r.via == nil || len(r.Plan.ways.more) == 0 || !d.cancelled.IsZero() {
		return false
	}
	h, ok := r.another(int32(i), direct, false, func(hop string) bool { return isClosed(d.w.Arrival(hop)) })
	if !ok || h == direct {
		return false
	}
	r.via[i].Store(int32(h))
	if d.moved == nil {
		d.moved = make(map[int16][]int32)
	}
	d.moved[h] = append(d.moved[h], int32(i))
	return true
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// resume asks every machine whose result is not known.
func (d *driver) resume() {
	for i := range d.r.Plan.Machines() {
		if d.r.at(i) >= call.Finished || d.r.carried(i) {
			continue
		}
		l := d.lateOf(i)
		l.orphan = true
		d.ask(i, l)
	}
}

// remaining is the time that a machine is given which is sent the call now; zero: no limit.
func (d *driver) remaining() time.Duration {
	p := d.r.Plan
	switch {
	case p.Timeout == 0:
		return 0
	case p.Wait:
		return p.Timeout - margin(p.Timeout)
	}
	return max(time.Until(d.deadline.Add(-margin(p.Timeout))), time.Millisecond)
}

// send sends a call that is planned, once more if again is set. Where calls wait, one that cannot be sent
// stays planned; otherwise it is finished.
func (d *driver) send(i int, name string, again bool) {
	r := d.r
	if !r.advance(i, call.Sent) { // before it leaves: the answer may be here first
		return // cancelled
	}
	shared, part := r.Plan.Call(i, d.remaining(), d.part)
	err := d.w.Send(name, again, shared, part)
	if err == nil {
		return
	}
	code, detail := call.CodeOf(err), err.Error()
	if e, ok := errors.AsType[*call.Error](err); ok {
		detail = e.Detail
	}
	if code == call.NoSession && d.elsewhere(i) {
		return
	}
	passing := code == call.NoSession || code == call.Busy || code == call.Unavailable
	if !passing || !r.Plan.Wait || !time.Now().Before(r.Plan.Order.Expiry) {
		r.finish(i, call.Result{Machine: name, Code: code, Detail: detail})
		return
	}
	l := d.lateOf(i)
	l.why, l.orphan, l.away = detail, false, code == call.NoSession
	if code != call.NoSession {
		d.retry(l, time.Now().Add(retryEvery))
	}
	d.planAgain(i, name)
}

// planAgain takes back that a call was sent; false when it is finished, or withdrawn.
func (d *driver) planAgain(i int, name string) bool {
	if !d.r.back(i) {
		return false
	}
	select {
	case <-d.r.stop: // Cancel may have passed it by
		d.r.finish(i, call.Result{Machine: name, Code: call.Cancelled, Detail: detailNeverSent})
		return false
	default:
		return true
	}
}

// at makes sure that the timer wakes us at t.
func (d *driver) at(t time.Time) {
	if d.next.IsZero() || t.Before(d.next) {
		d.next = t
	}
}

func (d *driver) retry(l *late, t time.Time) {
	l.retry = t
	d.at(t)
}

func (d *driver) endAt(l *late, t time.Time) {
	l.end = t
	if !t.IsZero() {
		d.at(t)
	}
}

// resend sends a call that is planned, again or late.
func (d *driver) resend(i int, l *late) {
	l.heard, l.orphan, l.retry, l.end = time.Now(), false, time.Time{}, time.Time{}
	d.watchOver()
	d.send(i, d.r.name(i), !l.sent.IsZero())
}

// cancel tells all machines that have the call to stop it. What was planned
// Cancel has ended.
func (d *driver) cancel() {
	d.cancelled = time.Now()
	d.confirm = d.cancelled.Add(confirmTime)
	for i, name := range d.r.Plan.Machines() {
		if d.r.at(i) >= call.Finished || d.r.carried(i) {
			continue
		}
		switch l := d.late[i]; {
		case l == nil || l.mute || !l.orphan && !l.away && l.retry.IsZero():
			d.w.Cancel(name)
		case l.away:
			d.endAt(l, d.awaitedUntil(l.lost))
		default: // another session brought the call, or it was refused
			d.ask(i, l)
		}
	}
}

// look does what is due.
func (d *driver) look() {
	now := time.Now()
	due := func(t *time.Time) bool {
		if t.IsZero() || now.Before(*t) {
			return false
		}
		*t = time.Time{}
		return true
	}
	if due(&d.deadline) {
		d.giveUp("no answer within " + d.r.Plan.Nominal.String())
	}
	if due(&d.expiry) {
		d.expire()
	}
	if due(&d.confirm) {
		d.unconfirmed()
	}
	if due(&d.patrol) {
		d.search(now)
	}
	if due(&d.next) {
		d.lookLate(now)
	}
}

// search asks the machines that have kept us waiting.
func (d *driver) search(now time.Time) {
	flying := false
	for i := range d.r.Plan.Machines() {
		if at := d.r.at(i); at == call.Planned || at >= call.Finished || d.r.carried(i) {
			continue
		}
		l := d.late[i]
		if l != nil && (l.away || l.mute) {
			continue
		}
		flying = true
		if l = d.lateOf(i); now.Sub(l.heard) >= AskEvery && l.retry.IsZero() {
			d.ask(i, l)
		}
	}
	if flying {
		d.patrol = now.Add(AskEvery / 2)
	}
}

// expire ends the calls that wait for their machines: the order's time is over.
func (d *driver) expire() {
	for i, name := range d.r.Plan.Machines() {
		if d.r.at(i) != call.Planned || d.r.carried(i) {
			continue
		}
		l := d.lateOf(i)
		res := call.Result{Machine: name, Code: call.Expired, Detail: d.expired(l)}
		if l.away {
			res.Code, res.Detail = call.NoSession, l.why
		}
		d.r.finish(i, res)
	}
}

// unconfirmed ends the calls whose machines have a session and did not confirm
// that they were cancelled. Others have an end of their own.
func (d *driver) unconfirmed() {
	for i := range d.r.Plan.Machines() {
		if d.r.at(i) >= call.Finished || d.r.carried(i) {
			continue
		}
		if l := d.lateOf(i); l.end.IsZero() {
			d.end(i, l)
		}
	}
}

// giveUp ends every call that has no result, and tells its machine to stop.
func (d *driver) giveUp(detail string) {
	for i, name := range d.r.Plan.Machines() {
		if d.r.carried(i) { // its batch has the same deadline
			continue
		}
		res := call.Result{Machine: name, Code: call.NoAnswer, Detail: detail}
		if l := d.late[i]; l != nil && l.away {
			res.Code, res.Detail = call.SessionLost, detailLost
		}
		if d.r.finish(i, res) {
			d.w.Cancel(name)
		}
	}
}

// margin is what a machine's time is shorter than ours, so that it can still
// say itself that it was late.
func margin(timeout time.Duration) time.Duration {
	return min(max(timeout/20, 20*time.Millisecond), time.Second)
}
