package overlord

import (
	"context"
	"encoding/json"
	"time"

	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// relayRevokeOr gives what asks for the revocation of our machines' certificates;
// nil where the root's key is.
func (o *Overlord) relayRevokeOr() func(context.Context, pki.RevokeRequest) (uint64, error) {
	if o.parent == nil {
		return nil
	}
	return o.relayRevoke
}

// relayRevoke signs a request to revoke and passes it to the parent. The list that
// comes back is in force here when it returns.
func (o *Overlord) relayRevoke(ctx context.Context, req pki.RevokeRequest) (uint64, error) {
	req.Actor = cutText(req.Actor, pki.MaxReason)
	if err := req.Sign(o.keys.sub.tls); err != nil {
		return 0, err
	}
	o.passing.take(time.Now(), passOwn)
	out, err := o.askRevoke(ctx, session.RevokeArgs{
		Overlord: req.Overlord, Leaves: req.Leaves, Reason: req.Reason, Actor: req.Actor, Signature: req.Signature,
	})
	if err != nil {
		return 0, err
	}
	list, err := pki.ParseRevocations(o.keys.rootCert, out.List)
	if err != nil {
		return 0, call.Errorf(call.Internal, "the list that overlord/%s sends: %v", o.parent.Name, err)
	}
	o.adopt(context.WithoutCancel(ctx), out.List, list)
	if err := o.parent.agent.TakeRevocations(out.List); err != nil {
		return 0, err
	}
	return list.Number(), nil
}

// askRevoke passes a request to revoke to the parent.
func (o *Overlord) askRevoke(ctx context.Context, args session.RevokeArgs) (out session.RevokeResult, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passTime, call.Errorf(call.Timeout, "no answer from overlord/%s within %s", o.parent.Name, passTime))
	defer cancel()
	err = o.parent.agent.Ask(ctx, session.MethodRevoke, args, &out)
	if call.CodeOf(err) == call.NoSession {
		err = call.Errorf(call.Unavailable, "overlord/%s has no session with its parent overlord/%s at this moment, and the root's key, which revokes, is above it", o.cfg.Name, o.parent.Name)
	}
	return out, err
}

// revokeBelow carries out what a sub-overlord asks about its machines, or passes it on.
func (o *Overlord) revokeBelow(ctx context.Context, s *session.Session, args []byte) (any, error) {
	if s.Peer().Role != pki.Overlord {
		return nil, call.Errorf(call.NotFound, "minions may not call %q", session.MethodRevoke)
	}
	var in session.RevokeArgs
	if len(args) > session.MaxRevoke {
		return nil, call.Errorf(call.Invalid, "a request of %d bytes; at most %d are allowed", len(args), session.MaxRevoke)
	}
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if in.Hops++; in.Hops < 1 || in.Hops > session.MaxVia {
		return nil, call.Errorf(call.Invalid, "the request went through %d overlords", in.Hops)
	}
	if o.parent != nil {
		if err := o.passes(s.Peer().Name); err != nil {
			return nil, err
		}
		return o.askRevoke(ctx, in)
	}
	number, list, err := o.registrar.RevokeBelow(ctx, pki.RevokeRequest{
		Overlord: in.Overlord, Leaves: in.Leaves, Reason: in.Reason, Actor: in.Actor, Signature: in.Signature,
	})
	return session.RevokeResult{Number: number, List: list}, err
}
