package minion

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/module"
	"dominion/pki"
	"dominion/policy"
	"dominion/session"
)

// gate is a method that runs until the test lets it go on.
type gate struct {
	begun chan struct{}
	open  chan struct{}
}

func newGate() *gate { return &gate{begun: make(chan struct{}, 64), open: make(chan struct{})} }

func (g *gate) module() module.Module {
	type in struct {
		Stubborn bool `json:"stubborn" doc:"does not end with its context"`
	}
	type out struct {
		Done bool `json:"done" doc:"went on"`
	}
	return module.Module{Name: "gate", Doc: "Waits for the test.", Methods: []module.Method{
		module.Func("wait", "Waits.", module.Read, func(ctx context.Context, _ *module.Env, in in) (out, error) {
			g.begun <- struct{}{}
			done := ctx.Done()
			if in.Stubborn {
				done = nil
			}
			select {
			case <-g.open:
				return out{Done: true}, nil
			case <-done:
				return out{Done: false}, ctx.Err()
			}
		}, module.MethodOptions{}),
	}}
}

func gated(t testing.TB, g *gate, change func(*Options)) func(*Options) {
	return func(opt *Options) {
		opt.Table = must[*module.Table](t)(module.NewTable(append(Modules(nil, nil), testModule, g.module())))
		if change != nil {
			change(opt)
		}
	}
}

func TestCancel(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.MaxRunning = 1 }))
	p := attach(t, a, newOverlord(t, f).listen())
	runs := p.start(f.call(t, draft{method: "gate.wait"}))
	<-g.begun
	waits := p.start(f.call(t, draft{method: "gate.wait"}))
	until(t, "the second call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	for _, c := range []*pending{waits, runs} {
		if err := p.s.Cancel(c.id, "enough"); err != nil {
			t.Fatal(err)
		}
		r := c.wait()
		wantCode(t, r, call.Cancelled)
		if (r.TookUs > 0) != (c == runs) {
			t.Errorf("took %d µs; only the call that ran took time", r.TookUs)
		}
	}
	select {
	case <-g.begun:
		t.Error("the call that was withdrawn ran")
	default:
	}
	// Withdrawing what is answered already does nothing.
	if err := p.s.Cancel(runs.id, "again"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestTimeout(t *testing.T) {
	f, g := newFleet(t), newGate()
	p := attach(t, newAgent(t, f, gated(t, g, nil)), newOverlord(t, f).listen())
	r := p.do(f.call(t, draft{method: "gate.wait", timeout: 20 * time.Millisecond}))
	wantCode(t, r, call.Timeout)
	if r.Detail != "" {
		t.Errorf("detail = %q; want none: the overlord words it", r.Detail)
	}
}

func TestBusy(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.MaxRunning, opt.MaxQueued = 2, 3 }))
	p := attach(t, a, newOverlord(t, f).listen())
	var calls []*pending
	for range 5 {
		calls = append(calls, p.start(f.call(t, draft{method: "gate.wait"})))
	}
	until(t, "two run and three wait", func() bool { return a.crew.room() != nil })
	extra := f.call(t, draft{method: "gate.wait"})
	wantCode(t, p.do(extra), call.Busy)
	close(g.open)
	for _, c := range calls {
		wantCode(t, c.wait(), call.OK)
	}
	// Busy did not use up the job's only try.
	wantCode(t, p.do(extra), call.OK)
	wantCode(t, p.do(extra), call.Repeated)
}

