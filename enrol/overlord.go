package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dominion/call"
	"dominion/pki"
)

// maxPassed is how many overlords may pass one request on.
const maxPassed = 16

// overlordAsk is what is different about the request of an overlord.
type overlordAsk struct {
	request pki.OverlordRequest
	issuing pki.Request
	via     []string
	from    string
	renew   bool
}

// passed says for records who passed a request on; empty: nobody.
func (o *overlordAsk) passed() string {
	if o == nil || len(o.via) == 0 {
		return ""
	}
	return fmt.Sprintf(" via %s", strings.Join(o.via, ", "))
}

// told is passed with what the first of them says of where it came from.
func (o *overlordAsk) told() string {
	if o == nil || len(o.via) == 0 || o.from == "" {
		return o.passed()
	}
	return fmt.Sprintf("%s (which says that it came from %.100q)", o.passed(), o.from)
}

// checkOverlord is check for overlords.
func checkOverlord(req Request) (*asking, error) {
	o := &overlordAsk{request: *req.Overlord, via: req.Via, from: req.From, renew: req.Renew}
	o.request.CSR = req.CSR
	if len(o.request.IssuingCSR) > pki.MaxRequest || len(o.via) > maxPassed || len(o.from) > maxPattern {
		return nil, call.Errorf(call.Invalid, "the request of an overlord is too large, or was passed on more than %d times", maxPassed)
	}
	for _, name := range o.via {
		if _, err := call.ParseName(name); err != nil {
			return nil, call.Errorf(call.Invalid, "passed on by: %v", err)
		}
	}
	csr, issuing, err := o.request.Check()
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	o.issuing = issuing
	return &asking{
		Request: csr, fingerprint: pki.Fingerprint(csr.PublicKey), token: req.Token, source: req.Source.Unmap().WithZone(""), over: o,
	}, nil
}

// taken says why a name cannot be had by anybody: machines, sub-overlords and
// this overlord share one space of names.
func (r *Registrar) taken(tx Tx, id pki.Identity) (string, error) {
	other := pki.Overlord
	switch id.Role {
	case pki.Overlord:
		if id.Name == r.cfg.Overlord {
			return fmt.Sprintf("%s is the name of this overlord", id.Name), nil
		}
		other = pki.Minion
	case pki.Operator:
		return "", nil
	}
	certs, err := tx.Certs(pki.Identity{Role: other, Name: id.Name})
	if err != nil {
		return "", err
	}
	for _, c := range certs {
		if c.Live(r.cfg.Now()) {
			return fmt.Sprintf("%s has a certificate until %s, and the name can belong to one machine alone", c.Identity, c.NotAfter.UTC().Format(time.RFC3339)), nil
		}
	}
	return "", nil
}

// renewOverlord gives a fresh certificate for a key that has one that counts: the
// key itself signed the request, so it does not matter who brings it.
func (r *Registrar) renewOverlord(tx Tx, a *asking) (Decision, error) {
	now := r.cfg.Now()
	for _, c := range a.certs {
		if c.Fingerprint == a.fingerprint && !c.Revoked.IsZero() {
			return Decision{}, call.Errorf(call.Revoked, "the certificate of %s was revoked: %s", a.Identity, c.Reason)
		}
	}
	for _, c := range a.certs { // the newest first
		if c.Fingerprint != a.fingerprint || !c.Live(now) {
			continue
		}
		leaf, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return Decision{}, fmt.Errorf("stored certificate %s: %w", c.Serial, err)
		}
		if !now.Before(pki.RenewAt(leaf)) {
			c, err = r.grant(tx, pki.Template{Identity: a.Identity, PublicKey: a.PublicKey}, "renewal"+a.over.passed(), a.Identity.String(), "renewed")
		}
		return Decision{State: StateGranted, Chain: r.chain(a.Identity.Role, c.DER)}, err
	}
	return Decision{}, call.Errorf(call.Denied, "%s has no valid certificate for this key; it asks for another when it has had no session for some minutes, and that is to be signed", a.Identity)
}

// complete adds to a granted leaf what an overlord needs besides: its issuing CA
// and the statement about its log key. What it has is given again.
func (r *Registrar) complete(tx Tx, a *asking, d *Decision) error {
	name, req := a.Identity.Name, &a.over.request
	owner, err := tx.LogOwner(req.LogID)
	if err != nil {
		return err
	}
	if req.LogID == r.cfg.LogID || owner != "" && owner != name {
		return call.Errorf(call.Conflict, "the audit log %.64q is that of another overlord", req.LogID)
	}
	if owner == "" {
		err = tx.SetLogOwner(req.LogID, name)
	}
	if err := errors.Join(err, r.bind(tx, a)); err != nil {
		return err
	}
	if d.Issuing, err = r.issuingOf(tx, a); err != nil {
		return err
	}
	d.LogKey, err = pki.SignLogKey(r.cfg.Root, pki.LogKey{LogID: req.LogID, Overlord: name, PublicKey: req.LogKey, NotAfter: r.cfg.RootCert.NotAfter})
	if err != nil || len(a.over.via) > 0 {
		return err
	}
	return tx.PutSub(name)
}

// bind holds the key of an overlord to its one log and its one place. Another log
// would be a history begun anew, which its machines would believe; at another place
// nobody there has let it in.
func (r *Registrar) bind(tx Tx, a *asking) error {
	b, ok, err := tx.Bound(a.fingerprint)
	switch {
	case err != nil:
		return err
	case !ok:
		return tx.PutBound(a.fingerprint, Bound{LogID: a.over.request.LogID, Via: a.over.via})
	case b.LogID != a.over.request.LogID:
		return call.Errorf(call.Conflict, "%s has the audit log %.64q and asks for another, %.64q; restore its store, or start it on a fresh state directory",
			a.Identity, b.LogID, a.over.request.LogID)
	case !a.over.renew && !slices.Equal(b.Via, a.over.via):
		return call.Errorf(call.Conflict, "%s was let in %s and asks now %s; to move it, start it on a fresh state directory", a.Identity, place(b.Via), place(a.over.via))
	}
	return nil
}

