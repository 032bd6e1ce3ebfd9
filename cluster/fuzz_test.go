package cluster_test

import (
	"bytes"
	"errors"
	"testing"

	"dominion/call"
	"dominion/cluster"
)

// What Parse takes is written back as the same bytes, and can be changed: each
// change gives another document, or an error with a code.
func FuzzParse(f *testing.F) {
	f.Add(lab(f))
	f.Add(cluster.New("fleet", now()).Bytes())
	f.Add(fleetOf(f, 2).Bytes())
	f.Add([]byte(`{}`))
	f.Add(bytes.Replace(lab(f), []byte(`"nics": [{`), []byte(`"nics": [null,{`), 1))
	f.Add(bytes.Replace(lab(f), []byte(`"tcpudp_port_pool": [11000]`), []byte(`"tcpudp_port_pool": [1e3]`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := cluster.Parse(b)
		if err != nil {
			if !errors.Is(err, cluster.ErrDocument) {
				t.Fatalf("error %v does not wrap ErrDocument", err)
			}
			return
		}
		again, err := cluster.Parse(d.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), d.Bytes()) || again.Serial() != d.Serial() {
			t.Fatalf("%q reads back as %q, %v", d.Bytes(), again.Bytes(), err)
		}
		if len(d.Bytes()) > 20_000 { // each of the changes below reads and writes it
			return
		}
		node, instance := "beta", "web"
		if n := d.Nodes(); len(n) > 0 {
			node = n[len(b)%len(n)].Name
		}
		if i := d.Instances(); len(i) > 0 {
			instance = i[len(b)%len(i)].Name
		}
		all := everyChange(node, instance, "192.0.2.7", "br7", 77)
		check(t, d, all[len(b)%len(all)])
	})
}

func everyChange(node, other, ip, link string, size uint64) []cluster.Change {
	return []cluster.Change{
		cluster.SetMaster(node), cluster.AddCandidates(node, other), cluster.RemoveCandidates(node), cluster.RemoveNode(node),
		cluster.SetNode(node, cluster.NodeChange{Primary: &ip}), cluster.SetNode(node, cluster.NodeChange{Secondary: &ip}),
		cluster.SetNode(node, cluster.NodeChange{Role: new(cluster.Role(other))}), cluster.SetNode(node, cluster.NodeChange{Role: new(cluster.Offline)}),
		cluster.Sync(nil), cluster.Sync([]cluster.Machine{{Name: node, Address: ip}}), cluster.Raise(size),
		cluster.AddInstance(other, cluster.InstanceChange{Primary: &node, Secondary: &other, NICs: &[]cluster.NIC{{IP: ip, Link: link}}, Disks: &[]uint64{size, 1}}),
		cluster.SetInstance(other, cluster.InstanceChange{Primary: &node}), cluster.SetInstance(other, cluster.InstanceChange{Secondary: new("")}),
		cluster.SetInstance(node, cluster.InstanceChange{State: &other, NICs: &[]cluster.NIC{{IP: ip, Link: link}}}),
		cluster.SetInstance(node, cluster.InstanceChange{Disks: &[]uint64{size}}), cluster.RemoveInstance(node),
	}
}

// check makes a change: it gives a document with a higher serial, the same one, or
// an error with a code.
func check(t *testing.T, d *cluster.Document, c cluster.Change) {
	t.Helper()
	n, err := d.Apply(now(), c)
	switch code := call.CodeOf(err); {
	case errors.Is(err, cluster.ErrDocument):
		if d.Serial() < cluster.MaxSerial && len(d.Bytes()) < cluster.MaxDocument-1<<20 {
			t.Fatalf("a change makes something that is no document: %v", err)
		}
	case err != nil:
		if code != call.Invalid && code != call.NotFound && code != call.Conflict && code != call.TooMany {
			t.Fatalf("error %v has the code %v", err, code)
		}
	case n != d && n.Serial() <= d.Serial():
		t.Fatalf("serial %d after %d", n.Serial(), d.Serial())
	case n != d:
		again, err := cluster.Parse(n.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), n.Bytes()) {
			t.Fatalf("what a change made reads back as another: %v", err)
		}
	}
}

// Whatever a request says, the data stay a configuration that Ganeti would take.
func FuzzChange(f *testing.F) {
	f.Add("beta", "web", "192.0.2.7", "br0", uint64(20))
	f.Add("epsilon", "new", "2001:db8::1", "", uint64(1<<40))
	f.Add(alpha, "alpha", "auto", "a b", uint64(0))
	f.Add("n\x00", "\xff\xfe", "::1%lo", "\"}", uint64(1)<<63)
	f.Add("twin", "offline", "0.0.0.0", "xen-br0", uint64(1)<<62)
	d := parse(f, lab(f))
	f.Fuzz(func(t *testing.T, node, other, ip, link string, size uint64) {
		for _, c := range everyChange(node, other, ip, link, size) {
			check(t, d, c)
		}
		for _, s := range []string{node, ip} {
			if a, err := cluster.ParseAddress(s); err == nil {
				if again, err := cluster.ParseAddress(a); err != nil || again != a {
					t.Fatalf("ParseAddress(%q) = %q, which reads as %q, %v", s, a, again, err)
				}
			}
		}
		if n, err := cluster.ParseSize(link); err == nil && n == 0 {
			t.Fatalf("ParseSize(%q) = 0", link)
		}
	})
}
