package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

// How long a job is remembered.
const (
	// Keep is added to the expiry of a job's order.
	Keep = 10 * time.Minute
	// KeepUnheard is added to the time at which a job ended, when no overlord has
	// said that it stored the result: whoever asks for it late must not be told
	// that it never ran.
	KeepUnheard = 24 * time.Hour
)

// Options are the bounds of a Journal and what it works with.
type Options struct {
	// Entries is the number of jobs that are remembered; 0: 100,000, about 10 MB
	// of memory. When it is reached new jobs are refused until old ones expire.
	Entries int
	// Results bounds the bytes of results that no overlord has said it stored;
	// 0: 64 MiB. When it is reached new jobs are refused; what runs then may
	// exceed it.
	Results int64
	// Sync bounds how many journals wait for their disk at a time; nil: no bound.
	Sync Limiter
	// Now gives this machine's time; nil: time.Now.
	Now func() time.Time
	Log *slog.Logger // nil: silent
}

// A Limiter bounds how many journals of a process wait for their disk at a time.
type Limiter chan struct{}

// NewLimiter makes a Limiter for n at a time.
func NewLimiter(n int) Limiter { return make(Limiter, n) }

// A Journal is the record of one machine's jobs. It has no goroutine of its own
// and is safe for concurrent use. What several goroutines write at a time shares
// one fdatasync.
//
// An error of one of its methods is a *call.Error. Unavailable means that the
// disk took nothing, and after a failed fdatasync that it takes nothing until
// the journal is opened again.
type Journal struct {
	opt   Options
	dir   *os.Root
	sync  func(*os.File) error
	turn  chan struct{} // of one: held by who writes
	retry sync.Mutex    // held by who writes what failed before
	id    [16]byte
	notes []string

	files sync.RWMutex // held for writing while file is replaced; taken before mu
	file  *os.File     // written by who holds turn

	patient int64 // a file smaller than this is not written anew; owned by who holds turn

	mu        sync.Mutex // covers what follows
	offset    int64      // the file's end; changed by who holds turn
	birth     int64      // 0: never told
	floor     int64
	entries   map[call.JobID]entry
	names     []string // of overlords and methods
	index     map[string]uint16
	held      map[call.JobID]*fleetpb.Result // of finished jobs whose result is not in the file
	unwritten []record                       // what the disk did not take
	unheard   int64                          // bytes of results that no overlord has stored
	live      int64                          // bytes of the file that are needed
	first     int64                          // no job is forgotten before
	next      *batch                         // waits to be written; nil: none
	broken    error                          // nothing is written any more
}

// entry is what is remembered of one job, in about 100 bytes with its key.
type entry struct {
	expiry, ended    int64
	offset           int64  // of the finished record in the file; 0: it is not there
	size             uint32 // its length
	code             uint32
	overlord, method uint16
	state            uint8 // call.State
	flags            uint8
}

const (
	written  = 1 << iota // its start is in the file
	heard                // an overlord has stored the result
	cut                  // no end was in the file when it was opened
	starting             // its start is being written
	ending               // its end is being written: nobody is told of it before
)

func (e entry) is(flag uint8) bool { return e.flags&flag != 0 }

// until is when the job may be forgotten.
func (e entry) until() int64 {
	end := e.expiry + Keep.Milliseconds()
	switch {
	case e.state != uint8(call.Finished) || e.is(ending):
		return math.MaxInt64
	case e.is(heard) || !e.is(written):
		return end
	}
	return max(end, e.ended+KeepUnheard.Milliseconds())
}

// ID names the journal: it changes when a new one was begun.
func (j *Journal) ID() []byte { return j.id[:] }

// Notes says what was repaired when the journal was opened, for people.
func (j *Journal) Notes() []string { return j.notes }

// Birth is the overlord's clock when the journal began; the zero Time until it
// was told.
func (j *Journal) Birth() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.birth == 0 {
		return time.Time{}
	}
	return time.UnixMilli(j.birth)
}

// SetBirth takes the overlord's word for when the journal began, unless another
// came first, and returns when it is on the disk. When the disk does not take it
// it is written before the next job starts.
func (j *Journal) SetBirth(at time.Time) error {
	ms := at.UnixMilli()
	j.mu.Lock()
	if j.birth != 0 || ms <= 0 {
		j.mu.Unlock()
		return nil
	}
	j.birth = ms
	j.mu.Unlock()
	return j.write(record{kind: kindBirth, expiry: ms})
}

// Check says without a trace whether a job may be received: Repeated, or Expired
// when it may have been forgotten.
func (j *Journal) Check(job call.JobID, expiry, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forget(now.UnixMilli())
	return j.check(job, expiry)
}

