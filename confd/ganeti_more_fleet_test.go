//go:build fleet

package confd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// On data that are not whole, too, every datagram gets the same bytes, or the same
// silence.
func TestFleetGanetiOddData(t *testing.T) {
	d := startGaneti(t, labConfig(t))
	for name, change := range oddData() {
		t.Run(name, func(t *testing.T) {
			config := changed(t, change)
			c, err := ParseConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			s := NewServer(ServerConfig{Key: []byte(testKey)})
			s.SetData(c)
			d.t = t
			d.stop()
			d.start(config)
			compareReplies(t, d, wireCases(t, s))
		})
	}
}

// oddData are changes to the lab's configuration that leave something dangling.
func oddData() map[string]func(c map[string]any) {
	return map[string]func(c map[string]any){
		"no default link":  func(c map[string]any) { delete(in(c, "cluster", "nicparams"), "default") },
		"no master":        func(c map[string]any) { in(c, "cluster")["master_node"] = "gone" },
		"master by a name": func(c map[string]any) { in(c, "cluster")["master_node"] = "beta" },
		"a peer is gone":   func(c map[string]any) { delete(in(c, "nodes"), gamma) },
		"a disk is gone":   func(c map[string]any) { delete(in(c, "disks"), "d1d1d1d1-0000-4000-8000-000000000002") },
		"two of one name":  func(c map[string]any) { in(c, "nodes", beta)["name"] = "gamma.lab.example" },
		"a name is empty":  func(c map[string]any) { in(c, "nodes", beta)["name"] = ""; in(c, "instances", db)["name"] = ".x" },
		"a name is a uuid": func(c map[string]any) { in(c, "nodes", beta)["name"] = alpha },
		"drained": func(c map[string]any) {
			in(c, "nodes", alpha)["drained"] = true
			in(c, "nodes", beta)["offline"] = true
		},
		"xen":           func(c map[string]any) { in(c, "cluster")["enabled_hypervisors"] = []string{"xen-hvm", "kvm"} },
		"nodes by name": func(c map[string]any) { in(c, "instances", db)["primary_node"] = "alpha" },
		"nothing":       func(c map[string]any) { c["instances"], c["disks"] = map[string]any{}, map[string]any{} },
		"planned": func(c map[string]any) {
			i := in(c, "instances", db)
			i["forthcoming"] = true
			delete(i, "name")
			delete(i, "primary_node")
		},
	}
}

// A thousand nodes: the list, and each tenth's role.
func TestFleetGanetiGrown(t *testing.T) {
	config := changed(t, func(c map[string]any) {
		one := in(c, "nodes", alpha)
		for i := range 1000 {
			n := make(map[string]any, len(one))
			for k, v := range one {
				n[k] = v
			}
			uuid := fmt.Sprintf("ab%06d-0000-4000-8000-000000000000", i*7919%1000)
			n["uuid"], n["name"], n["primary_ip"] = uuid, fmt.Sprintf("node%d.lab.example", i), fmt.Sprintf("10.1.%d.%d", i>>8, i&255)
			in(c, "nodes")[uuid] = n
		}
	})
	c, err := ParseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Key: []byte(testKey)})
	s.SetData(c)
	w := s.newWorker()
	var cases []wireCase
	add := func(r Request) {
		r.Rsalt = fmt.Sprintf("grown-%d", len(cases))
		b, err := r.Append(nil, []byte(testKey), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, wireCase{fmt.Sprintf("%+v", r), b, bytes.Clone(w.answer(nil, b, localhost))})
	}
	add(NodePips().Request)
	add(CandidatePips().Request)
	for i := 0; i < 1000; i += 10 {
		add(NodeRole(fmt.Sprintf("node%d", i)).Request)
	}
	compareReplies(t, startGaneti(t, config), cases)
}

