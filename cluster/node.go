package cluster

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"dominion/call"
)

// The tags by which this package knows what it may change by itself. A node that
// came with an imported file has neither.
const (
	tagInventory = "dominion:inventory" // the node came from the inventory, and leaves with it
	tagLearnt    = "dominion:learnt"    // its primary address is where its sessions come from
)

// Role is what a node is.
type Role string

// The roles, as Ganeti's flags make them: drained counts before offline, and
// offline before candidate.
const (
	Master    Role = "master"
	Candidate Role = "candidate"
	Regular   Role = "regular"
	Drained   Role = "drained"
	Offline   Role = "offline"
)

// Node is a node of a document.
type Node struct {
	UUID, Name string
	Primary    string // address
	Secondary  string
	Role       Role
	Candidate  bool // it is to hold and serve the data: a candidate of any role, the master too
	Learnt     bool // its address follows its sessions
	Serial     uint64
}

// Nodes gives all nodes, sorted by name.
func (d *Document) Nodes() []Node {
	out := make([]Node, 0, len(d.nodes.order))
	for _, e := range d.nodes.order {
		out = append(out, d.node(e.name, e.obj))
	}
	slices.SortStableFunc(out, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (d *Document) node(key string, o *object) Node {
	n := Node{
		UUID: key, Name: o.text("name"), Primary: o.text("primary_ip"), Secondary: o.text("secondary_ip"), Candidate: o.flag("master_candidate"),
		Learnt: hasTag(o, tagLearnt), Serial: uint64(o.integer("serial_no")), Role: Regular,
	}
	switch {
	case key == d.master():
		n.Role = Master
	case o.flag("drained"):
		n.Role = Drained
	case o.flag("offline"):
		n.Role = Offline
	case n.Candidate:
		n.Role = Candidate
	}
	return n
}

// master gives the key of the master node; it may not be there.
func (d *Document) master() string { return d.cluster.text("master_node") }

// Master is the name of the master node; empty when there is none.
func (d *Document) Master() string {
	if o := d.nodes.get(d.master()); o != nil {
		return o.text("name")
	}
	return ""
}

// Candidates gives the names of the nodes that are to hold the data, sorted, as
// machines are called.
func (d *Document) Candidates() []string {
	var out []string
	for _, e := range d.nodes.order {
		if !e.obj.flag("master_candidate") {
			continue
		}
		if name, err := call.ParseName(e.obj.text("name")); err == nil { // another cannot be a machine of ours
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func tagsOf(o *object) []string {
	var tags []string
	_ = json.Unmarshal(o.get("tags"), &tags) // what is no list of texts has none of ours
	return tags
}

func hasTag(o *object, tag string) bool { return slices.Contains(tagsOf(o), tag) }

func setTag(o *object, tag string, on bool) {
	tags := tagsOf(o)
	if slices.Contains(tags, tag) == on {
		return
	}
	if on {
		tags = append(tags, tag)
		slices.Sort(tags)
	} else {
		tags = slices.DeleteFunc(tags, func(t string) bool { return t == tag })
	}
	if tags == nil {
		tags = []string{}
	}
	o.set("tags", encode(tags))
}

// find gives the key of the entry that name stands for, as confd looks it up: the
// key itself, the whole name, or its beginning up to a dot.
func find(t *table, kind, name string) (string, error) {
	if t.get(name) != nil {
		return name, nil
	}
	var whole, short []string
	for _, e := range t.order {
		switch n := e.obj.text("name"); {
		case strings.EqualFold(n, name):
			whole = append(whole, e.name)
		case len(n) > len(name) && n[len(name)] == '.' && strings.EqualFold(n[:len(name)], name):
			short = append(short, e.name)
		}
	}
	if whole == nil {
		whole = short
	}
	switch {
	case name == "" || len(whole) == 0:
		return "", call.Errorf(call.NotFound, "the cluster has no %s %.260q", kind, name)
	case len(whole) > 1:
		return "", call.Errorf(call.Invalid, "%.260q may be any of %d %ss of the cluster; give the whole name", name, len(whole), kind)
	}
	return whole[0], nil
}

func (e *edit) findNode(name string) (string, error) { return find(e.next.nodes, "node", name) }

// SetMaster makes a node the master. It becomes a candidate, too, as Ganeti's
// master always is.
func SetMaster(name string) Change {
	return func(e *edit) error {
		key, err := e.findNode(name)
		if err != nil {
			return err
		}
		if err := e.promote(key); err != nil {
			return err
		}
		c := e.next.cluster
		if e.next.master() == key {
			return nil
		}
		was := e.next.nodes.get(e.next.master())
		c.set("master_node", encode(key))
		e.changed = true
		e.followMaster(was)
		return nil
	}
}

// followMaster keeps the cluster's address where there is none of its own: at the
// master. was is the former master, or what it was before a change.
func (e *edit) followMaster(was *object) {
	c, ip := e.next.cluster, e.next.cluster.text("master_ip")
	if ip != "" && (was == nil || ip != was.text("primary_ip")) {
		return
	}
	if o := e.next.nodes.get(e.next.master()); o != nil && o.text("primary_ip") != ip {
		c.set("master_ip", o.get("primary_ip"))
		e.changed = true
	}
}

// AddCandidates makes nodes candidates.
func AddCandidates(names ...string) Change {
	return func(e *edit) error {
		for _, name := range names {
			key, err := e.findNode(name)
			if err == nil {
				err = e.promote(key)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// promote makes a node a candidate, if it is none.
func (e *edit) promote(key string) error {
	o := e.next.nodes.get(key)
	for _, flag := range []string{"offline", "drained"} {
		if o.flag(flag) {
			return call.Errorf(call.Conflict, "node %s is %s; first: dominion cluster node set %[1]s --role regular", o.text("name"), flag)
		}
	}
	switch {
	case o.flag("master_candidate"):
		return nil
	case !o.flag("master_capable"):
		return call.Errorf(call.Conflict, "node %s is marked as not capable of being a master", o.text("name"))
	}
	e.own(e.next.nodes, key).set("master_candidate", encode(true))
	return nil
}

// RemoveCandidates makes candidates regular nodes.
func RemoveCandidates(names ...string) Change {
	return func(e *edit) error {
		for _, name := range names {
			key, err := e.findNode(name)
			if err != nil {
				return err
			}
			if key == e.next.master() {
				return call.Errorf(call.Conflict, "node %s is the master, and stays a candidate; make another the master first: dominion cluster set-master NODE", e.next.Master())
			}
			if e.next.nodes.get(key).flag("master_candidate") {
				e.own(e.next.nodes, key).set("master_candidate", encode(false))
			}
		}
		return nil
	}
}

// NodeChange says what of a node is to be another; nil: what it is.
type NodeChange struct {
	Primary   *string // an address, or "auto": where its sessions come from
	Secondary *string // an address, or "auto": the primary one
	Role      *Role   // Regular, Drained or Offline
}

// Auto stands for an address that follows from something else.
const Auto = "auto"

// ParseAddress reads an address of a node or of an instance, and gives it in
// its usual form. It is one of a single machine, and has no zone.
func ParseAddress(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return "", call.Errorf(call.Invalid, "%.100q is not the address of a machine", s)
	}
	return a.String(), nil
}

// SetNode changes a node. An address that is set here stays, wherever the machine
// connects from.
func SetNode(name string, c NodeChange) Change {
	return func(e *edit) error {
		key, err := e.findNode(name)
		if err != nil {
			return err
		}
		if err := e.setAddresses(key, c); err != nil {
			return err
		}
		if c.Role != nil {
			return e.setRole(key, *c.Role)
		}
		return nil
	}
}

func (e *edit) setAddresses(key string, c NodeChange) error {
	o := e.next.nodes.get(key)
	if c.Primary != nil {
		ip, learnt := o.text("primary_ip"), *c.Primary == Auto
		if !learnt {
			var err error
			if ip, err = ParseAddress(*c.Primary); err != nil {
				return err
			}
		}
		if ip != o.text("primary_ip") || learnt != hasTag(o, tagLearnt) {
			o = e.setPrimary(key, ip)
			setTag(o, tagLearnt, learnt)
		}
	}
	if c.Secondary == nil {
		return nil
	}
	ip := o.text("primary_ip")
	if *c.Secondary != Auto {
		var err error
		if ip, err = ParseAddress(*c.Secondary); err != nil {
			return err
		}
	}
	if ip != o.text("secondary_ip") {
		e.own(e.next.nodes, key).set("secondary_ip", encode(ip))
	}
	return nil
}

// setPrimary changes a node's address, and what follows it.
func (e *edit) setPrimary(key, ip string) *object {
	before := e.next.nodes.get(key).clone()
	o := e.own(e.next.nodes, key)
	if before.text("secondary_ip") == before.text("primary_ip") {
		o.set("secondary_ip", encode(ip))
	}
	o.set("primary_ip", encode(ip))
	if key == e.next.master() {
		e.followMaster(before)
	}
	return o
}

func (e *edit) setRole(key string, r Role) error {
	o := e.next.nodes.get(key)
	switch {
	case r != Regular && r != Drained && r != Offline:
		return call.Errorf(call.Invalid, "role %.30q: it is regular, drained or offline; for the others: dominion cluster set-master, dominion cluster candidate", r)
	case key == e.next.master():
		return call.Errorf(call.Conflict, "node %s is the master; make another the master first: dominion cluster set-master NODE", o.text("name"))
	}
	for name, want := range map[string]bool{"master_candidate": false, "drained": r == Drained, "offline": r == Offline} {
		if o.flag(name) != want {
			o = e.own(e.next.nodes, key)
			o.set(name, encode(want))
		}
	}
	return nil
}

// RemoveNode removes a node that is not the master and has no instances.
func RemoveNode(name string) Change {
	return func(e *edit) error {
		key, err := e.findNode(name)
		if err != nil {
			return err
		}
		full := e.next.nodes.get(key).text("name")
		switch {
		case key == e.next.master():
			return call.Errorf(call.Conflict, "node %s is the master; make another the master first: dominion cluster set-master NODE", full)
		case e.next.usedNodes()[key]:
			return call.Errorf(call.Conflict, "node %s has instances or disks; move them first: dominion cluster instance set", full)
		}
		e.remove(e.next.nodes, key)
		return nil
	}
}

// Node gives one node; the error has the code NotFound.
func (d *Document) Node(name string) (Node, error) {
	key, err := find(d.nodes, "node", name)
	if err != nil {
		return Node{}, err
	}
	return d.node(key, d.nodes.get(key)), nil
}

// Address is the cluster's own address: that of the master, unless an imported
// file has another. Empty: none.
func (d *Document) Address() string { return d.cluster.text("master_ip") }
