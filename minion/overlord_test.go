package minion

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// overlord is the other end: the real protocol, without a store behind it.
type overlord struct {
	t     testing.TB
	f     *fleet
	cert  tls.Certificate
	addr  string
	hello func(peer *fleetpb.Hello, h *fleetpb.Hello) // changes what is said; may be nil
	serve func(method string, args []byte) ([]byte, error)

	opened chan *peer

	mu    sync.Mutex
	peers map[*session.Session]*peer
	next  uint64
	facts [][]byte
}

// peer is one session at the overlord.
type peer struct {
	o    *overlord
	s    *session.Session
	gone chan error // gets what Closed was told

	mu      sync.Mutex
	streams map[uint64]map[string]*got // by call
	waits   []call.JobID               // told with ACK FINISHED
}

// got is what came on one stream.
type got struct {
	done chan struct{}
	data []byte
	err  error
}

func newOverlord(t testing.TB, f *fleet) *overlord {
	o := &overlord{t: t, f: f, cert: f.overlord, opened: make(chan *peer, 64), peers: make(map[*session.Session]*peer)}
	return o
}

// listen makes the overlord accept sessions until the test ends.
func (o *overlord) listen() *overlord {
	o.t.Helper()
	ln := must[net.Listener](o.t)(net.Listen("tcp", "127.0.0.1:0"))
	o.addr = ln.Addr().String()
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: o.tls(), Serve: func(ctx context.Context, conn *tls.Conn) { o.run(ctx, conn) },
	})
	background(o.t, func(ctx context.Context) { _ = l.Run(ctx) })
	return o
}

// background runs f until the test ends, and waits for it.
func background(t testing.TB, f func(ctx context.Context)) {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

func (o *overlord) tls() session.TLSOptions {
	return session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &o.cert, nil },
		Verify: func(cs tls.ConnectionState) error {
			certs := cs.PeerCertificates
			if len(certs) == 1 { // the side that dials shows its leaf alone
				certs = append(slices.Clone(certs), o.f.issuing.Cert)
			}
			_, err := o.f.trust.Verify(certs, time.Now())
			return err
		},
	}
}

func (o *overlord) run(ctx context.Context, conn *tls.Conn) {
	s, err := session.New(conn, &session.Options{Answer: true, Hello: o.greet, Ready: o.ready, Handler: o})
	if err != nil {
		o.t.Error(err)
		return
	}
	_ = s.Serve(ctx) // told to Closed
}

func (o *overlord) greet(_ *session.Session, theirs *fleetpb.Hello) (*fleetpb.Hello, error) {
	h := &fleetpb.Hello{TimeMs: time.Now().UnixMilli(), LogHead: o.f.log.head(o.t, theirs.Checkpoints)}
	if h.JournalBirthMs = theirs.JournalBirthMs; h.JournalBirthMs == 0 {
		h.JournalBirthMs = h.TimeMs
	}
	if o.hello != nil {
		o.hello(theirs, h)
	}
	return h, nil
}

func (o *overlord) ready(s *session.Session) {
	p := &peer{o: o, s: s, gone: make(chan error, 1), streams: make(map[uint64]map[string]*got)}
	o.mu.Lock()
	o.peers[s] = p
	o.mu.Unlock()
	o.opened <- p
}

// dial opens a session to a minion that listens.
func (o *overlord) dial(addr string) error {
	conn, err := session.Dial(o.t.Context(), addr, session.ClientTLS(o.tls()))
	if err != nil {
		return err
	}
	background(o.t, func(ctx context.Context) { o.run(ctx, conn) })
	return nil
}

// peer waits for the next session.
func (o *overlord) peer() *peer {
	o.t.Helper()
	select {
	case p := <-o.opened:
		return p
	case <-time.After(20 * time.Second):
		o.t.Fatal("no session was opened within 20 s")
		return nil
	}
}

func (o *overlord) of(s *session.Session) *peer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.peers[s]
}

