package call

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Names is the Merkle tree over an order's machines, hashed as in RFC 6962
// with the sorted names as leaves. It is not changed after it is made.
type Names struct {
	names  []string
	hashes []tlog.Hash // tlog's stored-hash order
	root   tlog.Hash
}

// NewNames builds the tree over names, which it sorts in a copy. Names must be
// valid and differ.
func NewNames(names []string) (*Names, error) {
	if len(names) == 0 || len(names) > MaxMachines {
		return nil, fmt.Errorf("%w: %d machines", ErrOrder, len(names))
	}
	n := &Names{names: slices.Clone(names), hashes: make([]tlog.Hash, 0, 2*len(names))}
	slices.Sort(n.names)
	for i, name := range n.names {
		if i > 0 && n.names[i-1] == name {
			return nil, fmt.Errorf("%w: machine %q is named twice", ErrOrder, name)
		}
		h, err := tlog.StoredHashes(int64(i), []byte(name), n)
		if err != nil {
			return nil, fmt.Errorf("hash machine names: %w", err)
		}
		n.hashes = append(n.hashes, h...)
	}
	root, err := tlog.TreeHash(int64(len(n.names)), n)
	if err != nil {
		return nil, fmt.Errorf("hash machine names: %w", err)
	}
	n.root = root
	return n, nil
}

// ReadHashes implements tlog.HashReader.
func (n *Names) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(n.hashes)) {
			return nil, fmt.Errorf("no hash %d", x)
		}
		out[i] = n.hashes[x]
	}
	return out, nil
}

// Len is the number of machines.
func (n *Names) Len() int { return len(n.names) }

// All gives the sorted names; the caller must not change them.
func (n *Names) All() []string { return n.names }

// Root is what the order signs.
func (n *Names) Root() [sha256.Size]byte { return n.root }

// Index gives the position of a machine, or false.
func (n *Names) Index(name string) (int, bool) { return slices.BinarySearch(n.names, name) }

// Proof gives the inclusion proof of the machine at position i.
func (n *Names) Proof(i int) ([][]byte, error) {
	p, err := tlog.ProveRecord(int64(len(n.names)), int64(i), n)
	if err != nil {
		return nil, fmt.Errorf("prove machine %d: %w", i, err)
	}
	out := make([][]byte, len(p))
	for j := range p {
		out[j] = p[j][:]
	}
	return out, nil
}

// VerifyName checks that name is the leaf at index among count machines under
// root. The error wraps ErrOrder.
func VerifyName(name string, index, count int, root [sha256.Size]byte, proof [][]byte) error {
	if len(proof) > 64 {
		return fmt.Errorf("%w: proof of %d hashes", ErrOrder, len(proof))
	}
	p := make(tlog.RecordProof, len(proof))
	for i, h := range proof {
		if len(h) != sha256.Size {
			return fmt.Errorf("%w: proof hash of %d bytes", ErrOrder, len(h))
		}
		copy(p[i][:], h)
	}
	if index < 0 || index >= count {
		return fmt.Errorf("%w: machine %d of %d", ErrOrder, index, count)
	}
	if err := tlog.CheckRecord(p, int64(count), root, int64(index), tlog.RecordHash([]byte(name))); err != nil {
		return fmt.Errorf("%w: %q is not among its machines", ErrOrder, name)
	}
	return nil
}
