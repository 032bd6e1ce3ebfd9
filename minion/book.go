package minion

import (
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Limits of the book kept in memory.
const (
	bookKeep    = 10 * time.Minute // a job id is remembered until its order's expiry plus this
	bookJobs    = 1_000_000        // job ids; about 90 MB when full
	bookResults = 16 << 20         // bytes of results that nobody has taken yet
)

// A claimer decides that a job id runs at most once on this machine.
type claimer interface {
	// Check says without a trace whether the job may be received: the error is
	// a *call.Error with Repeated, Expired or Busy.
	Check(job call.JobID, expiry, now time.Time) error
	// Receive claims the job: its state is call.Received from now on. Errors
	// are those of Check.
	Receive(job call.JobID, expiry, now time.Time) error
}

// A book knows how far each call on this machine has come: call.Received,
// call.Started, call.Finished. A state only moves forward, and a job id is
// forgotten only when its order could not be accepted any more.
type book interface {
	claimer
	// Start is called before the method begins.
	Start(job call.JobID) error
	// Finish is called before the result is sent; the book keeps it until
	// Release, as far as it has room.
	Finish(job call.JobID, r *fleetpb.Result) error
	// Release says that a job's result need not be kept. Its id is.
	Release(job call.JobID)
}

// memoryBook is a book without a disk: it forgets everything when the process
// ends. Its zero value is ready.
type memoryBook struct {
	maxJobs int // zero means bookJobs

	mu      sync.Mutex
	jobs    map[call.JobID]call.State
	byEnd   map[int64][]call.JobID // minute of the end of remembering to jobs
	first   int64                  // no key of byEnd is smaller; meaningless while byEnd is empty
	floor   time.Time              // newest expiry among forgotten jobs: no order up to it is accepted
	results map[call.JobID]*fleetpb.Result
	held    int // bytes in results
}

func (b *memoryBook) limit() int {
	if b.maxJobs > 0 {
		return b.maxJobs
	}
	return bookJobs
}

// Check implements claimer.
func (b *memoryBook) Check(job call.JobID, expiry, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	return b.check(job, expiry)
}

// Receive implements claimer.
func (b *memoryBook) Receive(job call.JobID, expiry, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	if err := b.check(job, expiry); err != nil {
		return err
	}
	if b.jobs == nil {
		b.jobs = make(map[call.JobID]call.State)
		b.byEnd = make(map[int64][]call.JobID)
	}
	b.jobs[job] = call.Received
	end := minuteOf(expiry.Add(bookKeep)) + 1 // the whole minute has passed when it is forgotten
	if len(b.byEnd) == 0 || end < b.first {
		b.first = end
	}
	b.byEnd[end] = append(b.byEnd[end], job)
	return nil
}

func (b *memoryBook) check(job call.JobID, expiry time.Time) error {
	if s, ok := b.jobs[job]; ok {
		return call.Errorf(call.Repeated, "job %s has been received here before (%s)", job, stateWord(s))
	}
	if !b.floor.IsZero() && !expiry.After(b.floor) {
		// Only a clock that was set back can lead here: what was forgotten had
		// expired by more than the tolerance, and so had everything older.
		return call.Errorf(call.Expired, "the order expired at %s, and later ones have been forgotten here; was this clock set back?",
			expiry.UTC().Format(time.RFC3339))
	}
	if len(b.jobs) >= b.limit() {
		return call.Errorf(call.Busy, "this machine remembers %d jobs and takes no more until the oldest expires", len(b.jobs))
	}
	return nil
}

// forget drops the jobs whose time is over. It touches each minute once.
func (b *memoryBook) forget(now time.Time) {
	until := minuteOf(now)
	if len(b.byEnd) == 0 || b.first > until {
		return
	}
	next := int64(0)
	for end, jobs := range b.byEnd {
		if end > until {
			if next == 0 || end < next {
				next = end
			}
			continue
		}
		for _, job := range jobs {
			delete(b.jobs, job)
			b.release(job)
		}
		delete(b.byEnd, end)
		// All of these expired before the end of that minute less bookKeep.
		if floor := time.Unix(end*60, 0).Add(-bookKeep); floor.After(b.floor) {
			b.floor = floor
		}
	}
	b.first = next
}

// Start implements book.
func (b *memoryBook) Start(job call.JobID) error { return b.advance(job, call.Received, call.Started) }

// Finish implements book.
func (b *memoryBook) Finish(job call.JobID, r *fleetpb.Result) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.jobs[job]
	if !ok {
		return nil // so long a run that even its id is forgotten
	}
	if s == call.Finished {
		return call.Errorf(call.Internal, "job %s finished twice", job)
	}
	b.jobs[job] = call.Finished
	size := len(r.GetOutput()) + len(r.GetDetail())
	if b.held+size > bookResults {
		return nil
	}
	if b.results == nil {
		b.results = make(map[call.JobID]*fleetpb.Result)
	}
	b.results[job] = r
	b.held += size
	return nil
}

// Release implements book.
func (b *memoryBook) Release(job call.JobID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(job)
}

func (b *memoryBook) release(job call.JobID) {
	if r, ok := b.results[job]; ok {
		b.held -= len(r.GetOutput()) + len(r.GetDetail())
		delete(b.results, job)
	}
	if len(b.results) == 0 {
		b.results = nil // an idle agent holds no empty table
	}
}

// state gives how far a job has come and the result kept for it, if any.
func (b *memoryBook) state(job call.JobID) (call.State, *fleetpb.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.jobs[job], b.results[job]
}

func (b *memoryBook) advance(job call.JobID, from, to call.State) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.jobs[job]
	if ok && s != from {
		return call.Errorf(call.Internal, "job %s is %s, not %s", job, stateWord(s), stateWord(from))
	}
	if ok {
		b.jobs[job] = to
	}
	return nil
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

func stateWord(s call.State) string {
	switch s {
	case call.Received:
		return "it waits"
	case call.Started:
		return "it runs"
	case call.Finished:
		return "it has ended"
	}
	return "it is unknown"
}
