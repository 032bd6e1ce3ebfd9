package overlord

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"dominion/call"
	"dominion/pki"
	"dominion/session"
	"dominion/store"
)

const overTime = 30 * time.Second // for the parent to say which orders are over

// askWhatIsOver withdraws the orders of the parent that it withdrew, or gave up,
// while there was no session with it: it awaits a sub-overlord for some time only, and
// calls that wait for their machines would begin long after.
func (o *Overlord) askWhatIsOver() {
	open := slices.DeleteFunc(o.jobs.all(), func(r *running) bool { return !r.run.Plan.Part })
	for page := range slices.Chunk(open, session.MaxOrders) {
		args := session.OrdersArgs{Jobs: make([]string, len(page))}
		for i, r := range page {
			args.Jobs[i] = r.run.Plan.Order.Job.String()
		}
		ctx, cancel := context.WithTimeout(o.life, overTime)
		var out session.OrdersResult
		err := o.parent.agent.Ask(ctx, session.MethodOrders, args, &out)
		cancel()
		if err != nil { // the next session asks again; a parent of an older program cannot be asked
			o.log.Debug("not known which orders are over", "parent", o.parent.Name, "error", err)
			return
		}
		for _, r := range page {
			if slices.Contains(out.Over, r.run.Plan.Order.Job.String()) {
				o.log.Info("order withdrawn: it is over at the parent", "job", r.run.Plan.ID.String(), "parent", o.parent.Name)
				o.withdraw(r, o.parent.Name)
			}
		}
	}
}

// ordersOver answers session.orders.
func (o *Overlord) ordersOver(ctx context.Context, s *session.Session, args []byte) (session.OrdersResult, error) {
	var in session.OrdersArgs
	var out session.OrdersResult
	if s.Peer().Role != pki.Overlord {
		return out, call.Errorf(call.NotFound, "minions may not call %q", session.MethodOrders)
	}
	if err := json.Unmarshal(args, &in); err != nil {
		return out, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if len(in.Jobs) > session.MaxOrders {
		return out, call.Errorf(call.Invalid, "%d orders; at most %d are allowed", len(in.Jobs), session.MaxOrders)
	}
	for _, text := range in.Jobs {
		id, err := call.ParseJobID(text)
		if err != nil {
			return out, call.Errorf(call.Invalid, "%v", err)
		}
		over, err := o.isOver(ctx, id)
		if err != nil {
			return out, err
		}
		if over {
			out.Over = append(out.Over, text)
		}
	}
	return out, nil
}

// isOver says whether nobody here awaits results of an order any more. Of an order that
// is not known here nothing is said: the store may be an older one.
func (o *Overlord) isOver(ctx context.Context, order call.JobID) (bool, error) {
	if open := o.jobs.of(order); len(open) > 0 {
		return !slices.ContainsFunc(open, func(r *running) bool { return !r.run.Cancelled() }), nil
	}
	j, err := o.keep.db.Job(ctx, order)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && !j.Closed.IsZero(), err
}
