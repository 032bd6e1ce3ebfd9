package minion

import (
	"slices"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
)

// Limits of the book kept in memory.
const (
	bookKeep    = 10 * time.Minute // a job id is remembered until its order's expiry plus this
	bookJobs    = 1_000_000        // job ids; about 120 MB when full
	bookResults = 16 << 20         // bytes of results that nobody has taken yet
)

// A claimer decides that a job id runs at most once on this machine.
type claimer interface {
	// Check says without a trace whether the job may be received: the error is
	// a *call.Error with Repeated or Expired.
	Check(job call.JobID, expiry, now time.Time) error
	// Receive claims the job, which an overlord sent: its state is call.Received
	// from now on. Errors are those of Check, Busy and Unavailable.
	Receive(job call.JobID, expiry time.Time, overlord, method string, now time.Time) error
	// Withdraw forgets a claim that was not started: the job may come again.
	Withdraw(job call.JobID)
}

// A runner is told how far a job has come. A state only moves forward.
type runner interface {
	// Start is called before the method begins; with an error it must not.
	Start(job call.JobID) error
	// Finish is called before the result is sent, and keeps it. An error is
	// about where it is kept: it is sent all the same.
	Finish(job call.JobID, r *fleetpb.Result) error
}

// A keeper gives results again to who asks for them.
type keeper interface {
	// Owner gives the overlord that sent a job; false when it is not known.
	Owner(job call.JobID) (string, bool)
	// Find gives how far a job has come, zero when it is not known, and the
	// result of a finished one.
	Find(job call.JobID) (call.State, *fleetpb.Result, error)
	// Finished gives at most limit jobs of an overlord that have ended and that
	// were not released.
	Finished(overlord string, limit int) []call.JobID
	// Release says that an overlord has stored a job's result.
	Release(job call.JobID)
}

// A book knows how far each call on this machine has come: call.Received,
// call.Started, call.Finished. A job id is forgotten only when its order could
// not be accepted any more.
type book interface {
	claimer
	runner
	keeper
}

// books are what an agent knows of its jobs: those of methods that only read are
// in memory, all others in the journal, if there is one.
type books struct {
	memory memoryBook
	disk   *journal.Journal // nil: everything is in memory
	id     []byte           // told in HELLO

	mu    sync.Mutex
	birth time.Time // without a journal on disk; zero: not told yet
	also  []second
	next  int // the oldest of also, when there are maxAlso
}

// maxAlso is how many second senders of jobs are remembered, the latest ones.
const maxAlso = 1024

// second says that an overlord brought an order that another had brought before.
type second struct {
	job      call.JobID
	overlord string
}

// came notes that an overlord brought an order, whole and verified, that is known
// here already: it may ask what became of it. Where several ways lead to this
// machine, the first may have failed behind it.
func (b *books) came(job call.JobID, overlord string) {
	s := second{job, overlord}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case slices.Contains(b.also, s):
	case len(b.also) < maxAlso:
		b.also = append(b.also, s)
	default:
		b.also[b.next] = s
		b.next = (b.next + 1) % maxAlso
	}
}

// broughtBy says whether came was told so.
func (b *books) broughtBy(job call.JobID, overlord string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.also, second{job, overlord})
}

// of gives the book of a method's jobs.
func (b *books) of(e module.Effect) book {
	if b.disk == nil || e == module.Read {
		return &b.memory
	}
	return b.disk
}

// all gives every book.
func (b *books) all() []book {
	if b.disk == nil {
		return []book{&b.memory}
	}
	return []book{b.disk, &b.memory}
}

// Check says whether a job is new. The error is a *call.Error with Repeated or
// Expired.
func (b *books) Check(job call.JobID, expiry, now time.Time) error {
	for _, k := range b.all() {
		if err := k.Check(job, expiry, now); err != nil {
			return err
		}
	}
	return nil
}

// holding gives the book that knows a job, and the overlord that sent it; nil
// when none does.
func (b *books) holding(job call.JobID) (book, string) {
	for _, k := range b.all() {
		if owner, ok := k.Owner(job); ok {
			return k, owner
		}
	}
	return nil, ""
}

// finished gives the jobs whose results wait for an overlord.
func (b *books) finished(overlord string, limit int) []call.JobID {
	var out []call.JobID
	for _, k := range b.all() {
		out = append(out, k.Finished(overlord, limit-len(out))...)
	}
	return out
}

