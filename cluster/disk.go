package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dominion/call"
)

// The ports of DRBD, which are Ganeti's, and the size of its metadata in MiB.
const (
	firstPort = 11000
	lastPort  = 14999
	metaSize  = 128
)

// maxDisk is the size of the largest disk in MiB: 1 EiB.
const maxDisk = 1 << 40

// drbd is the logical id of a DRBD disk.
type drbd struct {
	A, B           string // keys of nodes
	Port           int64
	MinorA, MinorB int64
	Secret         string
}

// drbdOf reads what a disk has of DRBD; nil: nothing.
func drbdOf(o *object) (*drbd, error) {
	if o.text("dev_type") != "drbd" || absent(o.get("logical_id")) {
		return nil, nil
	}
	list, err := elements(o.get("logical_id"))
	if err != nil || len(list) != 6 {
		return nil, fmt.Errorf("logical_id: %.60s is no six of DRBD", o.get("logical_id"))
	}
	var d drbd
	for i, to := range []any{&d.A, &d.B, &d.Port, &d.MinorA, &d.MinorB, &d.Secret} {
		if err := json.Unmarshal(list[i], to); err != nil {
			return nil, fmt.Errorf("logical_id: %w", err)
		}
	}
	return &d, nil
}

// other gives the node of the two that is not the one given.
func (d *drbd) other(node string) string {
	if d.A == node {
		return d.B
	}
	return d.A
}

func (d *drbd) encode() raw { return encode([]any{d.A, d.B, d.Port, d.MinorA, d.MinorB, d.Secret}) }

// place puts an instance where c says, with the disks that c says. Disks that
// need not move stay as they are: when the secondary becomes the primary, for
// example, only the instance's primary node changes, as in Ganeti.
func (e *edit) place(o *object, c InstanceChange) error {
	if c.Primary == nil && c.Secondary == nil && c.Disks == nil {
		return nil
	}
	now := e.next.instance("", o)
	keys := diskKeys(o)
	primary, secondary := o.text("primary_node"), e.next.secondary(o)
	var err error
	if c.Primary != nil {
		was := primary
		if primary, err = e.findNode(*c.Primary); err != nil {
			return err
		}
		if primary == secondary { // they change places
			secondary = was
		}
	}
	if c.Secondary != nil {
		if secondary = ""; *c.Secondary != "" {
			if secondary, err = e.findNode(*c.Secondary); err != nil {
				return err
			}
		}
	}
	if primary == secondary {
		return call.Errorf(call.Invalid, "the secondary node is another than the primary one")
	}
	o.set("primary_node", encode(primary))
	sizes := now.Disks
	if c.Disks != nil {
		sizes = *c.Disks
	} else if len(sizes) != len(keys) {
		return call.Errorf(call.Conflict, "a disk of instance %s is missing in the cluster's data; give all of them anew with --disk", o.text("name"))
	}
	return e.setDisks(o, keys, primary, secondary, sizes)
}

// secondary gives the key of an instance's secondary node; empty: none.
func (d *Document) secondary(o *object) string {
	for _, key := range diskKeys(o) {
		if disk := d.disks.get(key); disk != nil {
			if id, _ := drbdOf(disk); id != nil {
				return id.other(o.text("primary_node"))
			}
		}
	}
	return ""
}

// setDisks gives an instance its disks: those that are as they are to be stay.
func (e *edit) setDisks(o *object, keys []string, primary, secondary string, sizes []uint64) error {
	if len(sizes) > MaxDisks {
		return call.Errorf(call.Invalid, "%d disks are more than %d", len(sizes), MaxDisks)
	}
	out, gone := make([]string, len(sizes)), keys[min(len(sizes), len(keys)):]
	for i, size := range sizes {
		if size == 0 || size > maxDisk {
			return call.Errorf(call.Invalid, "a disk of %d MiB", size)
		}
		key := ""
		if i < len(keys) {
			key = keys[i]
		}
		if e.next.fits(key, primary, secondary, size) {
			out[i] = key
			continue
		}
		if key != "" {
			gone = append(slices.Clone(gone), key)
		}
	}
	e.dropDisks(gone)
	for i, size := range sizes {
		if out[i] == "" {
			var err error
			if out[i], err = e.newDisk(i, primary, secondary, size); err != nil {
				return err
			}
		}
	}
	o.set("disks", encode(out))
	return nil
}

// fits says whether a disk that is there is of the nodes and the size given.
func (d *Document) fits(key, primary, secondary string, size uint64) bool {
	o := d.disks.get(key)
	if o == nil || uint64(o.integer("size")) != size {
		return false
	}
	nodes := nodesOf(o)
	if x, _ := drbdOf(o); x != nil {
		return x.A == primary && x.B == secondary || x.A == secondary && x.B == primary
	}
	return secondary == "" && (len(nodes) == 0 || slices.Contains(nodes, primary))
}

// nodesOf gives the keys of a disk's nodes.
func nodesOf(o *object) []string {
	var nodes []string
	_ = json.Unmarshal(o.get("nodes"), &nodes) // none where there is no list of texts
	return nodes
}

// diskObject is a disk as Ganeti writes it.
type diskObject struct {
	DevType   string       `json:"dev_type"`
	LogicalID raw          `json:"logical_id"`
	Children  []diskObject `json:"children"`
	Nodes     []string     `json:"nodes"`
	IVName    string       `json:"iv_name"`
	Size      uint64       `json:"size"`
	Mode      string       `json:"mode"`
	Params    struct{}     `json:"params"`
	UUID      string       `json:"uuid"`
	Serial    int          `json:"serial_no"`
	CTime     raw          `json:"ctime"`
	MTime     raw          `json:"mtime"`
}

