package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/client"
	"dominion/delegation"
)

func seen(name string, below ...delegation.Node) delegation.Node {
	return delegation.Node{Name: name, Life: delegation.Alive, Overlord: below != nil, Below: below}
}

func down(name, why string, below ...delegation.Node) delegation.Node {
	return delegation.Node{Name: name, Life: delegation.Silent, Problem: why, Overlord: below != nil, Below: below}
}

func mapOf(t *testing.T, below ...delegation.Node) client.FleetMap {
	t.Helper()
	m, err := delegation.New(delegation.Node{Name: "top", Life: delegation.Alive, Overlord: true, Below: below})
	if err != nil {
		t.Fatal(err)
	}
	return client.FleetMap{Map: m}
}

func TestRenderMap(t *testing.T) {
	var wide, reasons []delegation.Node
	for i := range 2000 {
		wide = append(wide, seen(fmt.Sprintf("web%04d", i+1)), seen(fmt.Sprintf("x%d-%x", i*7, i*i)))
	}
	for i := range 20 {
		reasons = append(reasons, down(fmt.Sprintf("n%02d", i), fmt.Sprintf("reason %02d", i)))
	}
	big := mapOf(t, append([]delegation.Node{
		seen("dc1",
			seen("rack1", seen("web2"), seen("web1"), down("web3", "gone\x1b[2J"), down("web4", "gone\x1b[2J"), down("web5", "")),
			seen("rack2", []delegation.Node{}...), seen("mail1")),
		down("dc2", "no answer within 1m0s", delegation.Node{Name: "old1"}, delegation.Node{Name: "old2"}),
		{Name: "dc3", Life: delegation.Alive, Overlord: true, Problem: "not asked: a map has at most 64 levels"},
		{Name: "dc4", Below: []delegation.Node{{Name: "db1"}}},
	}, seen("top-1"))...)
	big.Built = time.Date(2026, 11, 21, 15, 0, 0, 0, time.UTC)
	big.Conflicts = []client.MapConflict{{Name: "web1", Places: []string{"dc1/rack1/web1 sha256:aa", "dc9/web1 sha256:bb"}}}
	big.Cut = []string{"cut dc1/top: it is the overlord at the top\x07"}
	read, err := delegation.Parse([]byte("dc1: {web1: {}, web2: {}}\nmail1: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		m    client.FleetMap
		want string
	}{
		{"nobody", mapOf(t), "top: 0 machines\n"},
		{"one", mapOf(t, seen("web1")), "top: 1 machine\n└── web1\n"},
		{"a file", client.FleetMap{Map: read}, `map: 4 machines, 1 overlord among them, 2 levels
├── dc1: 2 machines
│   └── web[1,2] (2)
└── mail1
`},
		{"two ways", mapOf(t, seen("a", seen("web1"), seen("web2")), seen("b", seen("web1"), seen("web2"))), `top: 4 machines, 2 overlords among them, 2 levels
├── a: 2 machines
│   └── web[1,2] (2)
└── b: 2 machines
    └── web[1,2] (2)

Known at several places, with their ways in dominion map route:
  web[1,2] (2)
`},
		{"all that there is", big, `top: 16 machines, 6 overlords among them, 3 levels; 4 silent; built 2026-11-21 15:00:00Z
├── dc1: 8 machines, 3 silent
│   ├── rack1: 5 machines, 3 silent
│   │   ├── web[1,2] (2)
│   │   ├── web[3,4] (2): silent, gone\x1b[2J
│   │   └── web5: silent, for a reason unknown
│   ├── rack2: 0 machines
│   └── mail1
├── dc2: silent, no answer within 1m0s; 2 machines, from the map before
│   └── old[1,2] (2): not heard of, from the map before
├── dc3: 0 machines; not asked: a map has at most 64 levels
├── dc4: 1 machine; not heard of, from the map before
│   └── db1: not heard of, from the map before
└── top-1

Not routed, as machines with different keys bear the name:
  web1: dc1/rack1/web1 sha256:aa, dc9/web1 sha256:bb

Left out:
  cut dc1/top: it is the overlord at the top\x07
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := renderMap(tt.m); got != tt.want {
				t.Errorf("it is\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
	if got := renderMap(mapOf(t, wide...)); len(got) > 1200 || !strings.Contains(got, "… (4000)\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("a wide fleet takes %d bytes: %.300s", len(got), got)
	}
	if got := renderMap(mapOf(t, reasons...)); strings.Count(got, "\n") != 2+maxSilences || !strings.HasSuffix(got, "└── and 10 more machines silent for other reasons\n") {
		t.Errorf("many reasons: %s", got)
	}
}

func TestRoutes(t *testing.T) {
	m := mapOf(t,
		seen("a", seen("web1"), seen("web2"), seen("web3")),
		seen("b", seen("c", seen("web1"), seen("web2"))), seen("mail1"))
	m.Conflicts = []client.MapConflict{{Name: "web3"}}
	var got []string
	for _, d := range routesOf(m.Index(), []string{"mail1", "web1", "web2", "web3"}) {
		got = append(got, d.Machine+" "+wayText(d))
	}
	want := []string{"mail1 direct", "web1 by a; also by b/c", "web2 by a; also by b/c", "web3 not routed, machines with different keys bear the name: by a"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("routes %q; want %q", got, want)
	}
}

func TestFoldPaths(t *testing.T) {
	got := foldPaths([]delegation.Path{{"web1"}, {"web2"}, {"dc1", "a"}, {"dc1", "r", "n1"}, {"dc1", "r", "n2"}})
	if want := "web[1,2] (2)|dc1/a|dc1/r/n[1,2] (2)"; strings.Join(got, "|") != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{"60": time.Minute, "2m": 2 * time.Minute, "0.5s": time.Second / 2, "86400": 24 * time.Hour, "0": 0, "-1": 0, "x": 0, "1.5": 0, "25h": 0, "": 0, "99999999999": 0} {
		var s seconds
		err := s.Set(text)
		if (err == nil) != (want > 0) || time.Duration(s) != want {
			t.Errorf("Set(%q) = %v, %v; want %v", text, time.Duration(s), err, want)
		}
	}
}
