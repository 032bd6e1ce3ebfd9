package minion

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
)

// Limits of calls that end when the agent has been started again.
const (
	maxNotes   = 16               // at a time; there is one way to restart a machine
	resumeTime = 10 * time.Second // for a method to say what came of it; sessions wait for that
)

// later keeps their notes.
type later struct {
	mu    sync.Mutex
	notes map[string]note // by job
}

// note is what a method left with its call.
type note struct {
	Operator string `json:"operator"`
	Digest   []byte `json:"digest"` // of the arguments, for the record
	Note     []byte `json:"note"`
	kept     bool   // the call is not over
}

// restore takes what an earlier process of the agent saved.
func (l *later) restore(b []byte) error {
	if err := json.Unmarshal(b, &l.notes); err != nil {
		return err
	}
	if len(l.notes) > maxNotes {
		return fmt.Errorf("it has %d notes, more than %d", len(l.notes), maxNotes)
	}
	return nil
}

// keeper gives a call what module.Env.Keep is; nil when the call cannot outlive
// this process.
func (a *Agent) keeper(w *work) func([]byte) error {
	if a.save == nil || w.book != book(a.books.disk) || !w.verdict.method.Resumes() {
		return nil
	}
	return func(b []byte) error {
		if len(b) > module.MaxNote {
			return call.Errorf(call.Internal, "a note of %d bytes", len(b))
		}
		job := w.verdict.order.Job.String()
		l := &a.later
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, again := l.notes[job]; !again && len(l.notes) >= maxNotes {
			return call.Errorf(call.Busy, "%d calls wait for a restart of this machine, or of its agent", len(l.notes))
		}
		if l.notes == nil {
			l.notes = make(map[string]note)
		}
		l.notes[job] = note{Operator: w.verdict.operator, Digest: w.verdict.order.ArgsDigest[:], Note: b, kept: true}
		err := a.saveNotes()
		if err != nil {
			delete(l.notes, job)
		}
		return err
	}
}

// saveNotes is called with the lock of later held.
func (a *Agent) saveNotes() error {
	b, err := json.Marshal(a.later.notes)
	if err != nil {
		return err
	}
	a.saving.Lock()
	defer a.saving.Unlock()
	if err := a.save(FileLater, b); err != nil {
		return call.Errorf(call.Failed, "keep a note for after the restart: %v", err)
	}
	return nil
}

// resume gives the result of a job that ran when the agent went down, and
// completes its record: what its method makes of the note that it left, or, when
// it left none, that it is unknown; nil when the job goes on.
func (a *Agent) resume(lost journal.Lost, m *auditpb.MinionRecord) *fleetpb.Result {
	l := &a.later
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.notes[lost.Job.String()]
	if !ok {
		return lost.Result
	}
	method, ok := a.verifier.methods.Lookup(lost.Method)
	if !ok || !method.Resumes() {
		return lost.Result
	}
	ctx, stop := context.WithTimeoutCause(context.Background(), resumeTime, &call.Error{Code: call.Timeout})
	defer stop()
	began := time.Now()
	env := &module.Env{Machine: a.name, Job: lost.Job, Operator: n.Operator, Version: a.version, Log: a.log}
	output, err := method.Resume(ctx, env, n.Note)
	if errors.Is(err, module.ErrLater) {
		n.kept = true
		l.notes[lost.Job.String()] = n
		return nil
	}
	r := &fleetpb.Result{Output: output, TookUs: uint64(max(time.Since(began).Microseconds(), 1))}
	if err != nil {
		f := failure(err)
		r.Code, r.Detail = f.Code, f.Detail
	}
	m.Operator, m.ArgsDigest = n.Operator, n.Digest
	if len(output) > 0 {
		sum := sha256.Sum256(output)
		m.OutputSha256 = sum[:]
	}
	return r
}

// dropNote drops the note of a call that left one and ended all the same: it waits
// for no restart, and its place is free.
func (a *Agent) dropNote(job call.JobID) {
	l := &a.later
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.notes[job.String()]; !ok {
		return
	}
	delete(l.notes, job.String())
	if err := a.saveNotes(); err != nil {
		a.log.Error("the note of a call that ended is not removed", "err", err)
	}
}

// forgetNotes drops the notes of calls that are over.
func (a *Agent) forgetNotes() {
	l := &a.later
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.notes)
	for job, n := range l.notes {
		if !n.kept {
			delete(l.notes, job)
		}
	}
	if len(l.notes) == before || a.save == nil {
		return
	}
	if err := a.saveNotes(); err != nil {
		a.log.Error("notes of calls that ended are not removed", "err", err)
	}
}
