package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
)

// both runs a test with the minion dialling and with the overlord dialling.
func both(t *testing.T, f func(t *testing.T, reverse bool)) {
	t.Run("minion dials", func(t *testing.T) { f(t, false) })
	t.Run("overlord dials", func(t *testing.T) { f(t, true) })
}

func TestCallBothWays(t *testing.T) {
	both(t, func(t *testing.T, reverse bool) {
		f := pair(t, &Options{Handler: &handler{call: echo}}, &Options{Handler: &handler{call: echo}}, reverse)
		for name, s := range map[string]*Session{"overlord": f.overlord, "minion": f.minion} {
			for _, size := range []int{0, 10, MaxOutput, MaxOutput + 1, 500 << 10} {
				args := bytes.Repeat([]byte{'x'}, size)
				got, err := s.Call(t.Context(), "test.echo", args)
				if err != nil || !bytes.Equal(got, args) {
					t.Fatalf("%s calls with %d bytes = %d bytes, %v; want the same", name, size, len(got), err)
				}
			}
		}
		if f.overlord.Dialled() != reverse || f.minion.Dialled() == reverse {
			t.Errorf("Dialled() = %v, %v; want %v, %v", f.overlord.Dialled(), f.minion.Dialled(), reverse, !reverse)
		}
		if got, want := f.overlord.Peer(), (pki.Identity{Role: pki.Minion, Name: "web1"}); got != want {
			t.Errorf("Peer() = %v; want %v", got, want)
		}
		if free, waiting := f.overlord.pool.Free(); free != DefaultPool || waiting != 0 {
			t.Errorf("after all streams: %d bytes free, %d wait; want all and none", free, waiting)
		}
	})
}

func TestHelloOrder(t *testing.T) {
	both(t, func(t *testing.T, reverse bool) {
		var mu sync.Mutex
		var steps []string
		step := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			steps = append(steps, s)
		}
		o := &Options{Hello: func(s *Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
			step("overlord hears " + peer.AgentVersion)
			return &fleetpb.Hello{AgentVersion: "overlord 1"}, nil
		}}
		m := &Options{Hello: func(s *Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
			if peer != nil {
				step("minion hears " + peer.AgentVersion)
			} else {
				step("minion begins")
			}
			return &fleetpb.Hello{AgentVersion: "minion 1"}, nil
		}}
		f := pair(t, o, m, reverse)
		want := []string{"minion begins", "overlord hears minion 1", "minion hears overlord 1"}
		if fmt.Sprint(steps) != fmt.Sprint(want) {
			t.Errorf("HELLOs went %q; want %q", steps, want)
		}
		if got := f.overlord.PeerHello().AgentVersion; got != "minion 1" {
			t.Errorf("overlord's PeerHello().AgentVersion = %q", got)
		}
	})
}

func TestHelloRefused(t *testing.T) {
	refusal := func(*Session, *fleetpb.Hello) (*fleetpb.Hello, error) {
		return nil, call.Errorf(call.Revoked, "certificate 7 is revoked")
	}
	for name, c := range map[string]struct {
		overlord, minion func(*Session, *fleetpb.Hello) (*fleetpb.Hello, error)
		refuser          string
	}{
		"by the overlord": {refusal, nil, "overlord"},
		"by the minion": {nil, func(s *Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
			if peer == nil {
				return &fleetpb.Hello{}, nil
			}
			return refusal(s, peer)
		}, "minion"},
	} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t)
			mc, oc := connect(t, ca.options(t, "minion/web1", pki.Overlord), ca.options(t, "overlord/main", pki.Minion))
			closed := func(*Session, error) { t.Error("Closed was called though HELLO failed") }
			o := must(New(oc, &Options{Answer: true, Hello: c.overlord, Handler: &handler{}}))(t)
			m := must(New(mc, &Options{Hello: c.minion, Handler: &handler{}}))(t)
			if c.overlord != nil {
				o.opt.Handler = &handler{closed: closed}
			}
			errs := make(chan error, 1)
			go func() { errs <- o.Serve(t.Context()) }()
			minErr, overErr := m.Serve(t.Context()), error(nil)
			overErr = receive(t, errs, "end of the overlord's session")
			for side, err := range map[string]error{"minion": minErr, "overlord": overErr} {
				if call.CodeOf(err) != call.Revoked {
					t.Errorf("the %s's error is %v; want code revoked", side, err)
				}
				if g, ok := errors.AsType[*Goaway](err); ok == (side == c.refuser) {
					t.Errorf("the %s's error holds the Goaway %v; refused by the %s", side, g, c.refuser)
				}
			}
		})
	}
}

