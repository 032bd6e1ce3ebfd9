package overlord

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/apierr"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
	"dominion/session"
)

// Limits of what minions ask for over their sessions.
const (
	maxFacts   = 256 << 10 // bytes of JSON
	minionCall = 30 * time.Second
)

// answer gives our HELLO to a minion's: a newer revocation list, and the audit
// log's head with the proof that it continues what the minion remembers.
func (o *Overlord) answer(s *session.Session, hello *fleetpb.Hello) (*fleetpb.Hello, error) {
	out := &fleetpb.Hello{AgentVersion: o.cfg.Version, TimeMs: time.Now().UnixMilli()}
	if len(hello.JournalId) > 0 { // it holds to the first one that it is told
		out.JournalBirthMs = birthOf(hello, time.Now()).UnixMilli()
	}
	list := o.revoked()
	out.RevocationNumber = list.Number()
	if hello.RevocationNumber < list.Number() {
		out.Revocations = o.revokedBytes()
	}
	if hello.RevocationNumber > list.Number() { // the store is an older copy, or the machine lies
		o.log.Error("a minion has a newer revocation list than there is here: it takes none from us", "machine", s.Peer().Name,
			"its_number", hello.RevocationNumber, "number", list.Number(), "next", "after a restore, revoke again what was revoked since the back-up")
	}
	head, err := o.keep.head(o.life, s.Peer().Name, hello.Checkpoints)
	if err != nil {
		return nil, err
	}
	out.LogHead = head
	return out, nil
}

// birthOf gives when a minion's journal began, by an overlord's clock: now, if
// no overlord has seen it before.
func birthOf(hello *fleetpb.Hello, now time.Time) time.Time {
	if hello.JournalBirthMs > 0 {
		return time.UnixMilli(hello.JournalBirthMs)
	}
	return now
}

// ready registers a session: HELLOs have been exchanged.
func (o *Overlord) ready(s *session.Session) {
	peer := s.Peer()
	if old := o.fleet.join(s, time.Now()); old != nil {
		old.Close(call.Conflict, "a newer session of this machine takes its place")
	}
	// A list that changed since the handshake has cut the sessions it found;
	// this one was not among them yet.
	if reason, yes := o.peerRevoked(s); yes {
		s.Close(call.Revoked, "the certificate was revoked: "+reason)
		o.background.Go(func() { o.dropRevoked([]pki.Identity{peer}) }) // join has made it known again
		return
	}
	for _, r := range o.jobs.all() {
		r.run.Arrived(peer.Name)
	}
	o.cluster.look()
	o.candidates.arrived(s)
	o.catalogue.arrived(s)
	o.log.Info("minion connected", "machine", peer.Name, "address", s.RemoteAddr().String(), "agent", s.PeerHello().AgentVersion)
	o.background.Go(func() {
		if err := o.keep.arrived(o.life, s); err != nil {
			o.log.Warn("presence not stored", "machine", peer.Name, "error", err)
		}
	})
}

// handler receives what minions send on their own account.
type handler struct{ o *Overlord }

// Call implements session.Handler.
func (h handler) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	o := h.o
	switch c.Method {
	case session.MethodClusterData:
		h.clusterData(s, id, c)
		return
	case session.MethodBlob:
		h.blob(s, id, c)
		return
	case session.MethodProvisionFile:
		h.provisionFile(s, id, c)
		return
	}
	if !o.fleet.mayAsk(s.Peer().Name, time.Now()) {
		h.reply(s, id, nil, call.Errorf(call.Busy, "this machine asks too often; at most %d times at once and once in %s", askBurst, askEvery))
		return
	}
	if !o.minionCalls.TryAcquire(1) {
		h.reply(s, id, nil, call.Errorf(call.Busy, "too many requests of minions at once"))
		return
	}
	o.background.Go(func() {
		defer o.minionCalls.Release(1)
		ctx, cancel := context.WithTimeout(o.life, timeFor(c.TimeoutMs))
		defer cancel()
		out, err := o.minionAsks(ctx, s, c)
		h.reply(s, id, out, err)
	})
}

