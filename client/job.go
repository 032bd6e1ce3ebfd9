package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// Event is something that happens in a job: Output, Group, Progress, Closed, or
// Reconnecting and Resumed.
type Event interface{ event() }

// Output is live output of one machine, as it was produced. It comes only when
// Options.Stream was set.
type Output struct {
	Machine string
	Stream  string // "stdout" or "stderr"
	Data    []byte // at most 32 KiB; valid until the next event
	Dropped uint64 // bytes that were left out before Data
}

// Group is a set of machines whose results are equal.
type Group struct {
	Names  []string // sorted
	Status call.Status
	Code   call.Code
	Detail string          // for people; empty when Code is OK
	Output []byte          // JSON; nil when there is none
	Cut    uint64          // bytes of output that were not kept
	Took   []time.Duration // of each machine, in the order of Names; empty when not known
}

// Progress says how far a job is.
type Progress struct {
	Counts  call.Counts
	Waiting string // folded; at most 64 of the machines still awaited
	Problem string // why the results are not durable; empty when they are
}

// Closed is the last event of a job.
type Closed struct {
	Counts call.Counts
	Reason string // empty, or what is to be told of the job: why it ended early, or which sub-overlord answered for machines that it was not sent
}

// Reconnecting says that the connection to the overlord broke. The job goes on
// there, and the events go on when the overlord can be reached again.
type Reconnecting struct {
	Err error // how it broke
	// OutputLost says that live output was wanted, and that what the machines
	// write from now on is not shown: it is not kept on its way. It is said once.
	OutputLost bool
}

// Resumed says that the overlord can be reached again and has the job.
type Resumed struct{}

func (*Output) event()       {}
func (*Group) event()        {}
func (*Progress) event()     {}
func (*Closed) event()       {}
func (*Reconnecting) event() {}
func (*Resumed) event()      {}

// Job is an order being carried out. Its events, results or groups are read
// once, by one goroutine; Cancel may be called beside it.
type Job struct {
	// ID is what the order is known by; zero when no machine of the target is
	// known, because then nothing was ordered.
	ID call.JobID
	// Names are the machines of the order, sorted. The caller must not change them.
	Names []string
	// Unknown are the names written out in the target that nobody knows, sorted;
	// of a delegated order those that the map does not know, and Conflicts.
	Unknown []string
	// UsesGroups says that the target named a group, or had a condition, so that only
	// the overlord knows whether Names is what was meant.
	UsesGroups bool
	// Conflicts and Silent are as in Resolved; empty when the job is only watched.
	Conflicts, Silent []string

	conn    *Conn
	line    line        // not used when nothing was sent
	stream  eventStream // nil: none at the moment
	live    bool        // live output is wanted, and was not lost
	now     bool        // only what is known now is wanted
	counts  call.Counts
	awaited map[string]struct{}
	first   []Event // to be given before the stream's, and counted

	accepted  atomic.Bool // the overlord has the job
	withdrawn atomic.Bool // Cancel was called
}

// Ordering is JobError.What until the overlord has accepted the order. Whether it
// has the order is not known then, unless Err is its refusal.
const Ordering = "order"

// JobError is an error about one job, which the overlord may know.
type JobError struct {
	ID   call.JobID
	What string // what we were doing: Ordering, "cancel", or "lost sight of it after 1 of 2 machines, it may go on"; may be empty
	Lost bool   // the job may go on without us; Conn.Watch shows it again
	Err  error
}

// Error gives "job ID: what: …".
func (e *JobError) Error() string {
	if e.What == "" {
		return fmt.Sprintf("job %s: %v", e.ID, e.Err)
	}
	return fmt.Sprintf("job %s: %s: %v", e.ID, e.What, e.Err)
}

// Unwrap gives the cause.
func (e *JobError) Unwrap() error { return e.Err }

// Targeted is the number of machines that the job accounts for.
func (j *Job) Targeted() int { return len(j.Names) + len(j.Unknown) }

// Awaited are the machines whose results did not come yet, sorted. It belongs
// to the goroutine that reads the job.
func (j *Job) Awaited() []string {
	names := slices.AppendSeq(make([]string, 0, len(j.awaited)), maps.Keys(j.awaited))
	slices.Sort(names)
	return names
}

// Counts gives what is known so far of
// answered + failed + unreachable + skipped = targeted. It belongs to the
// goroutine that reads the job.
func (j *Job) Counts() call.Counts { return j.counts }

