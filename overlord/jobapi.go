package overlord

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/store"
	"dominion/target"
)

// How often a watcher of a call hears who is still awaited.
const progressEvery = time.Second

const (
	maxWaiting  = 64 // names in a progress event
	defaultJobs = 100
	maxJobs     = 1000 // on a page
)

// Call implements FleetServiceHandler.
func (a fleetAPI) Call(ctx context.Context, r *connect.Request[apipb.CallRequest], out *connect.ServerStream[apipb.CallEvent]) error {
	if problem := a.o.keep.auditProblem(); problem != "" {
		return call.Errorf(call.AuditRefused, "the audit log is damaged, so no order is taken: %s; dominion audit verify says more", problem)
	}
	p, err := a.o.plan(ctx, r.Msg)
	if err != nil {
		return err
	}
	live := make(chan *apipb.Output) // unbuffered: what was passed on has been sent
	run, err := a.o.begin(ctx, p, live)
	if err != nil {
		return err
	}
	defer run.leave()
	accepted := &apipb.Accepted{Job: p.ID.String(), Counts: countsPB(run.run.Watch(0).Counts)}
	if err := out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Accepted{Accepted: accepted}}); err != nil {
		return err
	}
	return watch(ctx, run, watching{live: live}, out)
}

// watching is how somebody watches a job.
type watching struct {
	live <-chan *apipb.Output // nil: not of its live output
	seen int                  // groups that the caller has
	now  bool                 // do not wait
	// lull, when not nil, is called before the next event is waited for, unless all
	// results are there and the job is about to be closed.
	lull func() error
}

func (w watching) lulled() error {
	if w.lull == nil {
		return nil
	}
	return w.lull()
}

// events is where what happens in a job is sent.
type events interface {
	Send(ev *apipb.CallEvent) error
}

// watch sends what happens in a job until it is closed or the caller leaves.
func watch(ctx context.Context, r *running, w watching, out events) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var quiet <-chan struct{} // closed when all live output has been passed on
	for seen := w.seen; ; {
		snap := r.run.Watch(seen)
		if seen < snap.Base {
			if err := (fleetAPI{r.o}).sendStored(ctx, r.run.Plan.ID, seen, snap.Base, out); err != nil {
				return err
			}
			seen = snap.Base
		}
		if snap.Closed && !r.run.Plan.Stream {
			endAnswer(ctx)
		}
		for _, g := range snap.Groups {
			if err := out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: groupPB(g)}}); err != nil {
				return err
			}
		}
		seen += len(snap.Groups)
		if snap.Counts.Done() < snap.Counts.Targeted || r.run.Plan.Stream {
			if err := w.lulled(); err != nil {
				return err
			}
		}
		changed := snap.Changed
		switch {
		case snap.Stopped:
			return errStopping
		case snap.Closed:
			changed = nil
			if quiet == nil {
				quiet = w.quiet(r)
			}
		case w.now:
			return out.Send(progress(r, snap))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case o := <-w.live:
			if err := out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: o}}); err != nil {
				return err
			}
		case <-quiet:
			return out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: countsPB(snap.Counts), Reason: snap.Reason}}})
		case <-changed:
		case <-tick.C:
			if err := out.Send(progress(r, snap)); err != nil {
				return err
			}
			if r.o.leaves(r) {
				return errStopping
			}
			if err := w.lulled(); err != nil { // it cannot be closed, it seems
				return err
			}
		}
	}
}

// errStopping ends the watching of a job that the overlord leaves open.
var errStopping = call.Errorf(call.Unavailable, "the overlord stops; the job goes on when it is back")

// leaves says whether the overlord is stopping and does not wait for that job.
func (o *Overlord) leaves(r *running) bool {
	select {
	case <-o.stopping:
		return !r.busy()
	default:
		return false
	}
}

// quiet gives a channel that is closed when there is nothing more to pass on.
func (w watching) quiet(r *running) <-chan struct{} {
	if w.live != nil {
		return r.quiet()
	}
	done := make(chan struct{})
	close(done)
	return done
}

