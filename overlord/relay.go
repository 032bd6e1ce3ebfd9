package overlord

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
	"dominion/session"
	"dominion/store"
)

// How many of what the parent takes of us (askBurst at once, and then one every
// askEvery) may be used up when something more is passed on: those who show no
// certificate leave room for the overlords below, and both for ourselves.
const (
	passStrangers = askBurst / 2
	passBelow     = askBurst * 4 / 5
	passOwn       = 1 << 20          // the parent says when it is too much
	passTime      = 25 * time.Second // for the answer from above
)

// passing counts what the parent is asked, as the parent does. The zero value is ready.
type passing struct {
	mu   sync.Mutex
	used float64 // that count at the time of last
	last time.Time
}

// take says whether one more may be asked now, of at most so many that count, and
// counts it.
func (p *passing) take(now time.Time, most float64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = max(0, p.used-float64(now.Sub(p.last))/float64(askEvery))
	p.last = now
	if p.used > most-1 {
		return false
	}
	p.used++
	return true
}

// passes says whether the request of an overlord below may be passed on. It has
// counted once already for that overlord: here it counts twice, so that one does not
// take all from the others.
func (o *Overlord) passes(peer string) error {
	now := time.Now()
	if !o.fleet.mayAsk(peer, now) || !o.passing.take(now, passBelow) {
		return call.Errorf(call.Busy, "too much is passed on by overlord/%s at this moment", o.cfg.Name)
	}
	return nil
}

// relayOr gives what passes requests of overlords on; nil where the root's key is.
func (o *Overlord) relayOr() func(context.Context, enrol.Request) (enrol.Decision, error) {
	if o.parent == nil {
		return nil
	}
	return o.relay
}

// relay passes a request on to the parent. Whoever comes from below with a session
// was counted when he asked: see passedUp.
func (o *Overlord) relay(ctx context.Context, req enrol.Request) (enrol.Decision, error) {
	if len(req.Via) == 0 && !req.Renew && !o.passing.take(time.Now(), passStrangers) {
		return enrol.Decision{}, call.Errorf(call.Busy, "too many overlords ask for certificates through this one at this moment")
	}
	from := req.From
	if len(req.Via) == 0 {
		from = addrText(req.Source)
	}
	r := req.Overlord
	return o.askGrant(ctx, session.GrantArgs{
		CSR: req.CSR, IssuingCSR: r.IssuingCSR, LogKey: r.LogKey, LogID: r.LogID, Signature: r.Signature, Token: req.Token,
		Renew: req.Renew, From: from, Via: req.Via,
	})
}

// askGrant asks the parent for an overlord's certificates.
func (o *Overlord) askGrant(ctx context.Context, args session.GrantArgs) (enrol.Decision, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passTime, call.Errorf(call.Timeout, "no answer from overlord/%s within %s", o.parent.Name, passTime))
	defer cancel()
	var out session.GrantResult
	if err := o.parent.agent.Ask(ctx, session.MethodGrant, args, &out); err != nil {
		if call.CodeOf(err) == call.NoSession {
			return enrol.Decision{}, call.Errorf(call.Unavailable, "overlord/%s has no session with its parent overlord/%s at this moment; the root's key is above it", o.cfg.Name, o.parent.Name)
		}
		return enrol.Decision{}, err
	}
	states := map[session.GrantState]enrol.State{
		session.GrantWaiting: enrol.StateWaiting, session.GrantGranted: enrol.StateGranted, session.GrantRejected: enrol.StateRejected,
	}
	d := enrol.Decision{
		State: states[out.State], Chain: out.Chain, Detail: out.Detail, Retry: time.Duration(min(out.RetryAfterMs, 1<<31)) * time.Millisecond,
		Revocations: out.Revocations, Fingerprint: out.Fingerprint, Issuing: out.Issuing, LogKey: out.LogKey, RootHost: out.RootHost,
	}
	if d.State == 0 {
		return d, call.Errorf(call.Internal, "overlord/%s answers with the state %.40q", o.parent.Name, string(out.State))
	}
	return d, nil
}

// passedUp decides about a request that a sub-overlord passes on, or passes it on.
func (o *Overlord) passedUp(ctx context.Context, s *session.Session, args []byte) (any, error) {
	peer := s.Peer()
	if peer.Role != pki.Overlord {
		return nil, call.Errorf(call.NotFound, "minions may not call %q", session.MethodGrant)
	}
	var in session.GrantArgs
	if len(args) > session.MaxGrant {
		return nil, call.Errorf(call.Invalid, "a request of %d bytes; at most %d are allowed", len(args), session.MaxGrant)
	}
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	via := append(slices.Clone(in.Via), peer.Name)
	if len(via) > session.MaxVia || slices.Contains(via, o.cfg.Name) {
		return nil, call.Errorf(call.Invalid, "the request went through %d overlords, or in a circle", len(via))
	}
	if in.Renew && len(in.Via) == 0 && o.own(peer, in.CSR) {
		via = nil
	}
	if o.parent != nil {
		if err := o.passes(peer.Name); err != nil {
			return nil, err
		}
	}
	var source netip.Addr
	if ap, err := netip.ParseAddrPort(s.RemoteAddr().String()); err == nil {
		source = ap.Addr()
	}
	d, err := o.registrar.Request(ctx, enrol.Request{
		CSR: in.CSR, Role: string(pki.Overlord), Token: in.Token, Source: source, Via: via, From: cutText(in.From, 100), Renew: in.Renew,
		Overlord: &pki.OverlordRequest{IssuingCSR: in.IssuingCSR, LogKey: in.LogKey, LogID: in.LogID, Signature: in.Signature},
	})
	if err != nil {
		return nil, err
	}
	states := map[enrol.State]session.GrantState{
		enrol.StateWaiting: session.GrantWaiting, enrol.StateGranted: session.GrantGranted, enrol.StateRejected: session.GrantRejected,
	}
	return session.GrantResult{
		State: states[d.State], Chain: d.Chain, Issuing: d.Issuing, LogKey: d.LogKey, Detail: d.Detail, RetryAfterMs: uint64(d.Retry.Milliseconds()),
		Revocations: d.Revocations, Fingerprint: d.Fingerprint, RootHost: d.RootHost,
	}, nil
}

