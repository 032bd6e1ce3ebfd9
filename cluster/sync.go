package cluster

import (
	"slices"
	"strings"
)

// Machine is a machine of the inventory.
type Machine struct {
	Name    string // valid, lower case
	Address string // where its sessions come from; empty: not known
}

// Sync makes the nodes those of the inventory. A machine that has no node gets one
// as soon as it has an address. An address that was learnt follows the machine. A
// node that came from the inventory and is not in it any more goes; when instances
// are on it, it stays, offline, and when it is the master, as it is. Other nodes
// are left alone.
func Sync(machines []Machine) Change {
	return func(e *edit) error {
		byName := make(map[string]string, len(e.next.nodes.order))
		for _, n := range e.next.nodes.order {
			byName[strings.ToLower(n.obj.text("name"))] = n.name
		}
		there := make(map[string]bool, len(machines))
		for _, m := range machines {
			there[m.Name] = true
			address, err := ParseAddress(m.Address)
			if err != nil {
				continue // it comes with its first session
			}
			key, known := byName[m.Name]
			if !known {
				e.addNode(m.Name, address)
				continue
			}
			if o := e.next.nodes.get(key); hasTag(o, tagLearnt) && o.text("primary_ip") != address {
				e.setPrimary(key, address)
			}
		}
		e.removeGone(there)
		return nil
	}
}

// addNode makes a node of a machine.
func (e *edit) addNode(name, address string) {
	if len(e.next.nodes.order) == 0 && strings.Contains(address, ":") {
		e.next.cluster.set("primary_ip_family", encode(10)) // AF_INET6
	}
	key := newUUID()
	e.add(e.next.nodes, key, struct {
		Name            string   `json:"name"`
		PrimaryIP       string   `json:"primary_ip"`
		SecondaryIP     string   `json:"secondary_ip"`
		MasterCandidate bool     `json:"master_candidate"`
		Offline         bool     `json:"offline"`
		Drained         bool     `json:"drained"`
		Group           string   `json:"group"`
		MasterCapable   bool     `json:"master_capable"`
		VMCapable       bool     `json:"vm_capable"`
		NDParams        struct{} `json:"ndparams"`
		Powered         bool     `json:"powered"`
		tail
	}{
		Name: name, PrimaryIP: address, SecondaryIP: address, Group: e.next.group(), MasterCapable: true, VMCapable: true, Powered: true,
		tail: newTail(key, e.now, tagInventory, tagLearnt),
	})
}

// group gives the key of the group that new nodes are in.
func (d *Document) group() string {
	for _, g := range d.groups.order {
		if g.obj.text("name") == groupName {
			return g.name
		}
	}
	if len(d.groups.order) > 0 {
		return d.groups.order[0].name
	}
	return "" // confd does not ask for one
}

// removeGone takes the nodes out that left the inventory.
func (e *edit) removeGone(there map[string]bool) {
	var gone []string
	for _, n := range e.next.nodes.order {
		if n.name != e.next.master() && hasTag(n.obj, tagInventory) && !there[strings.ToLower(n.obj.text("name"))] {
			gone = append(gone, n.name)
		}
	}
	if len(gone) == 0 {
		return
	}
	used := e.next.usedNodes()
	for _, key := range gone {
		if used[key] {
			_ = e.setRole(key, Offline) // it is not the master
		}
	}
	gone = slices.DeleteFunc(gone, func(key string) bool { return used[key] })
	e.removeAll(e.next.nodes, gone)
}

// removeAll takes objects out of a table.
func (e *edit) removeAll(t *table, keys []string) {
	if len(keys) == 0 {
		return
	}
	out := make(map[string]bool, len(keys))
	for _, k := range keys {
		out[k] = true
		delete(t.at, k)
	}
	t.order = slices.DeleteFunc(t.order, func(x entry) bool { return out[x.name] })
	for i, x := range t.order {
		t.at[x.name] = i
	}
	e.changed = true
}
