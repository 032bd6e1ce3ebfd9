package job

import (
	"bytes"
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
	Names  []string // sorted; not to be changed
	Folded string   // Names, folded
	Status call.Status
	Code   call.Code
	Detail string
	Output []byte            // JSON; nil when there is none or it was not kept
	Cut    uint64            // bytes of output that were not kept
	Sum    [sha256.Size]byte // of the output as the machines sent it
	Took   []time.Duration   // of each machine, in the order of Names; not to be changed
}

// folder folds equal results into groups. A machine is its place among those that
// the job accounts for: Plan.Machines, and behind them Plan.Unknown.
type folder struct {
	plan   *Plan
	seed   maphash.Seed
	took   []time.Duration // of each place whose result is known
	groups []*gathering
	byHash map[uint64][]*gathering
}

// gathering is a group that may grow. Its machines are here.
type gathering struct {
	Group
	at []int32
}

func newFolder(p *Plan) *folder {
	f := &folder{plan: p, seed: maphash.MakeSeed(), byHash: make(map[uint64][]*gathering)}
	f.took = make([]time.Duration, f.places())
	return f
}

// places is how many machines the job accounts for.
func (f *folder) places() int { return len(f.plan.Machines()) + len(f.plan.Unknown) }

// add puts a result of the machines at some places, whose times are set already, into its
// group, and may keep the list. It keeps r.Output when the group is new and keep
// allows that many bytes more; otherwise it only counts them.
func (f *folder) add(at []int32, r call.Result, keep func(n int) bool) {
	h := maphash.Bytes(f.seed, r.Output) ^ maphash.String(f.seed, r.Detail) ^ uint64(r.Code)
	for _, g := range f.byHash[h] {
		if g.Code == r.Code && g.Detail == r.Detail && g.sameOutput(r) {
			if n := len(g.at); n+len(at) > cap(g.at) { // soon it has all machines, most often
				g.at = slices.Grow(g.at, min(max(4*n, len(at)), f.places()))
			}
			g.at = append(g.at, at...)
			return
		}
	}
	g := &gathering{Group: Group{Status: r.Status(), Code: r.Code, Detail: r.Detail, Output: r.Output, Cut: r.Cut}, at: slices.Clip(at)}
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
		g.Number = first + i
		f.name(g)
		if g.Sum == ([sha256.Size]byte{}) {
			g.Sum = sha256.Sum256(g.Output)
		}
		out[i] = g.Group
	}
	f.groups = f.groups[:0]
	clear(f.byHash)
	return out
}

// name gives a group its machines' names, and their times in the order of the names.
func (f *folder) name(g *gathering) {
	machines := f.plan.Machines()
	if len(g.at) == len(machines) && len(f.plan.Unknown) == 0 { // it has them all
		g.Names, g.Took, g.Folded = machines, f.took, f.plan.FoldedMachines()
		return
	}
	f.sort(g)
	g.Names, g.Took = make([]string, len(g.at)), make([]time.Duration, len(g.at))
	for i, at := range g.at {
		g.Took[i] = f.took[at]
		if int(at) < len(machines) {
			g.Names[i] = machines[at]
		} else {
			g.Names[i] = f.plan.Unknown[int(at)-len(machines)]
		}
	}
	if n := len(g.at); n == 0 || int(g.at[n-1]) < len(machines) {
		g.Folded = f.plan.roster().Fold(g.at)
		return
	}
	// Names that nobody knows have the same result and no time, so the order of times does not matter.
	slices.Sort(g.Names)
	g.Folded = target.Fold(g.Names)
}

// sort orders a group by place. Machines answer in no order, so a group of many is
// laid out over all places instead of being compared.
func (f *folder) sort(g *gathering) {
	if slices.IsSorted(g.at) {
		return
	}
	g.at = slices.Clone(g.at) // it may be the scope's
	if 16*len(g.at) < f.places() {
		slices.Sort(g.at)
		return
	}
	in := make([]bool, f.places())
	for _, at := range g.at {
		in[at] = true
	}
	sorted := g.at[:0]
	for at, is := range in {
		if is {
			sorted = append(sorted, int32(at))
		}
	}
	g.at = sorted
}
