package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// Event is something that happens in a job: Output, Group, Progress or Closed.
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
	Reason string // empty, or why the job ended early
}

func (*Output) event()   {}
func (*Group) event()    {}
func (*Progress) event() {}
func (*Closed) event()   {}

// eventStream is what a job reads from; connect's client stream is the real one.
type eventStream interface {
	Receive() bool
	Msg() *apipb.CallEvent
	Err() error
	Close() error
}

// Job is an order being carried out. Its events, results or groups are read
// once, by one goroutine; Cancel may be called beside it.
type Job struct {
	// ID is what the order is known by; zero when no machine of the target is
	// known, because then nothing was ordered.
	ID call.JobID
	// Names are the machines of the order, sorted. The caller must not change them.
	Names []string
	// Unknown are the names written out in the target that nobody knows, sorted.
	Unknown []string
	// UsesGroups says that the target named a group, so that only the overlord
	// knows whether Names is what was meant.
	UsesGroups bool

	conn    *Conn
	stream  eventStream // nil: nothing was sent
	counts  call.Counts
	awaited map[string]struct{}
	first   []Event // to be given before the stream's
}

// Ordering is JobError.What until the overlord has accepted the order. Whether it
// has the order is not known then, unless Err is its refusal.
const Ordering = "order"

// JobError is an error about one job, which the overlord may know.
type JobError struct {
	ID   call.JobID
	What string // what we were doing: Ordering, "cancel", or "lost sight of it after 1 of 2 machines, it may go on"; may be empty
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

// Counts gives what is known so far of
// answered + failed + unreachable + skipped = targeted. It belongs to the
// goroutine that reads the job.
func (j *Job) Counts() call.Counts { return j.counts }

// Close lets go of the job without waiting for its end. The job itself goes on
// at the overlord; Cancel stops it.
func (j *Job) Close() error {
	if j.stream == nil {
		return nil
	}
	if err := j.stream.Close(); err != nil {
		return &JobError{ID: j.ID, What: "leave it", Err: err}
	}
	return nil
}

// Events gives what happens until the job is closed. The last event is a
// *Closed, or else the last pair holds the error that kept it from coming. When
// the connection breaks the error names the job, which goes on without us.
func (j *Job) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for len(j.first) > 0 {
			e := j.first[0]
			j.first = j.first[1:]
			if g, ok := e.(*Group); ok {
				j.count(g)
			}
			if !yield(e, nil) {
				return
			}
		}
		if j.stream == nil {
			yield(&Closed{Counts: j.counts}, nil)
			return
		}
		for j.stream.Receive() {
			e, err := j.take(j.stream.Msg())
			if err != nil {
				yield(nil, &JobError{ID: j.ID, Err: err})
				return
			}
			if e == nil {
				continue
			}
			_, last := e.(*Closed)
			if !yield(e, nil) || last {
				return
			}
		}
		yield(nil, j.broken(j.stream.Err()))
	}
}

func (j *Job) broken(err error) error {
	if err == nil {
		err = errors.New("the overlord ended the answer before the job was closed")
	}
	what := fmt.Sprintf("lost sight of it after %d of %d machines, it may go on", j.counts.Done(), j.counts.Targeted)
	return &JobError{ID: j.ID, What: what, Err: err}
}

// take checks one event of the overlord and counts it.
func (j *Job) take(m *apipb.CallEvent) (Event, error) {
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
		j.count(g)
		return g, nil
	case *apipb.CallEvent_Progress:
		return &Progress{Counts: countsOf(e.Progress.GetCounts()), Waiting: e.Progress.GetWaiting(), Problem: e.Progress.GetProblem()}, nil
	case *apipb.CallEvent_Closed:
		return j.closed(e.Closed)
	default:
		return nil, nil // Accepted, or an event of a later version
	}
}

func (j *Job) count(g *Group) { j.counts.Add(g.Status, len(g.Names)) }

// closed holds the overlord's account against our own.
func (j *Job) closed(c *apipb.Closed) (Event, error) {
	theirs := countsOf(c.GetCounts())
	if len(j.awaited) > 0 || theirs != j.counts {
		missing := make([]string, 0, len(j.awaited))
		for n := range j.awaited {
			missing = append(missing, n)
		}
		return nil, call.Errorf(call.Internal, "the overlord closed the job with %+v, and its results add up to %+v; without a result: %q",
			theirs, j.counts, target.Fold(missing))
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
// events go on until it is closed.
func (j *Job) Cancel(ctx context.Context) (Cancelled, error) {
	if j.stream == nil {
		return Cancelled{}, nil
	}
	resp, err := j.conn.Fleet.Cancel(ctx, connect.NewRequest(&apipb.CancelRequest{Job: j.ID.String()}))
	if err != nil {
		return Cancelled{}, &JobError{ID: j.ID, What: "cancel", Err: err}
	}
	var c Cancelled
	if c.Running, err = expand(resp.Msg.GetRunning()); err != nil {
		return Cancelled{}, err
	}
	if c.Skipped, err = expand(resp.Msg.GetSkipped()); err != nil {
		return Cancelled{}, err
	}
	return c, nil
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