func TestPing(t *testing.T) {
	f := pair(t, &Options{}, &Options{}, false)
	w := newWaiter()
	if err := f.overlord.StartPing(7, w); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, w.body, "PONG"); len(got) != 0 {
		t.Errorf("PONG gave %q; want nothing", got)
	}
}

// A PONG must not pass for the answer to a call, nor a RESULT for a ping's.
func TestAnswerOfTheOtherKind(t *testing.T) {
	stats := new(Stats)
	f := pair(t, &Options{Stats: stats}, &Options{}, false)
	c, p := newWaiter(), newWaiter()
	for err := range map[error]bool{f.overlord.Start(1, c): true, f.overlord.StartPing(2, p): true} {
		if err != nil {
			t.Fatal(err)
		}
	}
	receive(t, p.body, "PONG")
	if err := f.minion.write(TypePong, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the false PONG is dropped", func() bool { return stats.Late.Load() == 1 })
	if len(c.body) != 0 {
		t.Error("a PONG answered a CALL")
	}
}

func TestStartParts(t *testing.T) {
	got := make(chan *fleetpb.Call, 1)
	f := pair(t, &Options{}, &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) { got <- c }}}, false)
	shared := encode(&fleetpb.Call{Method: "test.ping", Args: []byte("{}")})
	own := encode(&fleetpb.Call{LeafIndex: 3, Proof: [][]byte{[]byte("p")}})
	if err := f.overlord.Start(1, newWaiter(), shared, own); err != nil {
		t.Fatal(err)
	}
	want := &fleetpb.Call{Method: "test.ping", Args: []byte("{}"), LeafIndex: 3, Proof: [][]byte{[]byte("p")}}
	if c := receive(t, got, "call"); !proto.Equal(c, want) {
		t.Errorf("parts arrived as %v; want %v", c, want)
	}
}

func TestStartRefusals(t *testing.T) {
	f := pair(t, &Options{Limits: Limits{Calls: 2}}, &Options{}, false)
	for i, c := range []struct {
		id   uint64
		body []byte
		want call.Code
	}{
		{0, nil, call.Invalid},
		{1 << 63, nil, call.Invalid},
		{1, make([]byte, MaxBody+1), call.Invalid},
		{1, nil, call.OK},
		{1, nil, call.Invalid}, // in use
		{2, nil, call.OK},
		{3, nil, call.Busy},
	} {
		if err := f.overlord.Start(c.id, newWaiter(), c.body); call.CodeOf(err) != c.want {
			t.Errorf("step %d: Start(%d, %d bytes) = %v; want code %s", i, c.id, len(c.body), err, c.want)
		}
	}
	if !f.overlord.Forget(1) || f.overlord.Forget(1) {
		t.Error("Forget(1) twice; want true, then false")
	}
	if err := f.overlord.Start(3, newWaiter()); err != nil {
		t.Errorf("Start after Forget = %v", err)
	}
}

