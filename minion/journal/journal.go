package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Defaults of Options.
const (
	DefaultEntries = 100_000  // about 130 bytes of memory and 60 of disk each
	DefaultResults = 64 << 20 // bytes
)

// Keep is how long an entry is kept after its order's expiry, or its end.
const Keep = 10 * time.Minute

// Options of a journal.
type Options struct {
	MaxEntries int           // jobs; 0: DefaultEntries
	MaxResults int64         // bytes of results; 0: DefaultResults
	Syncing    chan struct{} // holds one for each fdatasync under way, for many journals in one process; nil: no bound
	Now        func() time.Time
	Log        *slog.Logger // nil: discarded
}

// Journal is a machine's memory of jobs, in a directory of its own. What
// several goroutines write meanwhile shares one fdatasync. It starts no
// goroutine and is safe for concurrent use.
type Journal struct {
	opt    Options
	memory bool // nothing is written, and what there is no room for is dropped
	dir    *os.Root
	id     [idSize]byte
	turn   chan struct{} // of one: held by who writes

	// Owned by who holds turn.
	file   *os.File // nil: nothing is written
	offset int64
	// No file is written anew before it has that size; after an attempt that failed.
	notBefore int64

	mu        sync.Mutex
	birth     time.Time
	entries   map[call.JobID]*entry
	byEnd     map[int64][]call.JobID // minute of the end of keeping to jobs
	first     int64                  // no key of byEnd is smaller; meaningless while byEnd is empty
	floor     time.Time              // newest expiry among forgotten jobs: no order up to it is accepted
	overlords []string               // names, by entry.overlord
	results   int64                  // bytes of results that can be given again
	unstored  int64                  // those of them that are not acknowledged
	acked     []call.JobID           // acknowledged with a result that can be given again, the first first
	unwritten map[call.JobID]*fleetpb.Result
	next      *batch // waits to be written; nil: none
	broken    error  // the disk lost data, or the journal is closed: nothing is written any more
	notes     []string
}

// entry is what is remembered of one job.
type entry struct {
	expiry   int64     // of its order, Unix milliseconds
	until    int64     // kept until then, Unix milliseconds
	frame    int64     // offset of the frame with the result; 0: none is in the file
	weight   int32     // bytes of the result; 0: it cannot be given again
	code     call.Code // of the result
	overlord uint16
	state    uint8 // call.Received, Started or Finished
	acked    bool
	mine     bool // received by this process, not by one before it
	writing  bool // its result is in a batch
}

// batch is what one fdatasync makes durable.
type batch struct {
	frame   []byte
	results []call.JobID // whose results are in it
	err     error
	done    chan struct{}
}

// ID names the journal; it changes when another is begun.
func (j *Journal) ID() [16]byte { return j.id }

// Birth is the clock of the first overlord that saw the journal; zero: none has.
func (j *Journal) Birth() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.birth
}

// SetBirth makes the birth durable, unless there is one. The error is a
// *call.Error with Unavailable.
func (j *Journal) SetBirth(t time.Time) error {
	t = t.Truncate(time.Millisecond)
	j.mu.Lock()
	if !j.birth.IsZero() || j.memory {
		if j.birth.IsZero() {
			j.birth = t
		}
		j.mu.Unlock()
		return nil
	}
	b := j.addLocked(&record{kind: birth, at: t})
	j.mu.Unlock()
	if err := j.wait(b); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.birth.IsZero() {
		j.birth = t
	}
	return nil
}

// Check says without a trace whether a job may be received: the error is a
// *call.Error with Repeated, Expired, Busy or Unavailable.
func (j *Journal) Check(job call.JobID, expiry, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forgetLocked(now)
	return j.checkLocked(job, expiry)
}

func (j *Journal) checkLocked(job call.JobID, expiry time.Time) error {
	if e := j.entries[job]; e != nil {
		return call.Errorf(call.Repeated, "job %s has been received here before (%s)", job, StateWord(call.State(e.state)))
	}
	switch {
	case j.broken != nil:
		return j.broken
	case !j.floor.IsZero() && !expiry.After(j.floor):
		// Only a clock that was set back can lead here: what was forgotten had
		// expired by more than the tolerance, and so had everything older.
		return call.Errorf(call.Expired, "the order expired at %s, and later ones have been forgotten here; was this clock set back?",
			expiry.UTC().Format(time.RFC3339))
	case len(j.entries) >= j.opt.MaxEntries:
		return call.Errorf(call.Busy, "this machine's journal holds %d jobs and takes no more until the oldest expires", len(j.entries))
	case j.unstored >= j.opt.MaxResults && !j.memory:
		return call.Errorf(call.Busy, "this machine's journal holds %d bytes of results that no overlord has stored yet", j.unstored)
	}
	return nil
}