// Accepted says whether the overlord has said that it carries the job out. It
// is so when Call returns, unless the connection broke; then the events say it.
func (j *Job) Accepted() bool { return j.accepted.Load() }

// Close lets go of the job without waiting for its end. The job itself goes on
// at the overlord; Cancel stops it.
func (j *Job) Close() error {
	s := j.stream
	if j.stream = nil; s == nil {
		return nil
	}
	if err := s.Close(); err != nil {
		return &JobError{ID: j.ID, What: "leave it", Err: err}
	}
	return nil
}

// Events gives what happens until the job is closed. The last event is a
// *Closed, or else the last pair holds the error that kept it from coming.
//
// When the connection breaks a *Reconnecting comes, and the events go on where
// they were, after a *Resumed, as soon as the overlord can be reached again. When
// it has been tried for Options.Reconnect without news the error names the job,
// which goes on without us; the end of the caller's context ends the trying at once.
func (j *Job) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if j.ID.IsZero() && len(j.first) == 0 {
			yield(&Closed{Counts: j.counts}, nil)
			return
		}
		for {
			var (
				e   Event
				err error
			)
			switch {
			case len(j.first) > 0:
				e, j.first = j.first[0], j.first[1:]
			case j.ID.IsZero():
				e = &Closed{Counts: j.counts}
			default:
				e, err = j.next()
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if e != nil && !yield(e, nil) || j.isLast(e) {
				return
			}
		}
	}
}

// isLast says whether no event comes after e.
func (j *Job) isLast(e Event) bool {
	switch e.(type) {
	case *Closed:
		return true
	case *Progress:
		return j.now
	}
	return false
}

func (j *Job) broken(err error) error {
	if err == nil {
		err = errors.New("the overlord ended the answer before the job was closed")
	}
	return &JobError{ID: j.ID, What: j.lostSight(), Lost: true, Err: err}
}

func (j *Job) lostSight() string {
	return fmt.Sprintf("lost sight of it after %d of %d machines, it may go on", j.counts.Done(), j.counts.Targeted)
}

// take checks one event of the overlord and counts it.
func (j *Job) take(m *apipb.CallEvent) (Event, error) {
	fresh := !j.accepted.Swap(true)
	if fresh || m.GetAccepted() == nil {
		j.line.news()
	}
	switch e := m.GetEvent().(type) {
	case *apipb.CallEvent_Output:
		o := e.Output
		if _, ours := slices.BinarySearch(j.Names, o.GetMachine()); !ours || o.GetStream() != "stdout" && o.GetStream() != "stderr" {
			return nil, call.Errorf(call.Internal, "the overlord sent output %.80q of %.80q, which is not of this job", o.GetStream(), o.GetMachine())
		}
		return &Output{Machine: o.GetMachine(), Stream: o.GetStream(), Data: o.GetData(), Dropped: o.GetDropped()}, nil
	case *apipb.CallEvent_Results:
		g, err := groupOf(e.Results)
		if err != nil {
			return nil, err
		}
		for _, n := range g.Names {
			if _, ok := j.awaited[n]; !ok {
				return nil, call.Errorf(call.Internal, "the overlord sent a result of %q, which is not of this job or had answered before", n)
			}
			delete(j.awaited, n)
		}
		j.counts.Add(g.Status, len(g.Names))
		j.line.seen++
		return g, nil
	case *apipb.CallEvent_Progress:
		return &Progress{Counts: countsOf(e.Progress.GetCounts()), Waiting: e.Progress.GetWaiting(), Problem: e.Progress.GetProblem()}, nil
	case *apipb.CallEvent_Closed:
		return j.closed(e.Closed)
	default:
		return nil, nil // Accepted, or an event of a later version
	}
}

// closed holds the overlord's account against our own.
func (j *Job) closed(c *apipb.Closed) (Event, error) {
	theirs := countsOf(c.GetCounts())
	if len(j.awaited) > 0 || theirs != j.counts {
		return nil, call.Errorf(call.Internal, "the overlord closed the job with %+v, and its results add up to %+v; without a result: %q",
			theirs, j.counts, target.Fold(j.Awaited()))
	}
	return &Closed{Counts: theirs, Reason: c.GetReason()}, nil
}

