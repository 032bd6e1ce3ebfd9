package job

import (
	"cmp"
	"slices"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/target"
)

// Limits of a Branch that another overlord, or the store, gives us.
const (
	MaxBranches  = 100_000              // sub-overlords in all
	maxHops      = 30_000               // directly below one overlord
	maxReached   = 4 * call.MaxMachines // names in all: a machine may stand in several places
	maxWays      = 8                    // to one machine; the rest is not used
	direct       = -1                   // in place of a hop: the machine is our own
	nowhere      = -2                   // no way is known
	detailNoWay  = "the map knows no way to it"
	detailNoName = "no machine of that name has enrolled"
	detailClash  = "machines with different keys bear this name; dominion map show tells where they are"
	detailNoMap  = "it is not in the map"
)

// ways says how the machines of a plan are reached.
type ways struct {
	hops []hop
	best []int16         // of each machine: the hop, direct or nowhere
	more map[int32][]way // of machines with several ways, the best first
	none []int32         // machines that nothing leads to
}

// hop is a sub-overlord of ours that leads to machines.
type hop struct {
	name   string
	branch *fleetpb.Branch
	depth  int     // overlords on its longest way, itself included
	best   []int32 // positions of the machines that it is the best way to
}

// way is one way to a machine.
type way struct {
	hop   int16
	depth int // overlords on it
}

// reader reads a Branch into ways over the names of a tree.
type reader struct {
	names    []string
	ways     *ways
	depth    []uint8  // of the best way to each name
	path     []string // overlords that the order came through, and those on the way down
	reached  int
	branches int
}

// readReach sets the scope's machines and ways. Errors are *call.Error.
func (s *Scope) readReach(w Whom) error {
	names, b := s.Tree.All(), w.Reach
	rd := &reader{names: names, path: append(slices.Clone(w.Via), b.GetName()), ways: &ways{best: make([]int16, len(names))}, depth: make([]uint8, len(names))}
	for i := range rd.ways.best {
		rd.ways.best[i] = nowhere
	}
	if err := rd.add(direct, 0, b.GetMachines()); err != nil {
		return err
	}
	below := slices.SortedFunc(slices.Values(b.GetBelow()), func(a, b *fleetpb.Branch) int { return cmp.Compare(a.GetName(), b.GetName()) })
	if len(below) > maxHops {
		return call.Errorf(call.Invalid, "more than %d sub-overlords below one", maxHops)
	}
	for i, h := range below {
		if i > 0 && below[i-1].GetName() == h.GetName() {
			return call.Errorf(call.Invalid, "sub-overlord %.80q is there twice", h.GetName())
		}
		depth, err := rd.walk(int16(i), h, 1)
		if err != nil {
			return err
		}
		rd.ways.hops = append(rd.ways.hops, hop{name: h.GetName(), branch: h, depth: depth})
	}
	s.ways = rd.ways
	if w.Part {
		s.onlyReached()
	}
	for i, h := range s.ways.best {
		switch {
		case h >= 0:
			s.ways.hops[h].best = append(s.ways.hops[h].best, int32(i))
		case h == nowhere:
			s.ways.none = append(s.ways.none, int32(i))
		}
	}
	if len(s.machines) == 0 {
		return call.Errorf(call.Invalid, "there is no machine to be reached")
	}
	s.own = nil
	for i, name := range s.machines {
		if s.ways.best[i] == direct || slices.ContainsFunc(s.ways.more[int32(i)], func(w way) bool { return w.hop == direct }) {
			s.own = append(s.own, name)
		}
	}
	return nil
}

// walk adds the machines of a branch whose overlord is the depth-th on the way, and
// gives how deep it is.
func (rd *reader) walk(hop int16, b *fleetpb.Branch, depth int) (deepest int, err error) {
	if name, err := call.ParseName(b.GetName()); err != nil || name != b.GetName() {
		return 0, call.Errorf(call.Invalid, "%.80q is no overlord's name", b.GetName())
	}
	// More than lead to the machines by all ways that are used lead to none.
	most := min(MaxBranches, call.MaxHops*maxWays*len(rd.names))
	if rd.branches++; rd.branches > most || depth > call.MaxHops {
		return 0, call.Errorf(call.Invalid, "more than %d sub-overlords, or %d on one way", most, call.MaxHops)
	}
	if slices.Contains(rd.path, b.GetName()) {
		return 0, call.Errorf(call.Invalid, "a way through overlord/%s leads to it again", b.GetName())
	}
	if err := rd.add(hop, depth, b.GetMachines()); err != nil {
		return 0, err
	}
	rd.path = append(rd.path, b.GetName())
	defer func() { rd.path = rd.path[:len(rd.path)-1] }()
	deepest = depth
	for _, sub := range b.GetBelow() {
		d, err := rd.walk(hop, sub, depth+1)
		if err != nil {
			return 0, err
		}
		deepest = max(deepest, d)
	}
	return deepest, nil
}

