package client

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"dominion/call"
)

// Folder joins groups with equal results, whenever they came. The zero Folder
// is ready.
type Folder struct {
	groups []*Group
	byKey  map[[sha256.Size]byte]*Group
}

// Add takes g's machines; g itself is not kept. How long each machine took is
// not kept either.
func (f *Folder) Add(g *Group) {
	key := g.key()
	if have, ok := f.byKey[key]; ok {
		have.Names = append(have.Names, g.Names...)
		return
	}
	if f.byKey == nil {
		f.byKey = make(map[[sha256.Size]byte]*Group)
	}
	c := *g
	c.Names, c.Took = slices.Clone(g.Names), nil
	f.byKey[key] = &c
	f.groups = append(f.groups, &c)
}

// Groups gives what was added: sorted names in each group, answers before
// failures, then the largest group first, then by name.
func (f *Folder) Groups() []*Group {
	for _, g := range f.groups {
		slices.Sort(g.Names)
	}
	slices.SortStableFunc(f.groups, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(len(b.Names), len(a.Names)), slices.Compare(a.Names, b.Names))
	})
	return f.groups
}

// key is the digest of everything in which equal results are equal.
func (g *Group) key() [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	put := func(v uint64) {
		binary.BigEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	put(uint64(g.Status))
	put(uint64(g.Code))
	put(g.Cut)
	put(uint64(len(g.Detail)))
	h.Write([]byte(g.Detail))
	h.Write(g.Output)
	return [sha256.Size]byte(h.Sum(nil))
}

// Failures is the number of machines in groups that did not answer.
func Failures(groups []*Group) int {
	n := 0
	for _, g := range groups {
		if g.Status != call.Answered {
			n += len(g.Names)
		}
	}
	return n
}
