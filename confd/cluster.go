package confd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// MaxConfig is the largest configuration that ParseConfig reads, in bytes.
const MaxConfig = 256 << 20

// ErrConfig is wrapped by every error about a configuration that is none.
var ErrConfig = errors.New("parsing configuration")

// Cluster is one version of the cluster data, with indexes over it and answers
// that are written already. It never changes, and is safe for concurrent use.
type Cluster struct {
	config    value
	cluster   *value
	serial    int64
	nodes     []nodeEntry
	instances []instanceEntry
	nodeIndex index
	instIndex index
	disks     *value

	master     string // the name of the master node
	roles      [5]prepared
	ping       prepared
	masterName prepared
	noMaster   *prepared // instead of any role or master's name
	pips       prepared
	mcPips     prepared
	collectors prepared
	links      map[string]*link
	// defaultLink is the link of NICs that name none; without one, questions
	// about links have no answer at all.
	defaultLink string
	hasLinks    bool
}

type nodeEntry struct {
	uuid, name, pip string
	serial          int64
	role            Role
	primary, second []int // instances, ascending
	drbd            drbdList
}

type instanceEntry struct {
	uuid, name, primary string
	serial              int64
	object              *value
	disks               []*value // those that there are
	missing             string   // the first disk that there is not
	hasMissing          bool
}

// link is what is known of one link.
type link struct {
	byIP map[string]*prepared // primary address of the instance's node
	ips  prepared
}

// Serial is the cluster's serial number, that of most replies.
func (c *Cluster) Serial() int64 { return c.serial }

// Nodes is how many nodes there are.
func (c *Cluster) Nodes() int { return len(c.nodes) }

// ParseConfig reads a configuration as Ganeti 3.0 writes it (config.data), as
// strictly as its daemon: what that would refuse is an error that wraps
// ErrConfig, and so is more than MaxConfig.
func ParseConfig(data []byte) (*Cluster, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrConfig, len(data), MaxConfig)
	}
	if len(data) == 0 || data[0] != '{' {
		return nil, fmt.Errorf("%w: it does not begin with an object", ErrConfig)
	}
	sc := scanner{b: data}
	v, ok := sc.value(0)
	if !ok || !sc.end() {
		return nil, fmt.Errorf("%w: malformed JSON near byte %d", ErrConfig, min(sc.i, len(data)))
	}
	v, err := newSchema().config(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return build(v), nil
}

// member gives the text of a member: of a string, of a number, of a boolean.
// What is left out is empty.
func (v *value) member(key string) string {
	if m := v.get(key); m != nil {
		return m.text
	}
	return ""
}

func (v *value) integer(key string) int64 {
	n, _ := strconv.ParseInt(v.member(key), 10, 64) // the shape has seen to it
	return n
}

func (v *value) list(key string) []value {
	if m := v.get(key); m != nil {
		return m.items
	}
	return nil
}

// build makes the indexes of a configuration that has its shape.
func build(config value) *Cluster {
	c := &Cluster{config: config}
	c.cluster = c.config.get("cluster")
	c.serial = c.cluster.integer("serial_no")
	c.disks = c.config.get("disks")
	c.buildNodes()
	c.buildInstances()
	c.buildDRBD()
	c.buildMaster()
	c.buildLists()
	c.buildLinks()
	return c
}

func (c *Cluster) buildNodes() {
	all := c.config.get("nodes")
	c.nodeIndex = newIndex()
	for i := range all.items {
		v := &all.items[i]
		n := nodeEntry{uuid: v.member("uuid"), name: v.member("name"), pip: v.member("primary_ip"), serial: v.integer("serial_no")}
		switch {
		case v.member("drained") == "true":
			n.role = RoleDrained
		case v.member("offline") == "true":
			n.role = RoleOffline
		case v.member("master_candidate") == "true":
			n.role = RoleCandidate
		default:
			n.role = RoleRegular
		}
		c.nodes = append(c.nodes, n)
		c.nodeIndex.add(all.keys[i], n.name, i)
	}
	c.nodeIndex.finish()
}

func (c *Cluster) buildInstances() {
	all := c.config.get("instances")
	c.instIndex = newIndex()
	for i := range all.items {
		v := &all.items[i]
		e := instanceEntry{
			uuid: v.member("uuid"), name: v.member("name"), primary: v.member("primary_node"),
			serial: v.integer("serial_no"), object: v,
		}
		c.instances = append(c.instances, e)
		c.instIndex.add(all.keys[i], e.name, i)
	}
	c.instIndex.forget("")
	c.instIndex.finish()
	for i := range c.instances {
		c.findDisks(&c.instances[i])
	}
}

