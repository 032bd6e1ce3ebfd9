package overlord_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/client"
	"dominion/enrol"
	"dominion/fleettest"
	"dominion/pki"
	"dominion/session"
)

// stolen is a minion in the wrong hands: a valid certificate, and an agent that
// does what the test says.
type stolen struct {
	session *session.Session
	life    time.Duration // of its certificate; zero: long enough
	call    func(s *session.Session, id uint64, c *fleetpb.Call)
	over    chan error
}

func (m *stolen) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	if strings.HasPrefix(c.Method, "session.") || m.call == nil {
		_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
		return
	}
	m.call(s, id, c)
}
func (m *stolen) Cancel(*session.Session, uint64)            {}
func (m *stolen) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (m *stolen) Open(*session.Session, *session.Stream)     {}
func (m *stolen) Closed(*session.Session, error)             {}

// connect gives m a session under that name.
func (m *stolen) connect(t *testing.T, f *fleettest.Fleet, name string) {
	t.Helper()
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	cert := mint(t, issuing, root, "dominion://minion/"+name, m.life)
	conn, err := session.Dial(t.Context(), f.Address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Verify:      func(tls.ConnectionState) error { return nil },
	}))
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	m.over = make(chan error, 1)
	m.session, err = session.New(conn, &session.Options{
		Handler: m, Ready: func(*session.Session) { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { m.over <- m.session.Serve(t.Context()) }()
	t.Cleanup(func() { m.session.Close(call.OK, "the test ends") })
	select {
	case <-ready:
	case err := <-m.over:
		t.Fatal(err)
	case <-time.After(fleettest.Patience):
		t.Fatal("no session")
	}
	f.Until("the overlord knows the session", func() bool {
		res, err := f.Conn.Fleet.Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{Target: name}))
		if err != nil {
			t.Fatal(err)
		}
		return len(res.Msg.Minions) == 1 && res.Msg.Minions[0].Connected
	})
}

// begin orders a method of one machine with live output wanted, if stream.
func begin(t *testing.T, f *fleettest.Fleet, machine string, timeout time.Duration, stream bool) *client.Job {
	t.Helper()
	c, err := f.Conn.Target(machine, client.Options{Timeout: timeout, Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), "test.ping", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// wait reads a job to its end, which must come.
func wait(t *testing.T, j *client.Job) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := j.Groups()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(fleettest.Patience):
		t.Fatal("the job's events do not end")
	}
}

// A minion that answers and leaves its live output open must not keep the
// operator waiting, nor may one that opens streams without end.
func TestOutputLeftOpenEndsWithTheJob(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	ended := make(chan error, 8)
	m := &stolen{call: func(s *session.Session, id uint64, _ *fleetpb.Call) {
		go func() {
			var open []*session.Stream
			for range 4 {
				st, err := s.Open(t.Context(), id, "stdout")
				if err != nil {
					t.Error(err)
					return
				}
				open = append(open, st)
			}
			if _, err := open[0].Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			_ = s.Reply(id, &fleetpb.Result{Output: []byte(`{"time":"x"}`)})
			for _, st := range open { // each fails once the overlord has closed it
				go func() {
					for {
						if _, err := st.Write([]byte("more")); err != nil {
							ended <- err
							return
						}
					}
				}()
			}
		}()
	}}
	m.connect(t, f, "m01")
	wait(t, begin(t, f, "m01", time.Minute, true))
	for range 4 {
		select {
		case <-ended:
		case <-time.After(fleettest.Patience):
			t.Fatal("a stream outlives its job")
		}
	}
}

// Nobody waits for a result that comes too late: it is not kept either.
func TestLateOutputIsNotKept(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	streams := make(chan *session.Stream, 1)
	m := &stolen{call: func(s *session.Session, id uint64, _ *fleetpb.Call) {
		go func() {
			st, err := s.Open(t.Context(), id, "result")
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := st.Write(make([]byte, 1000)); err != nil {
				t.Error(err)
			}
			streams <- st
		}()
	}}
	m.connect(t, f, "m01")
	wait(t, begin(t, f, "m01", time.Second, false))
	st := <-streams
	f.Until("the overlord closes the stream of a closed job", func() bool {
		_, err := st.Write([]byte{0})
		return err != nil
	})
}

