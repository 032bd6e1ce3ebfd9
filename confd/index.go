package confd

// index finds nodes or instances by what a request may call them: the key in
// the configuration; else the exact name; else the beginning of exactly one
// name, up to a dot.
type index struct {
	at     map[string]int // a position; or ambiguous
	keys   map[string]int
	byName map[string]int
}

// What find gives where there is no position.
const (
	unknown   = -1
	ambiguous = -2
)

func newIndex() index {
	return index{keys: make(map[string]int), byName: make(map[string]int)}
}

// add notes one entry. Of two with the same name the later one has it.
func (x *index) add(key, name string, at int) {
	x.keys[key], x.byName[name] = at, at
}

// forget takes a name out.
func (x *index) forget(name string) { delete(x.byName, name) }

// finish makes one table of everything.
func (x *index) finish() {
	x.at = make(map[string]int, 4*len(x.keys))
	for name, at := range x.byName {
		for i := range len(name) {
			if name[i] != '.' {
				continue
			}
			if _, ok := x.at[name[:i]]; ok {
				x.at[name[:i]] = ambiguous
			} else {
				x.at[name[:i]] = at
			}
		}
	}
	for name, at := range x.byName {
		x.at[name] = at
	}
	for key, at := range x.keys {
		x.at[key] = at
	}
	x.keys, x.byName = nil, nil
}

// find gives the position of an entry, unknown or ambiguous.
func (x *index) find(name string) int {
	if at, ok := x.at[name]; ok {
		return at
	}
	return unknown
}

// findBytes is find without a copy.
func (x *index) findBytes(name []byte) int {
	if at, ok := x.at[string(name)]; ok {
		return at
	}
	return unknown
}
