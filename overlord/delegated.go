package overlord

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/minion"
	"dominion/module"
	"dominion/pki"
	"dominion/session"
	"dominion/store"
	"dominion/target"
)

// withdrawnTime is how long an order is still read that is withdrawn meanwhile.
const withdrawnTime = 2 * time.Second

var errNotBegun = call.Errorf(call.Cancelled, "the order is withdrawn, and had not begun here")

// delegated carries out an order that the parent passes on, or goes on with it,
// and tells the parent what comes of it.
func (o *Overlord) delegated(ctx context.Context, d minion.Delegation) *fleetpb.Result {
	events, err := o.serveDelegation(ctx, d)
	if err != nil && (o.life.Err() != nil || ctx.Err() != nil && !withdrawn(ctx)) { // which says nothing of the order
		err = errStopping
	}
	if closed, ok := errors.AsType[*session.StreamError](err); ok {
		err = call.Errorf(call.Unavailable, "the answer was not taken: %s", closed.Reason)
	}
	r := &fleetpb.Result{Code: uint32(call.CodeOf(err)), Output: events}
	if err != nil {
		e, internal := apierr.ToPeer(err)
		r.Detail = e.Message()
		if _, unwanted := errors.AsType[*session.StreamError](err); unwanted { // it knows all
			o.log.Debug("answer to the parent ended", "parent", d.Parent, "error", err)
		} else if internal && ctx.Err() == nil {
			o.log.Error("delegated order failed", "parent", d.Parent, "error", err)
		}
	}
	return r
}

// serveDelegation gives the results that the parent was not sent as a stream.
func (o *Overlord) serveDelegation(ctx context.Context, d minion.Delegation) (events []byte, err error) {
	// A withdrawal ends neither the answer nor, before that, the search for the job
	// that is to be withdrawn.
	answering, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() {
		if !withdrawn(ctx) {
			end()
		}
	})()
	go func() { // ends with the session, the overlord, or the answer
		select {
		case <-o.life.Done():
			end()
		case <-d.Session.Done():
			end()
		case <-answering.Done():
		}
	}()
	// What is withdrawn while it is read may be an order that has begun here before,
	// so the reading goes on; but the parent does not wait for long.
	reading, stop := context.WithCancelCause(answering)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() {
		if withdrawn(ctx) {
			time.AfterFunc(withdrawnTime, func() { stop(errNotBegun) })
		}
	})()
	req, p, err := o.readOrder(reading, d)
	if err != nil {
		return nil, err
	}
	d.Args = nil // it may take long
	r, stored, live, err := o.takeDelegated(answering, d.Parent, p, req.Cancel || withdrawn(ctx))
	if err != nil {
		return nil, err
	}
	if r != nil {
		if req.Cancel {
			o.withdraw(r, d.Parent)
		} else {
			defer context.AfterFunc(ctx, func() {
				if withdrawn(ctx) {
					o.withdraw(r, d.Parent)
				}
			})()
		}
	}
	return o.answerParent(answering, d, r, stored, live, int(min(req.Seen, store.MaxGroups)))
}

// withdrawn says whether the parent has withdrawn an order since it passed it on.
func withdrawn(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), minion.ErrWithdrawn)
}

// planDelegated checks an order as plan does, but for what only the overlord can
// that the operator spoke to.
func (o *Overlord) planDelegated(ctx context.Context, parent string, req *fleetpb.Delegate) (*job.Plan, error) {
	if problem := o.keep.auditProblem(); problem != "" {
		return nil, call.Errorf(call.AuditRefused, "the audit log of overlord/%s is damaged, so no order is taken: %s", o.cfg.Name, problem)
	}
	if err := o.checkWay(parent, req); err != nil {
		return nil, err
	}
	// The signature first: what nobody signed is not worth a tree of names.
	signed := call.Signed{Order: req.Order, Signature: req.Signature, Cert: req.OperatorCert}
	order, err := call.ParseOrder(req.Order)
	if err != nil {
		return nil, call.Errorf(call.BadOrder, "%v", err)
	}
	above := caller{Identity: pki.Identity{Role: pki.Overlord, Name: parent}}
	who, err := o.verifyOrder(signed)
	if err != nil {
		o.auditDenied(ctx, above, session.MethodDelegate, order.Job.String(), err.Error())
		return nil, err
	}
	whom, scope, err := o.scopeBelow(req, order.Count)
	if err != nil {
		return nil, err
	}
	p, err := job.NewPlan(job.Request{
		Signed: signed, Salt: req.Salt, Args: req.Args, Whom: whom, Scope: scope, Timeout: millis(req.TimeoutMs), Nominal: millis(req.NominalMs), Stream: req.Stream,
		Wait: req.Wait, Target: cutText(req.Target, 64<<10),
	})
	if err != nil {
		return nil, err
	}
	p.Operator = who.Name
	if m, ok := o.method(p.Order.Method); ok {
		p.Read = m.Effect() == module.Read
	}
	if denied := o.currentPolicy().AllowAll(who.Name, p.Order.Method, p.Machines()); len(denied) > 0 {
		why := "the policy of overlord/" + o.cfg.Name + " does not let " + who.String() + " call " + p.Order.Method + " on " + cutText(target.Fold(denied), 300)
		o.auditDenied(ctx, above, session.MethodDelegate, p.Order.Job.String(), why)
		return nil, call.Errorf(call.Denied, "%s", why)
	}
	return p, nil
}