// add adds a way to each machine of a folded list.
func (rd *reader) add(hop int16, depth int, folded string) error {
	if folded == "" {
		return nil
	}
	list, err := target.Expand(folded)
	if err != nil {
		return call.Errorf(call.Invalid, "machines to be reached: %v", err)
	}
	if rd.reached += len(list); rd.reached > maxReached {
		return call.Errorf(call.Invalid, "more than %d machines to be reached", maxReached)
	}
	w := rd.ways
	for _, at := range locate(rd.names, list) {
		if at < 0 {
			return call.Errorf(call.BadOrder, "machines are to be reached that are not in the order")
		}
		if w.best[at] == nowhere {
			w.best[at], rd.depth[at] = hop, uint8(depth)
			continue
		}
		w.another(at, way{w.best[at], int(rd.depth[at])}, way{hop, depth})
		if all := w.more[at]; len(all) > 0 {
			w.best[at], rd.depth[at] = all[0].hop, uint8(all[0].depth)
		}
	}
	return nil
}

// another adds a way to a machine that has one. Through each hop there is one: which
// of its own that takes is for the hop to decide.
func (w *ways) another(at int32, one, two way) {
	all := w.more[at]
	if all == nil {
		all = []way{one}
	}
	if i := slices.IndexFunc(all, func(x way) bool { return x.hop == two.hop }); i >= 0 {
		all[i].depth = min(all[i].depth, two.depth)
	} else {
		all = append(all, two)
	}
	slices.SortFunc(all, func(a, b way) int { return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.hop, b.hop)) })
	if w.more == nil {
		w.more = make(map[int32][]way)
	}
	w.more[at] = all[:min(len(all), maxWays)]
}

// onlyReached leaves out the machines that nothing leads to.
func (s *Scope) onlyReached() {
	reached := 0
	for _, h := range s.ways.best {
		if h != nowhere {
			reached++
		}
	}
	if reached == len(s.machines) {
		return
	}
	all, best, more := s.machines, s.ways.best, s.ways.more
	s.machines, s.leaf, s.ways.best = make([]string, 0, reached), make([]int32, 0, reached), make([]int16, 0, reached)
	s.ways.more = make(map[int32][]way, len(more))
	for i, h := range best {
		if h == nowhere {
			continue
		}
		if ws := more[int32(i)]; ws != nil {
			s.ways.more[int32(len(s.machines))] = ws
		}
		s.machines, s.leaf, s.ways.best = append(s.machines, all[i]), append(s.leaf, int32(i)), append(s.ways.best, h)
	}
}

// locate gives the position of each of some sorted names among all, which are sorted
// too; -1 where it is not there.
func locate(all, some []string) []int32 {
	out := make([]int32, len(some))
	at := 0
	for k, name := range some {
		i, found := target.Seek(all, name, at)
		if at, out[k] = i, -1; found {
			out[k] = int32(i)
		}
	}
	return out
}

// only gives the part of a branch that leads to machines for which keep holds; nil
// when there is none.
func only(b *fleetpb.Branch, keep func(name string) bool) (*fleetpb.Branch, error) {
	out := &fleetpb.Branch{Name: b.GetName()}
	if b.GetMachines() != "" {
		list, err := target.Expand(b.GetMachines())
		if err != nil {
			return nil, call.Errorf(call.Invalid, "machines to be reached: %v", err)
		}
		if kept := slices.DeleteFunc(slices.Clone(list), func(n string) bool { return !keep(n) }); len(kept) == len(list) {
			out.Machines = b.GetMachines()
		} else {
			out.Machines = target.Fold(kept)
		}
	}
	for _, sub := range b.GetBelow() {
		o, err := only(sub, keep)
		if err != nil {
			return nil, err
		}
		if o != nil {
			out.Below = append(out.Below, o)
		}
	}
	if out.Machines == "" && len(out.Below) == 0 {
		return nil, nil
	}
	return out, nil
}
