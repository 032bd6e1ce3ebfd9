package cluster

import (
	"bytes"
	_ "embed" // for the blank configuration
	"encoding/json"
	"time"
)

// blank is the configuration of a cluster without anything in it: what
// "gnt-cluster init" writes, less its keys, its addresses and its names.
//
//go:embed blank.json
var blank []byte

// groupName is the name of Ganeti's first group of nodes.
const groupName = "default"

// New gives the document of a new cluster: no nodes, a fresh UUID, serial 0. It
// is to be served after the first change.
func New(name string, now time.Time) *Document {
	var b bytes.Buffer
	if err := json.Compact(&b, blank); err != nil {
		panic(err) // a bug here
	}
	d, err := readBlank(b.Bytes(), name, now)
	if err != nil {
		panic(err) // a bug here
	}
	return d
}

func readBlank(data []byte, name string, now time.Time) (*Document, error) {
	top, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	d := &Document{top: top}
	if d.cluster, err = parseObject(top.get("cluster")); err != nil {
		return nil, err
	}
	for part, t := range d.parts() {
		if *t, err = parseTable(top.get(part)); err != nil {
			return nil, err
		}
	}
	t := stamp(now)
	d.cluster.set("uuid", encode(newUUID()))
	d.cluster.set("cluster_name", encode(name))
	for _, o := range []*object{top, d.cluster} {
		o.set("ctime", t)
		o.set("mtime", t)
	}
	e := &edit{next: d, now: t, touched: make(map[*object]bool)}
	group := newUUID()
	e.add(d.groups, group, struct {
		Name        string   `json:"name"`
		Members     []string `json:"members"`
		NDParams    struct{} `json:"ndparams"`
		AllocPolicy string   `json:"alloc_policy"`
		IPolicy     struct{} `json:"ipolicy"`
		DiskParams  struct{} `json:"diskparams"`
		Networks    struct{} `json:"networks"`
		tail
	}{Name: groupName, Members: []string{}, AllocPolicy: "preferred", tail: newTail(group, t)})
	d.data = d.render()
	return d, d.check()
}

// tail is how objects end that are made here.
type tail struct {
	CTime  raw      `json:"ctime"`
	MTime  raw      `json:"mtime"`
	UUID   string   `json:"uuid"`
	Serial int      `json:"serial_no"`
	Tags   []string `json:"tags"`
}

func newTail(uuid string, now raw, tags ...string) tail {
	if tags == nil {
		tags = []string{}
	}
	return tail{CTime: now, MTime: now, UUID: uuid, Serial: 1, Tags: tags}
}
