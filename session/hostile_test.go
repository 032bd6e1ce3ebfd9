package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
)

// frame gives the bytes of a frame, however wrong.
func frame(t Type, id uint64, body []byte) []byte {
	return append(Header{Length: len(body), Type: t, ID: id}.Append(nil), body...)
}

// alien is a peer that writes what it likes: the minion's end is a bare TLS connection.
func alien(t testing.TB, opt *Options) (*Session, *tls.Conn, chan error) {
	t.Helper()
	ca := newAuthority(t)
	mc, oc := connect(t, ca.options(t, "minion/web1", pki.Overlord), ca.options(t, "overlord/main", pki.Minion))
	opt.Answer = true
	if opt.Handler == nil {
		opt.Handler = &handler{}
	}
	s := must(New(oc, opt))(t)
	errs := make(chan error, 1)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { errs <- s.Serve(ctx) })
	t.Cleanup(func() { cancel(); _ = mc.Close(); wg.Wait() })
	return s, mc, errs
}

// readGoaway reads frames until GOAWAY; nil if none came.
func readGoaway(c io.Reader) *fleetpb.Goaway {
	head := make([]byte, HeaderSize)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return nil
		}
		h, err := ParseHeader(head)
		if err != nil {
			return nil
		}
		body, _, err := readBody(c, h.Length)
		if err != nil {
			return nil
		}
		if h.Type == TypeGoaway {
			g := new(fleetpb.Goaway)
			if decode(h.Type, body, g) != nil {
				return nil
			}
			return g
		}
	}
}

func TestProtocolErrors(t *testing.T) {
	hello := frame(TypeHello, 0, nil)
	after := func(frames ...[]byte) []byte { return append(bytes.Clone(hello), bytes.Join(frames, nil)...) }
	open := frame(TypeOpen, 1, encode(&fleetpb.Open{CallId: 1, Name: "stdout"}))
	callFrame := frame(TypeCall, 1, encode(&fleetpb.Call{Method: "a.b"}))
	long := make([]string, 65)
	for name, c := range map[string]struct {
		send []byte
		want string
	}{
		"a call before HELLO":             {callFrame, "CALL before HELLO"},
		"two HELLOs":                      {after(hello), "second HELLO"},
		"HELLO that is no protobuf":       {frame(TypeHello, 0, []byte{0xff}), "HELLO"},
		"HELLO over a limit":              {frame(TypeHello, 0, encode(&fleetpb.Hello{Features: long})), "over its limit"},
		"HELLO with a long address":       {frame(TypeHello, 0, encode(&fleetpb.Hello{Sharers: []*fleetpb.OverlordName{{Addresses: []string{strings.Repeat("a", 301)}}}})), "over its limit"},
		"HELLO with an id":                {frame(TypeHello, 1, nil), "HELLO with id 1"},
		"a 4 GiB length":                  {after([]byte{0xff, 0xff, 0xff, 0xff, byte(TypeCall), 0, 0, 0, 0, 0, 0, 0, 1}), "4294967295 bytes"},
		"DATA over its limit":             {after(Header{Length: MaxData + 1, Type: TypeData, ID: 1}.Append(nil)), "DATA of 32769 bytes"},
		"an unknown type":                 {after(frame(13, 0, nil)), "unknown frame type 13"},
		"type 0":                          {after(make([]byte, HeaderSize)), "unknown frame type 0"},
		"a skipped type over its limit":   {after(Header{Length: MaxSkipped + 1, Type: 200}.Append(nil)), "type 200"},
		"a body that is no protobuf":      {after(frame(TypeCall, 1, []byte{0xff})), "CALL"},
		"CALL with id 0":                  {after(frame(TypeCall, 0, nil)), "CALL with id 0"},
		"an id in use":                    {after(callFrame, callFrame), "unanswered one"},
		"an even stream of who dialled":   {after(frame(TypeOpen, 2, encode(&fleetpb.Open{Name: "a"}))), "OPEN with the id 2"},
		"a stream id that does not grow":  {after(open, open), "OPEN with the id 1"},
		"a stream without a name":         {after(frame(TypeOpen, 1, nil)), "name of 0 bytes"},
		"DATA without credit":             {after(open, frame(TypeData, 1, make([]byte, MaxData)), frame(TypeData, 1, []byte{1})), "DATA of 1 bytes"},
		"empty DATA":                      {after(open, frame(TypeData, 1, nil)), "DATA of 0 bytes"},
		"DATA for a stream never opened":  {after(frame(TypeData, 5, []byte{1})), "never opened"},
		"CLOSE of a stream never opened":  {after(frame(TypeClose, 5, nil)), "never opened"},
		"CREDIT for one never opened":     {after(frame(TypeCredit, 4, encode(&fleetpb.Credit{Bytes: 1}))), "never opened"},
		"CREDIT for the sender's stream":  {after(open, frame(TypeCredit, 1, encode(&fleetpb.Credit{Bytes: 1}))), "CREDIT"},
		"CLOSE that is no protobuf":       {after(open, frame(TypeClose, 1, []byte{0xff})), "CLOSE"},
		"CREDIT that is no protobuf":      {after(open, frame(TypeCredit, 1, []byte{0xff})), "CREDIT"},
		"CANCEL that is no protobuf":      {after(frame(TypeCancel, 1, []byte{0xff})), "CANCEL"},
		"OPEN that is no protobuf":        {after(frame(TypeOpen, 1, []byte{0xff})), "OPEN"},
		"ACK that is no protobuf":         {after(frame(TypeAck, 1, []byte{0xff})), "ACK"},
		"GOAWAY that is no protobuf":      {after(frame(TypeGoaway, 0, []byte{0xff})), "GOAWAY"},
		"PING over its limit":             {after(frame(TypePing, 1, make([]byte, MaxPing+1))), "PING of 65 bytes"},
		"a string that is not UTF-8":      {after(frame(TypeOpen, 1, []byte{0x12, 1, 0xff})), "OPEN"},
		"GOAWAY instead of a whole HELLO": {frame(TypeGoaway, 0, []byte{0xff}), "GOAWAY"},
	} {
		t.Run(name, func(t *testing.T) {
			stats := new(Stats)
			h, _ := accepting(4)
			_, conn, errs := alien(t, &Options{Stats: stats, Handler: h, Limits: Limits{Linger: 50 * time.Millisecond}})
			if _, err := conn.Write(c.send); err != nil {
				t.Fatal(err)
			}
			g := readGoaway(conn)
			if g == nil || call.Code(g.Code) != call.Invalid || !strings.Contains(g.Reason, c.want) {
				t.Errorf("the peer got GOAWAY %v; want invalid with %q", g, c.want)
			}
			_ = conn.Close()
			if err := receive(t, errs, "end of Serve"); !errors.Is(err, ErrProtocol) || stats.Protocol.Load() != 1 {
				t.Errorf("Serve = %v, counted %d; want ErrProtocol, counted once", err, stats.Protocol.Load())
			}
		})
	}
}

