package enrol

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dominion/call"
	"dominion/pki"
)

// Signed is the outcome of Sign.
type Signed struct {
	Certs []Cert    // granted; their machines fetch them when they ask again
	Held  []Pending // matched by the pattern and left alone: see Sign
}

// PendingAll gives the requests that wait or were rejected, sorted by name.
// Those past their time are left out.
func (r *Registrar) PendingAll(ctx context.Context) (out []Pending, err error) {
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		out, err = r.pending(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	return out, nil
}

func (r *Registrar) pending(tx Tx) ([]Pending, error) {
	all, err := tx.PendingAll()
	if err != nil {
		return nil, err
	}
	_, live := split(all, func(p Pending) bool { return r.cfg.Now().Sub(p.Last) >= PendingLife })
	slices.SortFunc(live, func(a, b Pending) int {
		return strings.Compare(a.Identity.Name+"\x00"+a.Fingerprint, b.Identity.Name+"\x00"+b.Fingerprint)
	})
	return live, nil
}

// Sign grants requests that wait, in one transaction. name is a minion's name, a
// pattern of minions' names, or "operator/NAME"; fingerprint is empty, or names
// one key.
//
// A pattern leaves alone what needs a closer look: rejected requests, names that
// several keys ask for, names in use by another key. A plain name is signed or
// refused with the reason; with replace the certificates that it has under other
// keys are revoked. The request of an operator or an overlord is signed only by
// role, name and fingerprint together: nobody becomes one by waiting beside
// machines. An overlord fetches its issuing CA when it asks again.
//
// Codes: Invalid, NotFound, Conflict, Unavailable.
func (r *Registrar) Sign(ctx context.Context, actor, name, fingerprint string, replace bool) (Signed, error) {
	role, bare := CutRole(name)
	exact := isName(bare)
	if !exact && (replace || role != pki.Minion) {
		return Signed{}, call.Errorf(call.Invalid, "to sign an operator or overlord, or to replace a certificate, give one name, not the pattern %.80q", name)
	}
	if role != pki.Minion && fingerprint == "" {
		return Signed{}, call.Errorf(call.Invalid, "to sign %.80q give the fingerprint too; dominion cert pending shows it", name)
	}
	var out Signed
	var rev *revoking
	err := r.update(ctx, func(tx Tx) error {
		out = Signed{}
		chosen, held, err := r.choose(tx, role, bare, fingerprint)
		if err != nil {
			return err
		}
		out.Held = held
		for _, p := range chosen {
			a, err := r.asks(tx, p)
			if err != nil {
				return err
			}
			if c := r.conflict(a); c != "" && (!replace || a.taken != "") && p.Identity.Role != pki.Operator {
				if a.taken != "" && exact {
					return call.Errorf(call.Conflict, "%s", c)
				}
				if exact {
					return call.Errorf(call.Conflict, "%s; --replace revokes the old certificate", c)
				}
				out.Held = append(out.Held, p)
				continue
			}
			var c Cert
			if c, rev, err = r.signOne(tx, a, actor, replace); err != nil {
				return err
			}
			out.Certs = append(out.Certs, c)
		}
		return nil
	})
	if err != nil {
		return Signed{}, fmt.Errorf("sign %q: %w", name, err)
	}
	r.announce(rev)
	for _, c := range out.Certs {
		if c.Identity.Role != pki.Overlord { // it is known whose machine it is when it asks again
			r.tell(c.Identity)
		}
	}
	return out, nil
}

// asks makes of a held request what it was when it came.
func (r *Registrar) asks(tx Tx, p Pending) (*asking, error) {
	csr, err := pki.ParseRequest(p.CSR)
	if err != nil {
		return nil, fmt.Errorf("stored request of %s: %w", p.Identity, err)
	}
	a := &asking{Request: csr, fingerprint: p.Fingerprint, source: p.Source}
	return a, r.known(tx, a)
}

func (r *Registrar) signOne(tx Tx, a *asking, actor string, replace bool) (c Cert, rev *revoking, err error) {
	if replace {
		if rev, err = r.replace(tx, a, actor); err != nil {
			return Cert{}, nil, err
		}
	}
	if c, err = r.grant(tx, pki.Template{Identity: a.Identity, PublicKey: a.PublicKey}, actor, actor, "enrolled"); err != nil {
		return Cert{}, nil, err
	}
	return c, rev, tx.DeletePending(a.Identity, a.fingerprint)
}

// isName tells a name from a pattern.
func isName(s string) bool {
	_, err := call.ParseName(s)
	return err == nil
}

// CutRole splits the names that Sign and Reject take: "operator/alice", "overlord/dc1". What has
// no role is a minion's.
func CutRole(s string) (role pki.Role, name string) {
	if role, name, ok := strings.Cut(s, "/"); ok && pki.Role(role).Valid() {
		return pki.Role(role), name
	}
	return pki.Minion, s
}

// choose gives the requests that are meant, and those that a pattern passes over.
func (r *Registrar) choose(tx Tx, role pki.Role, name, fingerprint string) (chosen, held []Pending, err error) {
	all, err := r.pending(tx)
	if err != nil {
		return nil, nil, err
	}
	match := func(n string) bool { return strings.EqualFold(n, name) }
	exact := isName(name)
	if !exact {
		if match, err = r.compile(name, nil); err != nil {
			return nil, nil, err
		}
	}
	matching, _ := split(all, func(p Pending) bool {
		return match(p.Identity.Name) && (fingerprint == "" || p.Fingerprint == fingerprint)
	})
	wanted, others := split(matching, func(p Pending) bool { return p.Identity.Role == role })
	if len(wanted) == 0 {
		if len(others) > 0 && exact {
			p := others[0]
			return nil, nil, call.Errorf(call.Invalid, "%s asks to be an %s; if that is meant: dominion cert sign %s --fingerprint %s",
				p.Identity.Name, p.Identity.Role, p.Identity, p.Fingerprint)
		}
		if role != pki.Minion {
			name = string(role) + "/" + name
		}
		return nil, nil, noRequest(name, fingerprint)
	}
	keys := make(map[string]int)
	for _, p := range wanted {
		keys[p.Identity.Name]++
	}
	for _, p := range wanted {
		switch n := keys[p.Identity.Name]; {
		case n > 1 && exact:
			return nil, nil, call.Errorf(call.Invalid, "%d keys ask for the name %s; say which by its fingerprint", n, p.Identity.Name)
		case !exact && (n > 1 || p.Rejected):
			held = append(held, p)
		default:
			chosen = append(chosen, p)
		}
	}
	return chosen, held, nil
}

// noRequest says that nobody asks for what is to be signed or rejected.
func noRequest(name, fingerprint string) error {
	key := ""
	if fingerprint != "" {
		key = fmt.Sprintf(" with the key %.80q", fingerprint)
	}
	return call.Errorf(call.NotFound, "no request for %.80q%s waits; list those that do with: dominion cert pending", name, key)
}

// Reject refuses requests that wait, until they have not asked for 7 days. name
// is a name or a pattern, of any role or as "operator/NAME"; fingerprint is
// empty, or names one key. Codes: Invalid, NotFound.
func (r *Registrar) Reject(ctx context.Context, actor, name, fingerprint string) (rejected []Pending, err error) {
	role, bare := CutRole(name)
	match, err := r.compile(bare, nil)
	if err != nil {
		return nil, fmt.Errorf("reject %q: %w", name, err)
	}
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		all, err := r.pending(tx)
		if err != nil {
			return err
		}
		for _, p := range all {
			if bare != name && p.Identity.Role != role || p.Rejected || !match(p.Identity.Name) || fingerprint != "" && p.Fingerprint != fingerprint {
				continue
			}
			p.Rejected = true
			if err := tx.PutPending(p); err != nil {
				return err
			}
			if err := r.record(tx, actor, "cert.reject", p.Identity, nil, "key "+p.Fingerprint); err != nil {
				return err
			}
			rejected = append(rejected, p)
		}
		if len(rejected) == 0 {
			return noRequest(name, fingerprint)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reject %q: %w", name, err)
	}
	return rejected, nil
}
