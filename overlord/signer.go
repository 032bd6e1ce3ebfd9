package overlord

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/job"
	"dominion/pki"
)

// verifySigner checks that the caller himself signed the order, with a
// certificate that counts. The minions check it again.
func (o *Overlord) verifySigner(c caller, p *job.Plan) error {
	id, err := o.verifyOrder(p.Signed)
	if err == nil && id != c.Identity {
		return call.Errorf(call.Denied, "the order of %s was sent by %s", id, c.Identity)
	}
	return err
}

// verifyOrder gives the operator who signed an order, with a certificate that counts.
func (o *Overlord) verifyOrder(s call.Signed) (pki.Identity, error) {
	v, err := o.trust.VerifyRaw([][]byte{s.Cert}, time.Now())
	if err != nil {
		code := call.Denied
		if _, malformed := pki.ParseChain([][]byte{s.Cert}); malformed != nil {
			code = call.BadOrder
		}
		return pki.Identity{}, call.Errorf(code, "the operator's certificate: %v", err)
	}
	if err := o.notRevoked(v); err != nil {
		return pki.Identity{}, err
	}
	if v.Identity.Role != pki.Operator {
		return v.Identity, call.Errorf(call.Denied, "%s is no operator", v.Identity)
	}
	pub, ok := v.Leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return v.Identity, call.Errorf(call.BadOrder, "the operator's key is not ECDSA")
	}
	if err := call.VerifySignature(pub, s.Order, s.Signature); err != nil {
		return v.Identity, call.Errorf(call.BadOrder, "%v", err)
	}
	return v.Identity, nil
}

// Limits of the record of a denial. What is denied may be as large as a request.
const (
	recordTime    = 30 * time.Second // for the store to take it
	deniedSubject = 300              // bytes of what it is about
	deniedWhy     = 4000             // bytes of the reason
)

// auditDenied puts a refusal on the audit log. When the log takes none, the
// refusal stands all the same. Refusals are bounded in number, so that a caller
// who is denied cannot fill the disk.
func (o *Overlord) auditDenied(ctx context.Context, c caller, action, subject, why string) {
	subject, why = cutText(subject, deniedSubject), cutText(why, deniedWhy)
	o.metrics.denied.Inc()
	o.log.Warn("denied", "actor", c.actor(), "action", action, "subject", subject, "why", why)
	more, ok := o.denials.Take()
	if !ok {
		return
	}
	rec := &auditpb.Record{Actor: c.actor(), Action: "denied", Subject: subject, Detail: action + ": " + why}
	if more > 0 {
		rec.Detail += fmt.Sprintf(" (%d refusals before this one are not recorded)", more)
	}
	// He who is denied must not be able to prevent the record by leaving.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	if err := o.keep.record(last, rec); err != nil {
		o.log.Error("denial not on the audit log", "error", err)
	}
}
