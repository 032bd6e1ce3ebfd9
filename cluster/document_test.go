package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/cluster"
	"dominion/confd"
)

// Keys of the lab's configuration, of which all tests of confd are made.
const (
	alpha  = "c1c1c1c1-0000-4000-8000-000000000001"
	beta   = "c1c1c1c1-0000-4000-8000-000000000002"
	gamma  = "c1c1c1c1-0000-4000-8000-000000000003"
	web    = "e1e1e1e1-0000-4000-8000-000000000001"
	db     = "e1e1e1e1-0000-4000-8000-000000000002"
	files  = "e1e1e1e1-0000-4000-8000-000000000004"
	rootOf = "d1d1d1d1-0000-4000-8000-00000000000"
)

func lab(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../confd/testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *cluster.Document {
	t.Helper()
	d, err := cluster.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func now() time.Time { return time.UnixMicro(1_790_000_000_250_000) }

func apply(t testing.TB, d *cluster.Document, changes ...cluster.Change) *cluster.Document {
	t.Helper()
	n, err := d.Apply(now(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	again := parse(t, n.Bytes())
	if !bytes.Equal(again.Bytes(), n.Bytes()) || again.Serial() != n.Serial() {
		t.Fatalf("a version with serial %d reads back as one with %d", n.Serial(), again.Serial())
	}
	return n
}

// flat gives every value of a document by its path.
func flat(t testing.TB, b []byte) map[string]string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			out[path] = "{}"
			for k, x := range v {
				walk(path+"/"+k, x)
			}
		case []any:
			b, _ := json.Marshal(v)
			out[path] = string(b)
		default:
			b, _ := json.Marshal(v)
			out[path] = string(b)
		}
	}
	walk("", v)
	return out
}

// differences names what is another in b: "path = value", "-path", "+path".
func differences(t testing.TB, a, b []byte) []string {
	t.Helper()
	before, after := flat(t, a), flat(t, b)
	var out []string
	for p, v := range after {
		switch old, ok := before[p]; {
		case !ok:
			out = append(out, "+"+p)
		case old != v:
			out = append(out, p+" = "+v)
		}
	}
	for p := range before {
		if _, ok := after[p]; !ok {
			out = append(out, "-"+p)
		}
	}
	slices.Sort(out)
	return out
}

// Every version changes these.
var always = []string{"/cluster/mtime = 1790000000.25", "/cluster/serial_no = 43", "/mtime = 1790000000.25", "/serial_no = 78"}

// A change touches what it is about, the serials and times of the objects that it
// changes, those of the cluster and of the document, and not one member more.
func TestApplyChangesNothingElse(t *testing.T) {
	node := func(key string, serial int, more ...string) []string {
		at := "/nodes/" + key
		out := []string{at + "/mtime = 1790000000.25", fmt.Sprintf("%s/serial_no = %d", at, serial)}
		for _, m := range more {
			out = append(out, at+m)
		}
		return out
	}
	inst := func(key string, serial int, more ...string) []string {
		at := "/instances/" + key
		out := []string{at + "/mtime = 1790000000.25", fmt.Sprintf("%s/serial_no = %d", at, serial)}
		for _, m := range more {
			out = append(out, at+m)
		}
		return out
	}
	epsilon := "c1c1c1c1-0000-4000-8000-000000000005"
	for _, tt := range []struct {
		name   string
		change cluster.Change
		want   []string
	}{
		{"another master", cluster.SetMaster("beta"), []string{`/cluster/master_node = "` + beta + `"`}},
		{"a master that was no candidate", cluster.SetMaster("epsilon.lab.example"), append(node(epsilon, 16, "/master_candidate = true"), `/cluster/master_node = "`+epsilon+`"`)},
		{"a candidate", cluster.AddCandidates("EPSILON"), node(epsilon, 16, "/master_candidate = true")},
		{"one candidate less", cluster.RemoveCandidates(beta), node(beta, 13, "/master_candidate = false")},
		{"addresses", cluster.SetNode("beta", cluster.NodeChange{Primary: new("192.0.2.22"), Secondary: new("::ffff:198.51.100.22")}), node(beta, 13, `/primary_ip = "192.0.2.22"`, `/secondary_ip = "198.51.100.22"`)},
		{"the secondary is the primary", cluster.SetNode("beta", cluster.NodeChange{Secondary: new("auto")}), node(beta, 13, `/secondary_ip = "192.0.2.2"`)},
		{"an address to be learnt", cluster.SetNode("beta", cluster.NodeChange{Primary: new("auto")}), node(beta, 13, `/tags = ["dominion:learnt"]`)},
		{"offline", cluster.SetNode("beta", cluster.NodeChange{Role: new(cluster.Offline)}), node(beta, 13, "/master_candidate = false", "/offline = true")},
		{"drained", cluster.SetNode("delta", cluster.NodeChange{Role: new(cluster.Drained)}), node("c1c1c1c1-0000-4000-8000-000000000004", 15, "/offline = false")},
		{"regular", cluster.SetNode("gamma", cluster.NodeChange{Role: new(cluster.Regular)}), node(gamma, 14, "/master_candidate = false", "/offline = false")},
		{"a higher serial", cluster.Raise(41), nil},
		{"instance: a state", cluster.SetInstance("web", cluster.InstanceChange{State: new("down")}), inst(web, 22, `/admin_state = "down"`, "/disks_active = false")},
		{"instance: fail-over", cluster.SetInstance("db", cluster.InstanceChange{Primary: new("beta")}), inst(db, 23, `/primary_node = "`+beta+`"`)},
		{"instance: no interfaces", cluster.SetInstance("db", cluster.InstanceChange{NICs: &[]cluster.NIC{}}), inst(db, 23, `/nics = []`)},
		{"instance: without disks", cluster.SetInstance("files", cluster.InstanceChange{Disks: &[]uint64{}}), append(inst(files, 25, "/disks = []"),
			"-/disks/"+rootOf+"4", "-/disks/"+rootOf+"5", "-/disks/"+rootOf+"6")},
		{"instance: an instance less", cluster.RemoveInstance("db"), []string{"-/instances/" + db, "-/disks/" + rootOf + "3", "/cluster/tcpudp_port_pool = [11000,11002]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, lab(t))
			n := apply(t, d, tt.change)
			want := append(slices.Clone(always), tt.want...)
			var got []string
			for _, x := range differences(t, lab(t), n.Bytes()) {
				if strings.HasPrefix(x, "-") && slices.ContainsFunc(tt.want, func(w string) bool { return strings.HasPrefix(x, w+"/") }) {
					continue // within what is gone
				}
				got = append(got, x)
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			again, err := n.Apply(now().Add(time.Hour), tt.change)
			if once := !strings.HasPrefix(tt.name, "instance: ") && tt.name != "a higher serial"; once && (err != nil || again != n) {
				t.Errorf("made again, the change makes a version, %v", err)
			}
			if !bytes.Equal(d.Bytes(), parse(t, lab(t)).Bytes()) {
				t.Error("the version before has changed")
			}
		})
	}
}

// What cannot be is refused, says why, and makes no version.
func TestApplyRefuses(t *testing.T) {
	many := make([]cluster.NIC, cluster.MaxNICs+1)
	for _, tt := range []struct {
		name   string
		change cluster.Change
		code   call.Code
		text   string
	}{
		{"no such node", cluster.SetMaster("zeta"), call.NotFound, `the cluster has no node "zeta"`},
		{"no name", cluster.SetMaster(""), call.NotFound, "no node"},
		{"two such nodes", cluster.AddCandidates("twin"), call.Invalid, `"twin" may be any of 2 nodes`},
		{"no dot behind", cluster.AddCandidates("alp"), call.NotFound, "no node"},
		{"a master that is offline", cluster.SetMaster("gamma"), call.Conflict, "node gamma.lab.example is offline"},
		{"a candidate that is drained", cluster.AddCandidates("delta"), call.Conflict, "node delta.lab.example is offline"},
		{"the master no candidate", cluster.RemoveCandidates("alpha"), call.Conflict, "is the master"},
		{"the master offline", cluster.SetNode("alpha", cluster.NodeChange{Role: new(cluster.Offline)}), call.Conflict, "is the master"},
		{"a role that is made otherwise", cluster.SetNode("beta", cluster.NodeChange{Role: new(cluster.Master)}), call.Invalid, "it is regular, drained or offline"},
		{"an address of many", cluster.SetNode("beta", cluster.NodeChange{Primary: new("224.0.0.1")}), call.Invalid, "not the address of a machine"},
		{"an address with a zone", cluster.SetNode("beta", cluster.NodeChange{Secondary: new("fe80::1%eth0")}), call.Invalid, "not the address of a machine"},
		{"no address", cluster.SetNode("beta", cluster.NodeChange{Primary: new("")}), call.Invalid, "not the address of a machine"},
		{"the master removed", cluster.RemoveNode("alpha"), call.Conflict, "is the master"},
		{"a node with instances removed", cluster.RemoveNode("beta"), call.Conflict, "has instances or disks"},
		{"an instance that is there", cluster.AddInstance("WEB.lab.example", cluster.InstanceChange{Primary: new("beta")}), call.Conflict, "already"},
		{"an instance with a name that is none", cluster.AddInstance("a b", cluster.InstanceChange{Primary: new("beta")}), call.Invalid, "not a machine name"},
		{"an instance nowhere", cluster.AddInstance("new", cluster.InstanceChange{}), call.Invalid, "needs a primary node"},
		{"an instance on an unknown node", cluster.AddInstance("new", cluster.InstanceChange{Primary: new("zeta")}), call.NotFound, "zeta"},
		{"an instance twice on a node", cluster.AddInstance("new", cluster.InstanceChange{Primary: new("beta"), Secondary: new("beta")}), call.Invalid, "another than the primary one"},
		{"a state that is none", cluster.SetInstance("web", cluster.InstanceChange{State: new("running")}), call.Invalid, "up, down or offline"},
		{"too many interfaces", cluster.SetInstance("web", cluster.InstanceChange{NICs: &many}), call.Invalid, "9 interfaces are more than 8"},
		{"an address that is taken", cluster.SetInstance("web", cluster.InstanceChange{NICs: &[]cluster.NIC{{IP: "203.0.113.20", Link: "xen-br0"}}}), call.Conflict, "is that of instance db.lab.example"},
		{"an address twice", cluster.SetInstance("web", cluster.InstanceChange{NICs: &[]cluster.NIC{{IP: "203.0.113.77"}, {IP: "203.0.113.77"}}}), call.Conflict, "is that of instance web"},
		{"a link that is none", cluster.SetInstance("web", cluster.InstanceChange{NICs: &[]cluster.NIC{{Link: "a b"}}}), call.Invalid, "link"},
		{"too many disks", cluster.SetInstance("web", cluster.InstanceChange{Disks: new(make([]uint64, 17))}), call.Invalid, "17 disks"},
		{"a disk without a size", cluster.SetInstance("web", cluster.InstanceChange{Disks: &[]uint64{0}}), call.Invalid, "a disk of 0 MiB"},
		{"a move with a disk that is lost", cluster.SetInstance("lost", cluster.InstanceChange{Primary: new("beta")}), call.Conflict, "a disk of instance lost.lab.example is missing"},
		{"no such instance", cluster.RemoveInstance("zeta"), call.NotFound, `no instance "zeta"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := parse(t, lab(t)).Apply(now(), tt.change)
			if n != nil || call.CodeOf(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("Apply = %v; want %v with %q", err, tt.code, tt.text)
			}
		})
	}
	if _, err := parse(t, lab(t)).Apply(now(), cluster.Raise(cluster.MaxSerial)); call.CodeOf(err) != call.TooMany {
		t.Errorf("a serial beyond all: %v", err)
	}
}

// What Ganeti's daemon would not take is no document, nor is what it would take
// and nothing here could change.
func TestParseRefuses(t *testing.T) {
	replace := func(old, with string) []byte {
		b := bytes.Replace(lab(t), []byte(old), []byte(with), 1)
		if bytes.Equal(b, lab(t)) {
			t.Fatalf("%q is not in the file", old)
		}
		return b
	}
	for _, tt := range []struct {
		name string
		data []byte
		text string
	}{
		{"nothing", nil, "does not begin with an object"},
		{"half", lab(t)[:5000], "malformed JSON"},
		{"too large", make([]byte, cluster.MaxDocument+1), "more than 67108864"},
		{"half a character", replace(`"name": "beta.lab.example"`, "\"name\": \"\xed\xa0\x80\""), "not UTF-8"},
		{"an unknown member", replace(`"filters"`, `"surprise": 1, "filters"`), "surprise"},
		{"a member twice", replace(`"serial_no": 42,`, `"serial_no": 42, "serial_no": 43,`), "twice"},
		{"a node twice", replace(`"nodegroups": {`, `"nodegroups": {"dddddddd-0000-4000-8000-000000000001":{"name":"x","members":[],"ndparams":{},"alloc_policy":"preferred","ipolicy":{},"diskparams":{},"networks":{},"uuid":"x","serial_no":1}, `), "twice"},
		{"a serial that is no integer", replace(`"serial_no": 42,`, `"serial_no": 42.0,`), "is no integer"},
		{"a serial below zero", replace(`"serial_no": 42,`, `"serial_no": -42,`), "is no integer"},
		{"a name in letters", replace(`"name": "beta.lab.example"`, `"name": ["b"]`), "is no string"},
		{"another uuid inside", replace(`"uuid": "`+beta, `"uuid": "`+gamma), "its uuid is"},
		{"a number that only Haskell writes", replace(`"spindle-ratio": 32.0`, `"spindle-ratio": 32.`), "invalid character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := cluster.Parse(tt.data); !errors.Is(err, cluster.ErrDocument) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Parse = %v; want ErrDocument with %q", err, tt.text)
			}
		})
	}
}

func TestParseKeepsEverything(t *testing.T) {
	var want bytes.Buffer
	if err := json.Compact(&want, lab(t)); err != nil {
		t.Fatal(err)
	}
	if got := parse(t, lab(t)).Bytes(); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got  %s\nwant %s", got, want.Bytes())
	}
	if got := apply(t, parse(t, lab(t)), cluster.Raise(99)); got.Serial() != 100 {
		t.Errorf("serial %d above 99", got.Serial())
	}
	if d := parse(t, lab(t)); d.UUID() != "ffffffff-0000-4000-8000-000000000001" || d.Name() != "cluster.lab.example" || d.Master() != "alpha.lab.example" ||
		d.Address() != "192.0.2.200" || d.Changed().UnixMilli() != 1700000001500 || !slices.Equal(d.Candidates(), []string{"alpha.lab.example", "beta.lab.example", "gamma.lab.example"}) {
		t.Errorf("%s %s %s %s %s %v", d.UUID(), d.Name(), d.Master(), d.Address(), d.Changed(), d.Candidates())
	}
}

// A new cluster is one that confd reads, without anything in it.
func TestNew(t *testing.T) {
	d := cluster.New("fleet", now())
	if c, err := confd.ParseConfig(d.Bytes()); err != nil || c.Nodes() != 0 || c.Serial() != 0 {
		t.Fatalf("ParseConfig: %v", err)
	}
	if d.Serial() != 0 || d.Name() != "fleet" || d.UUID() == cluster.New("fleet", now()).UUID() || d.Master() != "" {
		t.Errorf("%s %q", d.UUID(), d.Master())
	}
	parse(t, d.Bytes())
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{"512": 512, "512m": 512, "20G": 20 << 10, "1T": 1 << 20, "1048576T": 1 << 40} {
		if got, err := cluster.ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "G", "-1", "+1", "1.5G", "1K", "1GG", "20 G", "1048577T", "99999999999999999999", "1e3"} {
		if got, err := cluster.ParseSize(in); call.CodeOf(err) != call.Invalid {
			t.Errorf("ParseSize(%q) = %d, %v; want invalid", in, got, err)
		}
	}
}