// The overlord's own streams: credit beyond the window is refused.
func TestTooMuchCredit(t *testing.T) {
	for name, bytes := range map[string]uint32{"at once": MaxWindow + 1, "zero": 0, "4 GiB": 1<<32 - 1} {
		t.Run(name, func(t *testing.T) {
			ready := make(chan *Session, 1)
			_, conn, errs := alien(t, &Options{Ready: func(s *Session) { ready <- s }, Limits: Limits{Linger: 50 * time.Millisecond}})
			_, _ = conn.Write(frame(TypeHello, 0, nil))
			st := must(receive(t, ready, "HELLO").Open(t.Context(), 1, "stdin"))(t)
			_, _ = conn.Write(frame(TypeCredit, st.ID(), encode(&fleetpb.Credit{Bytes: bytes})))
			if err := receive(t, errs, "end of Serve"); !errors.Is(err, ErrProtocol) {
				t.Errorf("Serve = %v; want ErrProtocol", err)
			}
			if _, err := st.Write([]byte("x")); err == nil && bytes != 0 {
				t.Error("Write worked after the session")
			}
		})
	}
}

func TestSkippedAndLateFramesAreNoBreach(t *testing.T) {
	stats := new(Stats)
	_, conn, _ := alien(t, &Options{Stats: stats})
	_, _ = conn.Write(bytes.Join([][]byte{
		frame(TypeHello, 0, nil), frame(FirstSkipped, 0, make([]byte, MaxSkipped)), frame(255, 9, nil),
		frame(TypeResult, 77, []byte{0xff}), frame(TypeCancel, 3, nil),
		frame(TypeOpen, 1, encode(&fleetpb.Open{Name: "x"})), frame(TypeData, 1, []byte("late: it is closed at once")),
		frame(TypeClose, 1, nil), frame(TypePing, 5, []byte("are you there?")),
	}, nil))
	head := make([]byte, HeaderSize)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		h := must(ParseHeader(head))(t)
		body, _, _ := readBody(conn, h.Length)
		if h.Type == TypePong {
			if string(body) != "are you there?" || h.ID != 5 {
				t.Errorf("PONG %d %q", h.ID, body)
			}
			break
		}
	}
	if stats.Skipped.Load() != 2 || stats.Late.Load() != 3 {
		t.Errorf("counted %d skipped and %d late; want 2 and 3", stats.Skipped.Load(), stats.Late.Load())
	}
}

