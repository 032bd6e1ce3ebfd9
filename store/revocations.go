package store

import (
	"context"
	"errors"
	"time"

	"dominion/call"
)

// Revocations is the revocation list as the root signed it.
type Revocations struct {
	Number uint64 // grows by one
	Signed []byte // fleetpb.Signed
	Issued time.Time
}

func scanRevocations(s scanner) (Revocations, error) {
	var l Revocations
	err := s.Scan(&l.Number, &l.Signed, at{&l.Issued})
	return l, err
}

// PutRevocations stores a list and removes the older ones. When a list of the
// same or a higher number is there, the error has code Conflict.
func (tx *Tx) PutRevocations(ctx context.Context, l Revocations) error {
	newest, err := tx.Revocations(ctx)
	if err == nil && newest.Number >= l.Number {
		return call.Errorf(call.Conflict, "revocation list %d is there already", newest.Number)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := tx.exec(ctx, "DELETE FROM revocations WHERE number < $1", int64(l.Number)); err != nil {
		return err
	}
	return tx.exec(ctx, "INSERT INTO revocations (number, signed, issued_ms) VALUES ($1, $2, $3)", int64(l.Number), bytesOrEmpty(l.Signed), ms(l.Issued))
}

// Revocations gives the newest list.
func (r *reader) Revocations(ctx context.Context) (Revocations, error) {
	return one(ctx, r.q, scanRevocations, "revocation list", "SELECT number, signed, issued_ms FROM revocations ORDER BY number DESC LIMIT 1")
}