// scopeBelow gives whom an order of count machines is for that came from above, and
// which of them are ours to reach.
func (o *Overlord) scopeBelow(req *fleetpb.Delegate, count int) (job.Whom, *job.Scope, error) {
	ways, err := proto.Marshal(&fleetpb.Delegate{Reach: req.Reach, Via: req.Via})
	if err != nil {
		return job.Whom{}, nil, call.Errorf(call.Invalid, "the ways cannot be read: %v", err)
	}
	return o.scopes.of(scopeKey{names: req.Names, reach: string(ways)}, func() (job.Whom, error) {
		names, err := expand(req.Names)
		if err != nil {
			return job.Whom{}, call.Errorf(call.Invalid, "names: %v", err)
		}
		if len(names) != count {
			return job.Whom{}, call.Errorf(call.BadOrder, "the %d machines sent are not the %d of the order", len(names), count)
		}
		return job.Whom{Names: names, Reach: req.Reach, Part: true, Via: req.Via}, nil
	})
}

func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(call.MaxLife/time.Millisecond))) * time.Millisecond
}

// takeDelegated gives the job that an order belongs to here, running or closed,
// and begins one when there is none. live, for who began it, is its live output.
func (o *Overlord) takeDelegated(ctx context.Context, parent string, p *job.Plan, cancelled bool) (*running, store.Job, <-chan *apipb.Output, error) {
	folded := p.FoldedMachines()
	for p.ID = p.Order.Job; ; {
		r, j, err := (fleetAPI{o}).find(ctx, p.ID.String())
		switch {
		case err == nil && !passedOn(r, j):
			return nil, j, nil, call.Errorf(call.Conflict, "the order was given to overlord/%s itself, and is no affair of overlord/%s", o.cfg.Name, parent)
		case r != nil && slices.Equal(r.run.Plan.Machines(), p.Machines()), r == nil && err == nil && j.Names == folded:
			return r, j, nil, nil
		case err == nil: // the order came another way, too, for other machines
			if p.ID != p.Order.Job {
				return nil, j, nil, call.Errorf(call.Internal, "two jobs of overlord/%s have the id %s", o.cfg.Name, p.ID)
			}
			p.ID = otherID(p.Order.Job, folded)
			continue
		case call.CodeOf(err) != call.NotFound:
			return nil, j, nil, err
		case time.Now().After(p.Order.Expiry.Add(call.Tolerance)):
			return nil, j, nil, call.Errorf(call.Expired, "the order expired at %s, before it had begun here, where the clock shows %s",
				p.Order.Expiry.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
		case cancelled:
			return nil, j, nil, errNotBegun
		}
		var live chan *apipb.Output
		if p.Stream {
			live = make(chan *apipb.Output)
		}
		r, err = o.start(ctx, p, live, &auditpb.Record{
			Actor: "overlord/" + parent, Action: "delegation", Subject: p.ID.String(), Detail: cutText("by "+pki.Identity{Role: pki.Operator, Name: p.Operator}.String(), 300),
			Order: &auditpb.Order{
				Order: p.Signed.Order, Signature: p.Signed.Signature, OperatorCert: p.Signed.Cert, Names: p.Folded(), Reach: folded,
			},
		})
		if call.CodeOf(err) == call.Repeated { // it came twice at once
			continue
		}
		if err == nil && live == nil {
			r.leave()
		}
		return r, store.Job{}, live, err
	}
}

// passedOn says whether a job, running or stored, came from the overlord above.
func passedOn(r *running, j store.Job) bool {
	if r != nil {
		return r.run.Plan.Part
	}
	var req job.Request
	return len(j.Delegated) > 0 && delegatedTo(&req, j.Delegated) == nil && req.Part
}

// otherID gives a job's name here when the order's own is taken, because the order
// came by several ways: always the same for the same machines.
func otherID(order call.JobID, machines string) call.JobID {
	sum := sha256.Sum256(append(append([]byte("dominion-delegation-v1"), order[:]...), machines...))
	id := order
	copy(id[9:], sum[:]) // behind the time, the version and the variant
	return id
}

// withdraw cancels a job because the parent says so, whatever becomes of its session.
func (o *Overlord) withdraw(r *running, parent string) {
	above := caller{Identity: pki.Identity{Role: pki.Overlord, Name: parent}}
	if err := o.keep.cancel(o.life, above, r.run.Plan.ID); err != nil && call.CodeOf(err) != call.NotFound {
		o.log.Error("withdrawal not stored; it holds until this overlord restarts", "job", r.run.Plan.ID.String(), "error", err)
	}
	r.run.Cancel()
}

// answerParent sends the parent what comes of a job until it is closed, and gives the
// results that go with the answer because they are few and nobody had to wait.
func (o *Overlord) answerParent(ctx context.Context, d minion.Delegation, r *running, j store.Job, live <-chan *apipb.Output, seen int) ([]byte, error) {
	up := &upward{open: func() (*session.Stream, error) { return d.Session.Open(ctx, d.ID, streamEvents) }}
	var err error
	if r == nil {
		err = fleetAPI{o}.sendStored(ctx, j.ID, seen, store.MaxGroups, up)
	} else {
		flowing := make(chan struct{})
		if live != nil {
			go func() { // ends with the job, or when the parent does not listen any more
				defer close(flowing)
				o.sendOutput(ctx, d, r, live)
			}()
		} else {
			close(flowing)
		}
		if err = watch(ctx, r, watching{seen: seen, lull: up.flush}, up); err == nil {
			select {
			case <-flowing:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
	}
	switch {
	case up.st == nil && err == nil:
		return up.held, nil
	case up.st == nil:
		return nil, err
	case err != nil:
		up.st.CloseWithReason("it goes on later")
		return nil, err
	}
	return nil, up.st.Close()
}

// sendOutput passes live output up until there will be no more.
func (o *Overlord) sendOutput(ctx context.Context, d minion.Delegation, r *running, live <-chan *apipb.Output) {
	defer r.leave()
	st, err := d.Session.Open(ctx, d.ID, streamOutput)
	if err != nil {
		return
	}
	var quiet <-chan struct{}
	for closed := r.run.Closed(); ; {
		select {
		case out := <-live:
			if err := writeEvent(st, &apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: out}}); err != nil {
				st.CloseWithReason("not sent")
				return
			}
		case <-closed:
			closed, quiet = nil, r.quiet()
		case <-quiet:
			_ = st.Close() // an error: the session is over
			return
		case <-ctx.Done():
			st.CloseWithReason("it goes on later")
			return
		}
	}
}

// maxInlineEvents is how many bytes of results go with the answer itself at most.
const maxInlineEvents = 128 << 10

// upward sends events to a parent: those that tell of results. They are held until
// somebody would have to wait for them, or they are too many to go with the answer.
type upward struct {
	open func() (*session.Stream, error)
	st   *session.Stream // nil: not opened yet
	held []byte
}

// Send implements events.
func (u *upward) Send(ev *apipb.CallEvent) error {
	if ev.GetResults() == nil {
		return nil
	}
	if u.st != nil {
		return writeEvent(u.st, ev)
	}
	var err error
	if u.held, err = appendEvent(u.held, ev); err == nil && len(u.held) > maxInlineEvents {
		err = u.flush()
	}
	return err
}

// flush sends what is held; from then on nothing is.
func (u *upward) flush() error {
	if u.st != nil || len(u.held) == 0 {
		return nil
	}
	st, err := u.open()
	if err != nil {
		return err
	}
	u.st = st
	_, err = st.Write(u.held)
	u.held = nil
	return err
}
