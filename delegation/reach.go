package delegation

import (
	"strings"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/target"
)

// maxWays is how many ways to one machine are used, the best ones.
const maxWays = 8

// Reach gives the part of the map that leads to those machines: what an order to
// them needs on its way, with all ways to each, the longest and those beyond
// the eighth left out. Names that the map does not know, or does not route, are
// left out. self is the name of the overlord at the top.
func (ix *Index) Reach(self string, names []string) *fleetpb.Branch {
	rc := reach{ix: ix, of: make(map[int32]*branchOf), root: &branchOf{name: self}}
	at := 0
	for _, name := range names {
		var found bool
		if at, found = ix.seek(strings.ToLower(name), at); !found || ix.barred[at] {
			continue
		}
		ways := ix.order[ix.first[at]:ix.first[at+1]]
		for _, w := range ways[:min(len(ways), maxWays)] {
			if p := &ix.places[w]; p.depth <= call.MaxHops+1 {
				b := rc.branch(p.above)
				b.machines = append(b.machines, ix.names[at])
			}
		}
	}
	return rc.root.message()
}

// reach makes the branches of those that are on the way.
type reach struct {
	ix   *Index
	of   map[int32]*branchOf // by place
	root *branchOf
}

type branchOf struct {
	name     string
	machines []string
	below    []*branchOf
}

func (r *reach) branch(at int32) *branchOf {
	if at < 0 {
		return r.root
	}
	b := r.of[at]
	if b == nil {
		p := &r.ix.places[at]
		b = &branchOf{name: p.name}
		r.of[at] = b
		above := r.branch(p.above)
		above.below = append(above.below, b)
	}
	return b
}

func (b *branchOf) message() *fleetpb.Branch {
	out := &fleetpb.Branch{Name: b.name, Machines: target.Fold(b.machines)}
	for _, sub := range b.below {
		out.Below = append(out.Below, sub.message())
	}
	return out
}
