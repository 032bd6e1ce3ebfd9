package delegation

import (
	"slices"
	"strings"
)

// Difference is what Diff found.
type Difference struct {
	Added   []Path // places that only the new map has
	Removed []Path // places that only the old map has
	Moved   []Move // a place of the old map, and one of the new, of the same name
}

// Move is a machine that changed its place.
type Move struct{ From, To Path }

// Diff compares the places of two maps; what else is known of the machines
// does not count. Each place that only one map has is listed once: in Moved,
// when the other map alone has another place of that name (the shortest of
// both sides first), and otherwise in Added or Removed. All three are in the
// order of Path.Compare, Moved by To.
func Diff(old, new Map) Difference {
	var d differ
	d.level(make(Path, 0, MaxDepth), old.Self.Below, new.Self.Below)
	slices.SortFunc(d.gone, Path.Compare)
	slices.SortFunc(d.come, Path.Compare)
	from := make(map[string][]Path)
	for _, p := range d.gone {
		name := p[len(p)-1]
		from[name] = append(from[name], p)
	}
	var out Difference
	for _, p := range d.come {
		name := p[len(p)-1]
		if was := from[name]; len(was) > 0 {
			out.Moved = append(out.Moved, Move{From: was[0], To: p})
			from[name] = was[1:]
			continue
		}
		out.Added = append(out.Added, p)
	}
	for _, p := range d.gone {
		// Those that moved were taken from the front, so what is left is behind.
		name := p[len(p)-1]
		if left := from[name]; len(left) > 0 && left[0].Compare(p) == 0 {
			out.Removed = append(out.Removed, p)
			from[name] = left[1:]
		}
	}
	return out
}

// differ collects the places that one of two trees has.
type differ struct{ gone, come []Path }

func (d *differ) level(path Path, old, new []Node) {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].Name < new[0].Name:
			d.gone = collect(d.gone, path, old[:1])
			old = old[1:]
		case len(old) == 0 || strings.Compare(old[0].Name, new[0].Name) > 0:
			d.come = collect(d.come, path, new[:1])
			new = new[1:]
		default:
			d.level(append(path, old[0].Name), old[0].Below, new[0].Below)
			old, new = old[1:], new[1:]
		}
	}
}

func collect(to []Path, path Path, nodes []Node) []Path {
	walk(path, nodes, func(p Path, _ *Node) bool {
		to = append(to, slices.Clone(p))
		return true
	})
	return to
}

// Conflict is a name that machines with different keys bear. It is not routed.
type Conflict struct {
	Name   string
	Places []Place // all places of the name of which the key is known, as Path.Compare orders them
}

// Place is where a machine with a key stands. An empty path is the top itself.
type Place struct {
	Path        Path
	Fingerprint string
}

// Conflicts gives the names with different keys, sorted. A machine that bears
// an ancestor's name with another key was cut, and is listed here too.
func Conflicts(m Map) []Conflict {
	first := make(map[string]string) // the first key of each name
	clash := make(map[string]bool)
	places(m, func(_ Path, name, fingerprint string) {
		if one, seen := first[name]; !seen {
			first[name] = fingerprint
		} else if one != fingerprint {
			clash[name] = true
		}
	})
	if len(clash) == 0 {
		return nil
	}
	found := make(map[string][]Place)
	places(m, func(path Path, name, fingerprint string) {
		if clash[name] {
			found[name] = append(found[name], Place{slices.Clone(path), fingerprint})
		}
	})
	var out []Conflict
	for name, at := range found {
		slices.SortFunc(at, func(a, b Place) int { return a.Path.Compare(b.Path) })
		out = append(out, Conflict{name, at})
	}
	slices.SortFunc(out, func(a, b Conflict) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// places gives every place of which the name and the key are known.
func places(m Map, visit func(path Path, name, fingerprint string)) {
	if m.Self.Name != "" && m.Self.Fingerprint != "" {
		visit(nil, m.Self.Name, m.Self.Fingerprint)
	}
	for path, n := range m.All() {
		if n.Fingerprint != "" {
			visit(path, n.Name, n.Fingerprint)
		}
	}
	for _, c := range m.Cuts {
		if c.Fingerprint != "" {
			visit(c.Path, strings.ToLower(c.Path[len(c.Path)-1]), c.Fingerprint)
		}
	}
}

// Unambiguous gives the map without the machines of conflicting names that
// have nobody below them, which is what to save: a file holds no keys, so a
// conflict in it would be forgotten. A conflicting hop stays, since those
// behind it need it; give its name to Index as barred. More conflicting names
// may be given, for a map that does not hold all keys any more.
func Unambiguous(m Map, more ...string) Map {
	clash := make(map[string]bool)
	for _, name := range more {
		clash[strings.ToLower(name)] = true
	}
	for _, c := range Conflicts(m) {
		clash[c.Name] = true
	}
	if len(clash) > 0 {
		m.Self.Below = without(m.Self.Below, clash)
	}
	return m
}

func without(nodes []Node, names map[string]bool) []Node {
	var out []Node
	for _, n := range nodes {
		n.Below = without(n.Below, names)
		if len(n.Below) > 0 || !names[n.Name] {
			out = append(out, n)
		}
	}
	return out
}
