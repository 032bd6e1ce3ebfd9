//go:build fleet

package main_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// delegate sends a sub-overlord an order.
func (i *impostor) delegate(name string, d *fleetpb.Delegate) asked {
	i.t.Helper()
	args, err := proto.Marshal(d)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.send(name, &fleetpb.Call{Method: session.MethodDelegate, Args: args})
}

// delegation gives the CALL of an order.
func delegation(t *testing.T, d *fleetpb.Delegate) []byte {
	t.Helper()
	args, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(&fleetpb.Call{Method: session.MethodDelegate, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// streamed sends a sub-overlord the bytes of an order as a stream.
func (i *impostor) streamed(name string, order []byte) asked {
	i.t.Helper()
	body := delegation(i.t, &fleetpb.Delegate{Streamed: true})
	s, id, a := i.peer(name), i.id(), make(asked, 1)
	if err := s.Start(id, a, body); err != nil {
		a <- verdict{call.CodeOf(err), err.Error()}
		return a
	}
	st, err := s.Open(i.t.Context(), id, "order")
	if err != nil {
		i.t.Fatal(err)
	}
	go func() {
		_, _ = st.Write(order) // an error: it wants no more, and says why in its answer
		_ = st.Close()
	}()
	return a
}

// A sub-overlord whose parent is in the wrong hands goes on with what its own
// operators order, and carries out nothing that nobody signed.
func testEvilParent(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	mid := top.sub(top, "mid")
	mid.minion("mid-1")
	mid.minion("mid-2")
	mid.await(2)
	mid.overlord.stop()
	mid.write("empty.yaml", "max_jobs: 20\n")
	mid.up()
	mid.await(2)
	alice := top.login("alice")
	evil := top.possess("top")
	evil.peer("mid")
	path, lines := mid.marks("ran")
	now := time.Now()
	order := func() *fleetpb.Delegate {
		d := top.ordered("command.shell", `{"script":"echo ran >> `+path+`"}`, "mid-[1,2]", time.Now(), now.Add(time.Hour))
		d.Reach, d.Via, d.TimeoutMs = &fleetpb.Branch{Name: "mid", Machines: "mid-[1,2]"}, []string{"top"}, 20_000
		return d
	}
	mallory, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	deep := &fleetpb.Branch{Name: "mid"}
	for at, n := deep, 0; n < 1000; n++ {
		at.Below = []*fleetpb.Branch{{Name: "b", Machines: "mid-1"}}
		at = at.Below[0]
	}
	var wide []byte // a million of them, each two bytes
	for range 1 << 20 {
		wide = protowire.AppendBytes(protowire.AppendTag(wide, 3, protowire.BytesType), nil)
	}
	bomb := func(d *fleetpb.Delegate) []byte {
		b, err := proto.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), bytes.Repeat(wide, 8))
	}
	before := memory(t, mid.overlord.pid(), "VmHWM")
	peak := func(what string) {
		t.Logf("%s: mid's peak %d MiB", what, memory(t, mid.overlord.pid(), "VmHWM")>>20)
	}
	for _, x := range []struct {
		name   string
		change func(d *fleetpb.Delegate)
		codes  []call.Code
	}{
		{"unsigned", func(d *fleetpb.Delegate) { d.Signature = nil }, []call.Code{call.BadOrder}},
		{"another's signature", func(d *fleetpb.Delegate) {
			o, err := call.ParseOrder(d.Order)
			if err != nil {
				t.Fatal(err)
			}
			s, err := call.Sign(o, mallory, d.OperatorCert)
			if err != nil {
				t.Fatal(err)
			}
			d.Signature = s.Signature
		}, []call.Code{call.BadOrder}},
		{"the parent's certificate", func(d *fleetpb.Delegate) { d.OperatorCert = evil.cert.Leaf.Raw }, []call.Code{call.Denied}},
		{"no certificate", func(d *fleetpb.Delegate) { d.OperatorCert = nil }, []call.Code{call.BadOrder}},
		{"arguments", func(d *fleetpb.Delegate) { d.Args = []byte(`{"script":"true"}`) }, []call.Code{call.BadOrder}},
		{"salt", func(d *fleetpb.Delegate) { d.Salt = d.Salt[1:] }, []call.Code{call.Invalid, call.BadOrder}},
		{"names", func(d *fleetpb.Delegate) { d.Names = "mid-[1,2,3]" }, []call.Code{call.BadOrder}},
		{"no names", func(d *fleetpb.Delegate) { d.Names = "" }, []call.Code{call.BadOrder, call.Invalid}},
		{"names that are none", func(d *fleetpb.Delegate) { d.Names = "mid-[1-" }, []call.Code{call.Invalid}},
		{"a million names", func(d *fleetpb.Delegate) { d.Names = "x[000000-999999]" }, []call.Code{call.BadOrder}},
		{"no branch", func(d *fleetpb.Delegate) { d.Reach = nil }, []call.Code{call.Invalid}},
		{"another's branch", func(d *fleetpb.Delegate) { d.Reach.Name = "low" }, []call.Code{call.Invalid}},
		{"an empty branch", func(d *fleetpb.Delegate) { d.Reach.Machines = "" }, []call.Code{call.Invalid}},
		{"names that are not in the order", func(d *fleetpb.Delegate) { d.Reach.Machines = "mid-[1,2,3]" }, []call.Code{call.BadOrder}},
		{"such names below", func(d *fleetpb.Delegate) { d.Reach.Below = []*fleetpb.Branch{{Name: "low", Machines: "low-1"}} }, []call.Code{call.BadOrder}},
		{"itself below", func(d *fleetpb.Delegate) { d.Reach.Below = []*fleetpb.Branch{{Name: "mid", Machines: "mid-1"}} }, []call.Code{call.Invalid}},
		{"a cycle", func(d *fleetpb.Delegate) {
			d.Reach.Below = []*fleetpb.Branch{{Name: "a", Below: []*fleetpb.Branch{{Name: "a", Machines: "mid-1"}}}}
		}, []call.Code{call.Invalid}},
		{"the parent below", func(d *fleetpb.Delegate) { d.Reach.Below = []*fleetpb.Branch{{Name: "top", Machines: "mid-1"}} }, []call.Code{call.Invalid}},
		{"one twice below", func(d *fleetpb.Delegate) {
			d.Reach.Below = []*fleetpb.Branch{{Name: "low", Machines: "mid-1"}, {Name: "low", Machines: "mid-2"}}
		}, []call.Code{call.Invalid}},
		{"a strange name below", func(d *fleetpb.Delegate) { d.Reach.Below = []*fleetpb.Branch{{Name: "../x", Machines: "mid-1"}} }, []call.Code{call.Invalid}},
		{"depth", func(d *fleetpb.Delegate) { d.Reach = deep }, []call.Code{call.Invalid}},
		{"no way", func(d *fleetpb.Delegate) { d.Via = nil }, []call.Code{call.Invalid}},
		{"a way of another", func(d *fleetpb.Delegate) { d.Via = []string{"other"} }, []call.Code{call.Invalid}},
		{"a way that is none", func(d *fleetpb.Delegate) { d.Via = []string{"\x1b[2J", "top"} }, []call.Code{call.Invalid}},
		{"a way through itself", func(d *fleetpb.Delegate) { d.Via = []string{"mid", "top"} }, []call.Code{call.Invalid}},
		{"a long way", func(d *fleetpb.Delegate) { d.Via = slices.Repeat([]string{"top"}, 17) }, []call.Code{call.Invalid}},
		{"an order of long ago", func(d *fleetpb.Delegate) {
			old := top.ordered("command.shell", string(d.Args), "mid-[1,2]", now.Add(-3*time.Hour), now.Add(-2*time.Hour))
			d.Order, d.Signature = old.Order, old.Signature
		}, []call.Code{call.Expired}},
		{"withdrawn", func(d *fleetpb.Delegate) { d.Cancel = true }, []call.Code{call.Cancelled}},
	} {
		d := order()
		x.change(d)
		if v := evil.delegate("mid", d).wait(t); !slices.Contains(x.codes, v.code) {
			t.Errorf("%s: %v; want %v", x.name, v, x.codes)
		}
	}
	peak("wrong orders")
	if v := evil.send("mid", &fleetpb.Call{Method: session.MethodDelegate, Args: []byte("\xff\xffgarbage")}).wait(t); v.code != call.Invalid {
		t.Errorf("garbage: %v", v)
	}
	if lines() != 0 {
		t.Errorf("something ran %d times", lines())
	}
	jobs := mid.root.run("job", "list", "-o", "jsonl").exits(0)
	if jobs.out.String() != "" {
		t.Errorf("jobs: %s", jobs.out)
	}

	// Large things, many at a time.
	d := order()
	var answers []asked
	for range 16 {
		answers = append(answers, evil.streamed("mid", bomb(d)))
	}
	for _, a := range answers {
		if v := a.wait(t); v.code != call.Invalid && v.code != call.Busy && v.code != call.BadOrder {
			t.Errorf("a million branches: %v", v)
		}
	}
	peak("branches without end, 16 at a time")
	answers = answers[:0]
	for range 8 {
		answers = append(answers, evil.streamed("mid", make([]byte, 24<<20)))
	}
	for _, a := range answers {
		if v := a.wait(t); v.code != call.Invalid && v.code != call.Busy {
			t.Errorf("24 MiB: %v", v)
		}
	}
	peak("24 MiB of zeros, 8 at a time")
	answers = answers[:0]
	for range 600 {
		d := order()
		d.Names, d.Signature = "x[000000-999999]", []byte("none")
		answers = append(answers, evil.delegate("mid", d))
	}
	for _, a := range answers {
		if v := a.wait(t); v.code != call.BadOrder && v.code != call.Busy {
			t.Errorf("one of 600: %v", v)
		}
	}
	peak("600 unsigned orders with a million names each")
	answers = answers[:0]
	for range 64 {
		d := order()
		d.Names = "x[000000-999999]"
		answers = append(answers, evil.delegate("mid", d))
	}
	for _, a := range answers {
		if v := a.wait(t); v.code != call.BadOrder && v.code != call.Busy {
			t.Errorf("one of 64: %v", v)
		}
	}
	peak("64 signed orders with a million other names each")
	// An order of a real operator, for ever other machines: half of the jobs are for others.
	var names []string
	for n := range 6 {
		names = append(names, fmt.Sprintf("none-%d", n))
	}
	long := top.ordered("test.sleep", `{"seconds":8}`, strings.Join(append(names, "mid-1"), ","), now, now.Add(time.Hour))
	long.Via, long.TimeoutMs = []string{"top"}, 20_000
	answers = answers[:0]
	for n := range 30 {
		d := proto.CloneOf(long)
		d.Reach = &fleetpb.Branch{Name: "mid", Machines: "mid-1"}
		for k, name := range names {
			if n>>k&1 == 1 {
				d.Reach.Machines += "," + name
			}
		}
		answers = append(answers, evil.delegate("mid", d))
	}
	busy := 0
	for _, a := range answers {
		if a.wait(t).code == call.Busy {
			busy++
		}
	}
	if busy < 15 || busy > 20 {
		t.Errorf("%d of 30 orders are refused as busy; want all beyond 10", busy)
	}

	// Its own operators are served meanwhile, and what they order the parent can neither
	// withdraw nor watch, even with the order in its hands.
	own := top.ordered("test.sleep", `{"seconds":4}`, "mid-1", time.Now(), now.Add(time.Hour))
	job, err := mid.conn.Fleet.Call(t.Context(), connect.NewRequest(&apipb.CallRequest{
		Order: own.Order, Signature: own.Signature, OperatorCert: own.OperatorCert, Salt: own.Salt, Args: own.Args, Names: own.Names, TimeoutMs: 20_000,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if !job.Receive() || job.Msg().GetAccepted() == nil {
		t.Fatalf("%v, %v", job.Msg(), job.Err())
	}
	slept := alice.start(mid.orders("call", "mid-2", "test.sleep", "4")...)
	mid.until("the job is there", func() bool {
		return strings.Count(mid.root.run("job", "list", "--open", "-o", "jsonl").out.String(), `"targeted":1,`) >= 2
	})
	for n := range uint64(3000) {
		_ = evil.peer("mid").Cancel(n, "withdrawn")
	}
	own.Reach, own.Via = &fleetpb.Branch{Name: "mid", Machines: "mid-1"}, []string{"top"}
	for _, cancel := range []bool{false, true} {
		own.Cancel = cancel
		if v := evil.delegate("mid", own).wait(t); v.code != call.Conflict && v.code != call.Busy {
			t.Errorf("an order that mid was given itself: %v; want it refused", v)
		}
	}
	slept.exits(0)
	var last *apipb.CallEvent
	for job.Receive() {
		last = job.Msg()
	}
	if n := last.GetClosed().GetCounts().GetAnswered(); job.Err() != nil || n != 1 {
		t.Errorf("the operator's own job ends with %v, %v; want one answer", last, job.Err())
	}
	if lines() != 0 {
		t.Errorf("something ran %d times", lines())
	}
	// Orders that begin and do not end take all places; one that waits for a place and is withdrawn does not begin.
	for range 2 {
		s, id := evil.peer("mid"), evil.id()
		if err := s.Start(id, make(asked, 1), delegation(t, &fleetpb.Delegate{Streamed: true})); err != nil {
			t.Fatal(err)
		}
		st, err := s.Open(t.Context(), id, "order")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
	}
	waits, id := make(asked, 1), evil.id()
	if err := evil.peer("mid").Start(id, waits, delegation(t, order())); err != nil {
		t.Fatal(err)
	}
	if err := evil.peer("mid").Cancel(id, "withdrawn"); err != nil {
		t.Fatal(err)
	}
	if v := waits.wait(t); v.code != call.Cancelled || lines() != 0 {
		t.Errorf("withdrawn while it waits: %v, and something ran %d times", v, lines())
	}
	for range 600 { // a streamed order that never comes
		evil.send("mid", &fleetpb.Call{Method: session.MethodDelegate, Args: protowire.AppendVarint(protowire.AppendTag(nil, 16, protowire.VarintType), 1)})
	}
	peak("600 orders that never come")
	alice.run(mid.orders("call", "mid-*", "test.ping")...).exits(0)
	after := memory(t, mid.overlord.pid(), "VmHWM")
	if after-before > 500<<20 {
		t.Errorf("mid grew from %d to %d MiB", before>>20, after>>20)
	}
}
