package delegation

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"dominion/call"
)

// Limits of a map.
const (
	MaxFile  = 64 << 20 // bytes of a map's file
	MaxDepth = 64       // machines on a path
	MaxNodes = 1 << 20  // places of machines
)

// ErrMap is wrapped by every error about what a map holds; call.CodeOf gives
// call.Invalid for them.
var ErrMap = errors.New("not a delegation map")

// fault is an error about a map, with a code that crosses hops.
type fault struct{ text string }

func faultf(format string, args ...any) error { return &fault{fmt.Sprintf(format, args...)} }

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() []error {
	return []error{ErrMap, &call.Error{Code: call.Invalid, Detail: f.text}}
}

// Path names a place in a map: the hops from the top, and at last the machine.
// A direct minion has a path of one name. The empty path is the top itself.
type Path []string

// String gives "dc1/rack1/web1", and "." for the top.
func (p Path) String() string {
	if len(p) == 0 {
		return "."
	}
	return strings.Join(p, "/")
}

// Compare orders paths as routes are: fewer hops first, and then by the names
// from the top.
func (p Path) Compare(q Path) int {
	return cmp.Or(cmp.Compare(len(p), len(q)), slices.Compare(p, q))
}

// Life says what a probe learnt of a machine.
type Life uint8

// The lives. The zero one is that of all machines of a map that was read.
const (
	Unasked Life = iota // nobody asked since
	Alive               // it answered, or the overlord above it has a session with it
	Silent              // it did not answer, or has no session
)

// String gives "unasked", "alive" or "silent".
func (l Life) String() string {
	switch l {
	case Alive:
		return "alive"
	case Silent:
		return "silent"
	}
	return "unasked"
}

// Node is a machine at one place of a map. All but Name and Below is known
// only when a probe told it.
type Node struct {
	Name        string
	Fingerprint string // of its public key, as package pki writes it; empty: not known
	Problem     string // why it is silent, or why nothing is known below it; empty: none
	Below       []Node // sorted by name
	Life        Life
	Overlord    bool // it is a sub-overlord, whether or not anything is below it
}

// find gives the child of that name, in lower case.
func (n *Node) find(name string) (*Node, bool) {
	i, ok := slices.BinarySearchFunc(n.Below, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return nil, false
	}
	return &n.Below[i], true
}

// CutReason says why a place was left out of a map.
type CutReason uint8

// The reasons.
const (
	Cycle   CutReason = iota // it is a machine that stands above itself
	NotName                  // its key in the file is no machine name
)

// Cut is a place that was left out, with all below it.
type Cut struct {
	Path        Path
	Reason      CutReason
	Above       int    // Cycle: so many names of Path lead to the same machine; 0: the top itself
	Fingerprint string // Cycle: the key that was told for this place, when one was
}

// String says what was cut and why.
func (c Cut) String() string {
	if c.Reason == NotName {
		return fmt.Sprintf("left out %q: %q is not a machine name", c.Path.String(), c.Path[len(c.Path)-1])
	}
	if c.Above == 0 {
		return fmt.Sprintf("cut %s: it is the overlord at the top", c.Path)
	}
	return fmt.Sprintf("cut %s: it is %s, which stands above it", c.Path, c.Path[:c.Above])
}

// Map is the tree below an overlord. The zero Map is that of nobody.
type Map struct {
	// Self is the overlord at the top, and Self.Below are its direct minions,
	// sub-overlords among them. Its name is empty in a map that was read.
	Self Node
	// Cuts are the places that were left out when this map was made.
	Cuts []Cut
}

// New makes a map of a tree, of which it keeps nothing but the strings: it
// lower-cases and sorts the names, joins neighbours of the same name (the
// first one's facts count), and leaves out what Cut describes. The name of
// self may be empty. Errors wrap ErrMap: a limit.
func New(self Node) (Map, error) {
	mk := maker{path: make(Path, 0, MaxDepth+1), line: []ancestor{{self.Name, self.Fingerprint}}}
	if self.Name != "" {
		name, err := call.ParseName(self.Name)
		if err != nil {
			return Map{}, faultf("the name of the overlord itself: %v", err)
		}
		self.Name = name
		mk.line[0].name = name
	}
	below, err := mk.level(slices.Clone(self.Below))
	if err != nil {
		return Map{}, err
	}
	self.Below = below
	return Map{Self: self, Cuts: mk.cuts}, nil
}

type ancestor struct{ name, fingerprint string }

// is says whether a machine of this name and key is the ancestor.
func (a ancestor) is(name, fingerprint string) bool {
	return a.name == name || fingerprint != "" && a.fingerprint == fingerprint
}

