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
	err = r.Store.Update(ctx, func(tx Tx) error {
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
	_, live := split(all, func(p Pending) bool { return r.Now().Sub(p.Last) >= PendingLife })
	slices.SortFunc(live, func(a, b Pending) int {
		return strings.Compare(a.Identity.Name+"\x00"+a.Fingerprint, b.Identity.Name+"\x00"+b.Fingerprint)
	})
	return live, nil
}

// Sign grants requests that wait, in one transaction. name is a name, or a
// pattern; fingerprint is empty, or names one key.
//
// A pattern signs minions only, and leaves alone what needs a closer look:
// rejected requests, names that several keys ask for, names in use by another
// key unless replace is set. A plain name is signed or refused with the reason.
// An operator's request is signed only by name and fingerprint together, so that
// nobody becomes an operator by waiting beside machines.
//
// Codes: Invalid, NotFound, Conflict, Unavailable.
func (r *Registrar) Sign(ctx context.Context, actor, name, fingerprint string, replace bool) (Signed, error) {
	var out Signed
	var revs []*revoking
	err := r.Store.Update(ctx, func(tx Tx) error {
		chosen, held, err := r.choose(tx, name, fingerprint)
		if err != nil {
			return err
		}
		out.Held = held
		exact := isName(name)
		for _, p := range chosen {
			a, err := r.asks(tx, p)
			if err != nil {
				return err
			}
			if c := r.conflict(a); c != "" && !replace && p.Identity.Role == pki.Minion {
				if exact {
					return call.Errorf(call.Conflict, "%s; --replace revokes the old certificate", c)
				}
				out.Held = append(out.Held, p)
				continue
			}
			c, rev, err := r.signOne(tx, a, actor, replace)
			if err != nil {
				return err
			}
			out.Certs = append(out.Certs, c)
			if rev != nil {
				revs = append(revs, rev)
			}
		}
		return nil
	})
	if err != nil {
		return Signed{}, fmt.Errorf("sign %q: %w", name, err)
	}
	r.announce(merge(revs))
	return out, nil
}

// merge makes one announcement of several lists, of which the last holds all.
func merge(revs []*revoking) *revoking {
	if len(revs) == 0 {
		return nil
	}
	last := *revs[len(revs)-1]
	last.ids = nil
	for _, rev := range revs {
		last.ids = append(last.ids, rev.ids...)
	}
	return &last
}

// asks makes of a held request what it was when it came.
func (r *Registrar) asks(tx Tx, p Pending) (*asking, error) {
	csr, err := pki.ParseRequest(p.CSR)
	if err != nil {
		return nil, fmt.Errorf("stored request of %s: %w", p.Identity, err)
	}
	certs, err := tx.Certs(p.Identity)
	if err != nil {
		return nil, err
	}
	return &asking{Request: csr, fingerprint: p.Fingerprint, source: p.Source, certs: certs}, nil
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

// choose gives the requests that name and fingerprint mean, and those a pattern
// passes over.
func (r *Registrar) choose(tx Tx, name, fingerprint string) (chosen, held []Pending, err error) {
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
	all = slices.DeleteFunc(all, func(p Pending) bool {
		return !match(p.Identity.Name) || fingerprint != "" && p.Fingerprint != fingerprint
	})
	if len(all) == 0 {
		return nil, nil, call.Errorf(call.NotFound, "no request of that name waits; dominion cert pending shows those that do")
	}
	keys := make(map[string]int)
	for _, p := range all {
		if p.Identity.Role == pki.Minion {
			keys[p.Identity.Name]++
		}
	}
	for _, p := range all {
		switch {
		case p.Identity.Role != pki.Minion && (!exact || fingerprint == ""):
			if exact && keys[p.Identity.Name] == 0 {
				return nil, nil, call.Errorf(call.Invalid, "%s asks to be an operator; confirm it with the fingerprint: %s", p.Identity.Name, p.Fingerprint)
			}
			held = append(held, p)
		case keys[p.Identity.Name] > 1:
			if exact {
				return nil, nil, call.Errorf(call.Invalid, "%d keys ask for the name %s; say which by its fingerprint", keys[p.Identity.Name], p.Identity.Name)
			}
			held = append(held, p)
		case p.Rejected && !exact:
			held = append(held, p)
		default:
			chosen = append(chosen, p)
		}
	}
	return chosen, held, nil
}

// Reject refuses requests that wait, until they have not asked for 7 days. name
// is a name or a pattern of any role; fingerprint is empty, or names one key.
func (r *Registrar) Reject(ctx context.Context, actor, name, fingerprint string) (rejected []Pending, err error) {
	err = r.Store.Update(ctx, func(tx Tx) error {
		all, err := r.pending(tx)
		if err != nil {
			return err
		}
		match, err := r.compile(name, nil)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Rejected || !match(p.Identity.Name) || fingerprint != "" && p.Fingerprint != fingerprint {
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
			return call.Errorf(call.NotFound, "no request of that name waits; dominion cert pending shows those that do")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reject %q: %w", name, err)
	}
	return rejected, nil
}
