package store

import (
	"context"
	"time"
)

// Pending is a request for a certificate that waits for an operator.
type Pending struct {
	Role        string
	Name        string
	Fingerprint string // sha256:… of its key; with role and name it is the key of the row
	CSR         []byte // DER
	Source      string // address it came from
	First       time.Time
	Last        time.Time
	Conflict    string // set when the name is in use by another key
	Rejected    bool
}

const pendingColumns = "role, name, fingerprint, csr, source, first_ms, last_ms, conflict, rejected"

func scanPending(s scanner) (Pending, error) {
	var p Pending
	err := s.Scan(&p.Role, &p.Name, &p.Fingerprint, &p.CSR, &p.Source, at{&p.First}, at{&p.Last}, &p.Conflict, flag{&p.Rejected})
	return p, err
}

// PutPending stores a request, whether it was there or not.
func (tx *Tx) PutPending(ctx context.Context, p Pending) error {
	return tx.exec(ctx, "INSERT INTO pending ("+pendingColumns+") VALUES ("+params(9)+`) ON CONFLICT (role, name, fingerprint) DO UPDATE SET
		csr = excluded.csr, source = excluded.source, first_ms = excluded.first_ms, last_ms = excluded.last_ms,
		conflict = excluded.conflict, rejected = excluded.rejected`,
		p.Role, p.Name, p.Fingerprint, bytesOrEmpty(p.CSR), p.Source, ms(p.First), ms(p.Last), p.Conflict, bit(p.Rejected))
}

// DeletePending removes a request; one that is not there is no error.
func (tx *Tx) DeletePending(ctx context.Context, role, name, fingerprint string) error {
	return tx.exec(ctx, "DELETE FROM pending WHERE role = $1 AND name = $2 AND fingerprint = $3", role, name, fingerprint)
}

// PendingOf gives one request.
func (r *reader) PendingOf(ctx context.Context, role, name, fingerprint string) (Pending, error) {
	return one(ctx, r.q, scanPending, "request for "+role+"/"+name, "SELECT "+pendingColumns+" FROM pending WHERE role = $1 AND name = $2 AND fingerprint = $3", role, name, fingerprint)
}

// Pendings gives every request, the oldest first.
func (r *reader) Pendings(ctx context.Context) ([]Pending, error) {
	return all(ctx, r.q, scanPending, "SELECT "+pendingColumns+" FROM pending ORDER BY first_ms, role, name, fingerprint")
}
