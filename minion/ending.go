package minion

import (
	"context"

	"dominion/api/fleetpb"
	"dominion/call"
)

// work runs one call of the crew to its end. What cannot be recorded is not run.
func (a *Agent) work(ctx context.Context, w *work) {
	err := a.begin(ctx, w)
	if c := call.CodeOf(err); c == call.Unavailable || c == call.Busy {
		a.own.skip(1)
		a.turnAway(w, err)
		return
	}
	var r *fleetpb.Result
	if err != nil {
		r = failure(err)
	} else {
		r = a.perform(ctx, w)
	}
	if r == nil { // it ends when the agent has been started again
		w.link.forget(w.id)
		a.log.Info("call ends after a restart", "job", w.verdict.order.Job, "method", w.verdict.order.Method)
		return
	}
	if err := a.own.ran(record(a.now(), w.verdict, w.link.peer, r)); err != nil {
		a.log.Error("call not recorded", "job", w.verdict.order.Job, "err", err)
	}
	a.finish(w, r)
}

// begin makes everything ready for the method; with an error it must not run.
func (a *Agent) begin(ctx context.Context, w *work) error {
	if err := a.own.ready(); err != nil {
		return err
	}
	o := w.verdict.order
	if late := a.now().Sub(o.Expiry); late > call.Tolerance {
		return call.Errorf(call.Expired, "it waited here until the order expired at %s", stamp(o.Expiry))
	}
	if err := a.verifier.still(w.verdict); err != nil {
		return err
	}
	if err := w.book.Start(o.Job); err != nil {
		return err
	}
	if ctx.Err() != nil { // withdrawn while the disk was waited for
		return context.Cause(ctx)
	}
	return nil
}

// turnAway answers a call that was accepted and cannot start now. The job is
// forgotten, so that it may be sent again.
func (a *Agent) turnAway(w *work, why error) {
	w.book.Withdraw(w.verdict.order.Job)
	w.link.forget(w.id)
	r := failure(why)
	a.log.Info("call turned away", "job", w.verdict.order.Job, "method", w.verdict.order.Method, "code", codeText(r), "detail", r.Detail)
	_ = w.link.session.Reply(w.id, r) // an error: the session is over, and the overlord asks on the next
}

// finish keeps a result and sends it. What the session that brought the call does
// not take waits to be asked for, and another session with that overlord is told
// so.
func (a *Agent) finish(w *work, r *fleetpb.Result) {
	o := w.verdict.order
	if err := w.book.Finish(o.Job, r); err != nil {
		a.log.Error("result not kept on disk", "job", o.Job, "err", err)
	}
	w.link.forget(w.id)
	a.log.Debug("call done", "job", o.Job, "method", o.Method, "code", codeText(r), "took_us", r.TookUs)
	err := w.link.session.Reply(w.id, r)
	if err == nil {
		return
	}
	a.log.Info("result not delivered", "job", o.Job, "overlord", w.link.peer, "err", err)
	if l := a.link(w.link.peer); l != nil && l != w.link {
		l.announce([]call.JobID{o.Job})
	}
}
