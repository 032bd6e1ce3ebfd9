// Package apimap carries delegation maps through the API.
package apimap

import (
	"fmt"
	"slices"
	"strings"

	"dominion/api/apipb"
	"dominion/delegation"
)

// Encode gives a map the form that travels, with its conflicts and cuts in
// words; more are those that m does not show. It shares nothing with m but
// strings.
func Encode(m delegation.Map, more ...delegation.Conflict) *apipb.FleetMap {
	out := &apipb.FleetMap{Root: encode(&m.Self)}
	byName := func(a, b delegation.Conflict) int { return strings.Compare(a.Name, b.Name) }
	seen := delegation.Conflicts(m)
	conflicts := slices.Clone(seen)
	for _, c := range more {
		if _, found := slices.BinarySearchFunc(seen, c, byName); !found {
			conflicts = append(conflicts, c)
		}
	}
	slices.SortFunc(conflicts, byName)
	for _, c := range conflicts {
		pb := &apipb.MapConflict{Name: c.Name}
		for _, p := range c.Places {
			pb.Places = append(pb.Places, p.Path.String()+" "+p.Fingerprint)
		}
		out.Conflicts = append(out.Conflicts, pb)
	}
	for _, c := range m.Cuts {
		out.Cuts = append(out.Cuts, c.String())
	}
	return out
}

func encode(n *delegation.Node) *apipb.MapNode {
	out := &apipb.MapNode{Name: n.Name, Life: uint32(n.Life), Fingerprint: n.Fingerprint, Overlord: n.Overlord, Problem: n.Problem}
	if len(n.Below) > 0 {
		out.Below = make([]*apipb.MapNode, len(n.Below))
		for i := range n.Below {
			out.Below[i] = encode(&n.Below[i])
		}
	}
	return out
}

// Decode gives the map of what came, held to the rules and limits of package
// delegation; errors wrap delegation.ErrMap. Cuts and conflicts stay behind:
// they came in words.
func Decode(pb *apipb.FleetMap) (delegation.Map, error) {
	top, err := decode(pb.GetRoot(), 0)
	if err != nil {
		return delegation.Map{}, err
	}
	return delegation.New(top)
}

func decode(pb *apipb.MapNode, depth int) (delegation.Node, error) {
	life := delegation.Life(min(pb.GetLife(), uint32(delegation.Silent)+1))
	if life > delegation.Silent {
		life = delegation.Unasked
	}
	n := delegation.Node{Name: pb.GetName(), Life: life, Fingerprint: pb.GetFingerprint(), Overlord: pb.GetOverlord(), Problem: pb.GetProblem()}
	if len(pb.GetBelow()) == 0 {
		return n, nil
	}
	if depth == delegation.MaxDepth {
		return n, fmt.Errorf("%w: it has more than %d levels", delegation.ErrMap, delegation.MaxDepth)
	}
	n.Below = make([]delegation.Node, len(pb.Below))
	for i, b := range pb.Below {
		var err error
		if n.Below[i], err = decode(b, depth+1); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Conflicts gives the names of a map's conflicts.
func Conflicts(pb *apipb.FleetMap) []string {
	var out []string
	for _, c := range pb.GetConflicts() {
		out = append(out, c.GetName())
	}
	return out
}