func (j *Journal) check(job call.JobID, expiry time.Time) error {
	if e, ok := j.entries[job]; ok {
		return call.Errorf(call.Repeated, "job %s has been received here before (%s)", job, stateWord(e.state))
	}
	if expiry.UnixMilli() <= j.floor {
		return call.Errorf(call.Expired, "the order expired at %s, and later ones have been forgotten here; was this clock set back?",
			expiry.UTC().Format(time.RFC3339))
	}
	return nil
}

// Receive claims a job that an overlord sent. The errors are those of Check, and
// Busy when a bound is reached. A claim is not on the disk: see Start.
func (j *Journal) Receive(job call.JobID, expiry time.Time, overlord, method string, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forget(now.UnixMilli())
	if err := j.check(job, expiry); err != nil {
		return err
	}
	if err := j.room(); err != nil {
		return err
	}
	e := entry{expiry: expiry.UnixMilli(), state: uint8(call.Received)}
	var ok, too bool
	if e.overlord, ok = j.intern(overlord); ok {
		e.method, too = j.intern(method)
	}
	if !too {
		return call.Errorf(call.Busy, "this machine's journal holds jobs of too many overlords and methods")
	}
	if j.entries == nil {
		j.entries = make(map[call.JobID]entry)
	}
	j.entries[job] = e
	return nil
}

func (j *Journal) room() error {
	switch {
	case j.broken != nil:
		return j.broken
	case len(j.entries) >= j.opt.Entries:
		return call.Errorf(call.Busy, "this machine's journal holds %d jobs and takes no more until the oldest expires", len(j.entries))
	case j.unheard >= j.opt.Results:
		return call.Errorf(call.Busy, "%d bytes of results wait here for an overlord to store them", j.unheard)
	}
	return nil
}

// Withdraw forgets a claim whose job was not started, as if it had never come.
func (j *Journal) Withdraw(job call.JobID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.entries[job]; e.state == uint8(call.Received) && !e.is(starting|written) {
		delete(j.entries, job)
	}
}

// Start returns when the job's start is on the disk, and everything that the
// disk did not take before. With an error the job was not started, and may be
// withdrawn.
func (j *Journal) Start(job call.JobID) error {
	if err := j.Ready(); err != nil {
		return err
	}
	j.mu.Lock()
	e, ok := j.entries[job]
	if !ok || e.state != uint8(call.Received) || e.is(starting|written) {
		j.mu.Unlock()
		return call.Errorf(call.Internal, "job %s cannot start: %s", job, stateWord(e.state))
	}
	if j.unheard >= j.opt.Results {
		err := j.room()
		j.mu.Unlock()
		return err
	}
	e.flags |= starting
	j.entries[job] = e
	r := record{kind: kindStarted, job: job, expiry: e.expiry, overlord: j.names[e.overlord], method: j.names[e.method]}
	j.mu.Unlock()
	err := j.append(r)
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		e = j.entries[job]
		e.flags &^= starting
		j.entries[job] = e
	}
	return err
}

// Finish keeps a result, which must not change any more, and returns when it is
// on the disk. With an error it is kept in memory, and written before the next
// job starts. The result of a job that was not started is never on the disk: it
// did not run, and nothing is lost when that is forgotten.
func (j *Journal) Finish(job call.JobID, r *fleetpb.Result) error {
	r = fit(r)
	ended := j.opt.Now().UnixMilli()
	j.mu.Lock()
	e, ok := j.entries[job]
	switch {
	case !ok:
		j.mu.Unlock()
		return nil
	case e.state == uint8(call.Finished):
		j.mu.Unlock()
		return call.Errorf(call.Internal, "job %s finished twice", job)
	}
	e.state, e.code, e.ended = uint8(call.Finished), r.Code, ended
	j.first = min(j.first, e.until())
	if e.is(written) {
		e.flags |= ending
	}
	j.entries[job] = e
	if j.held == nil {
		j.held = make(map[call.JobID]*fleetpb.Result)
	}
	j.held[job] = r // until the disk has it
	j.unheard += weight(r)
	j.mu.Unlock()
	if !e.is(written) {
		return nil
	}
	err := j.write(record{kind: kindFinished, job: job, ended: ended, result: r})
	j.mu.Lock()
	defer j.mu.Unlock()
	if e, ok := j.entries[job]; ok {
		e.flags &^= ending
		j.entries[job] = e
		j.first = min(j.first, e.until())
	}
	return err
}