func TestHelloLimit(t *testing.T) {
	for name, send := range map[string][]byte{"nothing": nil, "a part": frame(TypeHello, 0, make([]byte, 100))[:50]} {
		t.Run(name, func(t *testing.T) {
			_, conn, errs := alien(t, &Options{Limits: Limits{Hello: 30 * time.Millisecond}})
			_, _ = conn.Write(send)
			var e net.Error
			if err := receive(t, errs, "end of Serve"); !errors.As(err, &e) || !e.Timeout() {
				t.Errorf("Serve = %v; want a time-out", err)
			}
		})
	}
}

// A length alone takes no memory, and a peer that drips is dead by the clock.
func TestDrip(t *testing.T) {
	clock := NewClock(10*time.Millisecond, 80*time.Millisecond)
	runClock(t, clock)
	stats := new(Stats)
	_, conn, errs := alien(t, &Options{Heartbeat: clock, Stats: stats})
	_, _ = conn.Write(frame(TypeHello, 0, nil))
	_, _ = conn.Write(Header{Length: MaxBody, Type: TypeCall, ID: 1}.Append(nil))
	for range 1000 {
		if _, err := conn.Write([]byte{0}); err != nil {
			break
		}
		select {
		case err := <-errs:
			if !errors.Is(err, ErrDead) || stats.Dead.Load() != 1 {
				t.Errorf("Serve = %v; want ErrDead", err)
			}
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	if err := receive(t, errs, "end of Serve"); !errors.Is(err, ErrDead) {
		t.Errorf("Serve = %v; want ErrDead", err)
	}
}

func TestTruncatedFrameAndHalfClose(t *testing.T) {
	for name, send := range map[string][]byte{
		"nothing": nil, "half a header": make([]byte, 5), "half a body": frame(TypeCall, 1, make([]byte, 100))[:60],
		"half a large body": frame(TypeCall, 1, make([]byte, MaxBody))[:200_000],
	} {
		t.Run(name, func(t *testing.T) {
			_, conn, errs := alien(t, &Options{})
			_, _ = conn.Write(frame(TypeHello, 0, nil))
			_, _ = conn.Write(send)
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, errs, "end of Serve"); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Serve = %v; want an unexpected end", err)
			}
		})
	}
}

// A peer that stops reading does not block whoever calls it; what would wait for it
// is bounded.
func TestPeerStopsReading(t *testing.T) {
	stats := new(Stats)
	ready := make(chan *Session, 1)
	s, conn, errs := alien(t, &Options{Ready: func(s *Session) { ready <- s }, Stats: stats, Limits: Limits{Queue: 1 << 20, Calls: 1 << 20}})
	_, _ = conn.Write(frame(TypeHello, 0, nil))
	receive(t, ready, "HELLO")
	body := make([]byte, 16<<10)
	var slowest time.Duration
	var lost, started int
	w := &counter{}
	for id := uint64(1); id < 100_000; id++ {
		began := time.Now()
		err := s.Start(id, w, body)
		slowest = max(slowest, time.Since(began))
		if err != nil {
			if call.CodeOf(err) != call.NoSession {
				t.Errorf("Start = %v; want code no session", err)
			}
			break
		}
		started++
	}
	if err := receive(t, errs, "end of Serve"); !errors.Is(err, ErrSlow) || stats.Overflow.Load() != 1 {
		t.Errorf("Serve = %v, counted %d; want ErrSlow once", err, stats.Overflow.Load())
	}
	lost = w.lost()
	if lost != started {
		t.Errorf("%d of %d calls were told that they are lost", lost, started)
	}
	t.Logf("%d calls of 16 KiB until the bound; the slowest Start took %s", started, slowest)
}

// counter is a Waiter that counts.
type counter struct {
	mu             sync.Mutex
	results, gones int
}

