package delegation

import (
	"slices"
	"strings"
)

// Merge gives new with what only old knows, at every level: nothing that only
// one of them has is lost, and where both have a machine, new's word counts.
//
// One thing of old is not kept: a machine that moved. That is one which new
// shows alive elsewhere, below whom old knows nobody whom new does not know,
// and whose former overlord answered without it. Kept, its former place could
// be the shorter route, and lead nowhere.
//
// What only old knows is Unasked in the outcome. Its Cuts are those of both.
func Merge(old, new Map) Map {
	if self := new.Self.Name; self != "" && old.Self.Name != self {
		old = old.below(self)
	}
	mg := merger{fresh: new}
	out := Map{Self: mg.join(&old.Self, &new.Self)}
	out.Cuts = append(out.Cuts, new.Cuts...)
	for _, c := range old.Cuts {
		if _, back := out.Find(c.Path...); !back && !listed(new.Cuts, c) {
			out.Cuts = append(out.Cuts, c)
		}
	}
	return out
}

// below gives the map as one of an overlord of this name, which a map that was
// read does not know: what bears its name is cut.
func (m Map) below(self string) Map {
	cuts := slices.Clone(m.Cuts)
	var prune func(path Path, nodes []Node) []Node
	prune = func(path Path, nodes []Node) []Node {
		var out []Node
		for _, n := range nodes {
			at := append(slices.Clone(path), n.Name)
			if n.Name == self {
				cuts = append(cuts, Cut{Path: at, Fingerprint: n.Fingerprint})
				continue
			}
			n.Below = prune(at, n.Below)
			out = append(out, n)
		}
		return out
	}
	m.Self.Below = prune(nil, m.Self.Below)
	m.Self.Name, m.Cuts = self, cuts
	return m
}

func listed(cuts []Cut, c Cut) bool {
	for _, d := range cuts {
		if d.Path.Compare(c.Path) == 0 {
			return true
		}
	}
	return false
}

type merger struct {
	fresh Map
	lives map[string]Life // the best that fresh says of each name; made when first needed
}

// join merges two nodes of the same place.
func (mg *merger) join(old, new *Node) Node {
	out := *new
	if out.Name == "" {
		out.Name = old.Name
	}
	if new.Life == Unasked && new.Problem == "" {
		out.Life, out.Problem = old.Life, old.Problem
	}
	if out.Fingerprint == "" {
		out.Fingerprint = old.Fingerprint
	}
	if new.Life != Alive || new.Problem != "" {
		out.Overlord = new.Overlord || old.Overlord
	}
	answered := new.Life == Alive && new.Overlord && new.Problem == ""
	out.Below = mg.joinLevel(old.Below, new.Below, answered)
	return out
}

// joinLevel merges two sorted lists of neighbours.
func (mg *merger) joinLevel(old, new []Node, answered bool) []Node {
	if len(old) == 0 {
		return new
	}
	out := make([]Node, 0, max(len(old), len(new)))
	for len(old) > 0 || len(new) > 0 {
		side := 0
		switch {
		case len(old) == 0:
			side = 1
		case len(new) == 0:
			side = -1
		default:
			side = strings.Compare(old[0].Name, new[0].Name)
		}
		switch {
		case side < 0:
			if !answered || !mg.moved(&old[0]) {
				out = append(out, unasked(&old[0]))
			}
			old = old[1:]
		case side > 0:
			out, new = append(out, new[0]), new[1:]
		default:
			out = append(out, mg.join(&old[0], &new[0]))
			old, new = old[1:], new[1:]
		}
	}
	return out
}

// moved says whether a machine is alive elsewhere in the fresh map, and all
// below it known there.
func (mg *merger) moved(n *Node) bool {
	if mg.lives == nil {
		mg.lives = make(map[string]Life)
		for _, n := range mg.fresh.All() {
			if life, known := mg.lives[n.Name]; !known || life != Alive {
				mg.lives[n.Name] = n.Life
			}
		}
	}
	if mg.lives[n.Name] != Alive {
		return false
	}
	return walk(nil, n.Below, func(_ Path, below *Node) bool {
		_, known := mg.lives[below.Name]
		return known
	})
}

// unasked copies a tree of which nobody heard this time.
func unasked(n *Node) Node {
	out := *n
	out.Life, out.Problem = Unasked, ""
	out.Below = nil
	if len(n.Below) > 0 {
		out.Below = make([]Node, len(n.Below))
		for i := range n.Below {
			out.Below[i] = unasked(&n.Below[i])
		}
	}
	return out
}

// OnlyAlive gives the map without what did not answer, at every level: a
// machine that is silent, or of which nobody asked, goes with all below it.
func OnlyAlive(m Map) Map {
	m.Self.Below = alive(m.Self.Below)
	return m
}

func alive(nodes []Node) []Node {
	var out []Node
	for _, n := range nodes {
		if n.Life == Alive {
			n.Below = alive(n.Below)
			out = append(out, n)
		}
	}
	return out
}
