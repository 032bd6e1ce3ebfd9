package store

import (
	"context"
	"time"
)

// Cert is a certificate that was issued.
type Cert struct {
	Serial      string // hex
	Role        string // "minion", "operator", "overlord"
	Name        string
	Fingerprint string // sha256:… of its key
	DER         []byte
	NotBefore   time.Time
	NotAfter    time.Time
	GrantedBy   string // "token/ID", "autosign/RULE", "operator/alice", "renewal"
	Granted     time.Time
	Revoked     time.Time // zero: it is not
	Reason      string    // of the revocation
}

const certColumns = "serial, role, name, fingerprint, der, not_before_ms, not_after_ms, granted_by, granted_ms, revoked_ms, reason"

func scanCert(s scanner) (Cert, error) {
	var c Cert
	err := s.Scan(&c.Serial, &c.Role, &c.Name, &c.Fingerprint, &c.DER, at{&c.NotBefore}, at{&c.NotAfter}, &c.GrantedBy, at{&c.Granted}, at{&c.Revoked}, &c.Reason)
	return c, err
}

// PutCert stores a certificate, or changes the one of its serial number.
func (tx *Tx) PutCert(ctx context.Context, c Cert) error {
	return tx.exec(ctx, "INSERT INTO certs ("+certColumns+") VALUES ("+params(11)+`) ON CONFLICT (serial) DO UPDATE SET
		role = excluded.role, name = excluded.name, fingerprint = excluded.fingerprint, der = excluded.der,
		not_before_ms = excluded.not_before_ms, not_after_ms = excluded.not_after_ms, granted_by = excluded.granted_by,
		granted_ms = excluded.granted_ms, revoked_ms = excluded.revoked_ms, reason = excluded.reason`,
		c.Serial, c.Role, c.Name, c.Fingerprint, bytesOrEmpty(c.DER), ms(c.NotBefore), ms(c.NotAfter), c.GrantedBy, ms(c.Granted), ms(c.Revoked), c.Reason)
}

// DeleteCert forgets a certificate; one that is not there is no error.
func (tx *Tx) DeleteCert(ctx context.Context, serial string) error {
	return tx.exec(ctx, "DELETE FROM certs WHERE serial = $1", serial)
}

// Cert gives the certificate of a serial number.
func (r *reader) Cert(ctx context.Context, serial string) (Cert, error) {
	return one(ctx, r.q, scanCert, "certificate "+serial, "SELECT "+certColumns+" FROM certs WHERE serial = $1", serial)
}

// CertsOf gives the certificates of one identity, the newest first.
func (r *reader) CertsOf(ctx context.Context, role, name string) ([]Cert, error) {
	return all(ctx, r.q, scanCert, "SELECT "+certColumns+" FROM certs WHERE role = $1 AND name = $2 ORDER BY not_before_ms DESC, granted_ms DESC, serial", role, name)
}

// Certs gives the certificates of a role (empty: every role), sorted by role
// and name, the newest first.
func (r *reader) Certs(ctx context.Context, role string) ([]Cert, error) {
	if role == "" {
		return all(ctx, r.q, scanCert, "SELECT "+certColumns+" FROM certs ORDER BY role, name, not_before_ms DESC, granted_ms DESC, serial")
	}
	return all(ctx, r.q, scanCert, "SELECT "+certColumns+" FROM certs WHERE role = $1 ORDER BY name, not_before_ms DESC, granted_ms DESC, serial", role)
}