// timeFor gives how long a request of a peer may take that waits for so many
// milliseconds (zero: it did not say): a little less, so that it is told what was
// late when others have to be asked.
func timeFor(ms uint64) time.Duration {
	const margin = 20 * time.Millisecond
	if ms == 0 || ms > uint64(minionCall/time.Millisecond) {
		return minionCall
	}
	return max(time.Duration(ms)*time.Millisecond-margin, time.Millisecond)
}

func (h handler) reply(s *session.Session, id uint64, out any, err error) {
	r := &fleetpb.Result{Code: uint32(call.CodeOf(err))}
	if err != nil {
		e, internal := apierr.ToPeer(err)
		r.Detail = e.Message()
		if internal {
			h.o.log.Error("request of a minion failed", "machine", s.Peer().Name, "error", err)
		}
	} else if r.Output, err = json.Marshal(out); err != nil {
		r.Code = uint32(call.Internal)
	}
	if err := s.Reply(id, r); err != nil {
		h.o.log.Debug("reply not sent", "machine", s.Peer().Name, "error", err)
	}
}

// minionAsks carries out one of the few methods that minions may call.
func (o *Overlord) minionAsks(ctx context.Context, s *session.Session, c *fleetpb.Call) (any, error) {
	switch c.Method {
	case session.MethodFacts:
		var doc map[string]json.RawMessage
		if len(c.Args) > maxFacts || json.Unmarshal(c.Args, &doc) != nil {
			return nil, call.Errorf(call.Invalid, "facts are a JSON object of at most %d bytes", maxFacts)
		}
		return struct{}{}, o.keep.facts(ctx, s.Peer().Name, c.Args)
	case session.MethodRecords:
		return o.minionRecords(ctx, s.Peer().Name, c.Args)
	case session.MethodOffer:
		var in session.OfferArgs
		if err := json.Unmarshal(c.Args, &in); err != nil {
			return nil, call.Errorf(call.Invalid, "arguments: %v", err)
		}
		return struct{}{}, o.catalogue.learn(ctx, s, in.Digest)
	case session.MethodGrant:
		return o.passedUp(ctx, s, c.Args)
	case session.MethodOrders:
		return o.ordersOver(ctx, s, c.Args)
	case session.MethodRevoke:
		return o.revokeBelow(ctx, s, c.Args)
	case session.MethodRecover:
		return o.recoverBelow(ctx, s, c.Args)
	case session.MethodRenew:
		var m session.RenewArgs
		if err := json.Unmarshal(c.Args, &m); err != nil {
			return nil, call.Errorf(call.Invalid, "arguments: %v", err)
		}
		chain, err := o.registrar.Renew(ctx, enrol.Peer{Identity: s.Peer(), Cert: s.PeerCert()}, m.CSR)
		return session.RenewResult{Chain: chain}, err
	}
	return nil, call.Errorf(call.NotFound, "minions may not call %q", c.Method)
}

// Cancel implements session.Handler. What minions ask for is short.
func (h handler) Cancel(*session.Session, uint64) {}

// Ack implements session.Handler.
func (h handler) Ack(s *session.Session, id uint64, a *fleetpb.Ack) {
	if a.State == fleetpb.Ack_FINISHED {
		h.o.finished(s, a.Jobs)
		return
	}
	if r := h.o.jobs.call(id); r != nil {
		switch a.State {
		case fleetpb.Ack_RECEIVED:
			r.run.Progress(s.Peer().Name, call.Received)
		case fleetpb.Ack_STARTED:
			r.run.Progress(s.Peer().Name, call.Started)
		}
	}
}

// Open implements session.Handler.
func (h handler) Open(s *session.Session, st *session.Stream) {
	if r := h.o.jobs.call(st.CallID()); r != nil {
		r.opened(s, st)
	} else if a := h.o.jobs.ask(st.CallID()); a != nil {
		a.opened(s, st)
	} else if c := h.o.jobs.hop(st.CallID()); c != nil {
		c.opened(s, st)
	} else {
		st.CloseWithReason("no such call")
	}
}

// Closed implements session.Handler.
func (h handler) Closed(s *session.Session, err error) {
	o := h.o
	o.outputs.drop(s)
	reason := "disconnected"
	if err != nil {
		reason = "disconnected: " + err.Error()
	}
	if o.fleet.leave(s, time.Now(), reason) {
		o.log.Info("minion disconnected", "machine", s.Peer().Name, "reason", reason)
		o.dialer.look()
	}
}