// Receive claims a job for an overlord. It is not written: what was not started
// may be ordered again after a restart. Errors are those of Check.
func (j *Journal) Receive(job call.JobID, expiry time.Time, overlord string, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forgetLocked(now)
	if err := j.checkLocked(job, expiry); err != nil {
		return err
	}
	number, err := j.overlordLocked(overlord)
	if err != nil {
		return err
	}
	if j.entries == nil {
		j.entries, j.byEnd = make(map[call.JobID]*entry), make(map[int64][]call.JobID)
	}
	e := &entry{expiry: expiry.UnixMilli(), overlord: number, state: uint8(call.Received), mine: true}
	j.entries[job] = e
	j.keepLocked(job, e, expiry.Add(Keep))
	return nil
}

func (j *Journal) overlordLocked(name string) (uint16, error) {
	for i, n := range j.overlords {
		if n == name {
			return uint16(i), nil
		}
	}
	if len(name) > 255 || len(j.overlords) > 60_000 {
		return 0, call.Errorf(call.Busy, "this machine's journal takes no more overlords")
	}
	j.overlords = append(j.overlords, name)
	return uint16(len(j.overlords) - 1), nil
}

// keepLocked keeps a job until a time that is no earlier than before.
func (j *Journal) keepLocked(job call.JobID, e *entry, until time.Time) {
	e.until = until.UnixMilli()
	end := minuteOf(until) + 1 // the whole minute has passed when it is forgotten
	if len(j.byEnd) == 0 || end < j.first {
		j.first = end
	}
	j.byEnd[end] = append(j.byEnd[end], job)
}

// forgetLocked drops the jobs whose time is over. It touches each minute once.
func (j *Journal) forgetLocked(now time.Time) {
	minute := minuteOf(now)
	if len(j.byEnd) == 0 || j.first > minute {
		return
	}
	var due []call.JobID
	j.first = 0
	for end, jobs := range j.byEnd {
		if end <= minute {
			due = append(due, jobs...)
			delete(j.byEnd, end)
		} else if j.first == 0 || end < j.first {
			j.first = end
		}
	}
	for _, job := range due {
		e := j.entries[job]
		switch {
		case e == nil:
		case e.mine && e.state != uint8(call.Finished):
			j.keepLocked(job, e, now.Add(Keep)) // it still runs
		case minuteOf(time.UnixMilli(e.until)) < minute:
			j.removeLocked(job, e)
		} // or else it is due once more, later
	}
}

func (j *Journal) removeLocked(job call.JobID, e *entry) {
	if expiry := time.UnixMilli(e.expiry); expiry.After(j.floor) {
		j.floor = expiry
	}
	j.dropLocked(job, e)
	delete(j.entries, job)
}