// volume is a logical volume.
func (e *edit) volume(name string, nodes []string, iv string, size uint64) diskObject {
	vg := orElse(e.next.cluster.text("volume_group_name"), "xenvg")
	return diskObject{
		DevType: "plain", LogicalID: encode([]string{vg, name}), Children: []diskObject{}, Nodes: nodes, IVName: iv, Size: size, Mode: "rw",
		UUID: newUUID(), Serial: 1, CTime: e.now, MTime: e.now,
	}
}

// newDisk makes the disk of a number: a volume, or, with a secondary node, DRBD
// over two of them.
func (e *edit) newDisk(number int, primary, secondary string, size uint64) (string, error) {
	iv := "disk/" + strconv.Itoa(number)
	base := newUUID() + ".disk" + strconv.Itoa(number)
	if secondary == "" {
		d := e.volume(base, []string{primary}, iv, size)
		e.add(e.next.disks, d.UUID, d)
		return d.UUID, nil
	}
	port, err := e.newPort()
	if err != nil {
		return "", err
	}
	used := e.next.minors()
	var secret [20]byte
	rand.Read(secret[:]) // never fails (crypto/rand since Go 1.24)
	nodes := []string{primary, secondary}
	id := drbd{A: primary, B: secondary, Port: port, MinorA: lowest(used[primary]), MinorB: lowest(used[secondary]), Secret: hex.EncodeToString(secret[:])}
	d := diskObject{
		DevType: "drbd", LogicalID: id.encode(), Nodes: nodes, IVName: iv, Size: size, Mode: "rw", UUID: newUUID(), Serial: 1, CTime: e.now, MTime: e.now,
		Children: []diskObject{e.volume(base+"_data", nodes, iv, size), e.volume(base+"_meta", nodes, iv, metaSize)},
	}
	e.add(e.next.disks, d.UUID, d)
	return d.UUID, nil
}

// lowest gives the lowest number that is not used.
func lowest(used map[int64]bool) int64 {
	var n int64
	for used[n] {
		n++
	}
	return n
}

// minors gives the minors that each node uses.
func (d *Document) minors() map[string]map[int64]bool {
	out := make(map[string]map[int64]bool)
	var note func(o *object)
	note = func(o *object) {
		if x, _ := drbdOf(o); x != nil {
			for node, minor := range map[string]int64{x.A: x.MinorA, x.B: x.MinorB} {
				if out[node] == nil {
					out[node] = make(map[int64]bool)
				}
				out[node][minor] = true
			}
		}
		below, _ := children(o) // check has seen to it
		for _, c := range below {
			note(c)
		}
	}
	for _, x := range d.disks.order {
		note(x.obj)
	}
	return out
}

// ports gives the ports that were given back; false when they are written in a
// form that is not ours, and is left alone.
func (d *Document) ports() ([]int64, bool) {
	var pool []int64
	err := json.Unmarshal(d.cluster.get("tcpudp_port_pool"), &pool)
	return pool, err == nil
}

// newPort takes a port that was given back, or the next one.
func (e *edit) newPort() (int64, error) {
	c := e.next.cluster
	e.changed = true
	if pool, ok := e.next.ports(); ok && len(pool) > 0 {
		c.set("tcpudp_port_pool", encode(pool[1:]))
		return pool[0], nil
	}
	port := max(c.integer("highest_used_port")+1, firstPort)
	if port > lastPort {
		return 0, call.Errorf(call.TooMany, "all ports of DRBD up to %d are used", lastPort)
	}
	c.set("highest_used_port", encode(port))
	return port, nil
}

// dropDisks removes disks, and gives their ports back.
func (e *edit) dropDisks(keys []string) {
	c := e.next.cluster
	var there []string
	for _, key := range keys {
		o := e.next.disks.get(key)
		if o == nil {
			continue
		}
		there = append(there, key)
		if x, _ := drbdOf(o); x != nil {
			if pool, ok := e.next.ports(); ok && !slices.Contains(pool, x.Port) {
				c.set("tcpudp_port_pool", encode(append(pool, x.Port)))
			}
		}
	}
	e.removeAll(e.next.disks, there)
}

// usedNodes gives the keys of the nodes that instances or disks are on.
func (d *Document) usedNodes() map[string]bool {
	used := make(map[string]bool)
	for _, x := range d.instances.order {
		used[x.obj.text("primary_node")] = true
	}
	for _, x := range d.disks.order {
		for _, n := range nodesOf(x.obj) {
			used[n] = true
		}
		if id, _ := drbdOf(x.obj); id != nil {
			used[id.A], used[id.B] = true, true
		}
	}
	return used
}

// ParseSize reads the size of a disk, "512", "20G" or "1T", and gives it in MiB.
// Without a letter it is in MiB.
func ParseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "mMgGtT")
	shift, ok := map[string]int{"": 0, "m": 0, "g": 10, "t": 20}[strings.ToLower(s[len(digits):])]
	n, err := strconv.ParseUint(digits, 10, 40)
	if err != nil || !ok || n == 0 || n > maxDisk>>shift || digits[0] == '+' {
		return 0, call.Errorf(call.Invalid, "size %.30q: a number of MiB, or one such as 20G or 1T", s)
	}
	return n << shift, nil
}