func TestLateAnswerIsDropped(t *testing.T) {
	stats := new(Stats)
	ids := make(chan uint64, 1)
	f := pair(t, &Options{Stats: stats}, &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) { ids <- id }}}, false)
	w := newWaiter()
	if err := f.overlord.Start(9, w, encode(&fleetpb.Call{Method: "test.sleep"})); err != nil {
		t.Fatal(err)
	}
	id := receive(t, ids, "call")
	f.overlord.Forget(9)
	if err := f.minion.Reply(id, &fleetpb.Result{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late answer is counted", func() bool { return stats.Late.Load() == 1 })
	if len(w.body) != 0 {
		t.Error("a forgotten waiter was called")
	}
}

func TestInboundLimitAnswersBusy(t *testing.T) {
	stats := new(Stats)
	f := pair(t, &Options{}, &Options{Limits: Limits{Calls: 3}, Stats: stats}, false)
	var codes []call.Code
	var waiters []*waiter
	for id := uint64(1); id <= 5; id++ {
		w := newWaiter()
		waiters = append(waiters, w)
		if err := f.overlord.Start(id, w); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range waiters[3:] {
		r := must(DecodeResult(receive(t, w.body, "busy")))(t)
		codes = append(codes, call.Code(r.Code))
	}
	if codes[0] != call.Busy || codes[1] != call.Busy || stats.Busy.Load() != 2 {
		t.Errorf("calls over the limit got %v, %d counted; want busy twice", codes, stats.Busy.Load())
	}
	if err := f.minion.Reply(1, &fleetpb.Result{}); err != nil {
		t.Fatal(err)
	}
	receive(t, waiters[0].body, "answer")
	if err := f.minion.Reply(1, &fleetpb.Result{}); call.CodeOf(err) != call.NotFound {
		t.Errorf("second Reply = %v; want code not found", err)
	}
	if err := f.overlord.Start(6, newWaiter()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a call after an answer is taken", func() bool { return f.minion.Reply(6, &fleetpb.Result{}) == nil })
}

func TestCancelAndAck(t *testing.T) {
	cancelled, acked := make(chan uint64, 1), make(chan string, 2)
	o := &Options{Handler: &handler{ack: func(_ *Session, id uint64, a *fleetpb.Ack) { acked <- fmt.Sprint(id, " ", a.State) }}}
	m := &Options{Handler: &handler{
		call: func(s *Session, id uint64, c *fleetpb.Call) {
			_ = s.Ack(id, &fleetpb.Ack{State: fleetpb.Ack_RECEIVED})
		},
		cancel: func(s *Session, id uint64) {
			cancelled <- id
			_ = s.Reply(id, &fleetpb.Result{Code: uint32(call.Cancelled)})
		},
	}}
	f := pair(t, o, m, false)
	w := newWaiter()
	if err := f.overlord.Start(4, w); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, acked, "ACK"); got != "4 RECEIVED" {
		t.Errorf("ACK = %q", got)
	}
	if err := f.overlord.Cancel(5, "no such call: must be ignored"); err != nil {
		t.Fatal(err)
	}
	if err := f.overlord.Cancel(4, "enough"); err != nil {
		t.Fatal(err)
	}
	if id := receive(t, cancelled, "CANCEL"); id != 4 {
		t.Errorf("CANCEL of %d; want 4", id)
	}
	if r := must(DecodeResult(receive(t, w.body, "RESULT")))(t); call.Code(r.Code) != call.Cancelled {
		t.Errorf("result has code %d; want cancelled", r.Code)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	cancelled := make(chan uint64, 1)
	m := &Options{Handler: &handler{cancel: func(s *Session, id uint64) { cancelled <- id }}}
	f := pair(t, &Options{}, m, false)
	why := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, why)
	defer cancel()
	if _, err := f.overlord.Call(ctx, "test.sleep", nil); !errors.Is(err, why) {
		t.Errorf("Call = %v; want %v", err, why)
	}
	receive(t, cancelled, "CANCEL")
}

func TestCallFails(t *testing.T) {
	m := &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) {
		_ = s.Reply(id, &fleetpb.Result{Code: uint32(call.Denied), Detail: "not you"})
	}}}
	f := pair(t, &Options{}, m, false)
	_, err := f.overlord.Call(t.Context(), "test.x", nil)
	if e, ok := errors.AsType[*call.Error](err); !ok || *e != (call.Error{Code: call.Denied, Node: "web1", Detail: "not you"}) {
		t.Errorf("Call = %#v; want denied by web1", err)
	}
}

