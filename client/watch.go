package client

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
)

// JobInfo is what the overlord knows of a job.
type JobInfo struct {
	ID        call.JobID
	Operator  string
	Method    string
	Target    string // as the operator wrote it; in a list its first 1,000 characters
	Names     string // folded; the order's machines; empty in a list
	Unknown   string // folded; names of the target that nobody knew; empty in a list
	Created   time.Time
	Expires   time.Time // no call starts after it
	Closed    time.Time // zero: it is open
	Cancelled time.Time // zero: it was not withdrawn
	Counts    call.Counts
	Reason    string        // as in Closed
	Timeout   time.Duration // of each call; zero: none
	Wait      bool          // machines that are away get it when they are back
	Waiting   string        // folded; at most 64 machines still awaited, while it is open
	Dropped   bool          // its outputs were removed to make room
	Bare      bool          // its arguments were {}
	Record    uint64        // index of its audit record
	Delegate  bool          // it goes by the map
}

// Open says that the job is not closed.
func (i *JobInfo) Open() bool { return i.Closed.IsZero() }

// JobFilter says which jobs to list. Zero: the newest 100.
type JobFilter struct {
	Before   call.JobID // only older ones: the last of the page before; zero: from the newest
	Limit    int        // at most so many, at most 1,000; zero: 100
	Open     bool       // only those that are not closed
	Operator string     // only hers; empty: everybody's
}

// Jobs lists jobs, the newest first.
func (c *Conn) Jobs(ctx context.Context, f JobFilter) ([]JobInfo, error) {
	if f.Limit < 0 {
		return nil, call.Errorf(call.Invalid, "limit %d: give a number of jobs", f.Limit)
	}
	req := &apipb.JobsRequest{Limit: uint64(f.Limit), Open: f.Open, Operator: f.Operator}
	if !f.Before.IsZero() {
		req.Before = f.Before.String()
	}
	return c.jobs(ctx, req)
}

func (c *Conn) jobs(ctx context.Context, req *apipb.JobsRequest) ([]JobInfo, error) {
	resp, err := c.Fleet.Jobs(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	out := make([]JobInfo, 0, len(resp.Msg.GetJobs()))
	for _, j := range resp.Msg.GetJobs() {
		info, err := jobInfoOf(j)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// Job gives what the overlord knows of one job. When it knows none of that id
// the error has the code NotFound.
func (c *Conn) Job(ctx context.Context, id call.JobID) (JobInfo, error) {
	jobs, err := c.jobs(ctx, &apipb.JobsRequest{Job: id.String()})
	if err != nil {
		return JobInfo{}, err
	}
	if len(jobs) != 1 || jobs[0].ID != id {
		return JobInfo{}, call.Errorf(call.NotFound, "there is no job %s; list them with: dominion job list", id)
	}
	return jobs[0], nil
}

func jobInfoOf(j *apipb.Job) (JobInfo, error) {
	id, err := call.ParseJobID(j.GetJob())
	if err != nil {
		return JobInfo{}, call.Errorf(call.Internal, "the overlord sent a job that cannot be read: %v", err)
	}
	return JobInfo{
		ID: id, Operator: j.GetOperator(), Method: j.GetMethod(), Target: j.GetTarget(), Names: j.GetNames(), Unknown: j.GetUnknown(),
		Created: timeOf(j.GetCreatedMs()), Expires: timeOf(j.GetExpiresMs()), Closed: timeOf(j.GetClosedMs()), Cancelled: timeOf(j.GetCancelledMs()),
		Counts: countsOf(j.GetCounts()), Reason: j.GetReason(), Timeout: time.Duration(j.GetTimeoutMs()) * time.Millisecond,
		Wait: j.GetWait(), Waiting: j.GetWaiting(), Dropped: j.GetDropped(), Bare: j.GetBare(), Record: j.GetRecord(), Delegate: j.GetDelegate(),
	}, nil
}

// timeOf gives a time of the overlord; 0 is the zero time.
func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// WatchOptions say how a job is watched. The zero value watches it to its end.
type WatchOptions struct {
	// Now gives what is known now, and then ends, with *Closed or, when the job
	// is open, with *Progress.
	Now bool
	// Reconnect is as in Options.
	Reconnect time.Duration
}

// Watch shows a job that was ordered before, from its first result on. When
// there is no such job the error has the code NotFound. Live output does not
// come. When ctx ends, or the job is closed with Close, the job itself goes on.
func (c *Conn) Watch(ctx context.Context, id call.JobID, opt WatchOptions) (*Job, error) {
	info, err := c.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	names, err := expand(info.Names)
	if err != nil {
		return nil, err
	}
	unknown, err := expand(info.Unknown)
	if err != nil {
		return nil, err
	}
	j := newJob(c, names, unknown)
	j.ID, j.now = id, opt.Now
	j.accepted.Store(true)
	j.line = c.newLine(ctx, id, opt.Reconnect, opt.Now)
	if err := j.start(func() (eventStream, error) { return j.line.watch(0) }); err != nil {
		return nil, &JobError{ID: id, What: "watch", Err: err}
	}
	return j, nil
}

// CancelJob withdraws what has not started of a job and asks what runs to end.
// It may end before they do.
func (c *Conn) CancelJob(ctx context.Context, id call.JobID) (Cancelled, error) {
	resp, err := c.Fleet.Cancel(ctx, connect.NewRequest(&apipb.CancelRequest{Job: id.String()}))
	if err != nil {
		return Cancelled{}, &JobError{ID: id, What: "cancel", Err: err}
	}
	var out Cancelled
	if out.Running, err = expand(resp.Msg.GetRunning()); err != nil {
		return Cancelled{}, err
	}
	if out.Skipped, err = expand(resp.Msg.GetSkipped()); err != nil {
		return Cancelled{}, err
	}
	return out, nil
}
