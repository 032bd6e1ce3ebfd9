package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dominion/client"
	"dominion/delegation"
	"dominion/target"
)

// mapDoc is the map in json.
type mapDoc struct {
	Built     *time.Time    `json:"built,omitempty"` // when the overlord built it
	Machines  int           `json:"machines"`        // different names
	Overlords int           `json:"overlords"`
	Root      nodeDoc       `json:"root"` // the overlord itself
	Conflicts []conflictDoc `json:"conflicts"`
	Cut       []string      `json:"cut"` // what was left out, and why
}

// nodeDoc is a machine at one place.
type nodeDoc struct {
	Name        string    `json:"name,omitempty"`
	State       string    `json:"state"` // alive, silent, or unasked
	Overlord    bool      `json:"overlord,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Problem     string    `json:"problem,omitempty"`
	Below       []nodeDoc `json:"below,omitempty"`
}

type conflictDoc struct {
	Name   string   `json:"name"`
	Places []string `json:"places"`
}

// placeDoc is a line of the map in jsonl.
type placeDoc struct {
	Path []string `json:"path"`
	nodeDoc
}

func nodeDocOf(n *delegation.Node) nodeDoc {
	return nodeDoc{Name: n.Name, State: n.Life.String(), Overlord: n.Overlord || len(n.Below) > 0, Fingerprint: n.Fingerprint, Problem: n.Problem}
}

func placeDocOf(path delegation.Path, n *delegation.Node) placeDoc {
	return placeDoc{slices.Clone(path), nodeDocOf(n)}
}

func treeDocOf(n *delegation.Node) nodeDoc {
	d := nodeDocOf(n)
	for i := range n.Below {
		d.Below = append(d.Below, treeDocOf(&n.Below[i]))
	}
	return d
}

func mapDocOf(m client.FleetMap) mapDoc {
	n := m.Count()
	d := mapDoc{Machines: n.Machines, Overlords: n.Overlords, Root: treeDocOf(&m.Self), Conflicts: []conflictDoc{}, Cut: m.Cut}
	if !m.Built.IsZero() {
		d.Built = jsonTime(m.Built.UnixMilli())
	}
	for _, c := range m.Conflicts {
		d.Conflicts = append(d.Conflicts, conflictDoc{c.Name, c.Places})
	}
	if d.Cut == nil {
		d.Cut = []string{}
	}
	return d
}

// Limits of what is drawn; JSON has everything.
const (
	maxFolded   = 1000 // characters of one line's names
	maxSilences = 10   // lines for the machines of one overlord: those alive, and reasons of silence
)

// renderMap draws a map.
func renderMap(m client.FleetMap) string {
	var b strings.Builder
	head := cmp.Or(m.Self.Name, "map")
	fmt.Fprintf(&b, "%s: %s", escapeLine(head), mapHeadline(m))
	if !m.Built.IsZero() {
		fmt.Fprintf(&b, "; built %s", stamp(m.Built.UnixMilli()))
	}
	b.WriteByte('\n')
	drawBelow(&b, &m.Self, "", m.Built.IsZero())
	if names := several(m); len(names) > 0 {
		fmt.Fprintf(&b, "\nKnown at several places, with their ways in dominion map route:\n  %s\n", foldedNames(names))
	}
	if len(m.Conflicts) > 0 {
		b.WriteString("\nNot routed, as machines with different keys bear the name:\n")
		for _, c := range m.Conflicts {
			fmt.Fprintf(&b, "  %s: %s\n", escapeLine(c.Name), escapeLine(strings.Join(c.Places, ", ")))
		}
	}
	if len(m.Cut) > 0 {
		b.WriteString("\nLeft out:\n")
		for _, c := range m.Cut {
			fmt.Fprintf(&b, "  %s\n", escapeLine(c))
		}
	}
	return b.String()
}

// several gives the machines that stand at more than one place, without those in
// conflict.
func several(m client.FleetMap) []string {
	at := make(map[string]int)
	for _, n := range m.All() {
		at[n.Name]++
	}
	for _, c := range m.Conflicts {
		delete(at, c.Name)
	}
	var out []string
	for name, n := range at {
		if n > 1 {
			out = append(out, name)
		}
	}
	return out
}

// drawBelow draws what is below a node: overlords first, each with its own, and
// then the machines. plain: nothing is known but names.
func drawBelow(b *strings.Builder, n *delegation.Node, indent string, plain bool) {
	var overlords []*delegation.Node
	for i := range n.Below {
		if k := &n.Below[i]; isOverlord(k) {
			overlords = append(overlords, k)
		}
	}
	lines := leafLines(n.Below, plain)
	left := len(overlords) + len(lines)
	branch := func() (here, below string) {
		if left--; left == 0 {
			return indent + "└── ", indent + "    "
		}
		return indent + "├── ", indent + "│   "
	}
	for _, k := range overlords {
		here, below := branch()
		fmt.Fprintf(b, "%s%s: %s\n", here, escapeLine(k.Name), overlordLine(k, plain))
		drawBelow(b, k, below, plain)
	}
	for _, line := range lines {
		here, _ := branch()
		b.WriteString(here + line + "\n")
	}
}

func isOverlord(n *delegation.Node) bool { return n.Overlord || len(n.Below) > 0 }

// overlordLine says how many are below a sub-overlord, and how it is.
func overlordLine(n *delegation.Node, plain bool) string {
	places, _ := countBelow(n)
	s := plural(places, "machine")
	switch {
	case n.Life == delegation.Silent:
		s = "silent, " + cmp.Or(n.Problem, "for a reason unknown")
		if places > 0 {
			s += fmt.Sprintf("; %s, from the map before", plural(places, "machine"))
		}
	case n.Problem != "":
		s += "; " + n.Problem
	case n.Life == delegation.Unasked && !plain:
		s += "; not heard of, from the map before"
	default:
		if _, silent := countBelow(n); silent > 0 {
			s += fmt.Sprintf(", %d silent", silent)
		}
	}
	return escapeLine(s)
}

// countBelow counts the places below a node, and those that are silent.
func countBelow(n *delegation.Node) (places, silent int) {
	for i := range n.Below {
		k := &n.Below[i]
		p, s := countBelow(k)
		places, silent = places+p+1, silent+s
		if k.Life == delegation.Silent {
			silent++
		}
	}
	return places, silent
}

// leafLines folds the machines among neighbours: one line for all that are alive
// and one for each reason of silence.
func leafLines(nodes []delegation.Node, plain bool) []string {
	byState := make(map[string][]string)
	for i := range nodes {
		n := &nodes[i]
		if isOverlord(n) {
			continue
		}
		state := ""
		switch {
		case n.Life == delegation.Silent:
			state = "silent, " + cmp.Or(n.Problem, "for a reason unknown")
		case n.Problem != "":
			state = n.Problem
		case n.Life == delegation.Unasked && !plain:
			state = "not heard of, from the map before"
		}
		byState[state] = append(byState[state], n.Name)
	}
	states := make([]string, 0, len(byState))
	for s := range byState {
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b string) int { // alive first, then what many share
		return cmp.Or(cmp.Compare(len(a), 0)-cmp.Compare(len(b), 0), cmp.Compare(len(byState[b]), len(byState[a])), cmp.Compare(a, b))
	})
	var out []string
	for i, s := range states {
		if i == maxSilences {
			rest := 0
			for _, s := range states[i:] {
				rest += len(byState[s])
			}
			out = append(out, fmt.Sprintf("and %s silent for other reasons", plural(rest, "more machine")))
			break
		}
		line := foldedNames(byState[s])
		if s != "" {
			line += ": " + s
		}
		out = append(out, escapeLine(line))
	}
	return out
}

// foldedNames gives "web[01-20] (20)", cut when it is very long.
func foldedNames(names []string) string {
	s := target.Fold(names)
	if len(s) > maxFolded {
		s = s[:maxFolded] + "…"
	}
	if len(names) > 1 {
		s += fmt.Sprintf(" (%d)", len(names))
	}
	return s
}
