package provision

import (
	"context"
	"net/netip"
	"time"

	"dominion/api/auditpb"
)

// Store keeps nodes and nonces.
type Store interface {
	// Update runs fn in one transaction: all of its changes are durable when it
	// returns nil, and none is made when fn returns an error, which it gives back.
	Update(ctx context.Context, fn func(tx Tx) error) error
	// View runs fn on what is committed.
	View(ctx context.Context, fn func(v View) error) error
}

// View reads.
type View interface {
	NodeView
	NonceView
}

// NodeView reads nodes; not ok: there is none.
type NodeView interface {
	Node(name string) (n Node, ok bool, err error)
	NodeOf(hwaddr string) (n Node, ok bool, err error)
	// NodeAt gives, of the nodes that are approved and were heard of last from an
	// address, the one heard of last.
	NodeAt(addr netip.Addr) (n Node, ok bool, err error)
	Nodes() ([]Node, error) // sorted by name
}

// NonceView reads nonces; not ok: there is none.
type NonceView interface {
	Nonce(hash [32]byte) (n Nonce, ok bool, err error)
	NonceOf(node string) (n Nonce, ok bool, err error)
	Nonces() ([]Nonce, error)
}

// Tx is one transaction.
type Tx interface {
	View
	NodeTx
	NonceTx
	RoomTx
	// Audit appends to the audit log.
	Audit(r *auditpb.Record) error
}

// NodeTx changes nodes.
type NodeTx interface {
	PutNode(n Node) error
	// DeleteNode removes a node with its nonce.
	DeleteNode(name string) error
	// Join makes nodes members of a group, which it makes if it is missing; Leave
	// ends that, and LeaveAll that in all groups. Being one already, or not being one,
	// is no error.
	Join(group string, nodes ...string) error
	Leave(group string, nodes ...string) error
	LeaveAll(nodes ...string) error
}

// NonceTx changes nonces; a node has one at most.
type NonceTx interface {
	PutNonce(n Nonce) error
	// DeleteNonce withdraws the nonce of a node, and the join token that was given
	// for it if nobody used that.
	DeleteNonce(node string) error
}

// RoomTx answers what a new node has to know.
type RoomTx interface {
	// Held counts nodes that are not approved: all of them, and those whose first
	// contact came from source.
	Held(source netip.Addr) (all, ofSource int, err error)
	// Stale gives the names of the nodes that are held and were not heard of since.
	Stale(since time.Time) ([]string, error)
	// Count gives how many nodes there are, and Names their names.
	Count() (int, error)
	Names() ([]string, error)
	// Taken says whether a machine or an overlord has, or had, a certificate of
	// this name.
	Taken(name string) (bool, error)
}