func TestWaitedUntilExpired(t *testing.T) {
	f, g := newFleet(t), newGate()
	now := time.Now()
	clock := make(chan time.Time, 1)
	clock <- now
	a := newAgent(t, f, gated(t, g, func(opt *Options) {
		opt.MaxRunning = 1
		opt.Now = func() time.Time { n := <-clock; clock <- n; return n }
	}))
	p := attach(t, a, newOverlord(t, f).listen())
	first := p.start(f.call(t, draft{method: "gate.wait"}))
	<-g.begun
	second := p.start(f.call(t, draft{method: "test.ping", life: time.Minute}))
	until(t, "the second waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	<-clock
	clock <- now.Add(10 * time.Minute)
	close(g.open)
	wantCode(t, first.wait(), call.OK)
	wantCode(t, second.wait(), call.Expired)
}

// What a call waits for may take an hour: who was revoked meanwhile, or lost the
// right, does not get it.
func TestRefusedWhileItWaited(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, f *fleet, a *Agent)
		want   call.Code
	}{
		"revoked": {func(t *testing.T, f *fleet, a *Agent) {
			list := pki.NewRevocations().Add(time.Now(), pki.Revoke(f.alice.cert, "left"))
			must[uint64](t)(a.takeRevocations(must[[]byte](t)(pki.SignRevocations(f.root, list))))
		}, call.Revoked},
		"policy": {func(t *testing.T, _ *fleet, a *Agent) {
			a.SetPolicy(must[*policy.Policy](t)(policy.Parse([]byte("- {operators: bob, methods: '*', targets: '*'}"))))
		}, call.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			f, g := newFleet(t), newGate()
			a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.MaxRunning = 1 }))
			p := attach(t, a, newOverlord(t, f).listen())
			runs := p.start(f.call(t, draft{method: "gate.wait"}))
			<-g.begun
			waits := p.start(f.call(t, draft{method: "gate.wait"}))
			until(t, "the second call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
			test.change(t, f, a)
			close(g.open)
			wantCode(t, runs.wait(), call.OK)
			wantCode(t, waits.wait(), test.want)
			if len(g.begun) != 0 {
				t.Error("the second call ran")
			}
		})
	}
}

func TestBigOutputComesAsAStream(t *testing.T) {
	f := newFleet(t)
	p := attach(t, newAgent(t, f, nil), newOverlord(t, f).listen())
	r := p.do(f.call(t, draft{method: "probe.big", args: `{"bytes":900000}`}))
	wantCode(t, r, call.OK)
	if r.OutputStream == 0 || bytes.Count(r.Output, []byte("x")) < 900000 {
		t.Errorf("output of %d bytes in stream %d", len(r.Output), r.OutputStream)
	}
}

func TestLiveOutput(t *testing.T) {
	f := newFleet(t)
	p := attach(t, newAgent(t, f, nil), newOverlord(t, f).listen())
	c := p.start(f.call(t, draft{method: "probe.talk", args: `{"bytes":3000000}`, stream: true}))
	wantCode(t, c.wait(), call.OK)
	if n := len(c.stream("stdout")); n != 3000000 {
		t.Errorf("%d bytes of live output; want 3000000", n)
	}
	if s := c.stream("stderr"); string(s) != "done" {
		t.Errorf("stderr = %q", s)
	}
	quiet := p.start(f.call(t, draft{method: "test.ping", stream: true}))
	wantCode(t, quiet.wait(), call.OK)
	if quiet.stream("stdout") != nil {
		t.Error("a method without output opened a stream")
	}
}

// stuck does not read what the minion sends until it is let go.
type stuck struct {
	*overlord
	streams chan *session.Stream
}

func (o *stuck) Open(_ *session.Session, st *session.Stream) {
	st.Accept()
	o.streams <- st
}

func TestSlowReaderDelaysNobodyElse(t *testing.T) {
	f := newFleet(t)
	o := &stuck{newOverlord(t, f), make(chan *session.Stream, 4)}
	p := attachStuck(t, newAgent(t, f, nil), o)
	c := p.start(f.call(t, draft{method: "probe.talk", args: `{"bytes":2000000}`, stream: true}))
	st := <-o.streams
	for range 20 {
		wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	}
	select {
	case r := <-c.result:
		t.Fatalf("the call ended although nobody reads: %v", r)
	default:
	}
	// A withdrawn call ends although nobody reads.
	if err := p.s.Cancel(c.id, "enough"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.wait(), call.Cancelled)
	st.Close()
}

// attachStuck opens a session whose overlord side is o.
func attachStuck(t *testing.T, a *Agent, o *stuck) *peer {
	t.Helper()
	addr := listenFor(t, o.f, a)
	conn, err := session.Dial(t.Context(), addr, session.ClientTLS(o.tls()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.New(conn, &session.Options{Answer: true, Hello: o.greet, Ready: o.ready, Handler: o})
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) { _ = s.Serve(ctx) })
	return o.peer()
}