// own says whether a request is the peer's own.
func (o *Overlord) own(peer pki.Identity, csr []byte) bool {
	r, err := pki.ParseRequest(csr)
	return err == nil && r.Identity == peer
}

// renewSub gets fresh certificates for this sub-overlord's keys.
func (o *Overlord) renewSub(ctx context.Context) error {
	o.parent.renewing.Lock()
	defer o.parent.renewing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	req, err := o.subRequest()
	if err != nil {
		return err
	}
	o.passing.take(time.Now(), passOwn)
	d, err := o.askGrant(ctx, session.GrantArgs{
		CSR: req.CSR, IssuingCSR: req.IssuingCSR, LogKey: req.LogKey, LogID: req.LogID, Signature: req.Signature, Renew: true,
	})
	if err != nil {
		return err
	}
	if d.State != enrol.StateGranted {
		return fmt.Errorf("the root's host does not renew: %s", cutText(d.Detail, 300))
	}
	g, err := req.VerifyGrant(o.trust, d.Chain, d.Issuing, d.LogKey, time.Now())
	if err != nil {
		return err
	}
	if err := o.keys.newer(g, time.Now()); err != nil {
		return err
	}
	if err := o.keys.keepSub(g); err != nil {
		return err
	}
	o.registrar.SetIssuing(o.keys.issuing.Load())
	o.log.Info("certificates of this overlord renewed", "until", g.Leaf.NotAfter, "issuing_until", g.Issuing.NotAfter)
	o.parent.agent.Reconnect("certificate renewed; connecting again")
	return nil
}

// onParentList puts a list that came from the parent in force here: it is what the
// embedded agent calls, which must not wait. While this overlord is made the agent is
// given the list that is in force already.
func (o *Overlord) onParentList(signed []byte, list *pki.RevocationList) {
	if list.Number() > o.revoked().Number() {
		o.background.Go(func() { o.adopt(o.life, signed, list) })
	}
}

// adopt puts a list in force here that the root has signed; an older one is passed over.
func (o *Overlord) adopt(ctx context.Context, signed []byte, list *pki.RevocationList) {
	o.parent.adopting.Lock()
	defer o.parent.adopting.Unlock()
	if list.Number() > o.revoked().Number() {
		o.onRevoked(signed, list, o.store(ctx, signed, list))
	}
}

// store keeps a list that is in force, or is about to be, whether that succeeds or
// not: the agent has it on disk, too. It gives whose certificates it names.
func (o *Overlord) store(ctx context.Context, signed []byte, list *pki.RevocationList) []pki.Identity {
	ids, err := o.keep.adopt(ctx, o.keys.rootCert, signed, list, "overlord/"+o.parent.Name)
	if err != nil {
		o.log.Error("revocation list not stored; trying again", "number", list.Number(), "error", err)
	}
	o.parent.unstored = err != nil
	return ids
}

// storeAgain keeps the list that is in force, if that did not succeed before.
func (o *Overlord) storeAgain(ctx context.Context) {
	o.parent.adopting.Lock()
	defer o.parent.adopting.Unlock()
	if r := o.revlist.Load(); o.parent.unstored {
		o.dropRevoked(o.store(ctx, r.signed, r.list))
	}
}

// adopt stores a list that came from above, and notes which of the certificates
// granted here it names. It gives whose they are.
func (k *keep) adopt(ctx context.Context, root *x509.Certificate, signed []byte, list *pki.RevocationList, from string) (ids []pki.Identity, err error) {
	certs, err := k.certs(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	err = k.db.Update(ctx, func(tx *store.Tx) error {
		t := enrolTx{ctx, tx}
		old, err := t.Revocations()
		if err != nil {
			return err
		}
		if len(old) > 0 {
			have, err := pki.ParseRevocations(root, old)
			if err != nil {
				return fmt.Errorf("stored list: %w", err)
			}
			if have.Number() >= list.Number() {
				return nil
			}
		}
		for _, c := range certs {
			if !c.Live(now) {
				continue
			}
			leaf, err := x509.ParseCertificate(c.DER)
			if err != nil {
				return fmt.Errorf("stored certificate %s: %w", c.Serial, err)
			}
			why, named := list.Revoked(leaf)
			if !named {
				continue
			}
			c.Revoked, c.Reason = now, why
			if err := t.PutCert(c); err != nil {
				return err
			}
			ids = append(ids, c.Identity)
		}
		if err := t.PutRevocations(list.Number(), signed); err != nil {
			return err
		}
		return t.Audit(&auditpb.Record{
			TimeMs: now.UnixMilli(), Actor: from, Action: "revocations", Subject: fmt.Sprintf("list/%d", list.Number()),
			Detail: fmt.Sprintf("%d entries; %d certificates that were granted here", len(list.Entries()), len(ids)),
		})
	})
	return ids, err
}

// subs gives the names of the sub-overlords that asked here for their certificates.
func (k *keep) subs(ctx context.Context) (map[string]bool, error) {
	all, err := k.db.MetaBelow(ctx, metaSub)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(all))
	for _, name := range all {
		out[name] = true
	}
	return out, nil
}