// peerRevoked says whether today's list names a session's peer, or the CA that
// signed it.
func (o *Overlord) peerRevoked(s *session.Session) (reason string, revoked bool) {
	certs := []*x509.Certificate{s.PeerCert()}
	if issuer := o.keys.issuerOf(s.PeerCert()); issuer != nil {
		certs = append(certs, issuer)
	}
	return o.revoked().Revoked(certs...)
}

// pushRevocations sends a new list to every session, and cuts those that it names.
func (o *Overlord) pushRevocations() {
	args, err := json.Marshal(session.RevocationsArgs{List: o.revokedBytes()})
	if err != nil {
		o.log.Error("encode revocation list", "error", err)
		return
	}
	body, err := proto.Marshal(&fleetpb.Call{Method: session.MethodRevocations, Args: args})
	if err != nil {
		o.log.Error("encode revocation list", "error", err)
		return
	}
	id := o.callID.Add(1)
	for _, s := range o.fleet.all() {
		if reason, yes := o.peerRevoked(s); yes {
			if s.Peer().Role == pki.Overlord { // so that its machines learn it; one that is hostile keeps it from them
				_ = s.Start(id, listSent{o}, body) // an error: it is gone
			}
			s.Close(call.Revoked, "the certificate was revoked: "+reason)
			continue
		}
		if err := s.Start(id, listSent{o}, body); err != nil {
			o.log.Debug("revocation list not sent", "machine", s.Peer().Name, "error", err)
		}
	}
}

// showCheckpoints tells every minion of today's checkpoint, so that it
// remembers how far the log has come. Each is told from what it acknowledged.
func (o *Overlord) showCheckpoints() {
	for _, s := range o.fleet.all() {
		if err := o.showCheckpoint(s); err != nil {
			o.log.Debug("checkpoint not shown", "machine", s.Peer().Name, "error", err)
		}
	}
}

func (o *Overlord) showCheckpoint(s *session.Session) error {
	ctx, cancel := context.WithTimeout(o.life, minionCall)
	defer cancel()
	head, err := o.keep.head(ctx, s.Peer().Name, o.fleet.remembered(s))
	if err != nil {
		return err
	}
	b, err := proto.Marshal(head)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	args, err := json.Marshal(session.CheckpointArgs{Head: b})
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	body, err := proto.Marshal(&fleetpb.Call{Method: session.MethodCheckpoint, Args: args})
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	return s.Start(o.callID.Add(1), &shown{o: o, note: head.Checkpoint}, body)
}

// shown waits for a minion to accept a checkpoint.
type shown struct {
	o    *Overlord
	note []byte
}

// Result implements session.Waiter.
func (w *shown) Result(s *session.Session, _ uint64, body []byte) {
	var r fleetpb.Result
	if err := proto.Unmarshal(body, &r); err != nil || r.Code != 0 {
		w.o.log.Warn("a minion refuses the audit checkpoint", "machine", s.Peer().Name, "code", r.Code, "detail", r.Detail)
		return
	}
	w.o.fleet.remember(s, w.note)
}

// Lost implements session.Waiter.
func (w *shown) Lost(*session.Session, uint64, error) {}

// listSent waits for a minion to take a revocation list.
type listSent struct{ o *Overlord }

// Result implements session.Waiter.
func (w listSent) Result(s *session.Session, _ uint64, body []byte) {
	if why := notTaken(body); why != "" {
		w.o.log.Error("a minion does not take the revocation list", "machine", s.Peer().Name, "why", why)
	}
}

// Lost implements session.Waiter.
func (listSent) Lost(*session.Session, uint64, error) {}

// notTaken says why a minion did not take what it was sent; empty: it did.
func notTaken(body []byte) string {
	var r fleetpb.Result
	switch err := proto.Unmarshal(body, &r); {
	case err != nil:
		return "its answer cannot be read"
	case r.Code != 0:
		return cutText(call.Code(r.Code).String()+": "+r.Detail, 300)
	}
	return ""
}