// Birth is when this memory of jobs began, by an overlord's clock; zero when
// none has told.
func (b *books) Birth() time.Time {
	if b.disk != nil {
		return b.disk.Birth()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.birth
}

// setBirth keeps what the first overlord says, and returns when it is durable.
func (b *books) setBirth(at time.Time) error {
	if b.disk != nil {
		return b.disk.SetBirth(at)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.birth.IsZero() {
		b.birth = at
	}
	return nil
}

// memoryBook is a book without a disk: it forgets everything when the process
// ends. Its zero value is ready.
type memoryBook struct {
	maxJobs int // zero means bookJobs

	mu      sync.Mutex
	jobs    map[call.JobID]memoryJob
	byEnd   map[int64][]call.JobID // minute of the end of remembering to jobs
	first   int64                  // no key of byEnd is smaller; meaningless while byEnd is empty
	floor   time.Time              // newest expiry among forgotten jobs: no order up to it is accepted
	results map[call.JobID]*fleetpb.Result
	order   []call.JobID // of results, the oldest first; some are gone
	held    int          // bytes in results
}

// memoryJob is what is remembered of one job.
type memoryJob struct {
	overlord string
	state    call.State
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
func (b *memoryBook) Receive(job call.JobID, expiry time.Time, overlord, _ string, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(now)
	if err := b.check(job, expiry); err != nil {
		return err
	}
	if len(b.jobs) >= b.limit() {
		return call.Errorf(call.Busy, "this machine remembers %d jobs and takes no more until the oldest expires", len(b.jobs))
	}
	if b.jobs == nil {
		b.jobs = make(map[call.JobID]memoryJob)
	}
	b.jobs[job] = memoryJob{overlord: overlord, state: call.Received}
	b.forgetAt(job, minuteOf(expiry.Add(bookKeep))+1) // the whole minute has passed when it is forgotten
	return nil
}

func (b *memoryBook) forgetAt(job call.JobID, end int64) {
	if b.byEnd == nil {
		b.byEnd = make(map[int64][]call.JobID)
	}
	if len(b.byEnd) == 0 || end < b.first {
		b.first = end
	}
	b.byEnd[end] = append(b.byEnd[end], job)
}

func (b *memoryBook) check(job call.JobID, expiry time.Time) error {
	if j, ok := b.jobs[job]; ok {
		return call.Errorf(call.Repeated, "job %s has been received here before (%s)", job, stateWord(j.state))
	}
	if !b.floor.IsZero() && !expiry.After(b.floor) {
		// Only a clock that was set back can lead here: what was forgotten had
		// expired by more than the tolerance, and so had everything older.
		return call.Errorf(call.Expired, "the order expired at %s, and later ones have been forgotten here; was this clock set back?",
			expiry.UTC().Format(time.RFC3339))
	}
	return nil
}

// forget drops the jobs whose time is over. It touches each minute once. What
// has not ended is asked about again later.
func (b *memoryBook) forget(now time.Time) {
	until := minuteOf(now)
	if len(b.byEnd) == 0 || b.first > until {
		return
	}
	var later []call.JobID
	next := int64(0)
	for end, jobs := range b.byEnd {
		if end > until {
			if next == 0 || end < next {
				next = end
			}
			continue
		}
		for _, job := range jobs {
			if j, ok := b.jobs[job]; ok && j.state != call.Finished {
				later = append(later, job)
				continue
			}
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
	for _, job := range later {
		b.forgetAt(job, until+int64(bookKeep/time.Minute))
	}
}

// Withdraw implements claimer.
func (b *memoryBook) Withdraw(job call.JobID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.jobs[job].state == call.Received {
		delete(b.jobs, job)
	}
}

// Start implements runner.
func (b *memoryBook) Start(job call.JobID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[job]
	if j.state != call.Received {
		return call.Errorf(call.Internal, "job %s cannot start: %s", job, stateWord(j.state))
	}
	j.state = call.Started
	b.jobs[job] = j
	return nil
}

// Finish implements runner. When there is no room for the result, older ones go.
func (b *memoryBook) Finish(job call.JobID, r *fleetpb.Result) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, ok := b.jobs[job]
	if !ok {
		return nil
	}
	if j.state == call.Finished {
		return call.Errorf(call.Internal, "job %s finished twice", job)
	}
	j.state = call.Finished
	b.jobs[job] = j
	size := sizeOf(r)
	for b.held+size > bookResults && len(b.order) > 0 {
		oldest := b.order[0]
		b.order = b.order[1:]
		b.release(oldest)
	}
	if b.results == nil {
		b.results = make(map[call.JobID]*fleetpb.Result)
	}
	b.results[job] = r
	b.held += size
	if b.order = append(b.order, job); len(b.order) > 16+2*len(b.results) { // most are gone
		b.order = slices.DeleteFunc(b.order, func(job call.JobID) bool { return b.results[job] == nil })
	}
	return nil
}

// sizeOf counts what a result costs, about.
func sizeOf(r *fleetpb.Result) int { return 100 + len(r.GetOutput()) + len(r.GetDetail()) }

// Release implements keeper.
func (b *memoryBook) Release(job call.JobID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(job)
}

func (b *memoryBook) release(job call.JobID) {
	if r, ok := b.results[job]; ok {
		b.held -= sizeOf(r)
		delete(b.results, job)
	}
	if len(b.results) == 0 {
		b.results, b.order = nil, nil // an idle agent holds no empty table
	}
}

// Owner implements keeper.
func (b *memoryBook) Owner(job call.JobID) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, ok := b.jobs[job]
	return j.overlord, ok
}

// Find implements keeper. Of a result that is not kept any more only that is told.
func (b *memoryBook) Find(job call.JobID) (call.State, *fleetpb.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, r := b.jobs[job], b.results[job]
	if j.state == call.Finished && r == nil {
		r = failure(call.Errorf(call.Unknown, "it has ended, and its result is not kept here any more"))
	}
	return j.state, r, nil
}

// Finished implements keeper.
func (b *memoryBook) Finished(overlord string, limit int) []call.JobID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []call.JobID
	for job := range b.results {
		if len(out) >= limit {
			break
		}
		if b.jobs[job].overlord == overlord {
			out = append(out, job)
		}
	}
	return out
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
