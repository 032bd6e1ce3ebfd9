package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree, SHA-256.
type Hash = tlog.Hash

// NodeLevel is the lowest level of the tree above the leaves whose nodes are
// stored. A node of level L and number N covers the leaves N<<L to (N+1)<<L-1;
// leaves are level 0. Storing every node would double the rows of a log;
// 256 leaf hashes are read and folded in 60 µs when a lower one is needed.
const NodeLevel = 8

// maxSize bounds the leaves of a log, so that no index overflows.
const maxSize = 1 << 48

// ErrTree is wrapped by errors about hashes and proofs that do not fit.
var ErrTree = errors.New("audit tree does not fit")

// LeafHash is the hash of a leaf's bytes.
func LeafHash(leaf []byte) Hash { return tlog.RecordHash(leaf) }

// Tree is the right edge of a log: all that is needed to append to it and to
// know its root. The zero Tree is empty. It is not safe for concurrent use.
type Tree struct {
	size int64
	edge []Hash // roots of the complete subtrees, the largest first: one per bit of size
}

// Size is the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Clone gives an independent copy.
func (t *Tree) Clone() *Tree { return &Tree{size: t.size, edge: slices.Clone(t.edge)} }

// Append adds a leaf and appends to buf the nodes that it completes: the leaf
// itself, level 0, then its parents, level 1 and so on. The node of level L is
// number (Size()-1)>>L there.
func (t *Tree) Append(buf []Hash, leaf Hash) []Hash {
	buf = append(buf, leaf)
	h := leaf
	for rest := t.size; rest&1 == 1; rest >>= 1 {
		h = tlog.NodeHash(t.edge[len(t.edge)-1], h)
		t.edge = t.edge[:len(t.edge)-1]
		buf = append(buf, h)
	}
	t.edge = append(t.edge, h)
	t.size++
	return buf
}

// Root is the tree hash of RFC 6962; of an empty tree, SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.size == 0 {
		return emptyRoot()
	}
	h := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.edge[i], h)
	}
	return h
}

// Equal says whether both trees have the same leaves.
func (t *Tree) Equal(u *Tree) bool { return t.size == u.size && slices.Equal(t.edge, u.edge) }

func emptyRoot() Hash {
	h, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic(err) // an empty tree reads nothing
	}
	return h
}

// AppendBinary appends size and edge: u64 big-endian, then 32 bytes for each
// bit that is set in it.
func (t *Tree) AppendBinary(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint64(b, uint64(t.size))
	for _, h := range t.edge {
		b = append(b, h[:]...)
	}
	return b, nil
}

// ParseTree reads exactly what AppendBinary wrote; errors wrap ErrTree.
func ParseTree(b []byte) (*Tree, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("%w: %d bytes", ErrTree, len(b))
	}
	size := binary.BigEndian.Uint64(b)
	if b = b[8:]; size > maxSize || len(b) != bits.OnesCount64(size)*tlog.HashSize {
		return nil, fmt.Errorf("%w: %d leaves with %d bytes of hashes", ErrTree, size, len(b))
	}
	t := &Tree{size: int64(size)}
	for ; len(b) > 0; b = b[tlog.HashSize:] {
		t.edge = append(t.edge, Hash(b[:tlog.HashSize]))
	}
	return t, nil
}

// Hashes reads what a log keeps of its tree.
type Hashes struct {
	// Leaves gives the n leaf hashes from index first on; required.
	Leaves func(first int64, n int) ([]Hash, error)
	// Node gives the stored node of a level of at least NodeLevel; required.
	Node func(level int, number int64) (Hash, error)
}

// ReadHashes implements tlog.HashReader.
func (r Hashes) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, x := range indexes {
		level, number := tlog.SplitStoredHashIndex(x)
		h, err := r.read(level, number)
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

func (r Hashes) read(level int, number int64) (Hash, error) {
	if level >= NodeLevel {
		return r.Node(level, number)
	}
	n := 1 << level
	leaves, err := r.Leaves(number<<level, n)
	if err != nil {
		return Hash{}, err
	}
	if len(leaves) != n {
		return Hash{}, fmt.Errorf("%w: %d leaf hashes from record %d on; want %d", ErrTree, len(leaves), number<<level, n)
	}
	var t Tree
	for _, h := range leaves {
		t.Append(nil, h)
	}
	return t.Root(), nil
}

// LoadTree reads the right edge of a log of size leaves.
func LoadTree(size int64, r Hashes) (*Tree, error) {
	if size < 0 || size > maxSize {
		return nil, fmt.Errorf("%w: %d leaves", ErrTree, size)
	}
	t := &Tree{size: size}
	for level, done := bits.Len64(uint64(size))-1, int64(0); level >= 0; level-- {
		if size&(1<<level) == 0 {
			continue
		}
		h, err := r.read(level, done>>level)
		if err != nil {
			return nil, fmt.Errorf("read the edge of the audit tree: %w", err)
		}
		t.edge = append(t.edge, h)
		done += 1 << level
	}
	return t, nil
}

// RootAt gives the tree hash of the first size leaves.
func RootAt(size int64, r Hashes) (Hash, error) {
	h, err := tlog.TreeHash(size, r)
	if err != nil {
		return Hash{}, fmt.Errorf("compute audit tree of %d records: %w", size, err)
	}
	return h, nil
}

// ProveConsistency proves that the tree of size leaves begins with that of old
// leaves (RFC 6962, section 2.1.2). The proof is empty when old is 0 or size.
func ProveConsistency(old, size int64, r Hashes) ([][]byte, error) {
	if old < 0 || size < old {
		return nil, fmt.Errorf("%w: a log of %d records cannot continue one of %d", ErrTree, size, old)
	}
	if old == 0 || old == size {
		return nil, nil
	}
	p, err := tlog.ProveTree(size, old, r)
	if err != nil {
		return nil, fmt.Errorf("prove that %d records continue %d: %w", size, old, err)
	}
	out := make([][]byte, len(p))
	for i := range p {
		out[i] = p[i][:]
	}
	return out, nil
}

// CheckConsistency checks such a proof; errors wrap ErrTree.
func CheckConsistency(proof [][]byte, old int64, oldRoot Hash, size int64, root Hash) error {
	switch {
	case old < 0 || size < old || size > maxSize:
		return fmt.Errorf("%w: a log of %d records cannot continue one of %d", ErrTree, size, old)
	case len(proof) > 64:
		return fmt.Errorf("%w: proof of %d hashes", ErrTree, len(proof))
	case old == 0 || old == size:
		if len(proof) != 0 || old == size && oldRoot != root || old == 0 && oldRoot != emptyRoot() {
			return fmt.Errorf("%w: two different logs of %d records", ErrTree, size)
		}
		return nil
	}
	p := make(tlog.TreeProof, len(proof))
	for i, h := range proof {
		if len(h) != tlog.HashSize {
			return fmt.Errorf("%w: proof hash of %d bytes", ErrTree, len(h))
		}
		p[i] = Hash(h)
	}
	if err := tlog.CheckTree(p, size, root, old, oldRoot); err != nil {
		return fmt.Errorf("%w: the log of %d records does not continue that of %d", ErrTree, size, old)
	}
	return nil
}
