package store

import (
	"context"
	"strings"
	"time"
)

// Token is a join token, of which only the hash is kept.
type Token struct {
	ID        string
	Hash      []byte // SHA-256
	Pattern   string // of the names it may enrol
	Role      string
	Uses      int // how often it may be used
	Used      int
	Expires   time.Time
	Replace   bool     // it may revoke the certificate that the name has
	Networks  []string // CIDR; empty: from anywhere
	CreatedBy string
	Created   time.Time
}

const tokenColumns = "id, hash, pattern, role, uses, used, expires_ms, replaces, networks, created_by, created_ms"

func scanToken(s scanner) (Token, error) {
	var t Token
	var networks string
	err := s.Scan(&t.ID, &t.Hash, &t.Pattern, &t.Role, &t.Uses, &t.Used, at{&t.Expires}, flag{&t.Replace}, &networks, &t.CreatedBy, at{&t.Created})
	if networks != "" {
		t.Networks = strings.Split(networks, " ")
	}
	return t, err
}

// PutToken stores a token, or changes the one of its id.
func (tx *Tx) PutToken(ctx context.Context, t Token) error {
	return tx.exec(ctx, "INSERT INTO tokens ("+tokenColumns+") VALUES ("+params(11)+`) ON CONFLICT (id) DO UPDATE SET
		hash = excluded.hash, pattern = excluded.pattern, role = excluded.role, uses = excluded.uses, used = excluded.used,
		expires_ms = excluded.expires_ms, replaces = excluded.replaces, networks = excluded.networks,
		created_by = excluded.created_by, created_ms = excluded.created_ms`,
		t.ID, bytesOrEmpty(t.Hash), t.Pattern, t.Role, t.Uses, t.Used, ms(t.Expires), bit(t.Replace), strings.Join(t.Networks, " "), t.CreatedBy, ms(t.Created))
}

// DeleteToken removes a token and its uses; one that is not there is no error.
func (tx *Tx) DeleteToken(ctx context.Context, id string) error {
	if err := tx.exec(ctx, "DELETE FROM token_uses WHERE token = $1", id); err != nil {
		return err
	}
	return tx.exec(ctx, "DELETE FROM tokens WHERE id = $1", id)
}

// Token gives one token.
func (r *reader) Token(ctx context.Context, id string) (Token, error) {
	return one(ctx, r.q, scanToken, "token "+id, "SELECT "+tokenColumns+" FROM tokens WHERE id = $1", id)
}

// Tokens gives every token, the oldest first.
func (r *reader) Tokens(ctx context.Context) ([]Token, error) {
	return all(ctx, r.q, scanToken, "SELECT "+tokenColumns+" FROM tokens ORDER BY created_ms, id")
}

// TokenUse is one machine that used a token: asking again with the same key
// must not use it twice.
type TokenUse struct {
	Token       string // id
	Name        string
	Fingerprint string // sha256:… of the machine's key
	Serial      string // hex, of the certificate granted
	At          time.Time
}

func scanTokenUse(s scanner) (TokenUse, error) {
	var u TokenUse
	err := s.Scan(&u.Token, &u.Name, &u.Fingerprint, &u.Serial, at{&u.At})
	return u, err
}

// PutTokenUse stores a use, or changes that of the same token, name and key.
func (tx *Tx) PutTokenUse(ctx context.Context, u TokenUse) error {
	return tx.exec(ctx, `INSERT INTO token_uses (token, name, fingerprint, serial, used_ms) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (token, name, fingerprint) DO UPDATE SET serial = excluded.serial, used_ms = excluded.used_ms`,
		u.Token, u.Name, u.Fingerprint, u.Serial, ms(u.At))
}

// TokenUse gives the use of a token by one name and key.
func (r *reader) TokenUse(ctx context.Context, token, name, fingerprint string) (TokenUse, error) {
	return one(ctx, r.q, scanTokenUse, "use of token "+token, "SELECT token, name, fingerprint, serial, used_ms FROM token_uses WHERE token = $1 AND name = $2 AND fingerprint = $3", token, name, fingerprint)
}
