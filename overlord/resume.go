package overlord

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/module"
	"dominion/store"
	"dominion/target"
)

// findOpen prepares the jobs to go on that an overlord before this one had not
// closed. What their machines have done meanwhile is asked when they connect.
func (o *Overlord) findOpen(ctx context.Context) error {
	jobs, err := o.keep.db.OpenJobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		r, err := o.resume(ctx, j)
		if err != nil {
			o.log.Error("open job cannot go on", "job", j.ID.String(), "error", err)
			if err := o.closeUnread(ctx, j, err); err != nil { // one bad row must not keep the overlord from starting
				o.log.Error("nor can it be closed; that is tried again at the next start", "job", j.ID.String(), "error", err)
			}
			continue
		}
		o.jobs.resume(partCost(r.run.Plan))
		o.jobs.add(r)
	}
	o.resumed.Store(true)
	return nil
}

// takeUp starts what findOpen prepared.
func (o *Overlord) takeUp() {
	for _, r := range o.jobs.all() {
		o.log.Info("job goes on", "job", r.run.Plan.ID.String(), "method", r.run.Plan.Order.Method, "waiting", len(r.run.Waiting(call.MaxMachines)))
		o.background.Go(func() { o.carryOut(r) })
	}
}

// resume rebuilds a job from the store.
func (o *Overlord) resume(ctx context.Context, j store.Job) (*running, error) {
	names, err := expand(j.Names)
	if err != nil {
		return nil, err
	}
	unknown, err := expand(j.Unknown)
	if err != nil {
		return nil, err
	}
	req := job.Request{
		Signed: call.Signed{Order: j.Order, Signature: j.Signature, Cert: j.OperatorCert}, Salt: j.Salt, Args: j.Args,
		Whom: job.Whom{Names: names}, Unknown: unknown, Timeout: j.Timeout, Wait: j.Wait, Target: j.Target, Operator: j.Operator, Created: j.Created, ID: j.ID,
	}
	if len(j.Delegated) > 0 {
		if err := delegatedTo(&req, j.Delegated); err != nil {
			return nil, err
		}
	}
	p, err := job.NewPlan(req)
	if err != nil {
		return nil, err
	}
	if m, ok := o.method(p.Order.Method); ok {
		p.Read = m.Effect() == module.Read
	}
	r := o.newRunning(p, nil)
	r.leave() // nobody watches its live output
	for g, err := range o.keep.db.Results(ctx, j.ID, 0) {
		if err != nil {
			return nil, err
		}
		names, err := expand(g.Names)
		if err != nil {
			return nil, err
		}
		r.run.Restore(job.Group{Number: g.Number, Names: names, Status: g.Status, Code: g.Code, Detail: g.Detail})
	}
	r.run.Resume(!j.Cancelled.IsZero())
	return r, nil
}

// delegatedTo sets what a request needs beside others that came from another
// overlord, or goes through some.
func delegatedTo(req *job.Request, stored []byte) error {
	d := new(fleetpb.Delegate)
	if err := proto.Unmarshal(stored, d); err != nil {
		return call.Errorf(call.Internal, "the ways of the job cannot be read: %v", err)
	}
	if d.Names != "" {
		all, err := expand(d.Names)
		if err != nil {
			return err
		}
		req.Names, req.Part = all, true
	}
	req.Reach, req.Via = d.Reach, d.Via
	req.Nominal = time.Duration(d.NominalMs) * time.Millisecond
	return nil
}

// closeUnread closes a job whose order cannot be read any more: what was not
// stored is not known. Where not even the names can be read, only the number of
// machines is accounted for.
func (o *Overlord) closeUnread(ctx context.Context, j store.Job, why error) error {
	missing, readable := make(map[string]bool), true
	for _, folded := range []string{j.Names, j.Unknown} {
		names, err := expand(folded)
		readable = readable && err == nil
		for _, n := range names {
			missing[n] = true
		}
	}
	counts, next := call.Counts{Targeted: j.Counts.Targeted}, 0
	for g, err := range o.keep.db.Results(ctx, j.ID, 0) {
		if err != nil {
			return err
		}
		names, err := expand(g.Names)
		readable = readable && err == nil
		for _, n := range names {
			delete(missing, n)
		}
		counts.Add(g.Status, g.Count)
		next = g.Number + 1
	}
	lost := job.Group{
		Number: next, Names: slices.Sorted(maps.Keys(missing)), Folded: target.Fold(slices.Collect(maps.Keys(missing))), Status: call.StatusOf(call.SessionLost), Code: call.SessionLost,
		Detail: "the overlord ended before the answer; whether the call ran is not known", Took: make([]time.Duration, len(missing)),
	}
	rest := counts.Targeted - counts.Done()
	if readable && rest > 0 && rest == len(missing) {
		if err := o.keep.KeepResults(ctx, j.ID, []job.Group{lost}, nil); err != nil {
			return err
		}
	}
	counts.Add(lost.Status, max(rest, 0))
	return o.keep.end(ctx, j.ID, counts, "the overlord could not go on with it: "+why.Error())
}
