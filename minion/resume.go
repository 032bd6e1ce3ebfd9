package minion

import (
	"bytes"
	"encoding/json"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// Limits of what a machine says of results that wait.
const (
	maxAnnounced = 4000 // jobs after HELLO; of more the overlord asks by itself
	maxAckJobs   = 1000 // in one ACK; 18 KB
)

// bornMs is the birth of the journal as HELLO tells it.
func (a *Agent) bornMs() int64 {
	if birth := a.books.Birth(); !birth.IsZero() {
		return birth.UnixMilli()
	}
	return 0
}

// takeBirth keeps what the overlord said of when this machine's journal began,
// unless another was first. It says the time of its HELLO, so what differs from
// this clock is not believed: a birth in the past would let an order run twice, and
// one in the future would refuse all for long.
func (l *link) takeBirth() {
	a := l.agent
	if l.birth.IsZero() || !a.books.Birth().IsZero() {
		return
	}
	now := a.now()
	if at := now.Add(-time.Since(l.since)); skewed(at.Sub(l.birth)) {
		if !l.doubted {
			a.log.Warn("birth of the journal not believed: orders that change something are refused", "overlord", l.peer,
				"told", stamp(l.birth), "clock", stamp(at))
		}
		l.doubted = true
		return
	}
	if err := a.books.setBirth(l.birth); err != nil {
		a.log.Error("birth of the journal not kept yet", "err", err)
		return
	}
	a.log.Info("journal begun", "birth", stamp(l.birth), "overlord", l.peer)
}

// replace lets no further call of this session be accepted; it waits for one
// that is just being judged.
func (l *link) replace() {
	l.gate.Lock()
	defer l.gate.Unlock()
	l.replaced = true
}

// announce tells the overlord of results that wait for it to ask.
func (l *link) announce(jobs []call.JobID) {
	for len(jobs) > 0 {
		n := min(len(jobs), maxAckJobs)
		ack := &fleetpb.Ack{State: fleetpb.Ack_FINISHED, Jobs: make([][]byte, n)}
		for i := range n {
			ack.Jobs[i] = jobs[i][:]
		}
		if err := l.session.Ack(0, ack); err != nil {
			return // the session is over: the next one hears of it
		}
		jobs = jobs[n:]
	}
}

// mine gives the book with a job that this overlord, or one that shares its
// store, has sent; nil when there is none.
func (l *link) mine(job call.JobID) book {
	k, owner := l.agent.books.holding(job)
	if k == nil || owner != l.peer && !l.agent.shares(l.peer, owner) {
		return nil
	}
	return k
}

// brought is mine for jobs, too, that another overlord sent first. Their results
// are for the other one to release.
func (l *link) brought(job call.JobID) book {
	if k := l.mine(job); k != nil {
		return k
	}
	if k, _ := l.agent.books.holding(job); k != nil && l.agent.books.broughtBy(job, l.peer) {
		return k
	}
	return nil
}

// withdraw ends a job if that is asked; arguments that do not hold are for job to
// refuse.
func (l *link) withdraw(args []byte) {
	var in session.JobArgs
	if err := decodeArgs(args, &in); err != nil || !in.Cancel {
		return
	}
	if id, err := call.ParseJobID(in.Job); err == nil && l.brought(id) != nil {
		l.agent.cancel(l.agent.crew.find(id))
	}
}

// job answers how far a job has come; see withdraw.
func (l *link) job(in session.JobArgs) (session.JobResult, error) {
	id, err := call.ParseJobID(in.Job)
	if err != nil {
		return session.JobResult{}, call.Errorf(call.Invalid, "%v", err)
	}
	k := l.brought(id)
	if k == nil {
		return session.JobResult{State: session.JobNone}, nil
	}
	state, r, err := k.Find(id)
	switch {
	case err != nil:
		return session.JobResult{}, err
	case state == 0: // forgotten between the two questions
		return session.JobResult{State: session.JobNone}, nil
	case state != call.Finished:
		return session.JobResult{State: session.JobRunning}, nil
	}
	return session.JobResult{State: session.JobFinished, Code: r.Code, Detail: r.Detail, TookUs: r.TookUs, Output: r.Output}, nil
}

// cancel ends a call that waits or runs; nil is none. One that waited is
// answered when cancel returns.
func (a *Agent) cancel(w *work) {
	if w == nil {
		return
	}
	cause := call.Errorf(call.Cancelled, "withdrawn by the operator")
	if a.crew.withdraw(w, cause) {
		a.finish(w, failure(cause))
	}
}

// encodeAnswer leaves an output inside the answer as its method wrote it.
func encodeAnswer(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
