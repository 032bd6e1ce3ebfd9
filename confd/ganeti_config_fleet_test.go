//go:build fleet

package confd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mutation changes one place of a configuration.
type mutation struct {
	path []any // keys and indices
	what string
	// value is what is put there; deleted: the place is removed.
	value   any
	deleted bool
}

func (m mutation) String() string { return fmt.Sprintf("%v %s", m.path, m.what) }

// mutations gives every change of one place that is tried.
func mutations(v any, path []any) []mutation {
	values := []string{
		`null`, `"q"`, `""`, `0`, `1`, `-1`, `1.5`, `2.5`, `1e3`, `12345678901`, `true`, `false`, `[]`, `{}`, `["q"]`, `["qq"]`, `[1]`, `{"q":1}`,
		`{"default":{}}`, `"1"`, `"4G"`, `"1.5g"`, `" 4 GiB"`, `"4k"`, `"kvm"`, `"plain"`, `"drbd"`, `"10.0.0.1"`, `"10.0.0.0/33"`, `1700000000.123456789`, `{"a":null,"b":[1.50,32.0,1e2]}`,
	}
	var out []mutation
	place := func(key, x any) {
		at := append(slices.Clone(path), key)
		out = append(out, mutation{path: at, what: "removed", deleted: true})
		for _, s := range values {
			out = append(out, mutation{path: at, what: "= " + s, value: json.RawMessage(s)})
		}
		out = append(out, mutations(x, at)...)
	}
	switch v := v.(type) {
	case map[string]any:
		out = append(out, mutation{path: append(slices.Clone(path), "surprise"), what: "added", value: 1})
		for _, mark := range []any{true, false, nil, "x"} {
			out = append(out, mutation{path: append(slices.Clone(path), "forthcoming"), what: fmt.Sprintf("added: %v", mark), value: mark})
		}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			place(k, v[k])
		}
	case []any:
		for i, x := range v {
			place(i, x)
		}
	}
	return out
}

// apply gives the configuration with the change made.
func (m mutation) apply(t testing.TB, config []byte) []byte {
	t.Helper()
	root := decode(t, config)
	var at any = root
	for _, k := range m.path[:len(m.path)-1] {
		switch x := at.(type) {
		case map[string]any:
			at = x[k.(string)]
		case []any:
			at = x[k.(int)]
		}
	}
	last := m.path[len(m.path)-1]
	switch x := at.(type) {
	case map[string]any:
		if m.deleted {
			delete(x, last.(string))
		} else {
			x[last.(string)] = m.value
		}
	case []any:
		if m.deleted {
			x[last.(int)] = nil
		} else {
			x[last.(int)] = m.value
		}
	}
	b, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// What the genuine daemon refuses of a configuration with one place changed, ours
// refuses; what it takes, it writes as ours. DOMINION_SAMPLE is how many changes
// are tried, DOMINION_SEED which, DOMINION_ONLY a part of their names.
func TestFleetGanetiSameConfigurations(t *testing.T) {
	needGaneti(t)
	n, seed := 40, time.Now().UnixNano()
	if v, err := strconv.Atoi(os.Getenv("DOMINION_SAMPLE")); err == nil {
		n = v
	}
	if v, err := strconv.ParseInt(os.Getenv("DOMINION_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("DOMINION_SAMPLE=%d DOMINION_SEED=%d", n, seed)
	config := labConfig(t)
	all := mutations(decode(t, config), nil)
	if only := os.Getenv("DOMINION_ONLY"); only != "" {
		all = slices.DeleteFunc(all, func(m mutation) bool { return !strings.Contains(m.String(), only) })
	}
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	d := startGaneti(t, config)
	for _, m := range all[:min(n, len(all))] {
		compareConfig(t, d, m.String(), m.apply(t, config))
	}
	if os.Getenv("DOMINION_ONLY") != "" {
		return
	}
	for _, planned := range []string{
		`{"forthcoming":true,"uuid":"u","serial_no":1}`, `{"forthcoming":true,"uuid":"u"}`, `{"forthcoming":true,"serial_no":1}`, `{"forthcoming":true,"uuid":null,"serial_no":1}`,
		`{"forthcoming":true,"uuid":"u","serial_no":1,"logical_id":["a","b"]}`, `{"forthcoming":true,"uuid":"u","serial_no":1,"dev_type":"plain"}`,
		`{"forthcoming":true,"uuid":"u","serial_no":1,"dev_type":"plain","logical_id":["a","b"],"children":null,"size":null}`, `{"forthcoming":true,"forthcoming":false,"uuid":"u","serial_no":1}`,
	} {
		for _, place := range [][]any{{"instances", web}, {"disks", "d1d1d1d1-0000-4000-8000-000000000001"}} {
			m := mutation{path: place, what: "= " + planned, value: json.RawMessage(planned)}
			compareConfig(t, d, m.String(), m.apply(t, config))
		}
	}
}

// compareConfig asks both servers about one configuration.
func compareConfig(t *testing.T, d *daemon, name string, config []byte, more ...Request) {
	t.Helper()
	d.stop()
	d.start(config)
	theirs := d.ask(Ping().Request, time.Second)
	c, err := ParseConfig(config)
	if refused := strings.HasPrefix(string(theirs.Answer), `"Cannot load`); refused != (err != nil) {
		t.Errorf("%s: theirs %.300s, ours %v", name, theirs.Answer, err)
		return
	}
	if err != nil {
		return
	}
	s := NewServer(ServerConfig{Key: []byte(testKey)})
	s.SetData(c)
	var asks []Request
	for _, p := range []string{"/version", "/cluster", "/nodes", "/nodegroups", "/instances", "/networks", "/disks", "/filters", "/ctime", "/mtime", "/serial_no"} {
		asks = append(asks, Config(p).Request)
	}
	asks = append(asks, Ping().Request, NodeRole("alpha.lab.example").Request, NodeRole("beta").Request, Master().Request, MasterFields(0, 1, 2).Request, MasterFields().Request,
		NodePips().Request, CandidatePips().Request, NodeDRBD("alpha").Request, NodeDRBD("beta").Request, NodeDRBD("gamma").Request, NodeInstances("beta").Request,
		NodeInstances("alpha").Request, InstanceDisks("web").Request, InstanceDisks("files").Request, Collectors().Request)
	if c.hasLinks {
		asks = append(asks, InstanceIPs(nil).Request, InstanceIPs(new("br1")).Request, PipByInstanceIP("203.0.113.10", nil).Request,
			PipsByInstanceIPs([]string{"203.0.113.10", "203.0.113.20", "203.0.113.30", ""}, nil).Request)
	}
	w := s.newWorker()
	for _, r := range append(asks, more...) {
		r.Rsalt = "x"
		b, err := r.Append(nil, []byte(testKey), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ours, _, err := ParseReply(w.answer(nil, b, d.addr.AddrPort().Addr()), []byte(testKey))
		if err != nil {
			t.Fatal(err)
		}
		theirs := d.ask(r, 3*time.Second)
		if theirs == nil || ours.Status != theirs.Status || ours.Serial != theirs.Serial || !bytes.Equal(ours.Answer, theirs.Answer) {
			t.Errorf("%s, type %d %s\nours   %s\ntheirs %s", name, r.Type, r.Query.text, ours.brief(), theirs.brief())
		}
	}
}

func (r *Reply) brief() string {
	if r == nil {
		return "silence"
	}
	return fmt.Sprintf("status %d, serial %d, %.3000s", r.Status, r.Serial, r.Answer)
}
