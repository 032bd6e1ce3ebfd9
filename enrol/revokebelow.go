package enrol

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/pki"
)

// revokeAbove asks the host of the root's key to revoke certificates of this
// overlord's own machines.
func (r *Registrar) revokeAbove(ctx context.Context, actor string, id pki.Identity, serial, reason string) (serials []string, number uint64, err error) {
	if id.Role != pki.Minion {
		return nil, 0, r.noRoot("only it can revoke the certificate of an " + string(id.Role))
	}
	var leaves [][]byte
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		certs, err := tx.Certs(id)
		if err != nil {
			return err
		}
		for _, c := range certs {
			if c.Live(r.cfg.Now()) && (serial == "" || c.Serial == serial) && len(leaves) < pki.MaxRevokeCerts {
				leaves, serials = append(leaves, c.DER), append(serials, c.Serial)
			}
		}
		if len(leaves) == 0 {
			return call.Errorf(call.NotFound, "%s has no valid certificate%s; dominion cert list shows all", id, ofSerial(serial))
		}
		return r.record(tx, actor, "cert.revoke", id, nil, fmt.Sprintf("%d certificates: %s; asked of the host of the root's key", len(leaves), reason))
	})
	if err != nil {
		return nil, 0, fmt.Errorf("revoke %s: %w", id, err)
	}
	number, err = r.cfg.RelayRevoke(ctx, pki.RevokeRequest{Overlord: r.cfg.Overlord, Leaves: leaves, Reason: reason, Actor: actor})
	if err != nil {
		return nil, 0, fmt.Errorf("revoke %s: %w", id, err)
	}
	return serials, number, nil
}

// A replacing is the error of a transaction that has to replace certificates which
// only the host of the root's key can revoke: nobody waits for it in a transaction.
type replacing struct{ request pki.RevokeRequest }

// Error implements error.
func (r *replacing) Error() string { return "certificates have to be revoked first" }

func replaceAbove(actor string, certs []Cert) error {
	r := &replacing{pki.RevokeRequest{Reason: pki.Replaced, Actor: actor}}
	for _, c := range certs[:min(len(certs), pki.MaxRevokeCerts)] {
		r.request.Leaves = append(r.request.Leaves, c.DER)
	}
	return r
}

// update is one transaction of the store. When it has to replace certificates below
// another overlord, these are revoked there, and then it is tried again: they are
// noted as replaced by then. fn may be called twice.
func (r *Registrar) update(ctx context.Context, fn func(tx Tx) error) error {
	err := r.cfg.Store.Update(ctx, fn)
	first, ok := errors.AsType[*replacing](err)
	if !ok {
		return err
	}
	first.request.Overlord = r.cfg.Overlord
	if _, err := r.cfg.RelayRevoke(ctx, first.request); err != nil {
		return fmt.Errorf("replace the old certificate: %w", err)
	}
	return r.cfg.Store.Update(ctx, fn)
}

// RevokeBelow revokes what the issuing CA of a sub-overlord has signed, at the word
// of that overlord. It gives the list that names all of it. Codes: Invalid, Denied,
// Busy, Unavailable.
func (r *Registrar) RevokeBelow(ctx context.Context, req pki.RevokeRequest) (number uint64, signed []byte, err error) {
	if r.cfg.Root == nil {
		return 0, nil, r.noRoot("only it can revoke")
	}
	id := pki.Identity{Role: pki.Overlord, Name: req.Overlord}
	if err := id.Check(); err != nil {
		return 0, nil, call.Errorf(call.Invalid, "%v", err)
	}
	var rev *revoking
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		rev, number, signed, err = r.revokeBelow(tx, id, req)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("revoke for %s: %w", id, err)
	}
	r.announce(rev)
	return number, signed, nil
}

