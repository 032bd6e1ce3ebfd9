package job

import (
	"slices"
	"sync"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/target"
)

// Whom says whom an order is for, and how they are reached.
type Whom struct {
	Names []string // the order's machines, in any order
	// Reach says through whom machines are reached: the part of the map that
	// leads to them. Nil: all machines of the order are this overlord's own.
	Reach *fleetpb.Branch
	// Part says that only the machines of Reach are this overlord's to account
	// for, because another sent it the order; the rest of Names is for the proofs.
	Part bool
	Via  []string // overlords that the order came through, the top first
}

// Scope is what follows from Whom alone: the same for every order to the same
// machines. It is not changed after it is made.
type Scope struct {
	Tree *call.Names

	machines   []string              // to be accounted for, sorted
	leaf       []int32               // position of each in Tree; nil: the same
	ways       *ways                 // nil: all machines are this overlord's own
	own        []string              // machines that may be sent their calls from here, sorted
	roster     func() *target.Roster // of machines
	folded     func() string         // all of Tree
	foldedPart func() string         // machines
}

// NewScope makes a scope. Errors are *call.Error: BadOrder for names that no order
// can have, and for ways to machines outside of them; Invalid for other faults of Reach.
func NewScope(w Whom) (*Scope, error) {
	tree, err := call.NewNames(w.Names)
	if err != nil {
		return nil, call.Errorf(call.BadOrder, "%v", err)
	}
	s := &Scope{Tree: tree, machines: tree.All(), own: tree.All()}
	if w.Reach != nil {
		if err := s.readReach(w); err != nil {
			return nil, err
		}
	}
	s.roster = sync.OnceValue(func() *target.Roster { return target.NewRoster(s.machines) })
	s.folded = sync.OnceValue(func() string { return target.Fold(tree.All()) })
	s.foldedPart = s.folded
	if s.leaf != nil { // not all of them
		s.foldedPart = sync.OnceValue(func() string { return target.Fold(s.machines) })
	}
	return s, nil
}

// Machines gives the machines that the job accounts for beside Unknown, sorted;
// the caller must not change them.
func (s *Scope) Machines() []string { return s.machines }

// Own gives those of Machines that are, or may come to be, sent their calls by this
// overlord itself, sorted; the caller must not change them.
func (s *Scope) Own() []string { return s.own }

// Folded gives the names of the whole order, folded.
func (s *Scope) Folded() string { return s.folded() }

// Find gives the positions in Machines of the names that a folded text stands for,
// ascending, and those of them that are not there, sorted. Limits and errors
// are those of target.Expand.
func (s *Scope) Find(folded string) (at []int32, others []string, err error) {
	return s.roster().Find(folded)
}

// FoldedMachines gives Machines, folded.
func (s *Scope) FoldedMachines() string { return s.foldedPart() }

// index gives the position of a machine in Machines, or false.
func (s *Scope) index(name string) (int, bool) { return slices.BinarySearch(s.machines, name) }

// ownOf gives those of some machines, sorted, that are in Own.
func (s *Scope) ownOf(names []string) []string {
	switch {
	case s.ways == nil:
		return names
	case len(s.own) == 0:
		return nil
	}
	var out []string
	for k, at := range locate(s.own, names) {
		if at >= 0 {
			out = append(out, names[k])
		}
	}
	return out
}
