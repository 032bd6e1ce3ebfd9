package store

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Minion is what is known of an enrolled machine.
type Minion struct {
	Name         string
	Fingerprint  string // sha256:… of its key
	FirstSeen    time.Time
	LastSeen     time.Time // zero: never connected
	AgentVersion string
	Address      string // of its last session's peer
	DialAddress  string // host:port that the overlord dials; empty: the minion dials
	Facts        []byte // JSON; nil when there are none, or they were not asked for
	FactsAt      time.Time
	FactsDigest  []byte // SHA-256 of Facts; empty: none
}

const minionColumns = "name, fingerprint, first_seen_ms, last_seen_ms, agent_version, address, dial_address, facts_ms, facts_digest"

func scanMinion(s scanner) (Minion, error) {
	var m Minion
	err := s.Scan(&m.Name, &m.Fingerprint, at{&m.FirstSeen}, at{&m.LastSeen}, &m.AgentVersion, &m.Address, &m.DialAddress, at{&m.FactsAt}, &m.FactsDigest, &m.Facts)
	return m, err
}

// PutMinion stores a machine, whether it was known or not.
func (tx *Tx) PutMinion(ctx context.Context, m Minion) error {
	return tx.exec(ctx, "INSERT INTO minions ("+minionColumns+", facts) VALUES ("+params(10)+`) ON CONFLICT (name) DO UPDATE SET
		fingerprint = excluded.fingerprint, first_seen_ms = excluded.first_seen_ms, last_seen_ms = excluded.last_seen_ms,
		agent_version = excluded.agent_version, address = excluded.address, dial_address = excluded.dial_address,
		facts_ms = excluded.facts_ms, facts_digest = excluded.facts_digest, facts = excluded.facts`,
		m.Name, m.Fingerprint, ms(m.FirstSeen), ms(m.LastSeen), m.AgentVersion, m.Address, m.DialAddress, ms(m.FactsAt), bytesOrEmpty(m.FactsDigest), m.Facts)
}

// SeeMinion notes a session of a known machine: when, which agent, from where.
// Nothing else of the row changes; the error wraps ErrNotFound when there is none.
func (tx *Tx) SeeMinion(ctx context.Context, name string, seen time.Time, agentVersion, address string) error {
	return tx.changed(ctx, "machine "+name, "UPDATE minions SET last_seen_ms = $1, agent_version = $2, address = $3 WHERE name = $4", ms(seen), agentVersion, address, name)
}

// PutFacts stores a known machine's facts, JSON, with their SHA-256.
func (tx *Tx) PutFacts(ctx context.Context, name string, gathered time.Time, digest, facts []byte) error {
	return tx.changed(ctx, "machine "+name, "UPDATE minions SET facts_ms = $1, facts_digest = $2, facts = $3 WHERE name = $4", ms(gathered), bytesOrEmpty(digest), facts, name)
}

// SetDialAddress stores where the overlord dials a known machine; empty: nowhere.
func (tx *Tx) SetDialAddress(ctx context.Context, name, address string) error {
	return tx.changed(ctx, "machine "+name, "UPDATE minions SET dial_address = $1 WHERE name = $2", address, name)
}

// DeleteMinion forgets a machine; one that is not known is no error.
func (tx *Tx) DeleteMinion(ctx context.Context, name string) error {
	return tx.exec(ctx, "DELETE FROM minions WHERE name = $1", name)
}

// Minion gives one machine with its facts.
func (r *reader) Minion(ctx context.Context, name string) (Minion, error) {
	return one(ctx, r.q, scanMinion, "machine "+name, "SELECT "+minionColumns+", facts FROM minions WHERE name = $1", name)
}

// Minions gives every machine, sorted by name, with or without facts.
func (r *reader) Minions(ctx context.Context, facts bool) ([]Minion, error) {
	column := "NULL"
	if facts {
		column = "facts"
	}
	return all(ctx, r.q, scanMinion, "SELECT "+minionColumns+", "+column+" FROM minions ORDER BY name")
}

// Facts gives the names of all machines with their facts, in no order; nil for
// those that sent none.
func (r *reader) Facts(ctx context.Context) iter.Seq2[MachineFacts, error] {
	return each(ctx, r.q, func(s scanner) (MachineFacts, error) {
		var m MachineFacts
		err := s.Scan(&m.Name, &m.Facts)
		return m, err
	}, "SELECT name, facts FROM minions")
}

// MachineFacts is a machine with its facts, JSON.
type MachineFacts struct {
	Name  string
	Facts []byte
}

// changed writes, and returns an error that wraps ErrNotFound when no row was there.
func (tx *Tx) changed(ctx context.Context, what, query string, args ...any) error {
	n, err := tx.execCount(ctx, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return err
}
