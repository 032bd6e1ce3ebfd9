package overlord

import (
	"context"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion"
	"dominion/session"
)

// host answers what the parent asks of this overlord, through the agent that is
// embedded in it.
type host struct{ o *Overlord }

// Answer implements minion.Host.
func (h host) Answer(ctx context.Context, method string, args []byte) (any, error) {
	switch method {
	case session.MethodMap:
		return h.o.mapBelow(ctx, args)
	case session.MethodGroups:
		return h.o.groupsBelow(ctx, args)
	}
	return nil, call.Errorf(call.NotFound, "a sub-overlord has no method %q", method)
}

// Delegate implements minion.Host.
func (h host) Delegate(ctx context.Context, d minion.Delegation) *fleetpb.Result {
	return h.o.delegated(ctx, d)
}

// Opened implements minion.Host.
func (h host) Opened() { h.o.background.Go(h.o.askWhatIsOver) }
