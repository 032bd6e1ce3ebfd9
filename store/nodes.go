package store

import (
	"context"
	"time"
)

// Node is a machine known to provisioning.
type Node struct {
	Name        string
	HWAddr      string // AA:BB:CC:DD:EE:FF
	Group       string // its primary group; empty: none
	VNFS        string // empty: none
	Enabled     bool
	Debug       int
	Boot        string // provision, local, hold
	Description string
	Created     time.Time
	Source      string    // address of its first contact; empty: it was added by an operator
	Approved    time.Time // zero: it is held
	ApprovedBy  string
	Address     string    // of its last contact
	State       string    // that it asked for last; empty: none
	Contact     time.Time // zero: never
	Script      []byte    // SHA-256 of the last script that it was given; empty: none
	Failure     string    // of that script's assembly
	Claim       string    // address that wanted to boot as this node while it booted; empty: none did
	ClaimAt     time.Time
	Ended       NodeRun
}

// NodeRun is how a node's last run of a script ended.
type NodeRun struct {
	State  string
	At     time.Time // zero: nothing was reported yet
	Exit   int
	Took   time.Duration
	Detail string
}

const nodeColumns = "name, hwaddr, grp, vnfs, enabled, debug, boot, description, created_ms, source, approved_ms, approved_by, " +
	"address, state, contact_ms, script, failure, claim, claim_ms, ended_state, ended_ms, ended_exit, ended_took, ended_detail"

func scanNode(s scanner) (Node, error) {
	var n Node
	var took int64
	err := s.Scan(&n.Name, &n.HWAddr, &n.Group, &n.VNFS, flag{&n.Enabled}, &n.Debug, &n.Boot, &n.Description, at{&n.Created}, &n.Source,
		at{&n.Approved}, &n.ApprovedBy, &n.Address, &n.State, at{&n.Contact}, &n.Script, &n.Failure, &n.Claim, at{&n.ClaimAt},
		&n.Ended.State, at{&n.Ended.At}, &n.Ended.Exit, &took, &n.Ended.Detail)
	n.Ended.Took = time.Duration(took) * time.Millisecond
	return n, err
}

// SaveNode stores a node, or changes the one of its name. Another node's
// hardware address is an error.
func (tx *Tx) SaveNode(ctx context.Context, n Node) error {
	return tx.exec(ctx, "INSERT INTO provision_nodes ("+nodeColumns+") VALUES ("+params(24)+`) ON CONFLICT (name) DO UPDATE SET
		hwaddr = excluded.hwaddr, grp = excluded.grp, vnfs = excluded.vnfs, enabled = excluded.enabled, debug = excluded.debug, boot = excluded.boot,
		description = excluded.description, created_ms = excluded.created_ms, source = excluded.source, approved_ms = excluded.approved_ms,
		approved_by = excluded.approved_by, address = excluded.address, state = excluded.state, contact_ms = excluded.contact_ms,
		script = excluded.script, failure = excluded.failure, claim = excluded.claim, claim_ms = excluded.claim_ms,
		ended_state = excluded.ended_state, ended_ms = excluded.ended_ms, ended_exit = excluded.ended_exit, ended_took = excluded.ended_took,
		ended_detail = excluded.ended_detail`,
		n.Name, n.HWAddr, n.Group, n.VNFS, bit(n.Enabled), n.Debug, n.Boot, n.Description, ms(n.Created), n.Source, ms(n.Approved), n.ApprovedBy,
		n.Address, n.State, ms(n.Contact), bytesOrEmpty(n.Script), n.Failure, n.Claim, ms(n.ClaimAt),
		n.Ended.State, ms(n.Ended.At), n.Ended.Exit, n.Ended.Took.Milliseconds(), n.Ended.Detail)
}

// DeleteNode forgets a node and its nonce; one that is not there is no error.
func (tx *Tx) DeleteNode(ctx context.Context, name string) error {
	if err := tx.DeleteNonce(ctx, name); err != nil {
		return err
	}
	return tx.exec(ctx, "DELETE FROM provision_nodes WHERE name = $1", name)
}

// Node gives one node.
func (r *reader) Node(ctx context.Context, name string) (Node, error) {
	return one(ctx, r.q, scanNode, "node "+name, "SELECT "+nodeColumns+" FROM provision_nodes WHERE name = $1", name)
}

// NodeOf gives the node of a hardware address.
func (r *reader) NodeOf(ctx context.Context, hwaddr string) (Node, error) {
	return one(ctx, r.q, scanNode, "node of "+hwaddr, "SELECT "+nodeColumns+" FROM provision_nodes WHERE hwaddr = $1", hwaddr)
}

// NodeAt gives, of the approved nodes whose last contact came from an address,
// the one heard of last.
func (r *reader) NodeAt(ctx context.Context, address string) (Node, error) {
	return one(ctx, r.q, scanNode, "node at "+address,
		"SELECT "+nodeColumns+" FROM provision_nodes WHERE address = $1 AND approved_ms > 0 ORDER BY contact_ms DESC, name LIMIT 1", address)
}

// NodeCounts says how many nodes there are.
type NodeCounts struct {
	All     int64
	Held    int64 // nobody approved them
	Claimed int64 // somebody else wanted to boot as one of these
}

// NodeCounts counts nodes.
func (r *reader) NodeCounts(ctx context.Context) (NodeCounts, error) {
	return one(ctx, r.q, func(s scanner) (c NodeCounts, err error) { return c, s.Scan(&c.All, &c.Held, &c.Claimed) }, "nodes",
		`SELECT count(*), coalesce(sum(CASE WHEN approved_ms = 0 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN claim <> '' THEN 1 ELSE 0 END), 0)
		FROM provision_nodes`)
}

