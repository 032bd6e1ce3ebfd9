package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func dialled(t *testing.T, f *fakeOverlord) *client.Conn {
	t.Helper()
	conn, err := client.Dial(t.Context(), client.Endpoint{State: f.state(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func fleetMap(below ...*apipb.MapNode) *apipb.FleetMap {
	return &apipb.FleetMap{Root: &apipb.MapNode{Name: "top", Below: below}}
}

func TestMap(t *testing.T) {
	f := newFake(t)
	conn := dialled(t, f)
	if _, err := conn.Map(t.Context()); call.CodeOf(err) != call.NotFound {
		t.Errorf("without a map: %v", err)
	}
	f.fleet = &apipb.MapResponse{BuiltMs: 1000, Map: fleetMap(&apipb.MapNode{Name: "dc1", Below: []*apipb.MapNode{{Name: "web1"}}}, &apipb.MapNode{Name: "web1"}, &apipb.MapNode{Name: "web2"})}
	f.fleet.Map.Conflicts = []*apipb.MapConflict{{Name: "web1", Places: []string{"web1 k1", "dc1/web1 k2"}}}
	f.fleet.Map.Cuts = []string{"cut"}
	m, err := conn.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !m.Built.Equal(time.UnixMilli(1000)) || !slices.Equal(m.Cut, []string{"cut"}) || !slices.Equal(m.Barred(), []string{"web1"}) {
		t.Errorf("the map is %+v", m)
	}
	if got := m.Unambiguous().String(); got != "---\ndc1: {}\nweb2: {}\n" {
		t.Errorf("without conflicts: %q", got)
	}
	if _, routed := m.Index().Route("web1"); routed {
		t.Error("a conflict is routed")
	}
	deep := &apipb.MapNode{Name: "x"}
	for range 100 {
		deep = &apipb.MapNode{Name: "x", Below: []*apipb.MapNode{deep}}
	}
	f.fleet.Map = fleetMap(deep)
	if _, err := conn.Map(t.Context()); call.CodeOf(err) != call.Internal {
		t.Errorf("a map without end: %v", err)
	}
}

// What the caller wants done with a file here is not done there.
func TestBuildMap(t *testing.T) {
	f := newFake(t)
	conn := dialled(t, f)
	var asked *apipb.BuildMapRequest
	f.build = func(req *apipb.BuildMapRequest, send func(*apipb.BuildMapEvent) error) error {
		asked = req
		return errors.Join(send(&apipb.BuildMapEvent{Line: "one"}), send(&apipb.BuildMapEvent{}), send(&apipb.BuildMapEvent{Line: "two", Warning: true}),
			send(&apipb.BuildMapEvent{Map: fleetMap(&apipb.MapNode{Name: "web1", Life: 1})}))
	}
	var said []string
	opt := client.MapOptions{Append: true, OnlyAlive: true, Timeout: 1500 * time.Millisecond, Observe: func(line string, warning bool) {
		if warning {
			line += "!"
		}
		said = append(said, line)
	}}
	m, err := conn.BuildMap(t.Context(), opt)
	if err != nil || m.Count().Machines != 1 || !slices.Equal(said, []string{"one", "two!"}) {
		t.Errorf("%+v, %v; it said %q", m, err, said)
	}
	if !asked.Append || !asked.OnlyAlive || asked.Dry || asked.TimeoutMs != 1500 {
		t.Errorf("asked for %v", asked)
	}
	opt.File = filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(opt.File, []byte("old: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err = conn.BuildMap(t.Context(), opt); err != nil || m.Count().Machines != 2 {
		t.Errorf("with a file: %+v, %v", m, err)
	}
	if asked.Append || !asked.OnlyAlive || !asked.Dry {
		t.Errorf("with a file, asked for %v", asked)
	}
	if b, err := os.ReadFile(opt.File); err != nil || string(b) != "---\nold: {}\nweb1: {}\n" {
		t.Errorf("the file is %q, %v", b, err)
	}

	before, err := os.ReadFile(opt.File)
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	for _, tt := range []struct {
		name  string
		build func(req *apipb.BuildMapRequest, send func(*apipb.BuildMapEvent) error) error
		want  func(error) bool
	}{
		{"no map", func(*apipb.BuildMapRequest, func(*apipb.BuildMapEvent) error) error { return nil }, func(err error) bool {
			return call.CodeOf(err) == call.Internal && strings.Contains(err.Error(), "without a word of how it went")
		}},
		{"another building", func(*apipb.BuildMapRequest, func(*apipb.BuildMapEvent) error) error {
			return call.Errorf(call.Conflict, "the map is being built")
		}, func(err error) bool { return call.CodeOf(err) == call.Conflict }},
		{"it breaks in the middle", func(_ *apipb.BuildMapRequest, send func(*apipb.BuildMapEvent) error) error {
			return errors.Join(send(&apipb.BuildMapEvent{Line: "one"}), call.Errorf(call.Unavailable, "the overlord stops"))
		}, func(err error) bool { return call.CodeOf(err) == call.Unavailable }},
		{"the caller leaves", func(_ *apipb.BuildMapRequest, send func(*apipb.BuildMapEvent) error) error {
			leave()
			return send(&apipb.BuildMapEvent{Map: fleetMap()})
		}, func(err error) bool { return err != nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.build = tt.build
			if _, err := conn.BuildMap(ctx, opt); !tt.want(err) {
				t.Errorf("BuildMap = %v", err)
			}
			if b, err := os.ReadFile(opt.File); err != nil || string(b) != string(before) {
				t.Errorf("the file is %q, %v", b, err)
			}
		})
	}
}