// place says where in the fleet an overlord is whose request came that way.
func place(via []string) string {
	if len(via) == 0 {
		return "below the host of the root's key"
	}
	return "below overlord/" + via[0]
}

// issuingOf gives the issuing CA for a key, a new one when it has none or that is
// due for renewal.
func (r *Registrar) issuingOf(tx Tx, a *asking) ([]byte, error) {
	id, now := pki.Identity{Role: pki.Issuing, Name: a.Identity.Name}, r.cfg.Now()
	certs, err := tx.Certs(id)
	if err != nil {
		return nil, err
	}
	key, live := pki.Fingerprint(a.over.issuing.PublicKey), 0
	for _, c := range certs {
		if c.Fingerprint == key && !c.Revoked.IsZero() {
			return nil, call.Errorf(call.Revoked, "the issuing CA of %s was revoked: %s", a.Identity, c.Reason)
		}
		if !c.Live(now) {
			continue
		}
		live++
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, fmt.Errorf("stored certificate %s: %w", c.Serial, err)
		}
		if c.Fingerprint == key && now.Before(pki.RenewAt(cert)) {
			return c.DER, nil
		}
	}
	if live >= maxLive {
		return nil, call.Errorf(call.Busy, "%s has %d valid issuing CAs; the oldest must expire first", a.Identity, live)
	}
	cert, err := r.cfg.Root.NewIssuing(id.Name, a.over.issuing.PublicKey, now)
	if err != nil {
		return nil, err
	}
	c := certRow(id, cert, a.Identity.String())
	if err := tx.PutCert(c); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(cert.Raw)
	return cert.Raw, r.record(tx, a.Identity.String(), "enrolled", id, sum[:],
		fmt.Sprintf("serial %s, key %s, until %s; log %s", c.Serial, c.Fingerprint, c.NotAfter.UTC().Format(time.RFC3339), a.over.request.LogID))
}

// relay passes a request on to where the root's key is, and notes what comes back
// when it holds: the overlord that asked here is a machine of this one then.
func (r *Registrar) relay(ctx context.Context, a *asking, req Request) (Decision, error) {
	if r.cfg.Relay == nil {
		return Decision{}, r.noRoot("only it can grant a certificate to an overlord")
	}
	if len(a.over.via) == 0 && !a.over.renew {
		d, held, err := r.heldHere(ctx, a)
		if held || err != nil {
			return d, err
		}
	}
	d, err := r.cfg.Relay(ctx, req)
	if err != nil {
		return Decision{}, fmt.Errorf("pass the request of %s on: %w", a.Identity, err)
	}
	d.Identity, d.Fingerprint = a.Identity, a.fingerprint
	if d.State != StateGranted {
		return d, nil
	}
	trust, err := pki.NewTrust(r.cfg.RootCert)
	if err != nil {
		return Decision{}, err
	}
	g, err := a.over.request.VerifyGrant(trust, d.Chain, d.Issuing, d.LogKey, time.Time{})
	if err != nil {
		return Decision{}, fmt.Errorf("what the overlord above grants to %s: %w", a.Identity, err)
	}
	if len(a.over.via) > 0 {
		return d, nil
	}
	if err := r.keepRelayed(ctx, a, g.Leaf); err != nil {
		return Decision{}, fmt.Errorf("keep the certificate of %s: %w", a.Identity, err)
	}
	r.tell(a.Identity)
	return d, nil
}

// heldHere answers a request for a name that this overlord's own machines use.
func (r *Registrar) heldHere(ctx context.Context, a *asking) (d Decision, held bool, err error) {
	done, err := r.turn(ctx)
	if err != nil {
		return d, false, fmt.Errorf("decide about %s: %w", a.Identity, err)
	}
	defer done()
	var refusal error
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		if err := r.known(tx, a); err != nil || a.taken == "" {
			return err
		}
		held = true
		p, known, err := tx.Pending(a.Identity, a.fingerprint)
		if err != nil {
			return err
		}
		d, _, refusal, err = r.hold(tx, a, p, known, a.taken)
		return err
	})
	d.Identity, d.Fingerprint = a.Identity, a.fingerprint
	if err == nil {
		err = refusal
	}
	return d, held, err
}

// keepRelayed notes an overlord that has its certificate through this one.
func (r *Registrar) keepRelayed(ctx context.Context, a *asking, leaf *x509.Certificate) error {
	c := certRow(a.Identity, leaf, "relay")
	return r.cfg.Store.Update(ctx, func(tx Tx) error {
		if err := r.known(tx, a); err != nil {
			return err
		}
		if a.taken != "" && !a.over.renew { // while the request was above
			return call.Errorf(call.Conflict, "%s", a.taken)
		}
		for _, old := range a.certs {
			if old.Serial == c.Serial {
				return tx.PutSub(a.Identity.Name)
			}
		}
		sum := sha256.Sum256(leaf.Raw)
		return errors.Join(tx.PutCert(c), tx.DeletePending(a.Identity, a.fingerprint), tx.PutSub(a.Identity.Name), r.record(tx, a.Identity.String(), "relayed", a.Identity, sum[:],
			fmt.Sprintf("serial %s, key %s, until %s", c.Serial, c.Fingerprint, c.NotAfter.UTC().Format(time.RFC3339))))
	})
}
