package minion

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/pki"
	"dominion/policy"
	"dominion/session"
)

// listenFor makes the agent accept sessions, as a machine with listen: does.
func listenFor(t testing.TB, f *fleet, a *Agent) string {
	t.Helper()
	cert := f.minion(t, a.Name())
	ln := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: session.TLSOptions{Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: a.VerifyPeer},
		Serve: func(ctx context.Context, conn *tls.Conn) { _ = a.Serve(ctx, conn) },
	})
	background(t, func(ctx context.Context) { _ = l.Run(ctx) })
	return ln.Addr().String()
}

func TestOverlordDials(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	o := newOverlord(t, f)
	if err := o.dial(listenFor(t, f, a)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestWhoMayDial(t *testing.T) {
	f := newFleet(t)
	other := newFleet(t)
	for _, tt := range []struct {
		name string
		cert tls.Certificate
	}{
		{"another minion", f.minion(t, "web9")},
		{"an operator", f.leaf(t, f.root, pki.Identity{Role: pki.Operator, Name: "alice"}, f.root.Cert)},
		{"an overlord that it is not enrolled with", f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "dc2"}, f.root.Cert)},
		{"an overlord of that name under another root", other.overlord},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOverlord(t, f)
			o.cert = tt.cert
			addr := listenFor(t, f, newAgent(t, f, nil))
			// In TLS 1.3 the client learns of the refusal when it reads.
			if err := o.dial(addr); err == nil {
				select {
				case <-o.opened:
					t.Error("it got a session")
				case <-time.After(100 * time.Millisecond):
				}
			}
			o2 := newOverlord(t, f)
			if err := o2.dial(addr); err != nil {
				t.Fatal(err)
			}
			o2.peer()
		})
	}
}

func TestSharerMayHaveASession(t *testing.T) {
	f := newFleet(t)
	saved := make(map[string][]byte)
	opt := func(opt *Options) {
		opt.Save = func(name string, b []byte) error { saved[name] = b; return nil }
	}
	o := newOverlord(t, f)
	o.hello = func(_, h *fleetpb.Hello) {
		h.Sharers = []*fleetpb.OverlordName{{Name: "dc2", Addresses: []string{"10.0.0.2:51235"}}, {Name: "../x"}}
	}
	a := newAgent(t, f, opt)
	attach(t, a, o.listen())
	// Kept on disk: an agent started later knows it too.
	b := newAgent(t, f, func(opt *Options) { opt.Saved = saved })
	for _, a := range []*Agent{a, b} {
		dc2 := newOverlord(t, f)
		dc2.cert = f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "dc2"}, f.root.Cert)
		// What a sharer says of others is not heard.
		dc2.hello = func(_, h *fleetpb.Hello) { h.Sharers = []*fleetpb.OverlordName{{Name: "dc3"}} }
		if err := dc2.dial(listenFor(t, f, a)); err != nil {
			t.Fatal(err)
		}
		// It shows the log of the store that it shares.
		wantCode(t, dc2.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
		a.mu.Lock()
		if a.known("dc3") || a.known("../x") {
			t.Errorf("sharers = %v", a.sharers)
		}
		a.mu.Unlock()
	}
}

func TestNewestSessionReplacesTheOlder(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	o := newOverlord(t, f).listen()
	first := attach(t, a, o)
	if err := o.dial(listenFor(t, f, a)); err != nil {
		t.Fatal(err)
	}
	second := o.peer()
	g, ok := errors.AsType[*session.Goaway](first.ended())
	if !ok || g.Code != call.Conflict {
		t.Errorf("the older session ended with %v; want GOAWAY conflict", g)
	}
	wantCode(t, second.do(f.call(t, draft{method: "test.ping"})), call.OK)
	if a.Done("dc1") == nil {
		t.Error("the end of the older session hides the newer one")
	}
}