func TestResultOfALostSessionIsKept(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, nil))
	p := attach(t, a, newOverlord(t, f).listen())
	c := f.call(t, draft{method: "gate.wait", stream: true})
	w := p.start(c)
	<-g.begun
	p.s.Close(call.Internal, "the overlord goes away")
	<-w.lost
	until(t, "the agent has noticed", func() bool { return a.Done("dc1") == nil })
	close(g.open)
	job := must[*call.Order](t)(call.ParseOrder(c.Order)).Job
	b := &a.books.memory
	until(t, "the method has finished", func() bool { s, _, _ := b.Find(job); return s == call.Finished })
	_, r, _ := b.Find(job)
	if r == nil || r.Code != 0 || !strings.Contains(string(r.Output), "true") {
		t.Fatalf("kept result = %v; want the method's answer", r)
	}
	// Once an overlord has stored it, it need not be kept.
	p = attach(t, a, newOverlord(t, f).listen())
	if err := p.s.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_STORED, Jobs: [][]byte{job[:], {1}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the result is released", func() bool { return len(b.Finished("dc1", 1)) == 0 })
	wantCode(t, p.do(c), call.Repeated)
}

func TestDrainLetsCallsFinish(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.MaxRunning = 1 }))
	o := newOverlord(t, f).listen()
	p := attach(t, a, o)
	runs, waits := p.start(f.call(t, draft{method: "gate.wait"})), p.start(f.call(t, draft{method: "gate.wait"}))
	<-g.begun
	until(t, "the second call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	drained := make(chan struct{})
	go func() {
		a.Drain(t.Context())
		close(drained)
	}()
	until(t, "the overlord is told", func() bool {
		return p.s.StartPing(1<<40, &pending{p: p, result: make(chan *fleetpb.Result, 64), lost: make(chan error, 64)}) != nil
	})
	if late := dialed(t, a, o); !errors.Is(late.ended(), &session.Goaway{}) && late.s.Err() == nil {
		t.Error("a new session is accepted while the agent drains")
	}
	close(g.open)
	wantCode(t, runs.wait(), call.OK)
	wantCode(t, waits.wait(), call.OK)
	<-drained
}

func TestDrainEndsWhatTakesTooLong(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.MaxRunning = 1 }))
	p := attach(t, a, newOverlord(t, f).listen())
	runs, waits := p.start(f.call(t, draft{method: "gate.wait"})), p.start(f.call(t, draft{method: "gate.wait"}))
	<-g.begun
	until(t, "the second call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	a.Drain(ctx)
	wantCode(t, runs.wait(), call.Cancelled)
	wantCode(t, waits.wait(), call.Unavailable)
}

func TestDrainDoesNotWaitForAStuckOverlord(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	a.patience = 50 * time.Millisecond
	o := &stuck{newOverlord(t, f), make(chan *session.Stream, 4)}
	p := attachStuck(t, a, o)
	c := p.start(f.call(t, draft{method: "probe.big", args: `{"bytes":900000}`}))
	<-o.streams // the result, which nobody reads
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	a.Drain(ctx)
	p.s.Close(call.Internal, "gone")
	<-c.lost
	if err := a.Wait(t.Context(), 10*time.Second); err != nil {
		t.Error(err)
	}
}

func TestOwnLog(t *testing.T) {
	f := newFleet(t)
	own := must[*audit.FileLog](t)(audit.OpenFileLog(t.TempDir(), audit.FileLogOptions{}))
	t.Cleanup(func() { own.Close() })
	key := f.minion(t, "web1").PrivateKey.(*ecdsa.PrivateKey)
	a := newAgent(t, f, func(opt *Options) {
		opt.Own = own
		opt.Table = must[*module.Table](t)(module.NewTable(Modules(own, key)))
	})
	p := attach(t, a, newOverlord(t, f).listen())
	c := f.call(t, draft{method: "test.echo", args: `{"text":"a"}`})
	wantCode(t, p.do(c), call.OK)
	wantCode(t, p.do(c), call.Repeated)
	wantCode(t, p.do(&fleetpb.Call{Method: "test.ping"}), call.BadOrder)

	r := p.do(f.call(t, draft{method: "agent.log"}))
	wantCode(t, r, call.OK)
	records := checkLog(t, r.Output, &key.PublicKey)
	var codes []call.Code
	for _, m := range records {
		codes = append(codes, call.Code(m.Code))
	}
	if fmt.Sprint(codes) != fmt.Sprint([]call.Code{call.OK, call.Repeated, call.BadOrder}) {
		t.Fatalf("the log holds %v", codes)
	}
	first := records[0]
	o := must[*call.Order](t)(call.ParseOrder(c.Order))
	if first.Operator != "alice" || first.Method != "test.echo" || first.Overlord != "dc1" || !bytes.Equal(first.Job, o.Job[:]) ||
		!bytes.Equal(first.ArgsDigest, o.ArgsDigest[:]) || len(first.OutputSha256) != 32 || first.TimeMs == 0 {
		t.Errorf("record = %v", first)
	}
	// What was asked before is in the log, too, and a page can begin anywhere.
	r = p.do(f.call(t, draft{method: "agent.log", args: `{"from":2,"limit":1}`}))
	if records := checkLog(t, r.Output, nil); len(records) != 1 || call.Code(records[0].Code) != call.BadOrder {
		t.Errorf("page from 2 = %v", records)
	}
	wantCode(t, p.do(f.call(t, draft{method: "agent.version"})), call.OK)
}

