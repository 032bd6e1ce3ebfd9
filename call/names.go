package call

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxHops is how many overlords may pass on an order, or a question about the map,
// on its way to a machine.
const MaxHops = 16

// Names is the Merkle tree over an order's machines, hashed as in RFC 6962
// with the sorted names as leaves. It is not changed after it is made.
type Names struct {
	names []string
	// levels of the tree, the leaves first. In each, neighbours are hashed in
	// pairs and an odd last one moves up as it is, which is the tree of RFC 6962:
	// so a proof is looked up and nothing is hashed for it.
	levels [][]tlog.Hash
}

// NewNames builds the tree over names, which it sorts in a copy. Names must be
// valid and differ.
func NewNames(names []string) (*Names, error) {
	if len(names) == 0 || len(names) > MaxMachines {
		return nil, fmt.Errorf("%w: %d machines", ErrOrder, len(names))
	}
	n := &Names{names: slices.Clone(names)}
	slices.Sort(n.names)
	level := make([]tlog.Hash, len(n.names))
	// As tlog.RecordHash and tlog.NodeHash hash, which allocate for each.
	buf := make([]byte, 0, 256)
	for i, name := range n.names {
		if i > 0 && n.names[i-1] == name {
			return nil, fmt.Errorf("%w: machine %q is named twice", ErrOrder, name)
		}
		buf = append(append(buf[:0], 0), name...)
		level[i] = sha256.Sum256(buf)
	}
	for n.levels = [][]tlog.Hash{level}; len(level) > 1; n.levels = append(n.levels, level) {
		up := make([]tlog.Hash, (len(level)+1)/2)
		for i := range up {
			if up[i] = level[2*i]; 2*i+1 < len(level) {
				buf = append(append(append(buf[:0], 1), level[2*i][:]...), level[2*i+1][:]...)
				up[i] = sha256.Sum256(buf)
			}
		}
		level = up
	}
	return n, nil
}

// Len is the number of machines.
func (n *Names) Len() int { return len(n.names) }

// All gives the sorted names; the caller must not change them.
func (n *Names) All() []string { return n.names }

// Root is what the order signs.
func (n *Names) Root() [sha256.Size]byte { return n.levels[len(n.levels)-1][0] }

// Index gives the position of a machine, or false.
func (n *Names) Index(name string) (int, bool) { return slices.BinarySearch(n.names, name) }

// Proof appends the inclusion proof of the machine at position i, hashes of
// 32 bytes from the leaf upward. They are the tree's own and must not be changed.
func (n *Names) Proof(proof [][]byte, i int) [][]byte {
	for _, level := range n.levels[:len(n.levels)-1] {
		if beside := i ^ 1; beside < len(level) {
			proof = append(proof, level[beside][:])
		}
		i >>= 1
	}
	return proof
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