func TestCloseLosesWhatWaits(t *testing.T) {
	both(t, func(t *testing.T, reverse bool) {
		closed := make(chan error, 1)
		w := newWaiter()
		o := &Options{Handler: &handler{closed: func(s *Session, err error) {
			if err := receive(t, w.lost, "Lost"); call.CodeOf(err) != call.SessionLost {
				t.Errorf("Lost got %v; want code session lost", err)
			}
			closed <- err
		}}}
		f := pair(t, o, &Options{}, reverse)
		if err := f.overlord.Start(1, w); err != nil {
			t.Fatal(err)
		}
		f.overlord.Close(call.Revoked, "certificate revoked")
		if err := receive(t, closed, "Closed"); call.CodeOf(err) != call.Revoked {
			t.Errorf("Closed got %v; want code revoked", err)
		}
		err := receive(t, f.minErr, "end of the minion's session")
		if g, ok := errors.AsType[*Goaway](err); !ok || g.Code != call.Revoked || g.Reason != "certificate revoked" {
			t.Errorf("the minion's Serve = %v; want the overlord's GOAWAY", err)
		}
		for _, s := range []*Session{f.overlord, f.minion} {
			if err := s.Start(2, newWaiter()); call.CodeOf(err) != call.NoSession {
				t.Errorf("Start after the end = %v; want code no session", err)
			}
			if _, err := s.Open(t.Context(), 1, "stdout"); call.CodeOf(err) != call.NoSession {
				t.Errorf("Open after the end = %v; want code no session", err)
			}
			receive(t, s.Done(), "Done")
		}
	})
}

func TestGoawayLetsAnswersArrive(t *testing.T) {
	ids := make(chan uint64, 2)
	m := &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) { ids <- id }}}
	f := pair(t, &Options{}, m, false)
	w := newWaiter()
	if err := f.overlord.Start(1, w); err != nil {
		t.Fatal(err)
	}
	receive(t, ids, "call")
	if err := f.minion.Goaway(call.Unavailable, "restarting", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new calls are refused", func() bool {
		return call.CodeOf(f.overlord.Start(2, newWaiter())) == call.NoSession
	})
	if err := f.minion.Reply(1, &fleetpb.Result{Output: []byte("done")}); err != nil {
		t.Fatal(err)
	}
	if r := must(DecodeResult(receive(t, w.body, "RESULT")))(t); string(r.Output) != "done" {
		t.Errorf("the answer after GOAWAY is %q; want done", r.Output)
	}
	f.minion.Close(call.Unavailable, "restarting")
	err := receive(t, f.overErr, "end")
	if g, ok := errors.AsType[*Goaway](err); !ok || g.Reason != "restarting" {
		t.Errorf("Serve = %v; want the GOAWAY", err)
	}
}

// A call that crosses a GOAWAY is answered, not lost.
func TestCallAcrossGoaway(t *testing.T) {
	f := pair(t, &Options{}, &Options{}, false)
	if err := f.minion.Goaway(call.Unavailable, "restarting", 0); err != nil {
		t.Fatal(err)
	}
	w := newWaiter()
	for arrived := false; !arrived; time.Sleep(time.Millisecond) {
		f.overlord.mu.Lock()
		arrived = f.overlord.leaving
		if arrived {
			f.overlord.gone, f.overlord.leaving = nil, false // as if it had not
		}
		f.overlord.mu.Unlock()
	}
	if err := f.overlord.Start(1, w); err != nil {
		t.Fatal(err)
	}
	if r := must(DecodeResult(receive(t, w.body, "RESULT")))(t); call.Code(r.Code) != call.Unavailable {
		t.Errorf("the call got code %d; want unavailable", r.Code)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	f := pair(t, &Options{}, &Options{}, false)
	f.stop()
	if err := receive(t, f.overErr, "end"); err == nil {
		t.Error("Serve = nil; want a reason")
	}
	receive(t, f.minErr, "end")
}

func TestReplyCutsDetail(t *testing.T) {
	m := &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) {
		_ = s.Reply(id, &fleetpb.Result{Code: uint32(call.Failed), Detail: "\xff" + string(bytes.Repeat([]byte("ü"), MaxDetail))})
	}}}
	f := pair(t, &Options{}, m, false)
	_, err := f.overlord.Call(t.Context(), "test.x", nil)
	if e, ok := errors.AsType[*call.Error](err); !ok || len(e.Detail) > MaxDetail || len(e.Detail) < MaxDetail-4 {
		t.Errorf("a long detail came as %T of %d bytes", err, len(err.Error()))
	}
}

