package enrol

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
)

// RecoverBelow gives the root's statement that the audit log of a sub-overlord goes on
// from a back-up, at the word of that overlord and for a token of role overlord for its
// name: somebody here has to agree that history is given up. What was signed for it
// last is given again, without a token. source is the address of the session that
// brought the request. Codes: Invalid, Denied, Conflict, Unavailable.
func (r *Registrar) RecoverBelow(ctx context.Context, req pki.RecoverRequest, source netip.Addr) (statement []byte, err error) {
	if r.cfg.Root == nil {
		return nil, r.noRoot("only it can explain a restored audit log")
	}
	id := pki.Identity{Role: pki.Overlord, Name: req.Overlord}
	if err := id.Check(); err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	var refusal error
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		statement, refusal, err = r.recoverBelow(tx, id, req, source)
		return err
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return nil, fmt.Errorf("recover the audit log of %s: %w", id, err)
	}
	return statement, nil
}

// recoverBelow gives a refusal, which lets the transaction stand, or an error.
func (r *Registrar) recoverBelow(tx Tx, id pki.Identity, req pki.RecoverRequest, source netip.Addr) (statement []byte, refusal, err error) {
	var want *fleetpb.Recovery
	err = r.vouched(tx, id, func(pub crypto.PublicKey) (err error) {
		want, err = req.Check(pub)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	switch owner, err := tx.LogOwner(want.LogId); {
	case err != nil:
		return nil, nil, err
	case owner != id.Name:
		return nil, nil, call.Errorf(call.Denied, "the audit log %.64q is not that of %s", want.LogId, id)
	}
	last, err := r.lastRecovery(tx, want.LogId)
	switch {
	case err != nil:
		return nil, nil, err
	case last != nil && sameRecovery(want, last): // the answer was lost
		statement, err = tx.Recovered(want.LogId)
		return statement, nil, err
	case last != nil && want.Epoch < last.Epoch:
		return nil, nil, call.Errorf(call.Conflict, "this log has come to epoch %d already; a machine that remembers it has to be connected, so that the log goes on from there", last.Epoch)
	}
	token, refusal, err := r.recoveryToken(tx, id, req.Token, source)
	if refusal != nil || err != nil {
		return nil, refusal, err
	}
	want.TimeMs = r.cfg.Now().UnixMilli()
	if statement, err = pki.SignRecovery(r.cfg.Root, want); err != nil {
		return nil, nil, err
	}
	if err := tx.PutRecovered(want.LogId, statement); err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(statement)
	return statement, nil, tx.Audit(&auditpb.Record{
		TimeMs: want.TimeMs, Actor: id.String(), Action: "recovery", Subject: want.LogId, Digest: sum[:], Statement: statement,
		Detail: fmt.Sprintf("audit log of %s, by %.100q, token/%s: %d records abandoned, it goes on from %d; epoch %d",
			id, req.Actor, token.ID, want.AbandonedSize, want.RestoredSize, want.Epoch),
	})
}

// lastRecovery gives what was signed about a log last; nil: nothing.
func (r *Registrar) lastRecovery(tx Tx, logID string) (*fleetpb.Recovery, error) {
	signed, err := tx.Recovered(logID)
	if err != nil || signed == nil {
		return nil, err
	}
	return pki.OpenRecovery(r.cfg.RootCert, signed)
}

func sameRecovery(want, signed *fleetpb.Recovery) bool {
	timed := proto.CloneOf(want)
	timed.TimeMs = signed.TimeMs
	return proto.Equal(timed, signed)
}

// recoveryToken takes one use of the token that agrees to a recovery.
func (r *Registrar) recoveryToken(tx Tx, id pki.Identity, text string, source netip.Addr) (t Token, refusal, err error) {
	if text == "" {
		return t, call.Errorf(call.Denied, "it takes a token of this overlord, from overlord/%s: dominion token create --role overlord --name %s", r.rootHost(), id.Name), nil
	}
	deny := func(why string) error {
		more, ok := r.denials.Take()
		if !ok {
			return nil
		}
		return r.record(tx, id.String(), "denied", id, nil, fmt.Sprintf("recovery of its audit log from %s: %s%s", from(source), why, others(more)))
	}
	hash := sha256.Sum256([]byte(text))
	t, ok, err := tx.Token(tokenID(hash))
	if err != nil {
		return t, nil, err
	}
	if !ok || subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 {
		return t, errToken, deny("an unknown token")
	}
	a := &asking{Request: pki.Request{Identity: id}, source: source.Unmap().WithZone("")}
	if why := r.unfit(t, a); why != "" {
		return t, call.Errorf(call.Denied, "token %s: %s", t.ID, why), deny("token " + t.ID + ": " + why)
	}
	t.Used++
	return t, nil, tx.PutToken(t)
}
