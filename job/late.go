package job

import (
	"time"

	"dominion/call"
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
	sent   time.Time // when it was last taken to be sent the call again; zero: never
	retry  time.Time // when it is to be asked, or sent the call, again; zero: when something happens
	end    time.Time // when it is given up; zero: with all others
	why    string    // for people: why the call has not started
}

func (d *driver) lateOf(i int) *late {
	l := d.late[i]
	if l == nil {
		l = &late{heard: d.sent}
		d.late[i] = l
	}
	return l
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
		case n.rerouted:
			if d.planAgain(i, d.r.name(i)) {
				d.resend(i, l)
			}
		case d.r.at(i) >= call.Finished:
			delete(d.late, i)
		case n.arrived && d.r.at(i) == call.Planned:
			l.away = false
			d.resend(i, l)
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
		res.Code, res.Detail = call.Cancelled, cancelledBefore+"it had the call"
	case !now.Before(p.Order.Expiry):
		res.Code, res.Detail = call.Expired, d.expired(l)
	case now.Sub(l.sent) < retryEvery:
		d.retry(l, l.sent.Add(retryEvery))
		return
	default:
		if d.planAgain(i, name) {
			l.sent = now
			d.resend(i, l)
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
			d.resend(i, l)
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