func TestRevocationCutsTheOverlord(t *testing.T) {
	f := newFleet(t)
	saved := make(chan string, 8)
	a := newAgent(t, f, func(opt *Options) { opt.Save = func(name string, _ []byte) error { saved <- name; return nil } })
	o := newOverlord(t, f).listen()
	p := attach(t, a, o)
	if name := <-saved; name != FileCheckpoints {
		t.Errorf("saved %s at HELLO; want the checkpoint", name)
	}
	bob := f.operator(t, "bob")
	wantCode(t, p.do(f.call(t, draft{method: "test.ping", by: bob})), call.OK)

	push := func(l *pki.RevocationList) (uint64, error) {
		args := must[[]byte](t)(json.Marshal(session.RevocationsArgs{List: must[[]byte](t)(pki.SignRevocations(f.root, l))}))
		out, err := p.own(session.MethodRevocations, args)
		if err != nil {
			return 0, err
		}
		var s session.RevocationsResult
		return s.Number, json.Unmarshal(out, &s)
	}
	one := pki.NewRevocations().Add(time.Now(), pki.Revoke(bob.cert, "left"))
	if _, err := push(one); err != nil {
		t.Fatal(err)
	}
	if name := <-saved; name != FileRevocations {
		t.Errorf("saved %s; want the revocation list", name)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping", by: bob})), call.Revoked)
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)

	two := one.Add(time.Now())
	if _, err := push(two); err != nil {
		t.Fatal(err)
	}
	if _, err := push(one); call.CodeOf(err) != call.Conflict {
		t.Errorf("an older list = %v; want conflict", err)
	}
	forged := must[[]byte](t)(pki.SignRevocations(newFleet(t).root, two.Add(time.Now())))
	if _, err := p.own(session.MethodRevocations, must[[]byte](t)(json.Marshal(session.RevocationsArgs{List: forged}))); call.CodeOf(err) != call.Invalid {
		t.Errorf("a list signed by another root = %v; want invalid", err)
	}
	if n := a.verifier.revocations().Number(); n != two.Number() {
		t.Errorf("list number %d is in use; want %d", n, two.Number())
	}

	begun := time.Now()
	_, _ = push(two.Add(time.Now(), pki.Revoke(f.overlord.Leaf, "stolen"))) // the answer may be lost with the session
	g, ok := errors.AsType[*session.Goaway](p.ended())
	if !ok || g.Code != call.Revoked {
		t.Errorf("the session ended with %v; want GOAWAY revoked", g)
	}
	if d := time.Since(begun); d > 2*time.Second {
		t.Errorf("the session was cut after %s; want 2 s", d)
	}
	if err := a.VerifyPeer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{f.overlord.Leaf, f.root.Cert}}); call.CodeOf(err) != call.Revoked {
		t.Errorf("a new session = %v; want revoked", err)
	}
}

// The list may change after a session was judged and before it can be found.
func TestRevokedBeforeTheSessionIsReady(t *testing.T) {
	f := newFleet(t)
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now(), pki.Revoke(f.overlord.Leaf, "stolen"))))
	var a *Agent
	a = newAgent(t, f, func(opt *Options) {
		opt.Save = func(name string, _ []byte) error {
			if name == FileCheckpoints { // the last that HELLO brings
				if _, err := a.takeRevocations(list); err != nil {
					t.Error(err)
				}
			}
			return nil
		}
	})
	p := dialed(t, a, newOverlord(t, f).listen())
	if g, ok := errors.AsType[*session.Goaway](p.ended()); !ok || g.Code != call.Revoked {
		t.Errorf("the session ended with %v; want GOAWAY revoked", g)
	}
}

// A list without its root is an error, as after somebody removed root.crt.
func TestSavedListWithoutItsRoot(t *testing.T) {
	f := newFleet(t)
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now())))
	trust := must[*pki.Trust](t)(pki.TrustPin(pki.Pin(f.root.Cert)))
	_, err := New(Options{Name: "web1", Trust: trust, Table: newAgent(t, f, nil).verifier.methods, Saved: map[string][]byte{FileRevocations: list}})
	if err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("New = %v; want an error about the root", err)
	}
}

// An overlord's own calls need no order, so they are few at a time.
func TestOwnCallsAreBounded(t *testing.T) {
	f := newFleet(t)
	saving, saved := make(chan struct{}), make(chan struct{})
	a := newAgent(t, f, func(opt *Options) {
		opt.Save = func(name string, _ []byte) error {
			if name == FileRevocations {
				saving <- struct{}{}
				<-saved
			}
			return nil
		}
	})
	p := attach(t, a, newOverlord(t, f).listen())
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now())))
	args := must[[]byte](t)(json.Marshal(session.RevocationsArgs{List: list}))
	const pad, fit = 1<<20 - 1000, maxAsked / (1<<20 - 500)
	codes := make(chan call.Code, 2*fit)
	ask := func() {
		// In a field that is not looked at: it is in memory all the same.
		codes <- call.Code(p.start(&fleetpb.Call{Method: session.MethodRevocations, Args: args, Salt: make([]byte, pad)}).wait().Code)
	}
	go ask()
	<-saving // the others wait for this one
	l := a.allLinks()[0]
	for i := range fit - 1 { // one by one: our own queue is bounded too
		go ask()
		until(t, "the call waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.asked > (i+2)*pad })
	}
	for range fit {
		go ask()
		if c := <-codes; c != call.Busy {
			t.Errorf("code %v; want busy", c)
		}
	}
	close(saved)
	for range fit {
		if c := <-codes; c != call.OK {
			t.Errorf("code %v; want ok", c)
		}
	}
}