func progress(r *running, snap job.Snapshot) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Progress{Progress: &apipb.Progress{
		Counts: countsPB(snap.Counts), Waiting: target.Fold(r.run.Waiting(maxWaiting)), Problem: snap.Problem,
	}}}
}

func tookPB(took []time.Duration) []uint64 {
	out := make([]uint64, len(took))
	for i, t := range took {
		out[i] = uint64(t.Microseconds())
	}
	return out
}

func groupPB(g job.Group) *apipb.ResultGroup {
	return &apipb.ResultGroup{
		Names: g.Folded, Status: uint32(g.Status), Code: uint32(g.Code), Detail: g.Detail, Output: g.Output, Cut: g.Cut,
		Count: uint64(len(g.Names)), TookUs: tookPB(g.Took),
	}
}

// Cancel implements FleetServiceHandler.
func (a fleetAPI) Cancel(ctx context.Context, r *connect.Request[apipb.CancelRequest]) (*connect.Response[apipb.CancelResponse], error) {
	id, err := call.ParseJobID(r.Msg.Job)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	run := a.o.jobs.job(id)
	if run == nil {
		return nil, call.Errorf(call.NotFound, "no job %s is running", id)
	}
	c := callerFrom(ctx)
	if c.Name != run.run.Plan.Operator {
		if c, err = a.o.admit(ctx, "job.cancel", id.String()); err != nil {
			return nil, err
		}
	}
	if err := a.o.keep.cancel(ctx, c, id); err != nil {
		return nil, err
	}
	running, skipped := run.run.Cancel()
	return connect.NewResponse(&apipb.CancelResponse{Running: target.Fold(running), Skipped: target.Fold(skipped)}), nil
}

// find gives a job: the running one, or what is stored of a closed one.
func (a fleetAPI) find(ctx context.Context, text string) (*running, store.Job, error) {
	id, err := call.ParseJobID(text)
	if err != nil {
		return nil, store.Job{}, call.Errorf(call.Invalid, "%v", err)
	}
	// A job is stored a moment before it runs, and runs until a moment after it is closed.
	for attempt := 0; ; attempt++ {
		if r := a.o.jobs.job(id); r != nil {
			return r, store.Job{}, nil
		}
		j, err := a.o.keep.db.Job(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil, j, call.Errorf(call.NotFound, "no job %s", id)
		case err != nil || !j.Closed.IsZero():
			return nil, j, err
		case attempt == 20:
			return nil, j, call.Errorf(call.Unavailable, "job %s is open and waits: %s", id, defaulted(a.o.keep.auditProblem(), "for the overlord to begin with it"))
		}
		select {
		case <-ctx.Done():
			return nil, j, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Watch implements FleetServiceHandler.
func (a fleetAPI) Watch(ctx context.Context, r *connect.Request[apipb.WatchRequest], out *connect.ServerStream[apipb.CallEvent]) error {
	run, j, err := a.find(ctx, r.Msg.Job)
	if err != nil {
		return err
	}
	w := watching{seen: int(min(r.Msg.Seen, store.MaxGroups)), now: r.Msg.Now}
	if run == nil {
		return a.watchClosed(ctx, j, w.seen, out)
	}
	if err := sendAccepted(run.run.Plan.ID, run.run.Watch(w.seen).Counts, out); err != nil {
		return err
	}
	return watch(ctx, run, w, out)
}

// watchClosed shows a closed job as it would have been seen.
func (a fleetAPI) watchClosed(ctx context.Context, j store.Job, seen int, out *connect.ServerStream[apipb.CallEvent]) error {
	if err := sendAccepted(j.ID, j.Counts, out); err != nil {
		return err
	}
	if err := a.sendStored(ctx, j.ID, seen, store.MaxGroups, out); err != nil {
		return err
	}
	return out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: countsPB(j.Counts), Reason: j.Reason}}})
}

func sendAccepted(id call.JobID, c call.Counts, out *connect.ServerStream[apipb.CallEvent]) error {
	accepted := &apipb.Accepted{Job: id.String(), Counts: countsPB(c)}
	return out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Accepted{Accepted: accepted}})
}