// checkLog does what `audit verify --fleet` does with a page; with a key the
// page must reach the signed head.
func checkLog(t *testing.T, out []byte, key *ecdsa.PublicKey) []*auditpb.MinionRecord {
	t.Helper()
	lo := must[LogOut](t)(ParseLogOut(out))
	page := must[audit.Page](t)(lo.Page())
	tree := new(audit.Tree)
	if err := page.Check(tree); err != nil {
		t.Fatal(err)
	}
	if key != nil {
		head := must[audit.MinionHead](t)(lo.SignedHead())
		c := must[audit.Checkpoint](t)(head.Open(key))
		if c.Size != tree.Size() || c.Root != tree.Root() {
			t.Errorf("head %s; the page ends with %d records", c, tree.Size())
		}
	}
	var records []*auditpb.MinionRecord
	for _, leaf := range page.Leaves {
		records = append(records, must[*auditpb.MinionRecord](t)(audit.DecodeMinion(leaf)))
	}
	return records
}

func TestLogOutRefused(t *testing.T) {
	for _, text := range []string{"", "{", "[]", `{"records":["?"]}`, `{"before":"?"}`, `{"signature":"?"}`} {
		lo, err := ParseLogOut([]byte(text))
		if err == nil {
			_, err = lo.Page()
		}
		if err == nil {
			_, err = lo.SignedHead()
		}
		if call.CodeOf(err) != call.Invalid {
			t.Errorf("agent.log = %q is answered with %v; want invalid", text, err)
		}
	}
}

// counting is an own log that counts.
type counting struct{ records []*auditpb.MinionRecord }

func (c *counting) Append(r *auditpb.MinionRecord) (int64, error) {
	c.records = append(c.records, r)
	return int64(len(c.records)), nil
}

func TestRefusalsAreRecordedAtABoundedRate(t *testing.T) {
	log := new(counting)
	k := recorder{log: log, tell: testLogger(t)}
	now := bookNow
	flood := func(n int) {
		for range n {
			if before, ok := k.wants(now); ok {
				if err := k.refused(&auditpb.MinionRecord{Detail: "no"}, before); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	flood(10_000)
	if n := len(log.records); n != refusalBurst {
		t.Fatalf("%d records of 10,000 refusals at once; want %d", n, refusalBurst)
	}
	now = now.Add(time.Second)
	flood(1000)
	if n := len(log.records) - refusalBurst; n != refusalRate {
		t.Errorf("%d records in the next second; want %d", n, refusalRate)
	}
	if d := log.records[refusalBurst].Detail; !strings.Contains(d, "9900 refusals") {
		t.Errorf("detail = %q; want the number that is not recorded", d)
	}
	now = now.Add(-time.Hour) // a clock set back does not open the flood gate
	before := len(log.records)
	flood(1000)
	if n := len(log.records); n > before+refusalRate {
		t.Errorf("%d records after the clock was set back", n-before)
	}
}

func TestCutKeepsTextWhole(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"short", 10, "short"},
		{"0123456789abcdef", 10, "012345 …"},
		{"ééééééééé", 10, "ééé …"},
		{"a\xffb", 10, "a\ufffdb"},
	} {
		if got := cut(tt.in, tt.n); got != tt.want || len(got) > tt.n {
			t.Errorf("cut(%q, %d) = %q; want %q", tt.in, tt.n, got, tt.want)
		}
	}
}