func (o *overlord) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	go func() { // ends with the session at the latest
		r := &fleetpb.Result{Output: []byte("{}")}
		if c.Method == session.MethodFacts {
			o.mu.Lock()
			o.facts = append(o.facts, c.Args)
			o.mu.Unlock()
		} else if o.serve != nil {
			out, err := o.serve(c.Method, c.Args)
			if err != nil {
				r = failure(err)
			} else {
				r.Output = out
			}
		}
		_ = s.Reply(id, r)
	}()
}
func (o *overlord) Cancel(*session.Session, uint64) {}
func (o *overlord) Ack(s *session.Session, _ uint64, a *fleetpb.Ack) {
	p := o.of(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.State == fleetpb.Ack_FINISHED {
		for _, job := range a.Jobs {
			p.waits = append(p.waits, call.JobID(job))
		}
	}
}
func (o *overlord) Closed(s *session.Session, err error) { o.of(s).gone <- err }
func (o *overlord) Open(s *session.Session, st *session.Stream) {
	p := o.of(s)
	g := &got{done: make(chan struct{})}
	p.mu.Lock()
	if p.streams[st.CallID()] == nil {
		p.streams[st.CallID()] = make(map[string]*got)
	}
	p.streams[st.CallID()][st.Name()] = g
	p.mu.Unlock()
	st.Accept()
	go func() { // ends with the stream
		defer close(g.done)
		defer st.Close()
		g.data, g.err = io.ReadAll(st)
	}()
}

// pending is one call under way.
type pending struct {
	p      *peer
	id     uint64
	result chan *fleetpb.Result
	lost   chan error
}

func (c *pending) Result(_ *session.Session, _ uint64, body []byte) {
	r, err := session.DecodeResult(body)
	if err != nil {
		c.p.o.t.Error(err)
	}
	c.result <- r
}
func (c *pending) Lost(_ *session.Session, _ uint64, err error) { c.lost <- err }

// start sends a call.
func (p *peer) start(c *fleetpb.Call) *pending {
	p.o.t.Helper()
	p.o.mu.Lock()
	p.o.next++
	id := p.o.next
	p.o.mu.Unlock()
	w := &pending{p: p, id: id, result: make(chan *fleetpb.Result, 1), lost: make(chan error, 1)}
	if err := p.s.Start(id, w, must[[]byte](p.o.t)(proto.Marshal(c))); err != nil {
		p.o.t.Fatal(err)
	}
	return w
}

// wait gives the answer, with an output that came as a stream put in its place.
func (c *pending) wait() *fleetpb.Result {
	t := c.p.o.t
	t.Helper()
	select {
	case r := <-c.result:
		if r.OutputStream != 0 {
			r.Output = c.stream("result")
		}
		return r
	case err := <-c.lost:
		t.Fatalf("the call was lost: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("no answer within 30 s")
	}
	return nil
}

// stream gives all that came on one of the call's streams; nil when there was none.
func (c *pending) stream(name string) []byte {
	c.p.mu.Lock()
	g := c.p.streams[c.id][name]
	c.p.mu.Unlock()
	if g == nil {
		return nil
	}
	<-g.done
	return g.data
}

// do makes a call and waits.
func (p *peer) do(c *fleetpb.Call) *fleetpb.Result {
	p.o.t.Helper()
	return p.start(c).wait()
}

// own calls one of the session's own methods.
func (p *peer) own(method string, args []byte) ([]byte, error) {
	ctx, stop := context.WithTimeout(p.o.t.Context(), 20*time.Second)
	defer stop()
	return p.s.Call(ctx, method, args)
}

// ended waits for the session's end.
func (p *peer) ended() error {
	p.o.t.Helper()
	select {
	case err := <-p.gone:
		return err
	case <-time.After(20 * time.Second):
		p.o.t.Fatal("the session did not end within 20 s")
		return nil
	}
}
