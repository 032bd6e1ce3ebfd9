package cluster

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"dominion/call"
	"dominion/confd"
)

// MaxDocument is the size of the largest document in bytes: some 30,000
// instances. It is less than confd reads, because reading one takes some twenty
// times its size in memory.
const MaxDocument = 64 << 20

// ErrDocument is wrapped by every error about bytes that are no document.
var ErrDocument = errors.New("not a configuration of a cluster")

// Document is one version of the cluster data. It never changes, and is safe for
// concurrent use.
type Document struct {
	top       *object // all members; those below are kept here in name only
	cluster   *object
	nodes     *table
	groups    *table
	instances *table
	disks     *table

	data []byte
}

// parts are the members of a document that are kept apart.
func (d *Document) parts() map[string]**table {
	return map[string]**table{"nodes": &d.nodes, "nodegroups": &d.groups, "instances": &d.instances, "disks": &d.disks}
}

// Parse reads a document: a config.data of Ganeti 3.0. It is as strict as
// Ganeti's daemon, and refuses members that stand there twice, and numbers where
// serials are that are not written as integers, too. Every error wraps
// ErrDocument.
func Parse(data []byte) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrDocument, len(data), MaxDocument)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrDocument)
	}
	if _, err := confd.ParseConfig(data); err != nil { // it bounds the depth, too
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	d, err := read(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return d, nil
}

// read takes compact JSON apart that has the shape of a configuration.
func read(data []byte) (*Document, error) {
	top, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	d := &Document{top: top, data: data}
	if d.cluster, err = parseObject(top.get("cluster")); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	for name, t := range d.parts() {
		if *t, err = parseTable(top.get(name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return d, d.check()
}

// Bytes gives the document as it is served, without white space. The caller must
// not change it.
func (d *Document) Bytes() []byte { return d.data }

// Serial is the cluster's serial number, which grows with every version.
func (d *Document) Serial() uint64 { return uint64(d.cluster.integer("serial_no")) }

// UUID is the cluster's own id, which no change changes.
func (d *Document) UUID() string { return d.cluster.text("uuid") }

// Name is the cluster's name.
func (d *Document) Name() string { return d.cluster.text("cluster_name") }

// Changed is when the cluster changed last; zero: never.
func (d *Document) Changed() time.Time {
	f, err := strconv.ParseFloat(string(d.cluster.get("mtime")), 64)
	if err != nil || f <= 0 || f > 1e11 {
		return time.Time{}
	}
	return time.UnixMicro(int64(f * 1e6))
}

// Apply makes the changes, one after the other, and gives the version that comes
// of them: when nothing changes d itself, and otherwise one whose serial is higher
// by one, or as Raise says. Errors of the changes have codes of package call; that
// a version is no document any more, or too large, wraps ErrDocument.
func (d *Document) Apply(now time.Time, changes ...Change) (*Document, error) {
	e := &edit{next: d.clone(), now: stamp(now), touched: make(map[*object]bool)}
	for _, c := range changes {
		if err := c(e); err != nil {
			return nil, err
		}
	}
	if !e.changed {
		return d, nil
	}
	serial := max(d.Serial(), e.above)
	if serial >= MaxSerial {
		return nil, call.Errorf(call.TooMany, "there is no serial after %d", serial)
	}
	n := e.next
	n.cluster.set("serial_no", encode(serial+1))
	n.cluster.set("mtime", e.now)
	n.top.set("serial_no", encode(n.top.integer("serial_no")+1))
	n.top.set("mtime", e.now)
	n.data = n.render()
	if len(n.data) > MaxDocument {
		return nil, fmt.Errorf("%w: it would have %d bytes, more than %d", ErrDocument, len(n.data), MaxDocument)
	}
	if _, err := confd.ParseConfig(n.data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return n, nil
}

// Change is one change of a document, for Apply.
type Change func(*edit) error

// edit is a version in the making. Its tables are its own, the objects in them
// are not: own gives one that may be changed.
type edit struct {
	next    *Document
	now     raw
	changed bool
	above   uint64           // the serial is to be higher than this
	touched map[*object]bool // objects that are its own, and have a new serial and mtime
}

// own gives the object under a key for changing. The first time its serial_no and
// mtime change.
func (e *edit) own(t *table, key string) *object {
	o := t.get(key)
	if o == nil || e.touched[o] {
		return o
	}
	o = o.clone()
	o.set("serial_no", encode(o.integer("serial_no")+1))
	o.set("mtime", e.now)
	t.put(key, o)
	e.touched[o], e.changed = true, true
	return o
}

// add puts a new object into a table.
func (e *edit) add(t *table, key string, v any) *object {
	o, err := parseObject(encode(v))
	if err != nil {
		panic(err) // a bug here
	}
	t.put(key, o)
	e.touched[o], e.changed = true, true
	return o
}

// remove takes an object out of a table.
func (e *edit) remove(t *table, key string) {
	t.remove(key)
	e.changed = true
}

// Raise makes a version whose serial is higher than a given one.
func Raise(above uint64) Change {
	return func(e *edit) error {
		e.above, e.changed = max(e.above, above), true
		return nil
	}
}

// clone gives a document whose tables may be changed.
func (d *Document) clone() *Document {
	n := &Document{top: d.top.clone(), cluster: d.cluster.clone()}
	from := d.parts()
	for name, t := range n.parts() {
		*t = (*from[name]).clone()
	}
	return n
}

func (d *Document) render() []byte {
	parts := d.parts()
	dst := make([]byte, 0, len(d.data)+4096)
	dst = append(dst, '{')
	for i, m := range d.top.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, m.key...), ':')
		switch t := parts[m.name]; {
		case t != nil:
			dst = (*t).append(dst)
		case m.name == "cluster":
			dst = d.cluster.append(dst)
		default:
			dst = append(dst, m.value...)
		}
	}
	return append(dst, '}')
}

// stamp is a time as Ganeti writes it: seconds, with a fraction.
func stamp(t time.Time) raw {
	return strconv.AppendFloat(nil, float64(t.UnixMicro())/1e6, 'f', -1, 64)
}

// newUUID gives a random id as Ganeti's are.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