func (r *Registrar) revokeBelow(tx Tx, id pki.Identity, req pki.RevokeRequest) (rev *revoking, number uint64, signed []byte, err error) {
	if err := r.vouched(tx, id, req.Check); err != nil {
		return nil, 0, nil, err
	}
	leaves, err := r.signedBelow(tx, id, req.Leaves)
	if err != nil {
		return nil, 0, nil, err
	}
	if signed, err = tx.Revocations(); err != nil {
		return nil, 0, nil, err
	}
	list := pki.NewRevocations()
	if len(signed) > 0 {
		if list, err = pki.ParseRevocations(r.cfg.RootCert, signed); err != nil {
			return nil, 0, nil, fmt.Errorf("stored list: %w", err)
		}
	}
	reason := cmp.Or(req.Reason, "revoked by "+id.String())
	replaced := reason == pki.Replaced
	var entries []pki.Revoked
	for _, leaf := range leaves {
		switch why, listed := list.Revoked(leaf); {
		case listed && (replaced || why != pki.Replaced): // of one that was replaced the key is not listed
		case replaced:
			entries = append(entries, pki.RevokeSerial(leaf))
		default:
			entries = append(entries, pki.Revoke(leaf, reason))
		}
	}
	if len(entries) == 0 { // it was asked before, and the answer was lost
		return nil, list.Number(), signed, nil
	}
	if rev, err = r.nextList(tx, entries, maxBelow); err != nil {
		return nil, 0, nil, err
	}
	sum := sha256.Sum256(rev.signed)
	return rev, rev.list.Number(), rev.signed, tx.Audit(&auditpb.Record{
		TimeMs: r.cfg.Now().UnixMilli(), Actor: id.String(), Action: "revoked", Subject: names(leaves), Digest: sum[:],
		Detail: fmt.Sprintf("%d certificates of its machines, by %.100q: %s; list number %d", len(entries), req.Actor, reason, rev.list.Number()),
	})
}

// vouched says whether the key of a certificate of the overlord that counts signed a
// request.
func (r *Registrar) vouched(tx Tx, id pki.Identity, signedBy func(crypto.PublicKey) error) error {
	certs, err := tx.Certs(id)
	if err != nil {
		return err
	}
	err = call.Errorf(call.Denied, "%s has no certificate that counts", id)
	for _, c := range certs {
		if !c.Live(r.cfg.Now()) {
			continue
		}
		leaf, perr := x509.ParseCertificate(c.DER)
		if perr != nil {
			return fmt.Errorf("stored certificate %s: %w", c.Serial, perr)
		}
		cerr := signedBy(leaf.PublicKey)
		if cerr == nil {
			return nil
		}
		err = call.Errorf(call.Denied, "%v", cerr)
	}
	return err
}

// signedBelow reads certificates, each of a machine and signed by an issuing CA of
// the overlord.
func (r *Registrar) signedBelow(tx Tx, id pki.Identity, raw [][]byte) ([]*x509.Certificate, error) {
	rows, err := tx.Certs(pki.Identity{Role: pki.Issuing, Name: id.Name})
	if err != nil {
		return nil, err
	}
	var issuing []*x509.Certificate
	for _, row := range rows {
		c, err := x509.ParseCertificate(row.DER)
		if err != nil {
			return nil, fmt.Errorf("stored certificate %s: %w", row.Serial, err)
		}
		issuing = append(issuing, c)
	}
	leaves, err := pki.ParseChain(raw)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	for _, leaf := range leaves {
		who, err := pki.IdentityOf(leaf)
		if err != nil || who.Role != pki.Minion || !signedByOne(issuing, leaf) {
			return nil, call.Errorf(call.Denied, "the certificate %s was not signed by an issuing CA of %s", leaf.SerialNumber.Text(16), id)
		}
		if now := r.cfg.Now(); leaf.NotAfter.After(now.Add(pki.MinionLife + 24*time.Hour)) { // it would stay on the list for as long
			return nil, call.Errorf(call.Denied, "the certificate %s ends later than any machine's", leaf.SerialNumber.Text(16))
		}
	}
	return leaves, nil
}

func signedByOne(issuing []*x509.Certificate, leaf *x509.Certificate) bool {
	for _, ca := range issuing {
		if leaf.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

func names(leaves []*x509.Certificate) string {
	id, err := pki.IdentityOf(leaves[0])
	if err != nil {
		return "?"
	}
	return id.Name
}
