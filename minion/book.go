package minion

import (
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
)

// Bounds of the journal that is kept in memory.
const (
	memoryJobs    = 1_000_000 // about 130 MB when full
	memoryResults = 16 << 20  // bytes of results that no overlord has stored yet
)

// A claimer decides that a job id runs at most once on this machine.
type claimer interface {
	// Check says without a trace whether the job may be received: the error is
	// a *call.Error with Repeated, Expired, Busy, TooYoung or Unavailable.
	Check(o *call.Order, e module.Effect, now time.Time) error
}

// books know how far each call on this machine has come. What only reads is
// kept in memory and may run again after a restart; everything else is in the
// journal on the disk, if there is one.
type books struct {
	memory *journal.Journal
	disk   *journal.Journal // nil: there is none, and memory serves for all

	mu sync.Mutex // held while a job is claimed: no id is in both
}

// main is the journal whose id and birth the overlord is told.
func (b *books) main() *journal.Journal {
	if b.disk != nil {
		return b.disk
	}
	return b.memory
}

// of gives the journal for a method of that effect, and the other, if any.
func (b *books) of(e module.Effect) (its, other *journal.Journal) {
	switch {
	case b.disk == nil:
		return b.memory, nil
	case e == module.Read:
		return b.memory, b.disk
	}
	return b.disk, b.memory
}

// holding gives the journal that knows a job.
func (b *books) holding(job call.JobID) *journal.Journal {
	if b.disk != nil {
		if _, ok := b.disk.Look(job); ok {
			return b.disk
		}
	}
	return b.memory
}

// Check implements claimer.
func (b *books) Check(o *call.Order, e module.Effect, now time.Time) error {
	its, other := b.of(e)
	if other != nil {
		if have, ok := other.Look(o.Job); ok {
			return call.Errorf(call.Repeated, "job %s has been received here before (%s)", o.Job, journal.StateWord(have.State))
		}
	}
	if err := its.Check(o.Job, o.Expiry, now); err != nil || e == module.Read {
		return err
	}
	// A journal that was lost may hold what was ordered before this one began.
	switch birth := its.Birth(); {
	case birth.IsZero():
		return call.Errorf(call.Unavailable, "this machine's journal cannot be written; nothing was run")
	case o.IssuedAt.Before(birth):
		return call.Errorf(call.TooYoung, "this machine's journal began at %s, and what was ordered before may have run under another; order it again now", stamp(birth))
	}
	return nil
}

// Receive claims a job for an overlord: its state is call.Received from now on.
// Errors are those of Check.
func (b *books) Receive(o *call.Order, e module.Effect, overlord string, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.Check(o, e, now); err != nil {
		return err
	}
	its, _ := b.of(e)
	return its.Receive(o.Job, o.Expiry, overlord, now)
}

// Start is called before the method begins.
func (b *books) Start(job call.JobID) error { return b.holding(job).Start(job) }

// Finish is called before the result is sent.
func (b *books) Finish(job call.JobID, r *fleetpb.Result) error {
	return b.holding(job).Finish(job, r)
}

// Release says that a job's result need not be kept. Its id is.
func (b *books) Release(job call.JobID) { b.holding(job).Release(job) }

// waiting gives up to limit jobs whose results no overlord has stored, of those
// overlords that of accepts.
func (b *books) waiting(of func(overlord string) bool, limit int) []call.JobID {
	var out []call.JobID
	if b.disk != nil {
		out = b.disk.Unacknowledged(of, limit)
	}
	return append(out, b.memory.Unacknowledged(of, limit-len(out))...)
}
