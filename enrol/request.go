package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"dominion/call"
	"dominion/pki"
)

// Request is what a machine or a person asks.
type Request struct {
	CSR    []byte // PKCS#10, DER, at most 8 KiB
	Role   string // must be the role of the CSR's URI
	Token  string // empty: none
	Source netip.Addr
	// Overlord is what an overlord asks for beside its certificate: its CSR field is
	// not read. With the role overlord required, otherwise nil.
	Overlord *pki.OverlordRequest
	// Via names the overlords that passed the request on, the one nearest to the
	// asker first; empty: the asker is here itself. Source is then the last one's.
	Via []string
	// From is where the first of Via says that it came from; text from outside.
	From string
	// Renew asks for a fresh certificate for a key that has one; overlords only.
	Renew bool
}

// State is how a request fares.
type State int

// The states.
const (
	StateWaiting  State = iota + 1 // for an operator; ask again after Decision.Retry
	StateGranted                   // Decision.Chain is the certificate
	StateRejected                  // Decision.Detail says why
)

// Decision answers a Request.
type Decision struct {
	State       State
	Identity    pki.Identity
	Chain       [][]byte // DER: leaf, issuing CA if any, root
	Detail      string   // for people
	Retry       time.Duration
	Revocations []byte // the signed list; empty: none yet
	Fingerprint string // of the request's key
	Issuing     []byte // overlords: the issuing CA, DER
	LogKey      []byte // overlords: the root's statement about the log key
	RootHost    string // overlords: who holds the root's key
}

// asking is one request while it is being decided.
type asking struct {
	pki.Request
	fingerprint string
	token       string
	source      netip.Addr
	certs       []Cert // of the identity, newest first
	taken       string // why nobody may have the name, whatever he shows; empty: nothing
	over        *overlordAsk
}

// Request decides about a request for a certificate. Codes of its errors:
// Invalid for a malformed request, Denied for a token that does not fit, Busy
// when too many wait, Unavailable where the root's key is needed and absent.
func (r *Registrar) Request(ctx context.Context, req Request) (Decision, error) {
	a, err := r.check(req)
	if err != nil {
		return Decision{}, err
	}
	switch {
	case r.cfg.Root != nil || a.Identity.Role == pki.Minion:
	case a.over != nil:
		return r.relay(ctx, a, req)
	case r.cfg.Relay != nil: // below another overlord: a token that makes an operator must not be seen here
		return Decision{}, call.Errorf(call.Denied, "operators do not log in at a sub-overlord: the root's key is on overlord/%s; log in there, the certificate is good here too", r.rootHost())
	}
	done, err := r.turn(ctx)
	if err != nil {
		return Decision{}, fmt.Errorf("decide about %s: %w", a.Identity, err)
	}
	defer done()
	var d Decision
	var refusal error     // said to the asker, after the transaction that records it
	var revoked *revoking // by a token that replaces
	err = r.update(ctx, func(tx Tx) error {
		var err error
		if err := r.known(tx, a); err != nil {
			return err
		}
		if a.over != nil && a.over.renew {
			d, err = r.renewOverlord(tx, a)
		} else {
			d, revoked, refusal, err = r.decide(tx, a)
		}
		if err != nil {
			return err
		}
		if a.over != nil && d.State == StateGranted {
			if err := r.complete(tx, a, &d); err != nil {
				return err
			}
		}
		d.Revocations, err = tx.Revocations()
		return err
	})
	if err != nil {
		return Decision{}, fmt.Errorf("decide about %s: %w", a.Identity, err)
	}
	if refusal != nil {
		return Decision{}, refusal
	}
	r.announce(revoked)
	d.Identity, d.Fingerprint = a.Identity, a.fingerprint
	if a.over != nil {
		d.RootHost = r.rootHost()
	}
	if d.State == StateGranted && (a.over == nil || len(a.over.via) == 0) {
		r.tell(a.Identity)
	}
	return d, nil
}

