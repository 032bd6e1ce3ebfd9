package delegation

// Groups are paths, sorted by what an overlord does with them.
type Groups struct {
	Direct []string // its own minions that are to do the work
	Hops   []Hop    // those that are to pass it on
}

// Hop is a sub-overlord and the paths from it on. It does the work itself only
// when it is in Direct too.
type Hop struct {
	Name string
	Rest []Path
}

// Group splits paths into what is direct, and by the next hop the rest. All
// keep the order of the paths, hops that of their first path; a path that
// comes twice is kept twice, and an empty one names nobody. The rests share
// memory with the paths.
func Group(paths []Path) Groups {
	var g Groups
	at := make(map[string]int)
	for _, p := range paths {
		switch len(p) {
		case 0:
		case 1:
			g.Direct = append(g.Direct, p[0])
		default:
			i, ok := at[p[0]]
			if !ok {
				i = len(g.Hops)
				at[p[0]] = i
				g.Hops = append(g.Hops, Hop{Name: p[0]})
			}
			g.Hops[i].Rest = append(g.Hops[i].Rest, p[1:])
		}
	}
	return g
}

// Machines gives the machine at the end of each path, in their order.
func Machines(paths []Path) []string {
	var out []string
	for _, p := range paths {
		if len(p) > 0 {
			out = append(out, p[len(p)-1])
		}
	}
	return out
}
