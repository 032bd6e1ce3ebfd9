package client

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/call"
)

// FuzzEvents feeds a job what an overlord gone mad might send: it never
// panics, refuses with a *call.Error, and its account never exceeds its target.
func FuzzEvents(f *testing.F) {
	for _, e := range []*apipb.CallEvent{
		{Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{Names: "web[1,2]", Status: 1, TookUs: []uint64{1, 2}}}},
		{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: &apipb.Counts{Targeted: 3, Answered: 3}}}},
		{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: "web1", Stream: "stdout", Data: []byte("x")}}},
		{Event: &apipb.CallEvent_Progress{Progress: &apipb.Progress{Waiting: "web1"}}},
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(apipb.CallEvent)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		j := &Job{Names: []string{"web1", "web2", "web3"}, awaited: map[string]struct{}{"web1": {}, "web2": {}, "web3": {}}}
		j.counts.Targeted = j.Targeted()
		for range 2 {
			e, err := j.take(m)
			if o, ok := e.(*Output); ok && !slices.Contains(j.Names, o.Machine) {
				t.Fatalf("output of %q, which is not of the job", o.Machine)
			}
			if err != nil {
				if _, ok := errors.AsType[*call.Error](err); !ok {
					t.Fatalf("error %v is no *call.Error", err)
				}
			}
		}
		if c := j.Counts(); c.Done() > c.Targeted {
			t.Fatalf("%+v counts more machines than it targets", c)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a", "a:1", "[::1]:2", "::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Address(s)
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatalf("Address(%q) = %v; want invalid", s, err)
			}
			return
		}
		if again, err := Address(a); err != nil || again != a {
			t.Fatalf("Address(%q) = %q, %v", a, again, err)
		}
	})
}

func TestFolder(t *testing.T) {
	var f Folder
	f.Add(&Group{Names: []string{"web2"}, Status: call.Answered, Output: []byte("a")})
	f.Add(&Group{Names: []string{"web9"}, Status: call.DidFail, Code: call.Failed, Detail: "no"})
	f.Add(&Group{Names: []string{"db1"}, Status: call.Answered, Output: []byte("b")})
	f.Add(&Group{Names: []string{"web1", "web3"}, Status: call.Answered, Output: []byte("a")})
	f.Add(&Group{Names: []string{"web8"}, Status: call.DidFail, Code: call.Failed, Detail: "no", Cut: 1})
	got := f.Groups()
	want := [][]string{{"web1", "web2", "web3"}, {"db1"}, {"web8"}, {"web9"}}
	if len(got) != len(want) {
		t.Fatalf("%d groups; want %d", len(got), len(want))
	}
	for i, g := range got {
		if len(g.Names) != len(want[i]) || g.Names[0] != want[i][0] {
			t.Errorf("group %d is of %q; want %q", i, g.Names, want[i])
		}
	}
}