// dropLocked lets go of a job's result.
func (j *Journal) dropLocked(job call.JobID, e *entry) {
	j.results -= int64(e.weight)
	if !e.acked {
		j.unstored -= int64(e.weight)
	}
	e.weight, e.frame = 0, 0
	if delete(j.unwritten, job); len(j.unwritten) == 0 {
		j.unwritten = nil // an idle agent holds no empty table
	}
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// Start makes durable that a job which was received begins. The error is a
// *call.Error: Unavailable when it cannot be written, and then the method must
// not run.
func (j *Journal) Start(job call.JobID) error {
	if err := j.catchUp(); err != nil {
		return err
	}
	j.mu.Lock()
	e := j.entries[job]
	if e == nil || e.state != uint8(call.Received) {
		j.mu.Unlock()
		return call.Errorf(call.Internal, "job %s cannot start: it was not received, or has started before", job)
	}
	e.state = uint8(call.Started)
	if j.memory {
		j.mu.Unlock()
		return nil
	}
	b := j.addLocked(&record{kind: started, job: job, expiry: time.UnixMilli(e.expiry), overlord: j.overlords[e.overlord]})
	j.mu.Unlock()
	err := j.wait(b)
	if err != nil {
		j.mu.Lock()
		e.state = uint8(call.Received)
		j.mu.Unlock()
	}
	return err
}

// Finish makes the result of a job durable that was received, started or not.
// When the disk does not take it, it is kept in memory and tried again before
// the next Start; the error, a *call.Error, says so. The journal keeps r, which
// must not be changed.
func (j *Journal) Finish(job call.JobID, r *fleetpb.Result) error {
	j.mu.Lock()
	e := j.entries[job]
	if e == nil || e.state == uint8(call.Finished) {
		j.mu.Unlock()
		return call.Errorf(call.Internal, "job %s cannot finish: it is not known, or has finished before", job)
	}
	j.finishLocked(job, e, r)
	j.mu.Unlock()
	return j.writeResult(job)
}

// finishLocked takes a result that is not in the file.
func (j *Journal) finishLocked(job call.JobID, e *entry, r *fleetpb.Result) {
	size := proto.Size(r)
	if size > maxRecord-1024 {
		r = &fleetpb.Result{Code: r.GetCode(), Detail: fmt.Sprintf("its result of %d bytes was too large to keep", size), TookUs: r.GetTookUs()}
		size = proto.Size(r)
	}
	until := time.UnixMilli(e.expiry)
	if now := j.opt.Now(); now.After(until) {
		until = now
	}
	j.keepLocked(job, e, until.Add(Keep))
	e.state, e.code = uint8(call.Finished), call.Code(r.GetCode())
	if j.memory && j.results+int64(size) > j.opt.MaxResults {
		return
	}
	e.weight = int32(size)
	if j.unwritten == nil {
		j.unwritten = make(map[call.JobID]*fleetpb.Result)
	}
	j.unwritten[job] = r
	j.results += int64(size)
	j.unstored += int64(size)
	j.trimLocked()
}

// writeResult writes the result of one job, unless that is done or under way.
func (j *Journal) writeResult(job call.JobID) error {
	j.mu.Lock()
	r, e := j.unwritten[job], j.entries[job]
	if r == nil || e == nil || e.writing || j.memory {
		j.mu.Unlock()
		return nil
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil { // a detail that is not UTF-8
		j.mu.Unlock()
		return call.Errorf(call.Internal, "encode the result of job %s: %v", job, err)
	}
	e.writing = true
	b := j.addLocked(&record{
		kind: finished, job: job, expiry: time.UnixMilli(e.expiry), until: time.UnixMilli(e.until), overlord: j.overlords[e.overlord], result: body,
	})
	b.results = append(b.results, job)
	j.mu.Unlock()
	return j.wait(b)
}

// catchUp writes the results that the disk did not take before.
func (j *Journal) catchUp() error {
	j.mu.Lock()
	var late []call.JobID
	for job := range j.unwritten {
		if !j.memory && !j.entries[job].writing {
			late = append(late, job)
		}
	}
	j.mu.Unlock()
	for _, job := range late {
		if err := j.writeResult(job); err != nil {
			return call.Errorf(call.Unavailable, "results of calls before cannot be written to this machine's journal, so nothing was run: %s", detail(err))
		}
	}
	return nil
}

func detail(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// Release notes that an overlord has stored a job's result, which need not be
// kept when there is no room. It is written with what is written next.
func (j *Journal) Release(job call.JobID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entries[job]
	if e == nil || e.state != uint8(call.Finished) || e.acked {
		return
	}
	e.acked = true
	j.unstored -= int64(e.weight)
	if j.memory {
		j.dropLocked(job, e)
		return
	}
	j.acked = append(j.acked, job)
	// Should it be lost, an overlord says it again.
	if r := (&record{kind: acknowledged, job: job}); j.broken == nil && j.fitsLocked(r) {
		j.addLocked(r)
	}
	j.trimLocked()
}

// trimLocked drops acknowledged results while there are more than may be kept.
func (j *Journal) trimLocked() {
	for len(j.acked) > 0 && (j.results > j.opt.MaxResults || len(j.acked) > j.opt.MaxEntries) {
		job := j.acked[0]
		j.acked = j.acked[1:]
		if e := j.entries[job]; e != nil && !e.writing {
			j.dropLocked(job, e)
		}
	}
	if len(j.acked) == 0 {
		j.acked = nil
	}
}

// Entry is how far a job has come.
type Entry struct {
	State    call.State // Received, Started or Finished
	Overlord string     // that sent it
}

// Look gives a job's entry; false when the journal does not know it.
func (j *Journal) Look(job call.JobID) (Entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entries[job]
	if e == nil {
		return Entry{}, false
	}
	return Entry{State: call.State(e.state), Overlord: j.overlords[e.overlord]}, true
}

// Unacknowledged gives up to limit jobs that have finished and that no overlord
// has stored, of those overlords that of accepts.
func (j *Journal) Unacknowledged(of func(overlord string) bool, limit int) []call.JobID {
	j.mu.Lock()
	defer j.mu.Unlock()
	accepted := make([]bool, len(j.overlords))
	for i, name := range j.overlords {
		accepted[i] = of(name)
	}
	var out []call.JobID
	for job, e := range j.entries {
		if e.state == uint8(call.Finished) && !e.acked && accepted[e.overlord] && len(out) < limit {
			out = append(out, job)
		}
	}
	return out
}

// StateWord says for people how far a job has come.
func StateWord(s call.State) string {
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

func newID() (id [idSize]byte) {
	rand.Read(id[:]) // never fails (crypto/rand since Go 1.24)
	return id
}

// unknown is the result of a job that was begun by a process that did not end it.
func unknown() *fleetpb.Result {
	return &fleetpb.Result{Code: uint32(call.Unknown), Detail: "the machine, or its agent, went down while it ran: whether it was done is not known"}
}

// dropped is what is left of a result that is not kept any more: why it failed,
// or that it did not.
func dropped(code call.Code) *fleetpb.Result {
	const detail = "its result is not kept here any more"
	if code == call.OK {
		return &fleetpb.Result{Code: uint32(call.Unknown), Detail: "it was done, and " + detail}
	}
	return &fleetpb.Result{Code: uint32(code), Detail: detail}
}