// raw is a minion without an agent: frames by hand.
type raw struct {
	t    *testing.T
	conn *tls.Conn
}

// dialRaw enrols under a name and completes the handshake, no more.
func dialRaw(t *testing.T, f *fleettest.Fleet, name string) raw {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	g, err := enrol.Ask(t.Context(), enrol.Options{Address: f.Address, Pin: f.Pin, Identity: pki.Identity{Role: pki.Minion, Name: name}, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", f.Address, &tls.Config{
		NextProtos: []string{session.ALPN}, InsecureSkipVerify: true, // the client's side is not what is tested
		Certificates: []tls.Certificate{{Certificate: [][]byte{g.Chain[0].Raw}, PrivateKey: key}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(fleettest.Patience)); err != nil {
		t.Fatal(err)
	}
	return raw{t, conn}
}

func (r raw) send(typ session.Type, id uint64, m proto.Message) {
	r.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.conn.Write(append(session.Header{Length: len(b), Type: typ, ID: id}.Append(nil), b...)); err != nil {
		r.t.Fatal(err)
	}
}

// until reads frames up to the first of a type that fits.
func (r raw) until(typ session.Type, m proto.Message, fits func() bool) uint64 {
	r.t.Helper()
	for {
		head := make([]byte, session.HeaderSize)
		if _, err := io.ReadFull(r.conn, head); err != nil {
			r.t.Fatalf("wait for %s: %v", typ, err)
		}
		h, err := session.ParseHeader(head)
		if err != nil {
			r.t.Fatal(err)
		}
		body := make([]byte, h.Length)
		if _, err := io.ReadFull(r.conn, body); err != nil {
			r.t.Fatal(err)
		}
		if h.Type != typ {
			continue
		}
		if err := proto.Unmarshal(body, m); err != nil {
			r.t.Fatal(err)
		}
		if fits == nil || fits() {
			return h.ID
		}
	}
}

// RESULT has limits of its own inside; over them it is a breach.
func TestResultOverItsLimits(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	r := dialRaw(t, f, "m01")
	r.send(session.TypeHello, 0, &fleetpb.Hello{})
	r.until(session.TypeHello, &fleetpb.Hello{}, nil)
	f.Await(1)
	j := begin(t, f, "m01", 5*time.Second, false)
	var c fleetpb.Call
	id := r.until(session.TypeCall, &c, func() bool { return c.Method == "test.ping" })
	r.send(session.TypeResult, id, &fleetpb.Result{Code: uint32(call.Failed), Detail: strings.Repeat("x", session.MaxDetail+1)})
	var bye fleetpb.Goaway
	r.until(session.TypeGoaway, &bye, nil)
	if call.Code(bye.Code) != call.Invalid {
		t.Errorf("GOAWAY with code %v; want invalid", call.Code(bye.Code))
	}
	wait(t, j)
}

// One minion that asks without end leaves room for the others.
func TestMinionThatAsksWithoutEnd(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	m := &stolen{}
	m.connect(t, f, "m01")
	busy, taken := 0, 0
	for range 200 {
		_, err := m.session.Call(t.Context(), session.MethodFacts, []byte(`{"os":"x"}`))
		switch {
		case err == nil:
			taken++
		case call.CodeOf(err) == call.Busy:
			busy++
		default:
			t.Fatal(err)
		}
	}
	if taken == 0 || busy == 0 {
		t.Errorf("of 200 requests in a row %d were taken and %d refused as busy", taken, busy)
	}
	other := &stolen{}
	other.connect(t, f, "m02")
	if _, err := other.session.Call(t.Context(), session.MethodFacts, []byte(`{"os":"x"}`)); err != nil {
		t.Errorf("another machine is refused: %v", err)
	}
}

// A handshake may be over before the revocation, and the session begin after it.
func TestRevokedBetweenHandshakeAndHello(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	seen := handshakes(t, f)
	before := seen()
	r := dialRaw(t, f, "m01")
	// The client's side of a handshake is over before the overlord's.
	f.Until("both handshakes are over", func() bool { return seen() >= before+2 })
	if _, err := f.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "m01"})); err != nil {
		t.Fatal(err)
	}
	f.Until("the machine is forgotten", func() bool { return known(t, f) == 0 })
	r.send(session.TypeHello, 0, &fleetpb.Hello{})
	var bye fleetpb.Goaway
	r.until(session.TypeGoaway, &bye, nil)
	if call.Code(bye.Code) != call.Revoked {
		t.Errorf("GOAWAY with code %v; want revoked", call.Code(bye.Code))
	}
	r.conn.Close()
	f.Until("no session is left", func() bool { return f.Connected() == 0 })
	if n := known(t, f); n != 0 {
		t.Errorf("%d machines are known; want none: the only one was revoked", n)
	}
}