// maker checks and copies a tree.
type maker struct {
	path  Path
	line  []ancestor // from the top; line[i] is at path[:i]
	cuts  []Cut
	nodes int
}

// level settles neighbours, in place, and all below them.
func (mk *maker) level(nodes []Node) ([]Node, error) {
	if len(nodes) == 0 {
		return nil, nil
	}
	if len(mk.path) == MaxDepth {
		return nil, faultf("below %s: more than %d levels", mk.path, MaxDepth)
	}
	kept := nodes[:0]
	for _, n := range nodes {
		if mk.accept(&n) {
			kept = append(kept, n)
		}
	}
	kept = unite(kept)
	if mk.nodes += len(kept); mk.nodes > MaxNodes {
		return nil, faultf("more than %d machines", MaxNodes)
	}
	for i := range kept {
		n := &kept[i]
		mk.path = append(mk.path, n.Name)
		mk.line = append(mk.line, ancestor{n.Name, n.Fingerprint})
		below, err := mk.level(slices.Clone(n.Below))
		if err != nil {
			return nil, err
		}
		n.Below = below
		mk.path = mk.path[:len(mk.path)-1]
		mk.line = mk.line[:len(mk.line)-1]
	}
	return kept, nil
}

// accept lower-cases a node's name, or cuts the node.
func (mk *maker) accept(n *Node) bool {
	place := func() Path { return append(slices.Clone(mk.path), n.Name) }
	name, err := call.ParseName(n.Name)
	if err != nil {
		mk.cuts = append(mk.cuts, Cut{Path: place(), Reason: NotName})
		return false
	}
	n.Name = name
	for i, a := range mk.line {
		if a.is(n.Name, n.Fingerprint) {
			mk.cuts = append(mk.cuts, Cut{Path: place(), Above: i, Fingerprint: n.Fingerprint})
			return false
		}
	}
	return true
}

// unite sorts neighbours and joins those of the same name.
func unite(nodes []Node) []Node {
	byName := func(a, b Node) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(nodes, byName) {
		slices.SortStableFunc(nodes, byName)
	}
	out := nodes[:0]
	for _, n := range nodes {
		if last := len(out) - 1; last >= 0 && out[last].Name == n.Name {
			out[last].Below = slices.Concat(out[last].Below, n.Below)
			continue
		}
		out = append(out, n)
	}
	return out
}

// Find gives the machine at a place, whatever the case of the names; false:
// the map has no such place. Without names it is the top. The node must not be
// changed.
func (m Map) Find(path ...string) (*Node, bool) {
	n := &m.Self
	for _, name := range path {
		below, ok := n.find(strings.ToLower(name))
		if !ok {
			return nil, false
		}
		n = below
	}
	return n, true
}

// All gives every place and its machine, a machine before what is below it and
// neighbours by name. The path is good until the next one and the node must
// not be changed.
func (m Map) All() iter.Seq2[Path, *Node] {
	return func(yield func(Path, *Node) bool) {
		walk(make(Path, 0, MaxDepth), m.Self.Below, yield)
	}
}

func walk(path Path, nodes []Node, yield func(Path, *Node) bool) bool {
	for i := range nodes {
		at := append(path, nodes[i].Name)
		if !yield(at, &nodes[i]) || !walk(at, nodes[i].Below, yield) {
			return false
		}
	}
	return true
}

// Direct gives the sorted names of the direct minions, sub-overlords among them.
func (m Map) Direct() []string {
	names := make([]string, len(m.Self.Below))
	for i := range names {
		names[i] = m.Self.Below[i].Name
	}
	return names
}

// Counts sums a map up.
type Counts struct {
	Machines  int // different names
	Places    int // at least Machines: a machine may stand at several
	Overlords int // different names of sub-overlords, and of machines with others below them
	Silent    int // different names that are silent at every place
	Depth     int // names on the longest path
}

// Count sums the map up.
func (m Map) Count() Counts {
	const overlord, heard = 1, 2
	var c Counts
	seen := make(map[string]uint8)
	for path, n := range m.All() {
		c.Places++
		c.Depth = max(c.Depth, len(path))
		bits := seen[n.Name]
		if n.Overlord || len(n.Below) > 0 {
			bits |= overlord
		}
		if n.Life != Silent {
			bits |= heard
		}
		seen[n.Name] = bits
	}
	c.Machines = len(seen)
	for _, bits := range seen {
		if bits&overlord != 0 {
			c.Overlords++
		}
		if bits&heard == 0 {
			c.Silent++
		}
	}
	return c
}
