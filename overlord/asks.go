package overlord

import (
	"encoding/json"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/session"
)

// maxTold bounds what a machine says about a job, in bytes of JSON: its output
// is in it, at most maxResult bytes, some of them perhaps escaped.
const maxTold = session.MaxCallOutput

// maxFinished is how many jobs in one ACK FINISHED are looked at; the minion
// says at most so many after HELLO.
const maxFinished = 4000

// asking is a question to one machine about its call of a job. It is the
// session.Waiter of the answer.
type asking struct {
	r       *running
	machine string
	number  uint64 // job.Answer.Number
	id      uint64 // of the call that asks
	session *session.Session
	birth   time.Time // of the machine's journal
}

// anew gives an id for sending a machine its call once more. What comes for
// the one before is still taken.
func (r *running) anew(s *session.Session, machine string) uint64 {
	id := r.o.callID.Add(1)
	r.mu.Lock()
	if r.again == nil {
		r.again = make(map[string]uint64)
	}
	old := r.again[machine]
	r.again[machine] = id
	r.mu.Unlock()
	r.o.jobs.rename(r, old, id)
	if old != 0 {
		s.Forget(old)
		r.o.outputs.forget(old)
	}
	return id
}

// idOf gives the id with which a machine was sent its call last.
func (r *running) idOf(machine string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, ok := r.again[machine]; ok {
		return id
	}
	return r.id
}

// forgetIDs drops everything that is kept under ids of the job.
func (r *running) forgetIDs() {
	r.mu.Lock()
	again, asks := r.again, r.asks
	r.again, r.asks = nil, nil
	r.mu.Unlock()
	r.o.outputs.forget(r.id)
	for machine, id := range again {
		if s := r.o.fleet.get(machine); s != nil {
			s.Forget(id)
		}
		r.o.jobs.rename(r, id, 0)
		r.o.outputs.forget(id)
	}
	for _, a := range asks {
		a.drop()
	}
	r.o.jobs.rename(r, r.id, 0)
}

// Ask implements job's wire.
func (r *running) Ask(machine string, number uint64, cancel bool) error {
	s, birth := r.o.fleet.journal(machine)
	if s == nil {
		return call.Errorf(call.NoSession, "%s", r.o.fleet.why(machine))
	}
	args, err := json.Marshal(session.JobArgs{Job: r.run.Plan.Order.Job.String(), Cancel: cancel})
	if err != nil {
		return call.Errorf(call.Internal, "encode the question: %v", err)
	}
	body, err := proto.Marshal(&fleetpb.Call{Method: session.MethodJob, Args: args})
	if err != nil {
		return call.Errorf(call.Internal, "encode the question: %v", err)
	}
	a := &asking{r: r, machine: machine, number: number, id: r.o.callID.Add(1), session: s, birth: birth}
	r.mu.Lock()
	if r.asks == nil {
		r.asks = make(map[string]*asking)
	}
	old := r.asks[machine]
	r.asks[machine] = a
	r.mu.Unlock()
	if old != nil {
		old.drop()
	}
	r.o.jobs.asking(a)
	if err := s.Start(a.id, a, body); err != nil {
		a.done()
		return err
	}
	return nil
}

// Stored implements job's wire.
func (r *running) Stored(machines []string) {
	for _, s := range r.o.fleet.of(machines) {
		s.Acknowledge(r.run.Plan.Order.Job)
	}
}

// done forgets a question that is answered, or will not be.
func (a *asking) done() {
	a.r.o.jobs.asked(a)
	a.r.o.outputs.forget(a.id)
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if a.r.asks[a.machine] == a {
		delete(a.r.asks, a.machine)
	}
}

// drop withdraws a question: its answer is not wanted any more.
func (a *asking) drop() {
	a.session.Forget(a.id)
	a.done()
}

// Result implements session.Waiter.
func (a *asking) Result(s *session.Session, _ uint64, body []byte) {
	p, err := session.DecodeResult(body)
	switch {
	case err != nil:
		s.Close(call.Invalid, err.Error())
		a.tell(nil, call.Errorf(call.SessionLost, "%v", err))
	case p.Code != 0:
		a.tell(nil, &call.Error{Code: call.Code(p.Code), Node: a.machine, Detail: p.Detail})
	case p.OutputStream != 0:
		go a.awaitOutput(p.OutputStream) // ends with the session
	default:
		a.tell(p.Output, nil)
	}
}

// Lost implements session.Waiter.
func (a *asking) Lost(_ *session.Session, _ uint64, err error) { a.tell(nil, err) }

func (a *asking) awaitOutput(stream uint64) {
	out, err := a.r.o.outputs.wait(a.session, a.id, stream)
	if err != nil && !errors.Is(err, errTooLong) {
		err = call.Errorf(call.SessionLost, "its answer did not arrive whole: %v", err)
	}
	a.tell(out, err)
}

// tell passes the answer on.
func (a *asking) tell(doc []byte, err error) {
	a.done()
	a.r.run.Told(a.machine, a.answer(doc, err))
}

// answer reads what a machine said. What cannot be read is its last word.
func (a *asking) answer(doc []byte, err error) job.Answer {
	out := job.Answer{Number: a.number, Birth: a.birth, Err: err}
	if err != nil && !errors.Is(err, errTooLong) {
		return out
	}
	var p session.JobResult
	if err == nil {
		err = json.Unmarshal(doc, &p)
	}
	if err == nil && len(p.Output) > maxResult {
		err = errTooLong
	}
	switch {
	case err == nil && p.State == session.JobNone:
		out.State = job.None
	case err == nil && p.State == session.JobRunning:
		out.State = job.Running
	case err == nil && p.State == session.JobFinished:
		out.State = job.Finished
		out.Result = call.Result{
			Code: call.Code(p.Code), Detail: cutText(p.Detail, session.MaxDetail), Output: p.Output, Took: job.Micros(p.TookUs),
		}
	default:
		out.Err, out.State = nil, job.Finished
		out.Result = call.Result{Code: call.Internal, Detail: "it sent a result that cannot be read"}
	}
	return out
}

// opened takes a stream that the machine opened for its answer.
func (a *asking) opened(s *session.Session, st *session.Stream) {
	if s != a.session || st.Name() != "result" {
		st.CloseWithReason("no such stream")
		return
	}
	a.r.o.outputs.expect(s, st, maxTold)
}

// finished takes a minion's word that results of jobs wait with it: those that
// are awaited are asked for, and those that nobody awaits need not be kept.
func (o *Overlord) finished(s *session.Session, jobs [][]byte) {
	for i, b := range jobs {
		if len(b) != len(call.JobID{}) || i >= maxFinished {
			return
		}
		id := call.JobID(b)
		switch r := o.jobs.awaiting(id, s.Peer().Name); {
		case o.unwanted(r, s.Peer().Name):
			s.Acknowledge(id)
		case r != nil:
			r.run.Finishing(s.Peer().Name)
		}
	}
}

// unwanted says that a machine need not keep its result of a job; r is nil when
// the job is not open. A store that is older than what machines remember does not
// know the jobs of the time between, and somebody may put the newer one back.
func (o *Overlord) unwanted(r *running, machine string) bool {
	if r != nil {
		return r.run.Kept(machine)
	}
	return o.resumed.Load() && o.keep.auditProblem() == ""
}