// A session does not outlive the certificate that it began with, and nothing is
// renewed with one that has expired.
func TestSessionEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	f := fleettest.Start(t, fleettest.Config())
	m := &stolen{life: 2 * time.Second}
	m.connect(t, f, "m01")
	select {
	case err := <-m.over:
		if g, ok := errors.AsType[*session.Goaway](err); !ok || g.Code != call.Denied {
			t.Errorf("the session ended with %v; want GOAWAY denied", err)
		}
	case <-time.After(fleettest.Patience):
		t.Fatal("the session goes on after its certificate has expired")
	}
}

// A machine whose certificates were all revoked has no session, even when it
// began with a certificate that is not among them.
func TestRevokedMachineHasNoSession(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	r := dialRaw(t, f, "m01") // enrolled, so that there is something to revoke
	r.conn.Close()
	m := &stolen{}
	m.connect(t, f, "m01") // with another key and serial
	if _, err := f.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "m01"})); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.over:
	case <-time.After(fleettest.Patience):
		t.Fatal("the session goes on although the machine was revoked")
	}
}

// handshakes gives how many the overlord has completed; it asks on one
// connection.
func handshakes(t *testing.T, f *fleettest.Fleet) func() int {
	t.Helper()
	c := api(f, operator(t, f, "alice"))
	return func() int {
		resp, err := c.Get("https://" + f.Address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(b), "\ndominion_handshakes_total ")
		n, err := strconv.Atoi(strings.SplitN(rest, "\n", 2)[0])
		if !ok || err != nil {
			t.Fatalf("no count of handshakes in %s", b)
		}
		return n
	}
}

// known is how many minions the overlord knows.
func known(t *testing.T, f *fleettest.Fleet) int {
	t.Helper()
	st, err := f.Conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Msg.Minions)
}

// A ping whose caller leaves is forgotten, answered or not.
func TestPingForgotten(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	r := dialRaw(t, f, "m01") // answers no PING
	r.send(session.TypeHello, 0, &fleetpb.Hello{})
	r.until(session.TypeHello, &fleetpb.Hello{}, nil)
	f.Await(1)
	ping := func(ctx context.Context, timeout time.Duration) (detail string) {
		out, err := f.Conn.Fleet.Ping(ctx, connect.NewRequest(&apipb.PingRequest{Target: "m01", TimeoutMs: uint64(timeout.Milliseconds())}))
		if err != nil {
			return err.Error()
		}
		defer out.Close()
		for out.Receive() {
			for _, p := range out.Msg().Pongs {
				detail = p.Detail
			}
		}
		return detail
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 80 { // in all more than may be unanswered in a session
				ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
				ping(ctx, time.Minute)
				leave()
			}
		})
	}
	all.Wait()
	f.Until("pings are sent again", func() bool { return ping(t.Context(), 50*time.Millisecond) == "no answer within 50ms" })
}
