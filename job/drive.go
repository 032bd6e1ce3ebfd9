package job

import (
	"context"
	"errors"
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
	detailNeverSent = "cancelled before it was sent"
)

// late is what is kept of a call that was lost, is late, was refused or waits
// for its machine. Calls that are answered in time have none.
type late struct {
	away   bool      // it has no session
	orphan bool      // the session that brought the call was lost
	mute   bool      // its agent is too old to be asked
	lost   time.Time // since when it is away
	asked  uint64    // number of the ask whose answer counts; 0: none is awaited
	heard  time.Time // when it was sent the call, or asked, last
	sent   time.Time // when it was sent the call again; zero: never
	retry  time.Time // when it is to be asked, or sent the call, again; zero: when something happens
	end    time.Time // when it is given up; zero: with all others
	why    string    // for people: why the call has not started
}

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
	part      []byte
	timer     *time.Timer
}

// drive sends the calls, sends or asks again where sessions were lost, and ends
// those that are late or cancelled, until done is closed.
func (r *Run) drive(ctx context.Context, w wire, done <-chan struct{}) {
	d := &driver{r: r, w: w, start: time.Now(), late: make(map[int]*late), part: make([]byte, 0, 1024)}
	d.limits()
	if r.resumed {
		d.resume()
	} else {
		d.sendAll(ctx)
	}
	d.sent = time.Now()
	d.patrol = d.sent.Add(AskEvery)
	d.timer = time.NewTimer(d.pause())
	defer d.timer.Stop()
	for stop := r.stop; ; {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-stop:
			stop = nil
			d.cancel()
		case <-r.poke:
			d.hear()
		case <-d.timer.C:
			d.look()
		}
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
	for i, name := range d.r.Plan.Tree.All() {
		select {
		case <-ctx.Done():
			return
		case <-d.r.stop:
			return
		default:
		}
		d.send(i, name, false)
	}
}

