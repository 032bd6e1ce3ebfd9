package overlord

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/target"
)

func framed(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
}

func resultsEvent(g *apipb.ResultGroup) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: g}}
}

// What a sub-overlord answers: it ends in order, or with one sentinel; what is
// taken can be kept, and is read again as it is.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte("\x10what is this, an event?"))
	f.Add(binary.AppendUvarint(nil, 1<<40))
	f.Add(bytes.Repeat([]byte{0xff}, 11))
	f.Add(framed(f, resultsEvent(&apipb.ResultGroup{Names: "web[01-20]", Output: []byte(`{"ok":true}`), TookUs: make([]uint64, 20)})))
	f.Add(framed(f, resultsEvent(&apipb.ResultGroup{Names: "a", Cut: 1<<64 - 1})))
	f.Add(framed(f, resultsEvent(&apipb.ResultGroup{Names: "a", Code: 12, Detail: "gone", TookUs: []uint64{1<<64 - 1}})))
	f.Add(framed(f, &apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: "a", Stream: "stdout", Data: []byte("x")}}}))
	scope, err := job.NewScope(job.Whom{Names: []string{"a", "web01", "web02", "web07", "web19"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		for {
			ev, err := readEvent(in, 1<<16)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				if !errors.Is(err, errEvent) {
					t.Fatalf("%v is no %v", err, errEvent)
				}
				return
			}
			if ev.GetResults() == nil {
				continue
			}
			g, err := toldOfPB(scope, ev.GetResults())
			if err != nil {
				if !errors.Is(err, errEvent) {
					t.Fatalf("%v is no %v", err, errEvent)
				}
				continue
			}
			if len(g.At)+len(g.Others) == 0 || int64(g.Cut) < 0 || len(g.Took) != 0 && len(g.Took) != len(g.At) {
				t.Fatalf("%+v", g)
			}
			same := job.Group{Names: slices.Clone(g.Others), Code: g.Code, Detail: g.Detail, Output: g.Output, Cut: g.Cut}
			for _, us := range g.Took {
				same.Took = append(same.Took, job.Micros(us))
			}
			for _, i := range g.At {
				same.Names = append(same.Names, scope.Machines()[i])
			}
			same.Folded = target.Fold(same.Names)
			var again bytes.Buffer
			if err := writeEvent(&again, resultsEvent(groupPB(same))); err != nil {
				t.Fatal(err)
			}
			back, err := readEvent(bufio.NewReader(&again), 1<<24)
			if err != nil {
				t.Fatal(err)
			}
			h, err := toldOfPB(scope, back.GetResults())
			if err != nil || !slices.Equal(h.At, g.At) || !slices.Equal(h.Others, g.Others) || h.Code != g.Code || h.Detail != g.Detail || !bytes.Equal(h.Output, g.Output) || h.Cut != g.Cut {
				t.Fatalf("%+v is read as %+v, %v", g, h, err)
			}
		}
	})
}

// An order that a parent passes on, up to its plan: errors are the caller's fault,
// and a plan's machines are some of the order's.
func FuzzDelegate(f *testing.F) {
	add := func(d *fleetpb.Delegate) {
		b, err := proto.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&fleetpb.Delegate{Streamed: true})
	reach := &fleetpb.Branch{Name: "mid", Machines: "a[1,2]", Below: []*fleetpb.Branch{{Name: "low", Machines: "b[1-3]"}, {Name: "other", Machines: "b1"}}}
	add(&fleetpb.Delegate{Names: "a[1,2],b[1-3]", Reach: reach, Via: []string{"top"}})
	add(&fleetpb.Delegate{Names: "a[1,2],b[1-3]", Reach: &fleetpb.Branch{Name: "mid", Below: []*fleetpb.Branch{reach}}, Via: []string{"top"}})
	deep := &fleetpb.Branch{Name: "mid"}
	for at, n := deep, 0; n < 40; n++ {
		at.Below = []*fleetpb.Branch{{Name: "b", Machines: "a1"}}
		at = at.Below[0]
	}
	add(&fleetpb.Delegate{Names: "a1", Reach: deep})
	f.Add([]byte("\xff\xffgarbage"))
	f.Add(bytes.Repeat(protowire.AppendTag(nil, fieldReach, protowire.BytesType), 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeOrder(b)
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatalf("%v has the code %v", err, call.CodeOf(err))
			}
			return
		}
		if len(d.Via) > call.MaxHops || branches(d.Reach) > job.MaxBranches {
			t.Fatalf("%d and %d are too many", len(d.Via), branches(d.Reach))
		}
		names, err := expand(d.Names)
		if err != nil || len(names) == 0 || len(names) > 1000 {
			return
		}
		req := signedRequest(t, names)
		req.Reach, req.Part, req.Via = d.Reach, true, d.Via
		if req.Reach == nil {
			return
		}
		p, err := job.NewPlan(req)
		if err != nil {
			if c := call.CodeOf(err); c != call.Invalid && c != call.BadOrder {
				t.Fatalf("%v has the code %v", err, c)
			}
			return
		}
		for _, n := range p.Machines() {
			if _, ok := p.Tree.Index(n); !ok {
				t.Fatalf("%q is not in the order", n)
			}
		}
		if len(p.Machines()) == 0 {
			t.Fatal("a plan for nobody")
		}
	})
}

func branches(b *fleetpb.Branch) int {
	if b == nil {
		return 0
	}
	n := 1
	for _, s := range b.Below {
		n += branches(s)
	}
	return n
}

// signedRequest is an order for names, with a signature that nobody looks at.
func signedRequest(t *testing.T, names []string) job.Request {
	t.Helper()
	tree, err := call.NewNames(names)
	if err != nil {
		t.Fatal(err)
	}
	salt := make([]byte, call.SaltSize)
	now := time.UnixMilli(1_800_000_000_000)
	o := call.Order{
		Job: call.NewJobID(now), Method: "test.ping", ArgsDigest: call.Digest(salt, []byte("{}")), Root: tree.Root(), Count: tree.Len(),
		IssuedAt: now, NotBefore: now, Expiry: now.Add(1e12),
	}
	return job.Request{Signed: call.Signed{Order: o.Marshal()}, Salt: salt, Args: []byte("{}"), Whom: job.Whom{Names: names}}
}

// A decoder that took what it is sent at its word would need a gigabyte for this.
func TestOrderOfManyBranches(t *testing.T) {
	empty := protowire.AppendBytes(protowire.AppendTag(nil, fieldBelow, protowire.BytesType), nil)
	for name, b := range map[string][]byte{
		"branches": protowire.AppendBytes(protowire.AppendTag(nil, fieldReach, protowire.BytesType), bytes.Repeat(empty, 8<<20)),
		"merged branches": bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, fieldReach, protowire.BytesType),
			bytes.Repeat(empty, 1000)), 8<<10),
		"overlords": bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, fieldVia, protowire.BytesType), nil), 8<<20),
	} {
		allocations := testing.AllocsPerRun(1, func() {
			if _, err := decodeOrder(b); call.CodeOf(err) != call.Invalid {
				t.Errorf("%s: %v; want it refused", name, err)
			}
		})
		if allocations > 100 {
			t.Errorf("%s: %v allocations for an order that is refused", name, allocations)
		}
	}
}

// The size of an event follows from the number of machines.
func TestEventLimit(t *testing.T) {
	for n, want := range map[int]uint64{1: 1<<20 + 16<<10 + 264, 1000: 1<<20 + 16<<10 + 264_000, 1 << 20: maxEvent} {
		if got := eventLimit(n); got != want {
			t.Errorf("%d machines: %d bytes; want %d", n, got, want)
		}
	}
}