// sendStored sends the stored groups of a job from number first up to last, which is not among them.
func (a fleetAPI) sendStored(ctx context.Context, id call.JobID, first, last int, out events) error {
	for g, err := range a.o.keep.db.Results(ctx, id, first) {
		if err != nil {
			return err
		}
		if g.Number >= last {
			return nil
		}
		if err := out.Send(&apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: storedPB(g)}}); err != nil {
			return err
		}
	}
	return nil
}

func storedPB(g store.ResultGroup) *apipb.ResultGroup {
	return &apipb.ResultGroup{
		Names: g.Names, Status: uint32(g.Status), Code: uint32(g.Code), Detail: g.Detail, Output: g.Output, Cut: g.Cut,
		Count: uint64(g.Count), TookUs: tookPB(g.Took),
	}
}

// Jobs implements FleetServiceHandler.
func (a fleetAPI) Jobs(ctx context.Context, r *connect.Request[apipb.JobsRequest]) (*connect.Response[apipb.JobsResponse], error) {
	var rows []store.Job
	var err error
	if r.Msg.Job != "" {
		var row store.Job
		row, err = a.oneJob(ctx, r.Msg.Job)
		rows = []store.Job{row}
	} else {
		rows, err = a.pageOfJobs(ctx, r.Msg)
	}
	if err != nil {
		return nil, err
	}
	out := &apipb.JobsResponse{Jobs: make([]*apipb.Job, len(rows))}
	for i, j := range rows {
		out.Jobs[i] = a.jobPB(j)
	}
	if r.Msg.Job != "" {
		n, err := a.o.keep.db.CountResults(ctx, rows[0].ID)
		if err != nil {
			return nil, err
		}
		out.Jobs[0].Groups = uint64(n)
	}
	return connect.NewResponse(out), nil
}

func (a fleetAPI) oneJob(ctx context.Context, text string) (store.Job, error) {
	id, err := call.ParseJobID(text)
	if err != nil {
		return store.Job{}, call.Errorf(call.Invalid, "%v", err)
	}
	row, err := a.o.keep.db.Job(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		err = call.Errorf(call.NotFound, "no job %s", id)
	}
	return row, err
}

func (a fleetAPI) pageOfJobs(ctx context.Context, m *apipb.JobsRequest) ([]store.Job, error) {
	q := store.JobQuery{Limit: int(min(m.Limit, maxJobs)), Open: m.Open, Operator: m.Operator}
	if q.Limit == 0 {
		q.Limit = defaultJobs
	}
	if m.Before != "" {
		var err error
		if q.Before, err = call.ParseJobID(m.Before); err != nil {
			return nil, call.Errorf(call.Invalid, "%v", err)
		}
	}
	return a.o.keep.db.Jobs(ctx, q)
}

// byMap says of what the store keeps of a job's ways whether to give it again takes the
// map. It does not at a sub-overlord that only its own machines were asked of.
func byMap(stored []byte) bool {
	var d fleetpb.Delegate
	if len(stored) == 0 || proto.Unmarshal(stored, &d) != nil {
		return false
	}
	return len(d.Via) == 0 || len(d.Reach.GetBelow()) > 0
}

// jobPB describes a job; of an open one the counts are those of today.
func (a fleetAPI) jobPB(j store.Job) *apipb.Job {
	out := &apipb.Job{
		Job: j.ID.String(), Operator: j.Operator, Method: j.Method, Target: j.Target, Names: j.Names, Unknown: j.Unknown,
		CreatedMs: ms(j.Created), ExpiresMs: ms(j.Expires), ClosedMs: ms(j.Closed), CancelledMs: ms(j.Cancelled), Reason: j.Reason,
		TimeoutMs: uint64(j.Timeout.Milliseconds()), Wait: j.Wait, Dropped: j.Dropped, Bare: j.Bare, Record: uint64(j.Record),
		Delegate: byMap(j.Delegated),
	}
	if r := a.o.jobs.job(j.ID); r != nil && j.Closed.IsZero() {
		j.Counts = r.run.Watch(0).Counts
		out.Waiting = target.Fold(r.run.Waiting(maxWaiting))
	}
	out.Counts = countsPB(j.Counts)
	return out
}