func TestRevocationListInHelloRefusesTheSession(t *testing.T) {
	f := newFleet(t)
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now(), pki.Revoke(f.overlord.Leaf, "stolen"))))
	o := newOverlord(t, f)
	o.hello = func(_, h *fleetpb.Hello) { h.Revocations = list }
	o.listen()
	a := newAgent(t, f, nil)
	p := dialed(t, a, o) // the overlord's side is ready with its own HELLO
	g, ok := errors.AsType[*session.Goaway](p.ended())
	if !ok || g.Code != call.Revoked {
		t.Errorf("the session ended with %v; want GOAWAY revoked", g)
	}
}

func TestAuditRollbackIsRefusedUntilExplained(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	o := newOverlord(t, f).listen()
	backup := f.log.copy()
	f.log.append(t, "four", "five")
	p := attach(t, a, o)
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	abandoned := f.log.checkpoint(t)

	// The overlord comes back from an older store.
	f.log = backup
	p = attach(t, a, o)
	r := p.do(f.call(t, draft{method: "test.ping"}))
	wantCode(t, r, call.AuditRefused)
	if !strings.Contains(r.Detail, "older copy") {
		t.Errorf("detail = %q; want the reason", r.Detail)
	}
	push := func() error {
		head := f.log.head(t, a.notes())
		_, err := p.own(session.MethodCheckpoint, must[[]byte](t)(json.Marshal(session.CheckpointArgs{Head: must[[]byte](t)(proto.Marshal(head))})))
		return err
	}
	// Growing again does not help: it is another history.
	f.log.append(t, "four again", "five again", "six")
	if err := push(); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("a rewritten log = %v; want audit refused", err)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.AuditRefused)
	// The root's statement does.
	f.log.recover(t, f, abandoned)
	f.log.append(t, "recovered")
	if err := push(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	if c := must[audit.Checkpoint](t)(audit.PeekCheckpoint(a.notes()[0])); c.Epoch != 1 {
		t.Errorf("remembered: %s; want epoch 1", c)
	}
}

func TestAuditHeadIsRequired(t *testing.T) {
	f := newFleet(t)
	other := newTestLog(t, f, "other-log", "dc9")
	for _, tt := range []struct {
		name  string
		hello func(_, h *fleetpb.Hello)
		says  string
	}{
		{"none shown", func(_, h *fleetpb.Hello) { h.LogHead = nil }, "checkpoint"},
		{"another overlord's log", func(theirs, h *fleetpb.Hello) { h.LogHead = other.head(t, theirs.Checkpoints) }, "overlord/dc9"},
		{"no log key", func(_, h *fleetpb.Hello) { h.LogHead.LogKey = nil }, "certified"},
		{"note changed", func(_, h *fleetpb.Hello) { h.LogHead.Checkpoint[0] ^= 1 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOverlord(t, f)
			o.hello = tt.hello
			p := attach(t, newAgent(t, f, nil), o.listen())
			r := p.do(f.call(t, draft{method: "test.ping"}))
			wantCode(t, r, call.AuditRefused)
			if !strings.Contains(r.Detail, tt.says) {
				t.Errorf("detail = %q; want it to say %q", r.Detail, tt.says)
			}
		})
	}
}

