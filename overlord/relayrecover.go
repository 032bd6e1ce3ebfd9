package overlord

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// explainOr gives what asks for the root's word about our restored audit log; nil
// where the root's key is.
func (o *Overlord) explainOr(c caller, token string) func(context.Context, *fleetpb.Recovery) ([]byte, error) {
	if o.parent == nil {
		return nil
	}
	return func(ctx context.Context, r *fleetpb.Recovery) ([]byte, error) {
		return o.relayRecover(ctx, c, token, r)
	}
}

// relayRecover signs a request to explain what r says and passes it to the parent.
func (o *Overlord) relayRecover(ctx context.Context, c caller, token string, r *fleetpb.Recovery) ([]byte, error) {
	req, err := pki.NewRecoverRequest(o.cfg.Name, r, c.actor(), token, o.keys.sub.tls)
	if err != nil {
		return nil, err
	}
	o.passing.take(time.Now(), passOwn)
	out, err := o.askRecover(ctx, session.RecoverArgs{
		Overlord: req.Overlord, Recovery: req.Recovery, Actor: req.Actor, Token: req.Token, Signature: req.Signature,
	})
	if err != nil {
		return nil, err
	}
	got, err := pki.OpenRecovery(o.keys.rootCert, out.Statement)
	if err != nil {
		return nil, call.Errorf(call.Internal, "the statement that overlord/%s sends: %v", o.parent.Name, err)
	}
	got.TimeMs = 0
	b, err := canonical.Marshal(got)
	if err != nil || !bytes.Equal(b, req.Recovery) {
		return nil, call.Errorf(call.Internal, "the statement that overlord/%s sends explains something else: epoch %d of log %.64q", o.parent.Name, got.Epoch, got.LogId)
	}
	return out.Statement, nil
}

// askRecover passes a request to explain a restored log to the parent.
func (o *Overlord) askRecover(ctx context.Context, args session.RecoverArgs) (out session.RecoverResult, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passTime, call.Errorf(call.Timeout, "no answer from overlord/%s within %s", o.parent.Name, passTime))
	defer cancel()
	err = o.parent.agent.Ask(ctx, session.MethodRecover, args, &out)
	if call.CodeOf(err) == call.NoSession {
		err = call.Errorf(call.Unavailable, "overlord/%s has no session with its parent overlord/%s at this moment, and the root's key, which explains a restored log, is above it", o.cfg.Name, o.parent.Name)
	}
	return out, err
}

// recoverBelow carries out what a sub-overlord asks about its log, or passes it on.
func (o *Overlord) recoverBelow(ctx context.Context, s *session.Session, args []byte) (any, error) {
	if s.Peer().Role != pki.Overlord {
		return nil, call.Errorf(call.NotFound, "minions may not call %q", session.MethodRecover)
	}
	var in session.RecoverArgs
	if len(args) > session.MaxRecover {
		return nil, call.Errorf(call.Invalid, "a request of %d bytes; at most %d are allowed", len(args), session.MaxRecover)
	}
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if in.Hops < 0 || in.Hops >= session.MaxVia {
		return nil, call.Errorf(call.Invalid, "the request went through %d overlords", in.Hops)
	}
	if in.Hops++; o.parent != nil {
		if err := o.passes(s.Peer().Name); err != nil {
			return nil, err
		}
		return o.askRecover(ctx, in)
	}
	var source netip.Addr
	if ap, err := netip.ParseAddrPort(s.RemoteAddr().String()); err == nil {
		source = ap.Addr()
	}
	statement, err := o.registrar.RecoverBelow(ctx, pki.RecoverRequest{
		Overlord: in.Overlord, Recovery: in.Recovery, Actor: in.Actor, Token: in.Token, Signature: in.Signature,
	}, source)
	return session.RecoverResult{Statement: statement}, err
}
