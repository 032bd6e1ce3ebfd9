package journal

import (
	"dominion/api/fleetpb"
	"dominion/call"
)

// Lost is a job that ran when the machine, or its agent, went down.
type Lost struct {
	Job              call.JobID
	Overlord, Method string
	Result           *fleetpb.Result // of code Unknown
}

// Lost gives the jobs that ran when the journal was last in use and that were not
// concluded; in no order.
func (j *Journal) Lost() []Lost {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Lost
	for job, e := range j.entries {
		if e.is(cut) && !e.is(heard) {
			method := j.names[e.method]
			out = append(out, Lost{Job: job, Overlord: j.names[e.overlord], Method: method, Result: unknownEnd(method)})
		}
	}
	return out
}

// Conclude keeps the end of a lost job on the disk, so that Lost does not give it
// when the journal is opened again: r is the Result that Lost gave, or another
// that somebody knows. An error is that of Finish.
func (j *Journal) Conclude(job call.JobID, r *fleetpb.Result) error {
	r = fit(r)
	j.mu.Lock()
	e, ok := j.entries[job]
	if !ok || !e.is(cut) || e.is(heard) {
		j.mu.Unlock()
		return nil
	}
	e.flags &^= cut
	e.code = r.Code
	j.entries[job] = e
	if j.held == nil {
		j.held = make(map[call.JobID]*fleetpb.Result)
	}
	j.held[job] = r // until the disk has it
	j.unheard += weight(r)
	j.mu.Unlock()
	return j.write(record{kind: kindFinished, job: job, ended: e.ended, result: r})
}

// Continue says that a lost job goes on: it has not ended, and is lost again
// when the journal is opened again, unless it was finished.
func (j *Journal) Continue(job call.JobID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[job]
	if !ok || !e.is(cut) || e.is(heard) {
		return
	}
	e.flags &^= cut
	e.state, e.code, e.ended = uint8(call.Started), 0, 0
	j.entries[job] = e
}

func unknownEnd(method string) *fleetpb.Result {
	return &fleetpb.Result{
		Code: uint32(call.Unknown), Detail: "the machine, or its agent, went down while " + method + " ran",
	}
}
