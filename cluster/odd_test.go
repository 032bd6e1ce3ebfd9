package cluster_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"dominion/call"
	"dominion/cluster"
)

// with gives the lab's configuration with some texts replaced: old, new, …
func with(t testing.TB, pairs ...string) []byte {
	t.Helper()
	b := lab(t)
	for i := 0; i < len(pairs); i += 2 {
		if !bytes.Contains(b, []byte(pairs[i])) {
			t.Fatalf("%q is not in the file", pairs[i])
		}
		b = bytes.ReplaceAll(b, []byte(pairs[i]), []byte(pairs[i+1]))
	}
	return b
}

// Forms that Ganeti's daemon reads and none of its writers writes are refused, so
// that no change can misread one.
func TestParseRefusesOddForms(t *testing.T) {
	for name, b := range map[string][]byte{
		"the size of a disk":                 with(t, `"size": 1024,`, `"size": 1024.0,`),
		"a port of DRBD":                     with(t, `11001, 1, 0,`, `11001.0, 1, 0,`),
		"the kind of a child":                with(t, `"dev_type": "plain"`, `"dev_type": "plain", "dev_type": "plain"`),
		"the serial of a child":              with(t, `000901", "serial_no": 1`, `000901", "serial_no": 1.0`),
		"a disk's name, letter by letter":    with(t, `["d1d1d1d1-0000-4000-8000-000000000003"]`, `[["d"]]`),
		"an address, letter by letter":       with(t, `"ip": "203.0.113.20"`, `"ip": ["2"]`),
		"a link, letter by letter":           with(t, `{"link": "br1"}`, `{"link": ["b"]}`),
		"the master, letter by letter":       with(t, `"master_node": "`+alpha+`"`, `"master_node": ["c"]`),
		"the document's serial":              with(t, `"serial_no": 77`, `"serial_no": 7.7e1`),
		"a node of a disk, letter by letter": with(t, `"nodes": ["`+beta+`", "`+alpha+`"]`, `"nodes": [["c"]]`),
		"a tag, letter by letter":            with(t, `"tags": ["b", "a"]`, `"tags": [["b"]]`),
		"no id of the cluster":               with(t, `"uuid": "ffffffff-0000-4000-8000-000000000001"`, `"uuid": ""`),
	} {
		if _, err := cluster.Parse(b); !errors.Is(err, cluster.ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Texts with escapes are found by what they mean, and keep their form.
func TestEscapes(t *testing.T) {
	d := parse(t, with(t, `"name": "beta.lab.example"`, `"name": "b\u0065t\u00e4.lab.example"`, `"`+gamma+`": {`, `"\u0063`+gamma[1:]+`": {`))
	n := apply(t, d, cluster.AddCandidates("betä"), cluster.RemoveCandidates("gamma"), cluster.SetNode("betä", cluster.NodeChange{Role: new(cluster.Drained)}))
	if !bytes.Contains(n.Bytes(), []byte(`"b\u0065t\u00e4.lab.example"`)) || !bytes.Contains(n.Bytes(), []byte(`"\u0063`+gamma[1:]+`":{`)) {
		t.Error("the form is another")
	}
	for _, name := range d.Candidates() {
		if strings.Contains(name, "bet") {
			t.Errorf("%q cannot be a machine, and is a candidate", name)
		}
	}
}

func TestOddClusters(t *testing.T) {
	// The first address decides the family.
	d := apply(t, cluster.New("six", now()), cluster.Sync(machines("a", "2001:db8::1")))
	if flat(t, d.Bytes())["/cluster/primary_ip_family"] != "10" {
		t.Error("a cluster of IPv6 addresses is not marked so")
	}
	// Without a group a node is in none.
	none := with(t, `"nodegroups": {"dddddddd-0000-4000-8000-000000000001": {"name": "default", `, `"nodegroups": {"dddddddd-0000-4000-8000-000000000001": {"name": "rack", `)
	apply(t, parse(t, none), cluster.Sync(machines("new", "192.0.2.99")))
	// No hypervisor is enabled.
	bare := parse(t, with(t, `"enabled_hypervisors": ["kvm"]`, `"enabled_hypervisors": []`))
	apply(t, bare, cluster.AddInstance("new", cluster.InstanceChange{Primary: new("beta")}))
	// No default link.
	apply(t, parse(t, with(t, `"nicparams": {"default": {"link": "xen-br0", "mode": "bridged", "vlan": ""}}`, `"nicparams": {}`)),
		cluster.AddInstance("new", cluster.InstanceChange{Primary: new("beta"), NICs: &[]cluster.NIC{{IP: "203.0.113.99"}}}))
	// A node that may not be a master.
	weak := parse(t, with(t, `"master_capable": true`, `"master_capable": false`))
	if _, err := weak.Apply(now(), cluster.SetMaster("epsilon")); call.CodeOf(err) != call.Conflict {
		t.Errorf("a master that may not be one: %v", err)
	}
	// Ports in another form than ours are not touched.
	odd := parse(t, with(t, `[11000]`, `[1.1e4]`))
	odd = apply(t, odd, cluster.AddInstance("new", cluster.InstanceChange{Primary: new("alpha"), Secondary: new("beta"), Disks: &[]uint64{1}}), cluster.RemoveInstance("new"))
	if got := flat(t, odd.Bytes())["/cluster/tcpudp_port_pool"]; got != `[1.1e4]` {
		t.Errorf("the pool of ports is %s", got)
	}
	lab := parse(t, lab(t))
	if n := apply(t, lab, cluster.SetInstance("web", cluster.InstanceChange{})); n != lab {
		t.Error("a change without a change makes a version")
	}
	if _, err := lab.Instance("nobody"); call.CodeOf(err) != call.NotFound {
		t.Errorf("an instance that is not there: %v", err)
	}
	if _, err := lab.Node("nobody"); call.CodeOf(err) != call.NotFound {
		t.Errorf("a node that is not there: %v", err)
	}
}