// Nodes gives every node, sorted by name.
func (r *reader) Nodes(ctx context.Context) ([]Node, error) {
	return all(ctx, r.q, scanNode, "SELECT "+nodeColumns+" FROM provision_nodes ORDER BY name")
}

// CountNodes gives how many nodes there are.
func (r *reader) CountNodes(ctx context.Context) (int, error) {
	n, err := one(ctx, r.q, scanInt, "nodes", "SELECT count(*) FROM provision_nodes")
	return int(n), err
}

// NodeNames gives the names of all nodes, sorted.
func (r *reader) NodeNames(ctx context.Context) ([]string, error) {
	return all(ctx, r.q, scanText, "SELECT name FROM provision_nodes ORDER BY name")
}

// HeldNodes counts the nodes that nobody approved; with a source, those that
// came from there.
func (r *reader) HeldNodes(ctx context.Context, source string) (int, error) {
	query, args := "SELECT count(*) FROM provision_nodes WHERE approved_ms = 0", []any(nil)
	if source != "" {
		query, args = query+" AND source = $1", []any{source}
	}
	n, err := one(ctx, r.q, scanInt, "held nodes", query, args...)
	return int(n), err
}

// StaleNodes gives the names of nodes that are held and were not heard of
// since a moment.
func (r *reader) StaleNodes(ctx context.Context, since time.Time) ([]string, error) {
	return all(ctx, r.q, scanText, "SELECT name FROM provision_nodes WHERE approved_ms = 0 AND contact_ms > 0 AND contact_ms < $1 ORDER BY name", ms(since))
}

// DropPrimary takes a group from the nodes whose primary one it is; keep says
// of which it stays.
func (tx *Tx) DropPrimary(ctx context.Context, group string, keep func(name string) bool) error {
	names, err := all(ctx, tx.q, scanText, "SELECT name FROM provision_nodes WHERE grp = $1 ORDER BY name", group)
	if err != nil {
		return err
	}
	for _, n := range names {
		if keep(n) {
			continue
		}
		if err := tx.exec(ctx, "UPDATE provision_nodes SET grp = '' WHERE name = $1", n); err != nil {
			return err
		}
	}
	return nil
}

// Nonce opens the state init to one boot of a node. Only its digest is kept.
type Nonce struct {
	Node    string
	Hash    []byte // SHA-256 of its text
	Source  string // address that it was given to
	Created time.Time
	Expires time.Time
	Claimed time.Time // when its join token was asked for; zero: it was not
	Token   string    // id of that
	Used    time.Time // when that token was used, and the nonce with it; zero: it was not
}

const nonceColumns = "node, hash, source, created_ms, expires_ms, claimed_ms, token, used_ms"

func scanNonce(s scanner) (Nonce, error) {
	var n Nonce
	err := s.Scan(&n.Node, &n.Hash, &n.Source, at{&n.Created}, at{&n.Expires}, at{&n.Claimed}, &n.Token, at{&n.Used})
	return n, err
}

// PutNonce stores the nonce of a node, in the place of the one it had.
func (tx *Tx) PutNonce(ctx context.Context, n Nonce) error {
	return tx.exec(ctx, "INSERT INTO provision_nonces ("+nonceColumns+") VALUES ("+params(8)+`) ON CONFLICT (node) DO UPDATE SET
		hash = excluded.hash, source = excluded.source, created_ms = excluded.created_ms, expires_ms = excluded.expires_ms,
		claimed_ms = excluded.claimed_ms, token = excluded.token, used_ms = excluded.used_ms`,
		n.Node, bytesOrEmpty(n.Hash), n.Source, ms(n.Created), ms(n.Expires), ms(n.Claimed), n.Token, ms(n.Used))
}

// DeleteNonce withdraws the nonce of a node; none is no error.
func (tx *Tx) DeleteNonce(ctx context.Context, node string) error {
	return tx.exec(ctx, "DELETE FROM provision_nonces WHERE node = $1", node)
}

// UseNonce marks the nonce whose join token was used; none is no error.
func (tx *Tx) UseNonce(ctx context.Context, token string, used time.Time) error {
	return tx.exec(ctx, "UPDATE provision_nonces SET used_ms = $1 WHERE token = $2 AND used_ms = 0", ms(used), token)
}

// Nonce gives the nonce of a digest.
func (r *reader) Nonce(ctx context.Context, hash []byte) (Nonce, error) {
	return one(ctx, r.q, scanNonce, "nonce", "SELECT "+nonceColumns+" FROM provision_nonces WHERE hash = $1", hash)
}

// NonceOf gives the nonce of a node.
func (r *reader) NonceOf(ctx context.Context, node string) (Nonce, error) {
	return one(ctx, r.q, scanNonce, "nonce of "+node, "SELECT "+nonceColumns+" FROM provision_nonces WHERE node = $1", node)
}

// Nonces gives the nonces of all nodes, sorted by node.
func (r *reader) Nonces(ctx context.Context) ([]Nonce, error) {
	return all(ctx, r.q, scanNonce, "SELECT "+nonceColumns+" FROM provision_nonces ORDER BY node")
}

// NameTaken says whether a certificate was ever granted to a machine or an
// overlord of that name.
func (r *reader) NameTaken(ctx context.Context, name string) (bool, error) {
	n, err := one(ctx, r.q, scanInt, "name", "SELECT count(*) FROM certs WHERE name = $1 AND role IN ('minion', 'overlord')", name)
	return n > 0, err
}
