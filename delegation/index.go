package delegation

import (
	"cmp"
	"slices"
	"strings"

	"dominion/target"
)

// Index answers which way a machine is reached. It is made once for a map and
// safe for concurrent use.
//
// The shortest route wins; of equally short ones that whose hops, compared
// from the top, come first by name. So every process picks the same one.
type Index struct {
	places []place  // every place of the map, in the order of Map.All
	names  []string // every name once, sorted
	// order holds the places of names[i], best first, from first[i] to first[i+1].
	order  []int32
	first  []int32
	barred []bool // names[i] is not routed
	direct []string
}

// place is where a machine stands. In the order of Map.All, of two places with
// equally many hops that with the lesser path comes first: so places are
// compared by depth and position, without a look at the names.
type place struct {
	name  string
	above int32 // place of the hop above; -1: none
	hop   int32 // place of the first hop, itself for a direct minion
	depth int32 // names on the path
}

// Index makes the index. Names whose machines have different keys in the map
// (Conflicts) are not routed, and neither are barred ones: a map that was read
// holds no keys, and who saved it may know conflicts. Such a machine is still
// a hop for those below it.
func (m Map) Index(barred ...string) *Index {
	ix := &Index{direct: m.Direct()}
	ix.add(m.Self.Below, -1, -1, 1)
	ix.order = make([]int32, len(ix.places))
	for i := range ix.order {
		ix.order[i] = int32(i)
	}
	slices.SortFunc(ix.order, func(a, b int32) int {
		p, q := &ix.places[a], &ix.places[b]
		if c := strings.Compare(p.name, q.name); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(p.depth, q.depth), cmp.Compare(a, b))
	})
	for i, at := range ix.order {
		if name := ix.places[at].name; i == 0 || ix.names[len(ix.names)-1] != name {
			ix.names = append(ix.names, name)
			ix.first = append(ix.first, int32(i))
		}
	}
	ix.first = append(ix.first, int32(len(ix.order)))
	ix.barred = make([]bool, len(ix.names))
	for _, c := range Conflicts(m) {
		ix.bar(c.Name)
	}
	for _, name := range barred {
		ix.bar(strings.ToLower(name))
	}
	return ix
}

func (ix *Index) add(nodes []Node, above, hop, depth int32) {
	for i := range nodes {
		at := int32(len(ix.places))
		first := hop
		if above < 0 {
			first = at
		}
		ix.places = append(ix.places, place{name: nodes[i].Name, above: above, hop: first, depth: depth})
		ix.add(nodes[i].Below, at, first, depth+1)
	}
}

func (ix *Index) bar(name string) {
	if i, ok := slices.BinarySearch(ix.names, name); ok {
		ix.barred[i] = true
	}
}

// Names are all machines of the map, sub-overlords among them, sorted and each
// once. The caller must not change them.
func (ix *Index) Names() []string { return ix.names }

// Has says whether the map knows the machine, at whatever place.
func (ix *Index) Has(name string) bool {
	_, ok := slices.BinarySearch(ix.names, strings.ToLower(name))
	return ok
}

// Match resolves an expression against all machines of the map. A name that
// the map does not know is in the outcome's Unknown: it cannot be reached by
// delegation. group is target.Env's; nil: there are no groups.
func (ix *Index) Match(e *target.Expr, group func(string) ([]string, bool)) (target.Result, error) {
	return e.Resolve(target.Env{Known: ix.names, Group: group})
}

// MatchDirect resolves an expression against the direct minions alone.
func (ix *Index) MatchDirect(e *target.Expr, group func(string) ([]string, bool)) (target.Result, error) {
	return e.Resolve(target.Env{Known: ix.direct, Group: group})
}

// Unrouted gives those of some machines of the map that are not routed.
func (ix *Index) Unrouted(names []string) []string {
	if !slices.Contains(ix.barred, true) {
		return nil
	}
	var out []string
	for _, name := range names {
		if i, ok := slices.BinarySearch(ix.names, strings.ToLower(name)); ok && ix.barred[i] {
			out = append(out, name)
		}
	}
	return out
}