// Results gives one result per machine as they come: those of machines, and one
// for each name that nobody knows. A pair with an error is the last.
func (j *Job) Results() iter.Seq2[call.Result, error] {
	return func(yield func(call.Result, error) bool) {
		for e, err := range j.Events() {
			if err != nil {
				yield(call.Result{}, err)
				return
			}
			g, ok := e.(*Group)
			if !ok {
				continue
			}
			for r := range g.Results() {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// ByMachine waits for the end and gives the result of each machine, and of each
// name that nobody knows. When an error ends the job early, the results known until
// then come with it.
func (j *Job) ByMachine() (map[string]call.Result, error) {
	out := make(map[string]call.Result, j.Targeted())
	for r, err := range j.Results() {
		if err != nil {
			return out, err
		}
		out[r.Machine] = r
	}
	return out, nil
}

// Results gives the results of the group's machines one by one.
func (g *Group) Results() iter.Seq[call.Result] {
	return func(yield func(call.Result) bool) {
		for i, n := range g.Names {
			r := call.Result{Machine: n, Code: g.Code, Detail: g.Detail, Output: g.Output, Cut: g.Cut}
			if i < len(g.Took) {
				r.Took = g.Took[i]
			}
			if !yield(r) {
				return
			}
		}
	}
}

// Groups waits for the end and gives all results folded: machines with equal
// results are one group, the largest first. When an error ends the job early,
// the groups known until then come with it.
func (j *Job) Groups() ([]*Group, error) {
	var f Folder
	for e, err := range j.Events() {
		if err != nil {
			return f.Groups(), err
		}
		if g, ok := e.(*Group); ok {
			f.Add(g)
		}
	}
	return f.Groups(), nil
}

// Cancelled is what a cancelled job leaves.
type Cancelled struct {
	Running []string // calls that had started; they are asked to end
	Skipped []string // calls that never will start
}

// Cancel withdraws what has not started and asks what runs to end. The job's
// events go on until it is closed. While the overlord cannot be reached Cancel
// tries again, as the events do.
func (j *Job) Cancel(ctx context.Context) (Cancelled, error) {
	if j.ID.IsZero() {
		return Cancelled{}, nil
	}
	j.withdrawn.Store(true)
	begun := time.Now()
	for wait := j.line.first; ; wait = min(2*wait, j.line.most) {
		c, err := j.conn.CancelJob(ctx, j.ID)
		switch {
		case call.CodeOf(err) == call.NotFound && !j.accepted.Load():
			return Cancelled{}, nil // it is not sent again, or withdrawn as soon as it is there
		case err == nil || !isBroken(err) || j.line.limit < 0 || time.Since(begun) > j.line.limit:
			return c, err
		}
		if err := pause(ctx, wait); err != nil {
			return Cancelled{}, &JobError{ID: j.ID, What: "cancel", Err: err}
		}
	}
}

// groupOf reads a group of results, all of it from outside.
func groupOf(p *apipb.ResultGroup) (*Group, error) {
	names, err := expand(p.GetNames())
	if err != nil {
		return nil, err
	}
	g := &Group{
		Names: names, Status: statusOf(p.GetStatus(), p.GetCode()), Code: call.Code(p.GetCode()), Detail: p.GetDetail(),
		Output: p.GetOutput(), Cut: p.GetCut(),
	}
	if took := p.GetTookUs(); len(took) == len(names) {
		g.Took = make([]time.Duration, len(took))
		for i, us := range took {
			g.Took[i] = time.Duration(us) * time.Microsecond
		}
	}
	return g, nil
}

// statusOf takes the overlord's word for how a result counts; a status of a
// later version is derived from the code.
func statusOf(status, code uint32) call.Status {
	if s := call.Status(status); s >= call.Answered && s <= call.Skipped {
		return s
	}
	return call.StatusOf(call.Code(code))
}

func countsOf(c *apipb.Counts) call.Counts {
	return call.Counts{
		Targeted: int(c.GetTargeted()), Answered: int(c.GetAnswered()), Failed: int(c.GetFailed()),
		Unreachable: int(c.GetUnreachable()), Skipped: int(c.GetSkipped()),
	}
}

// expand reads a folded list that the overlord sent, and sorts it by bytes.
func expand(folded string) ([]string, error) {
	if folded == "" {
		return nil, nil
	}
	names, err := target.Expand(folded)
	if err != nil {
		return nil, call.Errorf(call.Internal, "the overlord sent a list of machines that cannot be read: %v", err)
	}
	slices.Sort(names)
	return names, nil
}
