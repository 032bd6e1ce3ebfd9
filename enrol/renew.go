package enrol

import (
	"context"
	"crypto/x509"
	"fmt"

	"dominion/call"
	"dominion/pki"
)

// Peer is who asks for a renewal: a verified certificate.
type Peer struct {
	Identity pki.Identity
	Cert     *x509.Certificate
}

// Renew gives a fresh certificate to a peer that showed a valid one: same
// identity, same key or a new one. The caller has verified peer's chain and
// that the session is peer's. A key whose newest certificate is not due gets
// that one again. Codes: Invalid, Denied, Revoked, Busy, Unavailable.
func (r *Registrar) Renew(ctx context.Context, peer Peer, csr []byte) (chain [][]byte, err error) {
	req, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if req.Identity != peer.Identity || req.Identity.Role == pki.Overlord {
		return nil, call.Errorf(call.Denied, "%s may not ask for a certificate of %s", peer.Identity, req.Identity)
	}
	a := &asking{Request: req, fingerprint: pki.Fingerprint(req.PublicKey)}
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		c, err := r.renew(tx, a, peer)
		chain = r.chain(req.Identity.Role, c.DER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", req.Identity, err)
	}
	return chain, nil
}

func (r *Registrar) renew(tx Tx, a *asking, peer Peer) (Cert, error) {
	now := r.cfg.Now()
	if now.After(peer.Cert.NotAfter) { // a session or connection may outlive it
		return Cert{}, call.Errorf(call.Denied, "the certificate of %s expired; enrol again", peer.Identity)
	}
	signed, err := tx.Revocations()
	if err != nil {
		return Cert{}, err
	}
	if len(signed) > 0 {
		list, err := pki.ParseRevocations(r.cfg.RootCert, signed)
		if err != nil {
			return Cert{}, err
		}
		if why, ok := list.Revoked(peer.Cert); ok {
			return Cert{}, call.Errorf(call.Revoked, "the certificate was revoked: %s", why)
		}
	}
	if a.certs, err = tx.Certs(a.Identity); err != nil {
		return Cert{}, err
	}
	serial := peer.Cert.SerialNumber.Text(16)
	live := 0
	for _, c := range a.certs {
		switch {
		case !c.Revoked.IsZero() && c.Serial == serial:
			return Cert{}, call.Errorf(call.Revoked, "the certificate was revoked: %s", c.Reason)
		case !c.Revoked.IsZero() && c.Fingerprint == a.fingerprint:
			return Cert{}, call.Errorf(call.Revoked, "the new key was revoked: %s", c.Reason)
		case c.Live(now):
			live++
		}
	}
	for _, c := range a.certs {
		if c.Fingerprint != a.fingerprint || !c.Live(now) || !r.current(c) {
			continue
		}
		leaf, err := x509.ParseCertificate(c.DER)
		if err == nil && now.Before(pki.RenewAt(leaf)) {
			return c, nil
		}
	}
	if live >= maxLive {
		return Cert{}, call.Errorf(call.Busy, "%s has %d valid certificates; the oldest must expire or be revoked first", a.Identity, live)
	}
	return r.grant(tx, pki.Template{Identity: a.Identity, PublicKey: a.PublicKey}, "renewal", a.Identity.String(), "renewed")
}
