package job

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"hash/maphash"
	"slices"
	"time"

	"dominion/call"
	"dominion/target"
)

// Group is a set of machines with equal results, numbered within its job from 0.
type Group struct {
	Number int
	Names  []string // sorted
	Folded string   // Names, folded
	Status call.Status
	Code   call.Code
	Detail string
	Output []byte            // JSON; nil when there is none or it was not kept
	Cut    uint64            // bytes of output that were not kept
	Sum    [sha256.Size]byte // of the output as the machines sent it
	Took   []time.Duration   // of each machine, in the order of Names
}

// folder folds equal results into groups.
type folder struct {
	seed   maphash.Seed
	groups []*Group
	byHash map[uint64][]*Group
}

func newFolder() *folder {
	return &folder{seed: maphash.MakeSeed(), byHash: make(map[uint64][]*Group)}
}

// add puts a result of some machines, whose times are in the same order, into its
// group. It keeps r.Output when the group is new and keep allows that many bytes
// more; otherwise it only counts them.
func (f *folder) add(names []string, took []time.Duration, r call.Result, keep func(n int) bool) {
	h := maphash.Bytes(f.seed, r.Output) ^ maphash.String(f.seed, r.Detail) ^ uint64(r.Code)
	for _, g := range f.byHash[h] {
		if g.Code == r.Code && g.Detail == r.Detail && g.sameOutput(r) {
			g.Names = append(g.Names, names...)
			g.Took = append(g.Took, took...)
			return
		}
	}
	g := &Group{
		Names: names, Status: r.Status(), Code: r.Code, Detail: r.Detail, Output: r.Output, Cut: r.Cut, Took: took,
	}
	if len(r.Output) > 0 && !keep(len(r.Output)) {
		g.Sum = sha256.Sum256(r.Output)
		g.Output, g.Cut = nil, r.Cut+uint64(len(r.Output))
	}
	f.byHash[h] = append(f.byHash[h], g)
	f.groups = append(f.groups, g)
}

func (g *Group) sameOutput(r call.Result) bool {
	if g.Output == nil && g.Cut > r.Cut {
		return g.Cut == r.Cut+uint64(len(r.Output)) && g.Sum == sha256.Sum256(r.Output)
	}
	return g.Cut == r.Cut && bytes.Equal(g.Output, r.Output)
}

// fold gives the groups so far, numbered from first, and forgets them.
func (f *folder) fold(first int) []Group {
	out := make([]Group, len(f.groups))
	for i, g := range f.groups {
		g.sort()
		g.Number, g.Folded = first+i, target.Fold(g.Names)
		if g.Sum == ([sha256.Size]byte{}) {
			g.Sum = sha256.Sum256(g.Output)
		}
		out[i] = *g
	}
	f.groups = f.groups[:0]
	clear(f.byHash)
	return out
}

func (g *Group) sort() {
	if slices.IsSorted(g.Names) {
		return
	}
	order := make([]int, len(g.Names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(g.Names[a], g.Names[b]) })
	names, took := make([]string, len(order)), make([]time.Duration, len(order))
	for i, from := range order {
		names[i], took[i] = g.Names[from], g.Took[from]
	}
	g.Names, g.Took = names, took
}