// turn waits for one of the places of those who are with the store.
func (r *Registrar) turn(ctx context.Context) (done func(), err error) {
	select {
	case r.storing <- struct{}{}:
		return func() { <-r.storing }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// known looks up what is known of the name.
func (r *Registrar) known(tx Tx, a *asking) (err error) {
	if a.certs, err = tx.Certs(a.Identity); err != nil {
		return err
	}
	a.taken, err = r.taken(tx, a.Identity)
	return err
}

// check reads a request before anything is looked up: the cheapest tests first.
func (r *Registrar) check(req Request) (*asking, error) {
	switch role := pki.Role(req.Role); {
	case len(req.CSR) == 0 || len(req.CSR) > pki.MaxRequest:
		return nil, call.Errorf(call.Invalid, "a certificate request of %d bytes; send 1 to %d", len(req.CSR), pki.MaxRequest)
	case !role.Valid():
		return nil, call.Errorf(call.Invalid, "%.40q is not a role; send minion, operator or overlord", req.Role)
	case (role == pki.Overlord) != (req.Overlord != nil):
		return nil, call.Errorf(call.Invalid, "an overlord asks for its issuing CA and log key too, and nobody else does")
	case req.Token != "" && len(req.Token) != tokenLen:
		return nil, errToken
	}
	if req.Overlord != nil {
		return checkOverlord(req)
	}
	csr, err := pki.ParseRequest(req.CSR)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if string(csr.Identity.Role) != req.Role {
		return nil, call.Errorf(call.Invalid, "the request says %s and its certificate request %s", req.Role, csr.Identity.Role)
	}
	return &asking{Request: csr, fingerprint: pki.Fingerprint(csr.PublicKey), token: req.Token, source: req.Source.Unmap().WithZone("")}, nil
}

// decide is the table in the package's documentation. A refusal is for the
// asker and lets the transaction stand; an error undoes it.
func (r *Registrar) decide(tx Tx, a *asking) (d Decision, revoked *revoking, refusal, err error) {
	now := r.cfg.Now()
	for _, c := range a.certs {
		if c.Fingerprint != a.fingerprint {
			continue
		}
		if !c.Revoked.IsZero() && c.Reason != pki.Replaced {
			return Decision{State: StateRejected, Detail: fmt.Sprintf("this key was revoked (%s); ask with a new one", c.Reason)}, nil, nil, nil
		}
		if c.Live(now) && r.current(c) {
			return Decision{State: StateGranted, Chain: r.chain(a.Identity.Role, c.DER)}, nil, nil, nil
		}
	}
	conflict := r.conflict(a)
	if a.token != "" {
		return r.byToken(tx, a, conflict)
	}
	p, known, err := tx.Pending(a.Identity, a.fingerprint)
	if err != nil {
		return Decision{}, nil, nil, err
	}
	if known && p.Rejected && now.Sub(p.Last) < PendingLife {
		d, err = r.waiting(tx, a, p, known)
		return d, nil, nil, err
	}
	if by, ok := r.autosign(a.Identity, a.source); ok && conflict == "" {
		d, err = r.granted(tx, a, by)
		return d, nil, nil, err
	}
	return r.hold(tx, a, p, known, conflict)
}

// current says whether a certificate was signed by the authority that signs now.
func (r *Registrar) current(c Cert) bool {
	a, err := r.authority(c.Identity.Role)
	if err != nil {
		return c.Identity.Role != pki.Minion // the root's key is elsewhere; it is still the root
	}
	leaf, err := x509.ParseCertificate(c.DER)
	return err == nil && leaf.CheckSignatureFrom(a.Cert) == nil
}

// conflict says why a request must not be signed without somebody's word;
// empty: it may.
func (r *Registrar) conflict(a *asking) string {
	if a.taken != "" {
		return a.taken
	}
	now := r.cfg.Now()
	for i, c := range a.certs {
		switch {
		case c.Fingerprint == a.fingerprint:
		case c.Live(now):
			return fmt.Sprintf("%s has a certificate with another key (%s) until %s", a.Identity, c.Fingerprint, c.NotAfter.UTC().Format(time.RFC3339))
		case i == 0 && !c.Revoked.IsZero() && c.Reason != pki.Replaced:
			return fmt.Sprintf("the last certificate of %s was revoked: %s", a.Identity, c.Reason)
		}
	}
	return ""
}

// granted signs the request and forgets that it waited.
func (r *Registrar) granted(tx Tx, a *asking, by string) (Decision, error) {
	c, err := r.grant(tx, pki.Template{Identity: a.Identity, PublicKey: a.PublicKey}, by+a.over.passed(), a.Identity.String(), "enrolled")
	if err != nil {
		return Decision{}, err
	}
	if err := tx.DeletePending(a.Identity, a.fingerprint); err != nil {
		return Decision{}, err
	}
	r.cfg.Log.Info("certificate granted", "identity", a.Identity.String(), "by", by, "fingerprint", a.fingerprint)
	return Decision{State: StateGranted, Chain: r.chain(a.Identity.Role, c.DER)}, nil
}

// errToken does not tell a token that never was from one that is no more.
var errToken = call.Errorf(call.Denied, "the token is not known; it may have been withdrawn")

// byToken uses the token that came with a request.
func (r *Registrar) byToken(tx Tx, a *asking, conflict string) (d Decision, revoked *revoking, refusal, err error) {
	hash := sha256.Sum256([]byte(a.token))
	t, ok, err := tx.Token(tokenID(hash))
	if err != nil {
		return Decision{}, nil, nil, err
	}
	if !ok || subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 {
		return Decision{}, nil, errToken, r.deny(tx, a, "an unknown token")
	}
	if why := r.unfit(t, a); why != "" {
		return Decision{}, nil, call.Errorf(call.Denied, "token %s: %s", t.ID, why), r.deny(tx, a, "token "+t.ID+": "+why)
	}
	if conflict != "" && a.Identity.Role != pki.Operator && (!t.Replace || a.taken != "") {
		p, known, err := tx.Pending(a.Identity, a.fingerprint)
		if err != nil {
			return Decision{}, nil, nil, err
		}
		return r.hold(tx, a, p, known, conflict)
	}
	if t.Replace {
		if revoked, err = r.replace(tx, a, "token/"+t.ID); err != nil {
			return Decision{}, nil, nil, err
		}
	}
	t.Used++
	if err := tx.PutToken(t); err != nil {
		return Decision{}, nil, nil, err
	}
	d, err = r.granted(tx, a, "token/"+t.ID)
	return d, revoked, nil, err
}

// unfit says why a token that is known does not cover a request.
func (r *Registrar) unfit(t Token, a *asking) string {
	match, err := r.cfg.Glob(t.Name)
	switch now := r.cfg.Now(); {
	case !now.Before(t.Expires):
		return fmt.Sprintf("it expired at %s and the overlord's clock shows %s", t.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case t.Used >= t.Uses:
		return fmt.Sprintf("it is used up (%d of %d)", t.Used, t.Uses)
	case t.Role != a.Identity.Role:
		return fmt.Sprintf("it enrols a %s, not a %s", t.Role, a.Identity.Role)
	case err != nil || !match(a.Identity.Name):
		return fmt.Sprintf("it enrols %q, not %q", t.Name, a.Identity.Name)
	case !within(t.Networks, a.source):
		return fmt.Sprintf("it may not be used from %s", from(a.source))
	}
	return ""
}

// deny records a refusal, as far as the meter lets it.
func (r *Registrar) deny(tx Tx, a *asking, why string) error {
	more, ok := r.denials.Take()
	if !ok {
		return nil
	}
	return r.record(tx, a.Identity.String(), "denied", a.Identity, nil, fmt.Sprintf("enrolment from %s%s with key %s: %s%s", from(a.source), a.over.told(), a.fingerprint, why, others(more)))
}

func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d records of callers without a certificate were left out before)", n)
}

func tokenID(hash [sha256.Size]byte) string { return hex.EncodeToString(hash[:4]) }