func TestCallLost(t *testing.T) {
	arrived := make(chan struct{}, 1)
	f := pair(t, &Options{}, &Options{Handler: &handler{call: func(*Session, uint64, *fleetpb.Call) { arrived <- struct{}{} }}}, false)
	errs := make(chan error, 1)
	go func() {
		_, err := f.overlord.Call(t.Context(), "test.sleep", nil)
		errs <- err
	}()
	receive(t, arrived, "call")
	f.minion.Close(call.Unavailable, "restarting")
	if err := receive(t, errs, "end of Call"); call.CodeOf(err) != call.SessionLost {
		t.Errorf("Call = %v; want session lost", err)
	}
	if _, err := f.overlord.Call(t.Context(), "test.sleep", nil); call.CodeOf(err) != call.NoSession {
		t.Errorf("Call after the end = %v; want no session", err)
	}
	if err := f.overlord.Goaway(call.OK, "", 0); call.CodeOf(err) != call.NoSession {
		t.Errorf("Goaway after the end = %v; want no session", err)
	}
	if err := f.minion.Reply(1, &fleetpb.Result{}); call.CodeOf(err) != call.NoSession {
		t.Errorf("Reply after the end = %v; want no session", err)
	}
}

// What a peer must not answer to a call.
func TestCallAnsweredBadly(t *testing.T) {
	for name, c := range map[string]struct {
		body []byte
		want func(error) bool
	}{
		"no protobuf":       {[]byte{0xff}, func(err error) bool { return errors.Is(err, ErrProtocol) }},
		"too much output":   {encode(&fleetpb.Result{Output: make([]byte, MaxOutput+1)}), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		"a missing stream":  {encode(&fleetpb.Result{OutputStream: 5}), func(err error) bool { return call.CodeOf(err) == call.Internal }},
		"a code of its own": {encode(&fleetpb.Result{Code: 4711}), func(err error) bool { return call.CodeOf(err) == 4711 }},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Options{Handler: &handler{call: func(s *Session, id uint64, _ *fleetpb.Call) { _ = s.write(TypeResult, id, c.body) }}}
			f := pair(t, &Options{}, m, false)
			if _, err := f.overlord.Call(t.Context(), "test.x", nil); !c.want(err) {
				t.Errorf("Call = %v", err)
			}
		})
	}
}

func TestHelloThatCannotBeSent(t *testing.T) {
	for name, hello := range map[string]*fleetpb.Hello{
		"too large": {Revocations: make([]byte, MaxBody)}, "not UTF-8": {AgentVersion: "\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t)
			mc, oc := connect(t, ca.options(t, "minion/web1", pki.Overlord), ca.options(t, "overlord/main", pki.Minion))
			defer oc.Close()
			m := must(New(mc, &Options{Handler: &handler{}, Hello: func(*Session, *fleetpb.Hello) (*fleetpb.Hello, error) { return hello, nil }}))(t)
			if err := m.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "send HELLO") {
				t.Errorf("Serve = %v; want send HELLO", err)
			}
		})
	}
}

func TestSessionTellsAboutItsPeer(t *testing.T) {
	var log bytes.Buffer
	f := pair(t, &Options{}, &Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, false)
	if f.overlord.RemoteAddr().String() != f.minion.conn.LocalAddr().String() || f.overlord.PeerCert().Subject.CommonName != "web1" || time.Since(f.overlord.Since()) > time.Minute {
		t.Errorf("the peer is %s, %s, since %s", f.overlord.RemoteAddr(), f.overlord.PeerCert().Subject, f.overlord.Since())
	}
	f.stop()
	receive(t, f.minErr, "end")
	if got := log.String(); !strings.Contains(got, "session begun") || !strings.Contains(got, "peer=overlord/main") || !strings.Contains(got, "session over") {
		t.Errorf("the log is %q", got)
	}
}
