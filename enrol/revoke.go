package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/pki"
)

// maxStatementKept is the size of the largest signed list that its record
// keeps whole, in bytes; of a larger one it keeps the digest.
const maxStatementKept = 16 << 10

// maxReplaced is the size in bytes of the largest signed list to which
// replacing still adds. The rest is for certificates that an operator revokes: a
// token that replaces, in the wrong hands, must not keep him from it.
const maxReplaced = pki.MaxRevocations * 3 / 4

// maxBelow is likewise the size up to which sub-overlords add certificates of
// their machines. One of them in the wrong hands signs as many as it likes: it must
// keep nobody from revoking it.
const maxBelow = pki.MaxRevocations / 2

// revoking is a revocation that waits to be announced.
type revoking struct {
	signed []byte
	list   *pki.RevocationList
	ids    []pki.Identity
}

// announce tells of a revocation that is durable.
func (r *Registrar) announce(rev *revoking) {
	if rev == nil {
		return
	}
	r.cfg.Log.Info("certificates revoked", "number", rev.list.Number(), "identities", len(rev.ids))
	if r.cfg.OnRevoked != nil {
		r.cfg.OnRevoked(rev.signed, rev.list, rev.ids)
	}
}

// Revoke refuses certificates of an identity from now on: the one with this
// serial (hex), or all that have not expired when serial is empty, each
// together with its key. It gives their serials and the number of the new list.
// Codes: NotFound, Unavailable where the root's key is absent.
func (r *Registrar) Revoke(ctx context.Context, actor string, id pki.Identity, serial, reason string) (serials []string, number uint64, err error) {
	if err := id.Check(); err != nil {
		return nil, 0, call.Errorf(call.Invalid, "%v", err)
	}
	if len(reason) > pki.MaxReason || !utf8.ValidString(reason) {
		return nil, 0, call.Errorf(call.Invalid, "a reason of %d bytes; give at most %d, in UTF-8", len(reason), pki.MaxReason)
	}
	if reason == "" || reason == pki.Replaced {
		reason = "revoked by " + actor
	}
	if r.cfg.Root == nil && r.cfg.RelayRevoke != nil {
		return r.revokeAbove(ctx, actor, id, serial, reason)
	}
	var rev *revoking
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		certs, err := tx.Certs(id)
		if err != nil {
			return err
		}
		if id.Role == pki.Overlord { // with it goes what it has signed
			issuing, err := tx.Certs(pki.Identity{Role: pki.Issuing, Name: id.Name})
			if err != nil {
				return err
			}
			certs = append(certs, issuing...)
		}
		var chosen []Cert
		for _, c := range certs {
			if c.Live(r.cfg.Now()) && (serial == "" || c.Serial == serial) {
				chosen = append(chosen, c)
				serials = append(serials, c.Serial)
			}
		}
		if len(chosen) == 0 {
			return call.Errorf(call.NotFound, "%s has no valid certificate%s; dominion cert list shows all", id, ofSerial(serial))
		}
		rev, err = r.revoke(tx, actor, id, chosen, reason)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("revoke %s: %w", id, err)
	}
	r.announce(rev)
	return serials, rev.list.Number(), nil
}

func ofSerial(serial string) string {
	if serial == "" {
		return ""
	}
	return fmt.Sprintf(" with serial %.80q", serial)
}

// replace revokes what the name has under other keys.
func (r *Registrar) replace(tx Tx, a *asking, actor string) (*revoking, error) {
	certs := a.certs
	if a.Identity.Role == pki.Overlord { // with it goes what it has signed
		issuing, err := tx.Certs(pki.Identity{Role: pki.Issuing, Name: a.Identity.Name})
		if err != nil {
			return nil, err
		}
		certs = slices.Concat(certs, issuing)
	}
	var chosen []Cert
	for _, c := range certs {
		if c.Live(r.cfg.Now()) && c.Fingerprint != a.fingerprint {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, nil
	}
	return r.revoke(tx, actor, a.Identity, chosen, pki.Replaced)
}

// revoke makes, signs and keeps the next list.
func (r *Registrar) revoke(tx Tx, actor string, id pki.Identity, certs []Cert, reason string) (*revoking, error) {
	if r.cfg.Root == nil && r.cfg.RelayRevoke != nil && id.Role == pki.Minion && reason == pki.Replaced {
		return nil, replaceAbove(actor, certs)
	}
	if r.cfg.Root == nil {
		return nil, r.noRoot("only it can revoke")
	}
	now := r.cfg.Now()
	entries := make([]pki.Revoked, len(certs))
	for i, c := range certs {
		leaf, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, fmt.Errorf("stored certificate %s: %w", c.Serial, err)
		}
		if reason == pki.Replaced {
			entries[i] = pki.RevokeSerial(leaf)
		} else {
			entries[i] = pki.Revoke(leaf, reason)
		}
		c.Revoked, c.Reason = now, reason
		if err := tx.PutCert(c); err != nil {
			return nil, err
		}
	}
	limit := pki.MaxRevocations
	if reason == pki.Replaced {
		limit = maxReplaced
	}
	rev, err := r.nextList(tx, entries, limit)
	if err != nil {
		return nil, err
	}
	rev.ids = []pki.Identity{id}
	sum := sha256.Sum256(rev.signed)
	rec := &auditpb.Record{
		TimeMs: now.UnixMilli(), Actor: actor, Action: "revoked", Subject: subject(id), Digest: sum[:],
		Detail: fmt.Sprintf("%d certificates: %s; list number %d", len(certs), reason, rev.list.Number()),
	}
	if len(rev.signed) <= maxStatementKept {
		rec.Statement = rev.signed
	}
	return rev, tx.Audit(rec)
}

// nextList adds entries to the newest list, whose numbers only grow, as long as it
// has at most limit bytes then.
func (r *Registrar) nextList(tx Tx, entries []pki.Revoked, limit int) (*revoking, error) {
	list := pki.NewRevocations()
	signed, err := tx.Revocations()
	if err != nil {
		return nil, err
	}
	if len(signed) > 0 {
		if list, err = pki.ParseRevocations(r.cfg.RootCert, signed); err != nil {
			return nil, fmt.Errorf("stored list: %w", err)
		}
	}
	list = list.Add(r.cfg.Now(), entries...)
	signed, err = pki.SignRevocations(r.cfg.Root, list)
	full := errors.Is(err, pki.ErrFull)
	switch {
	case err != nil && !full:
		return nil, err
	case full, len(signed) > limit:
		return nil, call.Errorf(call.Busy, "the revocation list is full (%d entries); entries go a day after the certificates that they name have ended", len(list.Entries()))
	}
	return &revoking{signed: signed, list: list}, tx.PutRevocations(list.Number(), signed)
}