// fit gives a result that a record can hold.
func fit(r *fleetpb.Result) *fleetpb.Result {
	out := &fleetpb.Result{Code: r.Code, Detail: r.Detail[:min(len(r.Detail), maxDetail)], Output: r.Output, TookUs: r.TookUs}
	if len(r.Output) > maxOutput {
		out.Code, out.Output = uint32(call.Internal), nil
		out.Detail = fmt.Sprintf("the method ran, and its output of %d bytes is larger than %d", len(r.Output), maxOutput)
	}
	return out
}

func weight(r *fleetpb.Result) int64 { return int64(len(r.Output) + len(r.Detail)) }

// Release says that an overlord has stored a job's result: it is the first to
// go when the file is written anew, and its job when its order's time is over.
func (j *Journal) Release(job call.JobID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[job]
	if !ok || e.state != uint8(call.Finished) || e.is(heard) {
		return
	}
	e.flags |= heard
	j.entries[job] = e
	if r := j.held[job]; r != nil {
		j.unheard -= weight(r)
		if !e.is(written) {
			j.drop(job)
		}
	} else {
		j.unheard -= int64(e.size)
	}
	j.live -= int64(e.size)
	j.first = min(j.first, e.until())
	if e.is(written) {
		j.later(record{kind: kindReleased, job: job})
	}
}

// drop ends the holding of a result; mu is held.
func (j *Journal) drop(job call.JobID) {
	delete(j.held, job)
	if len(j.held) == 0 {
		j.held = nil
	}
}

// intern gives a number for a name; mu is held.
func (j *Journal) intern(name string) (uint16, bool) {
	if i, ok := j.index[name]; ok {
		return i, true
	}
	if len(j.names) > math.MaxUint16 || len(name) > math.MaxUint8 {
		return 0, false
	}
	if j.index == nil {
		j.index = make(map[string]uint16)
	}
	i := uint16(len(j.names))
	j.names = append(j.names, name)
	j.index[name] = i
	return i, true
}

// Owner gives the overlord that sent a job; false when the job is not known.
func (j *Journal) Owner(job call.JobID) (string, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[job]
	if !ok {
		return "", false
	}
	return j.names[e.overlord], true
}

// Find gives how far a job has come, zero when it is not known, and the result
// of one that is finished. The error is about reading it from the disk.
func (j *Journal) Find(job call.JobID) (call.State, *fleetpb.Result, error) {
	j.files.RLock() // the file is not replaced meanwhile
	defer j.files.RUnlock()
	j.mu.Lock()
	e, r := j.entries[job], j.held[job]
	method := ""
	if e.is(cut) {
		method = j.names[e.method]
	}
	j.mu.Unlock()
	switch {
	case e.is(ending):
		return call.Started, nil, nil
	case e.state != uint8(call.Finished) || r != nil:
		return call.State(e.state), r, nil
	case e.is(cut):
		return call.Finished, unknownEnd(method), nil
	case e.offset == 0:
		return call.Finished, &fleetpb.Result{Code: e.code, Detail: "the result was stored by an overlord and is not kept here any more"}, nil
	}
	b := make([]byte, e.size)
	_, err := j.file.ReadAt(b, e.offset)
	var rec record
	if err == nil {
		rec, err = parseRecord(b)
	}
	if err == nil && (rec.kind != kindFinished || rec.job != job) {
		err = fmt.Errorf("%w: another record in its place", ErrFile)
	}
	if err != nil {
		return call.Finished, nil, call.Errorf(call.Unavailable, "read the result of job %s from this machine's journal: %v", job, err)
	}
	return call.Finished, rec.result, nil
}

// Finished gives the jobs of an overlord that have ended and whose results it
// has not said it stored; at most limit, in no order.
func (j *Journal) Finished(overlord string, limit int) []call.JobID {
	j.mu.Lock()
	defer j.mu.Unlock()
	who, ok := j.index[overlord]
	if !ok {
		return nil
	}
	var out []call.JobID
	for job, e := range j.entries {
		if len(out) >= limit {
			break
		}
		if e.overlord == who && e.state == uint8(call.Finished) && !e.is(heard|ending) {
			out = append(out, job)
		}
	}
	return out
}

// Len is the number of jobs that are remembered.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

// Durable is the length of the file of which everything is on the disk.
func (j *Journal) Durable() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.offset
}

// Close writes what waits and closes the file. What is written later fails.
func (j *Journal) Close() error {
	err := j.Ready()
	j.flush()
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	j.files.Lock()
	defer j.files.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = call.Errorf(call.Unavailable, "this machine's journal is closed")
	}
	return errors.Join(err, j.file.Close(), j.dir.Close())
}

func stateWord(s uint8) string {
	switch call.State(s) {
	case call.Received:
		return "it waits"
	case call.Started:
		return "it runs"
	case call.Finished:
		return "it has ended"
	}
	return "it is unknown"
}