func (c *counter) Result(*Session, uint64, []byte) { c.mu.Lock(); c.results++; c.mu.Unlock() }
func (c *counter) Lost(*Session, uint64, error)    { c.mu.Lock(); c.gones++; c.mu.Unlock() }
func (c *counter) lost() int                       { c.mu.Lock(); defer c.mu.Unlock(); return c.gones }

func TestStalledPeer(t *testing.T) {
	stats := new(Stats)
	ready := make(chan *Session, 1)
	s, conn, errs := alien(t, &Options{Ready: func(s *Session) { ready <- s }, Stats: stats, Limits: Limits{Stall: 50 * time.Millisecond, Queue: 64 << 20}})
	_, _ = conn.Write(frame(TypeHello, 0, nil))
	receive(t, ready, "HELLO")
	body := make([]byte, MaxBody)
	for id := uint64(1); id < 32; id++ {
		if err := s.Start(id, &counter{}, body); err != nil {
			break
		}
	}
	if err := receive(t, errs, "end of Serve"); !errors.Is(err, ErrStalled) || stats.Stalled.Load() != 1 || stats.Backlogged.Load() == 0 {
		t.Errorf("Serve = %v, counted %d; want ErrStalled once", err, stats.Stalled.Load())
	}
}

// What waits for a slow peer arrives in order once it reads again, and closing
// sends it first.
func TestBacklogArrives(t *testing.T) {
	ready := make(chan *Session, 1)
	s, conn, errs := alien(t, &Options{Ready: func(s *Session) { ready <- s }, Limits: Limits{Queue: 64 << 20, Linger: 20 * time.Second}})
	_, _ = conn.Write(frame(TypeHello, 0, nil))
	receive(t, ready, "HELLO")
	const n = 20
	for id := uint64(1); id <= n; id++ {
		if err := s.Start(id, &counter{}, bytes.Repeat([]byte{byte(id)}, MaxBody)); err != nil {
			t.Fatal(err)
		}
	}
	if s.stats.Backlogged.Load() == 0 {
		t.Fatal("20 MiB fit into the socket: the test shows nothing")
	}
	s.Close(call.Unavailable, "bye")
	head := make([]byte, HeaderSize)
	next := uint64(1)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		h := must(ParseHeader(head))(t)
		body, _, err := readBody(conn, h.Length)
		if err != nil {
			t.Fatal(err)
		}
		if h.Type == TypeGoaway {
			break
		}
		if h.Type == TypeCall {
			if h.ID != next || body[0] != byte(next) || body[MaxBody-1] != byte(next) {
				t.Fatalf("call %d came; want %d", h.ID, next)
			}
			next++
		}
	}
	if next != n+1 {
		t.Errorf("%d of %d calls came", next-1, n)
	}
	if _, err := conn.Read(head); !errors.Is(err, io.EOF) {
		t.Errorf("after GOAWAY: %v; want the end", err)
	}
	_ = conn.Close()
	receive(t, errs, "end of Serve")
}

// Streams wait for a full socket instead of filling the queue.
func TestStreamsDoNotFillTheQueue(t *testing.T) {
	ready := make(chan *Session, 1)
	s, conn, _ := alien(t, &Options{Ready: func(s *Session) { ready <- s }})
	_, _ = conn.Write(frame(TypeHello, 0, nil))
	receive(t, ready, "HELLO")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 60 { // windows of 15 MiB together
		st := must(s.Open(ctx, 1, "stdin"))(t)
		_, _ = conn.Write(frame(TypeCredit, st.ID(), encode(&fleetpb.Credit{Bytes: MaxWindow})))
		wg.Go(func() { _, _ = st.Write(make([]byte, 1<<20)) })
	}
	eventually(t, "the socket is full", func() bool {
		s.wire.mu.Lock()
		defer s.wire.mu.Unlock()
		return s.wire.owed
	})
	s.wire.mu.Lock()
	if s.wire.waiting > softQueue+bufSize {
		t.Errorf("%d bytes wait for the socket; want at most %d", s.wire.waiting, softQueue+bufSize)
	}
	s.wire.mu.Unlock()
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
	cancel()
	wg.Wait()
}

func TestNewRefusesForeignConnections(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := New(tls.Client(a, &tls.Config{}), &Options{}); err == nil {
		t.Error("New took a connection without Wrap")
	}
	if _, err := New(tls.Client(Wrap(a, true), &tls.Config{}), &Options{}); err == nil {
		t.Error("New took a connection without a handshake")
	}
}