func TestCheckpointsAreKept(t *testing.T) {
	f := newFleet(t)
	saved := make(map[string][]byte)
	a := newAgent(t, f, func(opt *Options) { opt.Save = func(n string, b []byte) error { saved[n] = b; return nil } })
	o := newOverlord(t, f).listen()
	attach(t, a, o)
	var told *fleetpb.Hello
	o2 := newOverlord(t, f)
	o2.hello = func(theirs, _ *fleetpb.Hello) { told = theirs }
	b := newAgent(t, f, func(opt *Options) { opt.Saved = saved })
	p := attach(t, b, o2.listen())
	if len(told.Checkpoints) != 1 || told.AgentVersion != "test" || len(told.JournalId) != 16 || told.TimeMs == 0 {
		t.Errorf("HELLO = %v", told)
	}
	out := must[[]byte](t)(p.own(session.MethodCheckpoint, []byte("{}")))
	var s session.CheckpointResult
	if err := json.Unmarshal(out, &s); err != nil || len(s.Checkpoints) != 1 {
		t.Errorf("session.checkpoint without a head = %s, %v; want what is remembered", out, err)
	}
	// A file that does not hold is an error, not a fresh start.
	for name, b := range map[string][]byte{FileCheckpoints: []byte("x"), FileRevocations: []byte("x"), FileSharers: []byte("x")} {
		if _, err := New(Options{Name: "web1", Trust: f.trust, Table: a.verifier.methods, Saved: map[string][]byte{name: b}}); err == nil {
			t.Errorf("New takes garbage for %s", name)
		}
	}
}

func TestPolicyIsTakenAtOnce(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	p := attach(t, a, newOverlord(t, f).listen())
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	a.SetPolicy(must[*policy.Policy](t)(policy.Parse(nil)))
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.Denied)
}

func TestUnknownSessionMethod(t *testing.T) {
	f := newFleet(t)
	p := attach(t, newAgent(t, f, nil), newOverlord(t, f).listen())
	for method, want := range map[string]call.Code{
		"session.nosuch": call.NotFound, session.MethodFacts: call.Unavailable,
	} {
		if _, err := p.own(method, []byte("{}")); call.CodeOf(err) != want {
			t.Errorf("%s = %v; want %s", method, err, want)
		}
	}
	if _, err := p.own(session.MethodCheckpoint, []byte(`{"head":"AAAA"}`)); call.CodeOf(err) != call.Invalid {
		t.Errorf("a malformed head = %v; want invalid", err)
	}
	if _, err := p.own(session.MethodRevocations, []byte("{")); call.CodeOf(err) != call.Invalid {
		t.Errorf("malformed arguments = %v; want invalid", err)
	}
}

func digest(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func TestFactsAreToldOnceAndWhenTheyChange(t *testing.T) {
	f := newFleet(t)
	a := newAgent(t, f, nil)
	o := newOverlord(t, f).listen()
	a.SetFacts(t.Context(), []byte(`{"os":"a"}`), digest(1))
	seen := func(n int) func() bool {
		return func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return len(o.facts) == n
		}
	}
	attach(t, a, o)
	until(t, "the first session is told the facts", seen(1))
	until(t, "and the agent has its answer", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.told["dc1"] != "" })
	p := attach(t, a, o)
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	a.SetFacts(t.Context(), []byte(`{"os":"a"}`), digest(1))
	if !seen(1)() {
		t.Error("facts that did not change are told again")
	}
	a.SetFacts(t.Context(), []byte(`{"os":"b"}`), digest(2))
	until(t, "a change is told", seen(2))
	if out := must[[]byte](t)(p.own(session.MethodFacts, []byte("{}"))); string(out) != `{"os":"b"}` {
		t.Errorf("session.facts = %s", out)
	}
}

func TestManyAgentsInOneProcess(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).listen()
	clock := session.NewClock(0, 0)
	background(t, func(ctx context.Context) { _ = clock.Run(ctx) })
	const n = 50
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("web%d", i)
	}
	peers := make(map[string]*peer)
	for _, name := range names {
		a := newAgent(t, f, func(opt *Options) { opt.Name, opt.Heartbeat, opt.Log = name, clock, nil })
		peers[name] = attach(t, a, o)
	}
	var answered atomic.Int32
	job := call.NewJobID(time.Now())
	var waits []*pending
	for i := range names {
		names[0], names[i] = names[i], names[0] // ours first
		waits = append(waits, peers[names[0]].start(f.call(t, draft{method: "test.ping", names: append([]string(nil), names...), job: job})))
	}
	for _, w := range waits {
		if r := w.wait(); r.Code == 0 {
			answered.Add(1)
		}
	}
	if answered.Load() != n {
		t.Errorf("%d of %d answered", answered.Load(), n)
	}
}