// resume asks every machine whose result is not known.
func (d *driver) resume() {
	for i := range d.r.Plan.Tree.All() {
		if d.r.at(i) >= call.Finished {
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

func (d *driver) lateOf(i int) *late {
	l := d.late[i]
	if l == nil {
		l = &late{heard: d.sent}
		d.late[i] = l
	}
	return l
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

// ask asks a machine how far its call has come; one without a session is away.
func (d *driver) ask(i int, l *late) {
	if l.mute {
		return
	}
	d.asks++
	l.asked, l.heard, l.retry = d.asks, time.Now(), time.Time{}
	err := d.w.Ask(d.r.name(i), l.asked, !d.cancelled.IsZero())
	if call.CodeOf(err) == call.NoSession {
		d.goneAway(l)
		return
	}
	if err != nil {
		l.asked = 0
		d.retry(l, l.heard.Add(retryEvery))
	}
	switch {
	case d.cancelled.IsZero():
		l.end = time.Time{}
	case l.away || l.end.IsZero(): // once for each time that it comes back, and not for ever
		d.endAt(l, earlier(l.heard.Add(confirmTime), d.cancelled.Add(2*returnGrace)))
	}
	l.away = false
	d.watchOver()
}

// watchOver makes sure that a patrol comes while calls are in the air.
func (d *driver) watchOver() {
	if d.patrol.IsZero() {
		d.patrol = time.Now().Add(AskEvery)
	}
}

func (d *driver) goneAway(l *late) {
	l.asked = 0
	if !l.away {
		l.away, l.lost = true, time.Now()
	}
	d.endAt(l, d.awaitedUntil(l.lost))
}

// awaitedUntil says how long a machine is awaited that had the call and lost
// its session; zero: as long as all.
func (d *driver) awaitedUntil(lost time.Time) time.Time {
	p := d.r.Plan
	patient := p.Wait || d.r.resumed
	switch {
	case !d.cancelled.IsZero() && patient:
		return later(lost, d.cancelled).Add(returnGrace)
	case !d.cancelled.IsZero():
		return d.cancelled.Add(confirmTime)
	case !p.Wait:
		return lost.Add(returnGrace)
	case p.Timeout == 0:
		return later(lost, p.Order.Expiry).Add(returnGrace)
	}
	return time.Time{}
}

// hear acts on what has happened to calls.
func (d *driver) hear() {
	for i, n := range d.r.takeNews() {
		if d.r.at(i) >= call.Finished {
			delete(d.late, i)
			continue
		}
		l := d.lateOf(i)
		if n.refused != "" {
			l.why = n.refused
			d.retry(l, d.afterRefusal())
		}
		if n.answer.Number != 0 && n.answer.Number == l.asked {
			l.asked = 0
			d.answered(i, l, n.answer)
		}
		if n.lost {
			l.orphan, l.mute = true, false
		}
		switch {
		case d.r.at(i) >= call.Finished:
			delete(d.late, i)
		case n.arrived && d.r.at(i) == call.Planned:
			l.away = false
			d.resend(i, l, false)
		case d.r.at(i) == call.Planned:
		case n.arrived || n.lost:
			d.ask(i, l)
		case n.look && l.asked == 0:
			d.askSoon(i, l)
		}
	}
}

// afterRefusal is when a machine is asked again that refused a call for now.
func (d *driver) afterRefusal() time.Time {
	if !d.cancelled.IsZero() {
		return time.Now()
	}
	return time.Now().Add(retryEvery)
}

// askSoon asks because of what the machine itself said or did: not too often.
func (d *driver) askSoon(i int, l *late) {
	if soon := l.heard.Add(hurry); time.Now().Before(soon) {
		d.retry(l, soon)
		return
	}
	d.ask(i, l)
}

// answered acts on how far a machine says that its call has come. What it
// finished has been delivered.
func (d *driver) answered(i int, l *late, a Answer) {
	name := d.r.name(i)
	switch {
	case a.Err == nil && a.State == Running:
	case a.Err == nil && a.State == None:
		d.none(i, l, a.Birth)
	case call.CodeOf(a.Err) == call.SessionLost || call.CodeOf(a.Err) == call.NoSession:
		l.orphan = true
		d.askSoon(i, l)
	case call.CodeOf(a.Err) != call.NotFound: // busy, most likely: the patrol asks again
	case l.orphan:
		d.r.finish(i, call.Result{Machine: name, Code: call.SessionLost, Detail: detailLost})
	default:
		l.mute = true // its answer comes on the session that brought the call, or not
	}
}

// none acts on a machine that never heard of the call.
func (d *driver) none(i int, l *late, birth time.Time) {
	p, name, now := d.r.Plan, d.r.name(i), time.Now()
	res := call.Result{Machine: name}
	switch {
	case !p.Read && birth.After(p.Created):
		res.Code = call.Unknown
		res.Detail = "its journal was lost and began anew after the order; whether the call ran is not known"
	case !d.cancelled.IsZero():
		res.Code, res.Detail = call.Cancelled, "cancelled before it had the call"
	case !now.Before(p.Order.Expiry):
		res.Code, res.Detail = call.Expired, d.expired(l)
	case now.Sub(l.sent) < retryEvery:
		d.retry(l, l.sent.Add(retryEvery))
		return
	default:
		if d.planAgain(i, name) {
			l.sent = now
			d.resend(i, l, true)
		}
		return
	}
	d.r.finish(i, res)
}

func (d *driver) expired(l *late) string {
	s := "the order expired at " + d.r.Plan.Order.Expiry.UTC().Format(time.RFC3339) + ", before the call could start"
	if l.why != "" {
		s += ": " + l.why
	}
	return s
}

// resend sends a call that is planned, again or late.
func (d *driver) resend(i int, l *late, again bool) {
	l.heard, l.orphan, l.retry, l.end = time.Now(), false, time.Time{}, time.Time{}
	d.watchOver()
	d.send(i, d.r.name(i), again)
}

// cancel tells all machines that have the call to stop it. What was planned
// Cancel has ended.
func (d *driver) cancel() {
	d.cancelled = time.Now()
	d.confirm = d.cancelled.Add(confirmTime)
	for i, name := range d.r.Plan.Tree.All() {
		if d.r.at(i) >= call.Finished {
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
		d.giveUp("no answer within " + d.r.Plan.Timeout.String())
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

// lookLate does what is due of late calls.
func (d *driver) lookLate(now time.Time) {
	for i, l := range d.late {
		switch at := d.r.at(i); {
		case at >= call.Finished:
			delete(d.late, i)
			continue
		case !l.end.IsZero() && !now.Before(l.end):
			d.end(i, l)
			delete(d.late, i)
			continue
		case l.retry.IsZero() || now.Before(l.retry):
		case at == call.Planned:
			d.resend(i, l, false)
		default:
			d.ask(i, l)
		}
		for _, t := range [...]time.Time{l.end, l.retry} {
			if !t.IsZero() {
				d.at(t)
			}
		}
	}
	if soon := now.Add(glance); !d.next.IsZero() && d.next.Before(soon) {
		d.next = soon
	}
}

// end gives up a call whose machine did not come back, or did not confirm that
// it is cancelled.
func (d *driver) end(i int, l *late) {
	res := call.Result{Machine: d.r.name(i), Code: call.SessionLost, Detail: detailLost}
	if !l.away {
		res.Code, res.Detail = call.NoAnswer, "cancelled, and it did not confirm within "+confirmTime.String()
	}
	if d.r.finish(i, res) && !l.away {
		d.w.Cancel(res.Machine)
	}
}

// search asks the machines that have kept us waiting.
func (d *driver) search(now time.Time) {
	flying := false
	for i := range d.r.Plan.Tree.All() {
		if at := d.r.at(i); at == call.Planned || at >= call.Finished {
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
	for i, name := range d.r.Plan.Tree.All() {
		if d.r.at(i) != call.Planned {
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
	for i := range d.r.Plan.Tree.All() {
		if d.r.at(i) >= call.Finished {
			continue
		}
		if l := d.lateOf(i); l.end.IsZero() {
			d.end(i, l)
		}
	}
}

// giveUp ends every call that has no result, and tells its machine to stop.
func (d *driver) giveUp(detail string) {
	for i, name := range d.r.Plan.Tree.All() {
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