// Without data: the same text where there is no file, and the same beginning where
// it is broken.
func TestFleetGanetiNoData(t *testing.T) {
	for name, content := range map[string][]byte{"absent": nil, "broken": []byte("{"), "empty": {}, "other": []byte(`{"version":1}`)} {
		d := startGaneti(t, content)
		s := NewServer(ServerConfig{Key: []byte(testKey)})
		s.Load(d.path("config.data"))
		for typ := range types {
			theirs := d.ask(Request{Type: Type(typ)}, 3*time.Second)
			if theirs == nil {
				t.Fatalf("%s: the genuine daemon is silent", name)
			}
			r := Request{Type: Type(typ), Rsalt: "x"}
			b, err := r.Append(nil, []byte(testKey), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			ours, _, err := ParseReply(s.newWorker().answer(nil, b, localhost), []byte(testKey))
			if err != nil {
				t.Fatal(err)
			}
			if content != nil { // the reason is in other words
				theirs.Answer, _, _ = bytes.Cut(theirs.Answer, []byte("parsing configuration: "))
				ours.Answer, _, _ = bytes.Cut(ours.Answer, []byte("parsing configuration: "))
			}
			if ours.brief() != theirs.brief() {
				t.Errorf("%s, type %d:\nours   %s\ntheirs %s", name, typ, ours.brief(), theirs.brief())
			}
		}
	}
}

// The callbacks do what Ganeti's do, upcall by upcall.
func TestFleetGanetiCallbacks(t *testing.T) {
	d := startDriver(t, 1, "127.0.0.1")
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 50 {
		var line struct {
			Upcalls [][]any `json:"upcalls"`
		}
		var ups []*Upcall
		for range 40 {
			u := up([]string{"a", "b", "c"}[random.IntN(3)], []string{"1", `"x"`, `{"k":[1,2]}`, ""}[random.IntN(4)], int64(random.IntN(4)))
			var answer any
			if u.Kind == Replied {
				answer = json.RawMessage(u.Reply.Answer)
			}
			ups = append(ups, u)
			line.Upcalls = append(line.Upcalls, []any{u.Salt, int(u.Kind), u.Reply.Serial, answer})
		}
		if ours, theirs := traceOf(t, ups), compact(t, d.do(line)); ours != theirs {
			t.Errorf("seed %d\nours   %s\ntheirs %s", seed, ours, theirs)
		}
	}
	var needed []int
	for n := range 101 {
		needed = append(needed, NeededReplies(n))
	}
	var theirs []int
	if err := json.Unmarshal(d.do(map[string]int{"needed": 100}), &theirs); err != nil || !slices.Equal(needed, theirs) {
		t.Errorf("needed replies %v; theirs %v, %v", needed, theirs, err)
	}
}

func compact(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// traceOf feeds our callbacks, and tells of each upcall what the driver tells.
func traceOf(t *testing.T, ups []*Upcall) string {
	t.Helper()
	passed := 0
	var store Store
	filter, err := NewFilter(func(*Upcall) { passed++ }, nil)
	if err != nil {
		t.Fatal(err)
	}
	counter, err := NewCounter(filter.Upcall)
	if err != nil {
		t.Fatal(err)
	}
	if err := counter.Register("a"); err != nil {
		t.Fatal(err)
	}
	if err := counter.Register("b"); err != nil {
		t.Fatal(err)
	}
	trace := [][]any{}
	for _, u := range ups {
		before := passed
		counter.Upcall(u)
		store.Upcall(u)
		var consistent, serial any
		if c, known := filter.Consistent(u.Salt); known {
			consistent = c
		}
		if last, ok := store.Response(u.Salt); ok {
			serial = last.Reply.Serial
		}
		trace = append(trace, []any{passed > before, consistent, counter.AllAnswered(), serial})
	}
	b, err := json.Marshal(trace)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The genuine client and several of our servers: who is sent to, and who counts.
func TestFleetGanetiClientManyPeers(t *testing.T) {
	port := serve(t, "127.0.0.1", 0, labServer(t))
	serve(t, "127.0.0.2", port, labServer(t))
	d := startDriver(t, port, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	for _, tt := range []struct {
		coverage int
		want     string
	}{{-1, `"timed_out": false, "sent": 3, "received": 2`}, {0, `"timed_out": false, "sent": 3, "received": 2`}, {4, "Not enough MCs known"}} {
		if got := string(d.do(map[string]any{"type": 3, "coverage": tt.coverage})); !strings.Contains(got, tt.want) {
			t.Errorf("coverage %d: %s; want %s", tt.coverage, got, tt.want)
		}
	}
}

// Both directions over IPv6.
func TestFleetGanetiIPv6(t *testing.T) {
	needIPv6(t)
	d := startGanetiOn(t, labConfig(t), net.IPv6loopback)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	askLab(t, ctx, newTestClient(t, ClientConfig{Peers: []string{"::1"}, Port: d.port}))
	theirs, ours := startDriver(t, d.port, "::1"), startDriver(t, serve(t, "::1", 0, labServer(t)), "::1")
	for _, typ := range []int{0, 3, 4, 5, 6, 11} {
		line := map[string]any{"type": typ}
		if a, b := string(ours.do(line)), string(theirs.do(line)); a != b || !strings.Contains(a, `"ip": "::1"`) {
			t.Errorf("type %d:\nours   %s\ntheirs %s", typ, a, b)
		}
	}
}
