package cluster

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"dominion/call"
)

// Limits of one instance, which are Ganeti's.
const (
	MaxNICs  = 8
	MaxDisks = 16
)

// NIC is a network interface of an instance.
type NIC struct {
	IP   string // empty: none
	Link string // empty: the cluster's default one
}

// Instance is an instance of a document.
type Instance struct {
	UUID, Name         string
	Primary, Secondary string // names of nodes; a secondary one only with DRBD disks
	State              string // up, down or offline
	NICs               []NIC
	Disks              []uint64 // sizes in MiB
	Serial             uint64
}

// InstanceChange says what of an instance is to be another; nil: what it is. A new
// one needs a primary node.
type InstanceChange struct {
	Primary   *string   // a node
	Secondary *string   // a node, which makes the disks DRBD's; empty: none
	State     *string   // up, down or offline
	NICs      *[]NIC    // all of them
	Disks     *[]uint64 // the sizes of all of them in MiB
}

// Instances gives all instances, sorted by name.
func (d *Document) Instances() []Instance {
	out := make([]Instance, 0, len(d.instances.order))
	for _, e := range d.instances.order {
		out = append(out, d.instance(e.name, e.obj))
	}
	slices.SortStableFunc(out, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Instance gives one instance; the error has the code NotFound.
func (d *Document) Instance(name string) (Instance, error) {
	key, err := find(d.instances, "instance", name)
	if err != nil {
		return Instance{}, err
	}
	return d.instance(key, d.instances.get(key)), nil
}

func (d *Document) instance(key string, o *object) Instance {
	i := Instance{UUID: key, Name: o.text("name"), Primary: d.nodeName(o.text("primary_node")), State: o.text("admin_state"), Serial: uint64(o.integer("serial_no"))}
	if list := o.get("nics"); !absent(list) {
		nics, _ := elements(list) // check has seen to it
		for _, x := range nics {
			n, _ := readNIC(x)
			i.NICs = append(i.NICs, NIC{IP: n.IP, Link: n.Params.Link})
		}
	}
	for _, uuid := range diskKeys(o) {
		if disk := d.disks.get(uuid); disk != nil {
			i.Disks = append(i.Disks, uint64(disk.integer("size")))
		}
	}
	if key := d.secondary(o); key != "" {
		i.Secondary = d.nodeName(key)
	}
	return i
}

// nodeName gives a node's name; of one that is not there, its key.
func (d *Document) nodeName(key string) string {
	if o := d.nodes.get(key); o != nil {
		return o.text("name")
	}
	return key
}

// nic is a NIC as Ganeti writes it.
type nic struct {
	MAC    string    `json:"mac"`
	IP     string    `json:"ip,omitempty"`
	Params nicParams `json:"nicparams"`
	UUID   string    `json:"uuid"`
}

type nicParams struct {
	Link string `json:"link,omitempty"`
}

func readNIC(v raw) (n nic, err error) {
	err = json.Unmarshal(v, &n)
	return n, err
}

// diskKeys gives the keys of an instance's disks.
func diskKeys(o *object) []string {
	list := o.get("disks")
	if absent(list) {
		return nil
	}
	var out []string
	all, _ := elements(list) // check has seen to it
	for _, x := range all {
		s, _ := text(x)
		out = append(out, s)
	}
	return out
}

// AddInstance adds an instance, up unless c says otherwise.
func AddInstance(name string, c InstanceChange) Change {
	return func(e *edit) error {
		n, err := call.ParseName(name)
		if err != nil {
			return call.Errorf(call.Invalid, "%v", err)
		}
		for _, x := range e.next.instances.order {
			if strings.EqualFold(x.obj.text("name"), n) {
				return call.Errorf(call.Conflict, "the cluster has an instance %q already", n)
			}
		}
		if c.Primary == nil {
			return call.Errorf(call.Invalid, "an instance needs a primary node")
		}
		key := newUUID()
		o := e.add(e.next.instances, key, newInstance{
			Name: n, Hypervisor: e.next.hypervisor(), State: "up", StateSource: "admin", NICs: []nic{}, Disks: []string{}, Active: true,
			tail: newTail(key, e.now),
		})
		return e.setInstance(o, c)
	}
}

// newInstance is an instance without node, disks and NICs.
type newInstance struct {
	Name            string   `json:"name"`
	PrimaryNode     string   `json:"primary_node"`
	OS              string   `json:"os"`
	Hypervisor      string   `json:"hypervisor"`
	HVParams        struct{} `json:"hvparams"`
	BEParams        struct{} `json:"beparams"`
	OSParams        struct{} `json:"osparams"`
	OSParamsPrivate struct{} `json:"osparams_private"`
	State           string   `json:"admin_state"`
	StateSource     string   `json:"admin_state_source"`
	NICs            []nic    `json:"nics"`
	Disks           []string `json:"disks"`
	Active          bool     `json:"disks_active"`
	tail
}

func (d *Document) hypervisor() string {
	var enabled []string
	if json.Unmarshal(d.cluster.get("enabled_hypervisors"), &enabled) == nil && len(enabled) > 0 {
		return enabled[0]
	}
	return "kvm"
}

// SetInstance changes an instance.
func SetInstance(name string, c InstanceChange) Change {
	return func(e *edit) error {
		key, err := find(e.next.instances, "instance", name)
		if err != nil {
			return err
		}
		if c == (InstanceChange{}) {
			return nil
		}
		return e.setInstance(e.own(e.next.instances, key), c)
	}
}

// RemoveInstance removes an instance with its disks.
func RemoveInstance(name string) Change {
	return func(e *edit) error {
		key, err := find(e.next.instances, "instance", name)
		if err != nil {
			return err
		}
		e.dropDisks(diskKeys(e.next.instances.get(key)))
		e.remove(e.next.instances, key)
		return nil
	}
}

// setInstance changes an instance that may be changed.
func (e *edit) setInstance(o *object, c InstanceChange) error {
	if c.State != nil {
		if !slices.Contains([]string{"up", "down", "offline"}, *c.State) {
			return call.Errorf(call.Invalid, "state %.30q: it is up, down or offline", *c.State)
		}
		o.set("admin_state", encode(*c.State))
		o.set("admin_state_source", encode("admin"))
		o.set("disks_active", encode(*c.State == "up"))
	}
	if c.NICs != nil {
		if err := e.setNICs(o, *c.NICs); err != nil {
			return err
		}
	}
	return e.place(o, c)
}

func (e *edit) setNICs(o *object, nics []NIC) error {
	if len(nics) > MaxNICs {
		return call.Errorf(call.Invalid, "%d interfaces are more than %d", len(nics), MaxNICs)
	}
	taken, macs := e.next.addresses(o)
	fallback := e.next.defaultLink()
	out := make([]nic, len(nics))
	for i, n := range nics {
		if len(n.Link) > 64 || strings.ContainsFunc(n.Link, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return call.Errorf(call.Invalid, "link %.80q: a name of at most 64 letters", n.Link)
		}
		out[i] = nic{MAC: e.newMAC(macs), IP: n.IP, Params: nicParams{n.Link}, UUID: newUUID()}
		if n.IP == "" {
			continue
		}
		var err error
		if out[i].IP, err = ParseAddress(n.IP); err != nil {
			return err
		}
		at := NIC{out[i].IP, orElse(n.Link, fallback)}
		if by, ok := taken[at]; ok {
			return call.Errorf(call.Conflict, "address %s on link %s is that of instance %s", at.IP, at.Link, by)
		}
		taken[at] = o.text("name")
	}
	o.set("nics", encode(out))
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// addresses gives the instances by their addresses, but for those of one, and
// all MAC addresses.
func (d *Document) addresses(but *object) (taken map[NIC]string, macs map[string]bool) {
	taken, macs = make(map[NIC]string), make(map[string]bool)
	fallback := d.defaultLink()
	for _, e := range d.instances.order {
		list := e.obj.get("nics")
		if absent(list) {
			continue
		}
		nics, _ := elements(list) // check has seen to it
		for _, x := range nics {
			n, _ := readNIC(x)
			macs[n.MAC] = true
			if e.obj != but && n.IP != "" {
				taken[NIC{n.IP, orElse(n.Params.Link, fallback)}] = e.obj.text("name")
			}
		}
	}
	return taken, macs
}

// defaultLink is the link of NICs that name none.
func (d *Document) defaultLink() string {
	var p struct {
		Default nicParams `json:"default"`
	}
	_ = json.Unmarshal(d.cluster.get("nicparams"), &p) // without one it is empty
	return p.Default.Link
}

// newMAC gives an address that nobody has.
func (e *edit) newMAC(taken map[string]bool) string {
	for {
		var b [3]byte
		rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
		mac := fmt.Sprintf("%s:%02x:%02x:%02x", orElse(e.next.cluster.text("mac_prefix"), "aa:00:00"), b[0], b[1], b[2])
		if !taken[mac] {
			taken[mac] = true
			return mac
		}
	}
}

// Count is how many instances and disks there are.
func (d *Document) Count() (instances, disks int) {
	return len(d.instances.order), len(d.disks.order)
}
