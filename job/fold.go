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
	Names  []string // sorted; not to be changed
	Folded string   // Names, folded
	Status call.Status
	Code   call.Code
	Detail string
	Output []byte            // JSON; nil when there is none or it was not kept
	Cut    uint64            // bytes of output that were not kept
	Sum    [sha256.Size]byte // of the output as the machines sent it
	Took   []time.Duration   // of each machine, in the order of Names
}

// folder folds equal results into groups. A machine is its place among those that
// the job accounts for: Plan.Machines, and behind them Plan.Unknown.
type folder struct {
	plan   *Plan
	seed   maphash.Seed
	groups []*gathering
	byHash map[uint64][]*gathering
}

// gathering is a group that may grow. Its machines and their times are here.
type gathering struct {
	Group
	at   []int32
	took []time.Duration // of each of at
}

func newFolder(p *Plan) *folder {
	return &folder{plan: p, seed: maphash.MakeSeed(), byHash: make(map[uint64][]*gathering)}
}

// add puts a result of the machines at some places, whose times are in the same order,
// into its group, and may keep both lists. It keeps r.Output when the group is new and keep
// allows that many bytes more; otherwise it only counts them.
func (f *folder) add(at []int32, took []time.Duration, r call.Result, keep func(n int) bool) {
	h := maphash.Bytes(f.seed, r.Output) ^ maphash.String(f.seed, r.Detail) ^ uint64(r.Code)
	for _, g := range f.byHash[h] {
		if g.Code == r.Code && g.Detail == r.Detail && g.sameOutput(r) {
			if n := len(g.at); n+len(at) > cap(g.at) { // soon it has all machines, most often
				g.at = slices.Grow(g.at, min(max(4*n, len(at)), f.places()))
				g.took = slices.Grow(g.took, cap(g.at)-n)
			}
			g.at = append(g.at, at...)
			g.took = append(g.took, took...)
			return
		}
	}
	g := &gathering{Group: Group{Status: r.Status(), Code: r.Code, Detail: r.Detail, Output: r.Output, Cut: r.Cut}, at: at, took: took}
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

// places is how many machines the job accounts for.
func (f *folder) places() int { return len(f.plan.Machines()) + len(f.plan.Unknown) }

// name gives a group its machines' names and times in the order of the names.
func (f *folder) name(g *gathering) {
	f.sort(g)
	machines := f.plan.Machines()
	g.Took = g.took
	if len(g.at) == len(machines) && (len(g.at) == 0 || int(g.at[len(g.at)-1]) < len(machines)) {
		g.Names, g.Folded = machines, f.plan.FoldedMachines()
		return
	}
	g.Names = make([]string, len(g.at))
	for i, at := range g.at {
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
	at, took := make([]int32, 0, len(g.at)), make([]time.Duration, 0, len(g.at))
	places := f.places()
	if 16*len(g.at) < places {
		order := make([]int, len(g.at))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(g.at[a], g.at[b]) })
		for _, i := range order {
			at, took = append(at, g.at[i]), append(took, g.took[i])
		}
	} else {
		from := make([]int32, places) // where each place is in g, plus one
		for i, place := range g.at {
			from[place] = int32(i) + 1
		}
		for place, i := range from {
			if i > 0 {
				at, took = append(at, int32(place)), append(took, g.took[i-1])
			}
		}
	}
	g.at, g.took = at, took
}
