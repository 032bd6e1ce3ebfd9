package apimap_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"dominion/api/apimap"
	"dominion/api/apipb"
	"dominion/delegation"
)

func example(t testing.TB) delegation.Map {
	t.Helper()
	m, err := delegation.New(delegation.Node{Name: "top", Fingerprint: "k0", Life: delegation.Alive, Overlord: true, Below: []delegation.Node{
		{Name: "dc1", Fingerprint: "k1", Life: delegation.Alive, Overlord: true, Below: []delegation.Node{
			{Name: "web1", Fingerprint: "k2", Life: delegation.Silent, Problem: "gone"},
			{Name: "top", Fingerprint: "k0"},
		}},
		{Name: "web1", Fingerprint: "k3", Life: delegation.Alive},
		{Name: "web2"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	m := example(t)
	pb := apimap.Encode(m)
	if got, want := strings.Join(pb.Cuts, "\n"), "cut dc1/top: it is the overlord at the top"; got != want {
		t.Errorf("cuts %q; want %q", got, want)
	}
	if got := apimap.Conflicts(pb); len(got) != 1 || got[0] != "web1" || strings.Join(pb.Conflicts[0].Places, ", ") != "web1 k3, dc1/web1 k2" {
		t.Errorf("conflicts %v", pb.Conflicts)
	}
	more := apimap.Encode(delegation.OnlyAlive(m), delegation.Conflicts(m)...)
	if got := apimap.Conflicts(more); len(got) != 1 || got[0] != "web1" {
		t.Errorf("conflicts that are given %v", more.Conflicts)
	}
	if pb = apimap.Encode(m, delegation.Conflicts(m)...); len(pb.Conflicts) != 1 {
		t.Errorf("conflicts that are given, and there %v", pb.Conflicts)
	}
	back, err := apimap.Decode(pb)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.Self, back.Self); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeIsBounded(t *testing.T) {
	deep := &apipb.MapNode{Name: "x"}
	for range delegation.MaxDepth + 1 {
		deep = &apipb.MapNode{Name: "x", Below: []*apipb.MapNode{deep}}
	}
	if _, err := apimap.Decode(&apipb.FleetMap{Root: deep}); !errors.Is(err, delegation.ErrMap) {
		t.Errorf("too deep: %v", err)
	}
	odd := &apipb.FleetMap{Root: &apipb.MapNode{Below: []*apipb.MapNode{{Name: "a_b"}, {Name: "OK", Life: 1 << 30}, nil}}}
	m, err := apimap.Decode(odd)
	if err != nil || len(m.Self.Below) != 1 || m.Self.Below[0].Name != "ok" || m.Self.Below[0].Life != delegation.Unasked {
		t.Errorf("odd nodes: %+v, %v", m.Self, err)
	}
	if m, err := apimap.Decode(nil); err != nil || len(m.Self.Below) != 0 {
		t.Errorf("nothing: %+v, %v", m, err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := proto.Marshal(apimap.Encode(example(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		pb := new(apipb.FleetMap)
		if proto.Unmarshal(b, pb) != nil {
			return
		}
		m, err := apimap.Decode(pb)
		if err != nil {
			if !errors.Is(err, delegation.ErrMap) {
				t.Fatalf("error %v does not wrap ErrMap", err)
			}
			return
		}
		again, err := apimap.Decode(apimap.Encode(m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m.Self, again.Self, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
