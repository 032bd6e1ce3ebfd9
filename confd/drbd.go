package confd

import (
	"slices"
	"strconv"
)

// drbdList is what a node has of DRBD: the entries of its answer, with commas
// between them.
type drbdList struct {
	entries []byte
	// spoilt: a peer cannot be found, so that there is no answer; lost is the
	// first one, and why it cannot.
	spoilt bool
	lost   string
	why    int
}

// buildDRBD finds the DRBD minors of each node, and which instances it is the
// primary or a secondary node of.
func (c *Cluster) buildDRBD() {
	byUUID := make(map[string][]int, len(c.nodes))
	for i := range c.nodes {
		byUUID[c.nodes[i].uuid] = append(byUUID[c.nodes[i].uuid], i)
	}
	for i := range c.instances {
		e := &c.instances[i]
		var nodes []string
		for _, d := range e.disks {
			switch a, b, ok := drbdNodes(d); {
			case !ok:
			case a == e.primary:
				nodes = append(nodes, b)
			default: // whether or not b is the primary node: so the original has it
				nodes = append(nodes, a)
			}
		}
		for n, d := range c.ownDisks(e) {
			c.addMinors(byUUID, e, "disk/"+strconv.Itoa(n), d)
		}
		if e.object.get("primary_node") == nil {
			continue
		}
		for _, at := range byUUID[e.primary] {
			c.nodes[at].primary = append(c.nodes[at].primary, i)
		}
		slices.Sort(nodes)
		for _, uuid := range slices.Compact(nodes) {
			for _, at := range byUUID[uuid] {
				c.nodes[at].second = append(c.nodes[at].second, i)
			}
		}
	}
}

// drbdNodes gives the two nodes of a DRBD disk.
func drbdNodes(d *value) (a, b string, ok bool) {
	id := d.get("logical_id")
	if id == nil || d.member("dev_type") != "drbd" {
		return "", "", false
	}
	return id.items[0].text, id.items[1].text, true
}

// addMinors notes the minors of a disk and of its children.
func (c *Cluster) addMinors(byUUID map[string][]int, e *instanceEntry, name string, d *value) {
	if a, b, ok := drbdNodes(d); ok {
		id := d.get("logical_id").items
		c.addMinor(byUUID, e, name, a, id[3].text, b)
		if a != b {
			c.addMinor(byUUID, e, name, b, id[4].text, a)
		}
	}
	children := d.list("children")
	for i := range children {
		c.addMinors(byUUID, e, name, &children[i])
	}
}

func (c *Cluster) addMinor(byUUID map[string][]int, e *instanceEntry, disk, node, minor, peer string) {
	for _, at := range byUUID[node] {
		l := &c.nodes[at].drbd
		if l.spoilt {
			continue
		}
		self, other := c.nodeIndex.find(node), c.nodeIndex.find(peer)
		switch {
		case self < 0:
			l.spoilt, l.lost, l.why = true, node, self
			continue
		case other < 0:
			l.spoilt, l.lost, l.why = true, peer, other
			continue
		}
		role := "secondary"
		if node == e.primary {
			role = "primary"
		}
		out := l.entries
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = appendText(append(out, '['), c.nodes[self].name)
		out = append(append(append(out, ','), minor...), ',')
		for _, s := range []string{e.name, disk, role} {
			out = append(appendText(out, s), ',')
		}
		l.entries = append(appendText(out, c.nodes[other].name), ']')
	}
}