// Ways gives all paths to a machine, the best first, whether or not it is
// routed; none when the map does not know it.
func (ix *Index) Ways(name string) []Path {
	i, ok := slices.BinarySearch(ix.names, strings.ToLower(name))
	if !ok {
		return nil
	}
	var out []Path
	for _, at := range ix.order[ix.first[i]:ix.first[i+1]] {
		path, _ := ix.path(nil, at)
		out = append(out, path)
	}
	return out
}

// Route gives the path to a machine with the fewest hops; false: the map does
// not know it, or it is not routed.
func (ix *Index) Route(name string) (Path, bool) {
	i, ok := slices.BinarySearch(ix.names, strings.ToLower(name))
	if !ok || ix.barred[i] {
		return nil, false
	}
	path, _ := ix.path(nil, ix.order[ix.first[i]])
	return path, true
}

// path writes the path of a place behind slab, and gives it and the rest.
func (ix *Index) path(slab []string, at int32) (path Path, rest []string) {
	n := int(ix.places[at].depth)
	if cap(slab)-len(slab) < n {
		slab = make([]string, 0, max(n, min(2*cap(slab), 1<<16)))
	}
	from := len(slab)
	slab = slab[:from+n]
	for i := n - 1; i >= 0; i-- {
		slab[from+i] = ix.places[at].name
		at = ix.places[at].above
	}
	return Path(slab[from : from+n : from+n]), slab
}

// Routing is how machines are reached. Every name that was asked for is in
// exactly one of its fields, once, in the order of the question.
type Routing struct {
	Paths     []Path   // to those that can be reached
	Behind    []Behind // the map knows them, and no way whose first hop is usable
	Conflicts []string // not routed: machines with different keys bear the name
	Unknown   []string // not in the map
}

// Behind is a machine that cannot be reached.
type Behind struct {
	Name string
	Hop  string // the first hop of the best way; Name itself for a direct minion
}

// Routes gives each machine the best way among those whose first hop is
// usable. usable is asked once for each first hop that matters, and for a
// direct minion too, which is its own first hop: so one that lost its session
// is reached through another overlord of it. Nil: all are usable. Names may be
// in any order and case; sorted ones are found faster.
func (ix *Index) Routes(names []string, usable func(hop string) bool) Routing {
	out := Routing{Paths: make([]Path, 0, len(names))}
	slab := make([]string, 0, 2*len(names))
	seen := make([]bool, len(ix.names))
	hops := make(map[int32]bool)
	ok := func(hop int32) bool {
		if usable == nil {
			return true
		}
		yes, asked := hops[hop]
		if !asked {
			yes = usable(ix.places[hop].name)
			hops[hop] = yes
		}
		return yes
	}
	at, strangers := 0, make(map[string]bool)
	for _, name := range names {
		name = strings.ToLower(name)
		var found bool
		if at, found = ix.seek(name, at); !found {
			if !strangers[name] {
				strangers[name] = true
				out.Unknown = append(out.Unknown, name)
			}
			continue
		}
		if seen[at] {
			continue
		}
		seen[at] = true
		if ix.barred[at] {
			out.Conflicts = append(out.Conflicts, name)
			continue
		}
		ways := ix.order[ix.first[at]:ix.first[at+1]]
		i := slices.IndexFunc(ways, func(w int32) bool { return ok(ix.places[w].hop) })
		if i < 0 {
			out.Behind = append(out.Behind, Behind{name, ix.places[ix.places[ways[0]].hop].name})
			continue
		}
		var path Path
		path, slab = ix.path(slab, ways[i])
		out.Paths = append(out.Paths, path)
	}
	return out
}

// seek finds a name, looking first right behind position at.
func (ix *Index) seek(name string, at int) (int, bool) { return target.Seek(ix.names, name, at) }