// findDisks follows an instance's list of disks.
func (c *Cluster) findDisks(e *instanceEntry) {
	for _, d := range e.object.list("disks") {
		v := c.disks.get(d.text)
		switch {
		case v != nil:
			e.disks = append(e.disks, v)
		case !e.hasMissing:
			e.missing, e.hasMissing = d.text, true
		}
	}
}

// ownDisks gives the disks as the original finds them for its lists of minors: by
// the uuid inside the object, and none at all when one is missing.
func (c *Cluster) ownDisks(e *instanceEntry) []*value {
	if at := c.instIndex.find(e.uuid); at >= 0 && !c.instances[at].hasMissing {
		return c.instances[at].disks
	}
	return nil
}

// buildMaster prepares what depends on who the master is.
func (c *Cluster) buildMaster() {
	uuid := c.cluster.member("master_node")
	at := c.nodeIndex.find(uuid)
	if at < 0 {
		c.noMaster = new(failure(c.nodeFailure(uuid, at)))
		return
	}
	c.master = c.nodes[at].name
	c.masterName = success(appendText(nil, c.master), c.serial)
	for r := range c.roles {
		c.roles[r] = success(strconv.AppendInt(nil, int64(r), 10), c.serial)
	}
}

func (c *Cluster) buildLists() {
	c.ping = success(strconv.AppendInt(nil, c.config.integer("version"), 10), 0)
	var all, mc []string
	nodes := c.config.get("nodes").items
	for i, n := range slices.Backward(c.nodes) {
		all = append(all, n.pip)
		if nodes[i].member("master_candidate") == "true" {
			mc = append(mc, n.pip)
		}
	}
	c.pips, c.mcPips = success(appendTexts(nil, all), c.serial), success(appendTexts(nil, mc), c.serial)
	c.collectors = success(c.appendCollectors(nil), c.serial)
}

// appendCollectors writes the six data collectors that there are.
func (c *Cluster) appendCollectors(dst []byte) []byte {
	known := c.cluster.get("data_collectors")
	xen := slices.ContainsFunc(c.cluster.list("enabled_hypervisors"), func(v value) bool { return v.text == "xen-pvm" || v.text == "xen-hvm" })
	out := value{kind: object}
	for _, name := range []string{"cpu-avg-load", "diskstats", "drbd", "inst-status-xen", "lv", "xen-cpu-avg-load"} {
		active, interval := "true", "5000000"
		if k := known.get(name); k != nil {
			active, interval = k.member("active"), k.member("interval")
		}
		if name == "inst-status-xen" && !xen {
			active = "false"
		}
		one := value{kind: object}
		one.set("active", value{kind: boolean, text: active})
		one.set("interval", value{kind: numeral, text: interval})
		out.set(name, one)
	}
	return out.append(dst)
}

// buildLinks finds out which address on which link belongs to which instance.
func (c *Cluster) buildLinks() {
	fallback := c.cluster.get("nicparams").get("default")
	if fallback == nil {
		return
	}
	c.hasLinks, c.defaultLink = true, fallback.member("link")
	owners := make(map[string]map[string]*instanceEntry)
	byName := make(map[string]*instanceEntry)
	for i := range c.instances {
		e := &c.instances[i]
		if _, ok := byName[e.name]; !ok {
			byName[e.name] = e
		}
		for _, nic := range e.object.list("nics") {
			ip, on := nic.get("ip"), c.defaultLink
			if ip == nil {
				continue
			}
			if l := nic.get("nicparams").get("link"); l != nil {
				on = l.text
			}
			if owners[on] == nil {
				owners[on] = make(map[string]*instanceEntry)
			}
			owners[on][ip.text] = e
		}
	}
	unknown := failure(strconv.AppendInt(nil, ErrorUnknownEntry, 10))
	perNode := make(map[int]*prepared)
	c.links = make(map[string]*link, len(owners))
	for name, byIP := range owners {
		l := &link{byIP: make(map[string]*prepared, len(byIP))}
		var ips []string
		for ip, e := range byIP {
			ips = append(ips, ip)
			l.byIP[ip] = &unknown
			if e.object.get("name") == nil {
				continue
			}
			at := c.nodeIndex.find(byName[e.name].primary)
			if at < 0 {
				continue
			}
			if perNode[at] == nil {
				perNode[at] = new(success(appendText(nil, c.nodes[at].pip), c.serial))
			}
			l.byIP[ip] = perNode[at]
		}
		slices.Sort(ips)
		l.ips = success(appendTexts(nil, ips), c.serial)
		c.links[name] = l
	}
}

// appendTexts writes a list of strings as the daemon does.
func appendTexts(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, s)
	}
	return append(dst, ']')
}
