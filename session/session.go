package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
)

// Handler is what a peer's frames arrive at. Its methods run on the goroutine
// that reads the session, so they must not block: what takes time, or writes to a
// stream, runs elsewhere.
type Handler interface {
	// Call asks for a method. It is answered once, with s.Reply(id, …), from
	// any goroutine.
	Call(s *Session, id uint64, c *fleetpb.Call)
	// Cancel asks to stop call id. It is answered by the call's Reply as ever.
	Cancel(s *Session, id uint64)
	// Ack says that a call was received or started, or that results are stored.
	Ack(s *Session, id uint64, a *fleetpb.Ack)
	// Open tells that the peer opened a stream for call st.CallID(). Unless
	// st.Accept is called before Open returns, the stream is closed.
	Open(s *Session, st *Stream)
	// Closed ends the session: called once, after every Waiter's Lost, if
	// HELLO had been exchanged. err is what Err gives.
	Closed(s *Session, err error)
}

// Waiter is told what became of a call or ping that was started. Exactly one
// of its methods is called, once, unless Forget came first. They run on the
// goroutine that reads the session and must not block.
type Waiter interface {
	// Result gives the undecoded body of a RESULT (see DecodeResult), or nothing
	// for a PONG. body is valid until Result returns.
	Result(s *Session, id uint64, body []byte)
	// Lost says that the session ended before the answer came. err holds a
	// *call.Error with code SessionLost.
	Lost(s *Session, id uint64, err error)
}

// Options are shared by many sessions and must not change while one uses them.
type Options struct {
	// Hello makes our HELLO and judges the peer's. Where Answer is set it is
	// called once, with the peer's, before ours is sent; else twice: with nil, to
	// make ours, and then with the peer's (its first result is not used then).
	// An error ends the session with a GOAWAY that carries its code and, if it is
	// a *call.Error, its detail. nil: an empty HELLO, and any is accepted.
	Hello func(s *Session, peer *fleetpb.Hello) (*fleetpb.Hello, error)
	// Answer waits for the peer's HELLO and answers it: the overlord's part.
	Answer bool
	// Ready is called once HELLO was exchanged and before any other frame
	// is read; the session can be used from then on. May be nil.
	Ready func(s *Session)
	// Handler. Required.
	Handler Handler
	// Credit is the process's pool of stream windows; nil: one for this session.
	Credit *Pool
	// Heartbeat sends the process's pings; nil: none are sent, and a dead peer
	// is not noticed.
	Heartbeat *Clock
	Stats     *Stats       // nil: counted and thrown away
	Log       *slog.Logger // beginnings and ends, at Debug; nil: silent
	Limits    Limits
}

// Limits bound what one peer can cost. Zero fields take the default.
type Limits struct {
	Hello   time.Duration // until HELLO is exchanged; 10 s
	Stall   time.Duration // without the peer taking one byte that waits; 45 s
	Linger  time.Duration // for the peer to read our GOAWAY and leave; 1 s
	Queue   int           // bytes that wait for a full socket; 4 MiB
	Calls   int           // unanswered calls in each direction; 1,024
	Streams int           // open streams in each direction; 1,024
}

func (l Limits) withDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&l.Hello, 10*time.Second)
	def(&l.Stall, 45*time.Second)
	def(&l.Linger, time.Second)
	for _, f := range []struct {
		n *int
		v int
	}{{&l.Queue, 4 << 20}, {&l.Calls, 1024}, {&l.Streams, 1024}} {
		if *f.n == 0 {
			*f.n = f.v
		}
	}
	return l
}

// Session is one connection to a peer. All methods may be used from any
// goroutine.
type Session struct {
	conn   *tls.Conn
	wire   *wire
	opt    *Options
	pool   *Pool
	stats  *Stats
	limits Limits
	peer   pki.Identity
	cert   *x509.Certificate
	hello  *fleetpb.Hello
	since  time.Time
	beat   beat
	done   chan struct{}
	last   atomic.Int64 // nanoseconds after since at which the last frame came

	closing    atomic.Bool  // no frame is handled any more
	streamsIn  atomic.Int32 // whose window is not given back
	streamsOut atomic.Int32

	mu         sync.Mutex // covers what follows
	ready      bool       // HELLO was exchanged
	leaving    bool       // either side said GOAWAY: no new calls
	over       bool       // Serve is at its end
	err        error      // why it ended or ends
	gone       *Goaway    // the peer's
	waiters    map[uint64]waiting
	inbound    map[uint64]struct{} // unanswered calls of the peer
	streams    map[uint64]*Stream
	calls      uint64 // ids used by Call
	nextStream uint64
	lastStream uint64 // newest of the peer's

	acks []byte // job ids to be acknowledged with the next heartbeat, one after the other
}

type waiting struct {
	Waiter
	ping bool
}

// New makes a session of a connection whose handshake is complete and whose
// certificates are verified. conn must come from Dial, from a Listener, or sit on
// a connection made by Wrap. The caller must call Serve.
func New(conn *tls.Conn, opt *Options) (*Session, error) {
	w, ok := conn.NetConn().(*wire)
	if !ok {
		return nil, errors.New("make session: the connection under TLS was not made by session.Wrap")
	}
	state := conn.ConnectionState()
	if !state.HandshakeComplete || state.NegotiatedProtocol != ALPN || len(state.PeerCertificates) == 0 {
		return nil, fmt.Errorf("make session: the connection is not one of %s with a peer's certificate", ALPN)
	}
	cert := state.PeerCertificates[0]
	id, err := pki.IdentityOf(cert)
	if err != nil {
		return nil, fmt.Errorf("make session: %w", err)
	}
	s := &Session{
		conn: conn, wire: w, opt: opt, pool: opt.Credit, stats: opt.Stats, limits: opt.Limits.withDefaults(),
		peer: id, cert: cert, since: time.Now(), done: make(chan struct{}), nextStream: 2,
	}
	if w.dialled {
		s.nextStream = 1
	}
	if s.pool == nil {
		s.pool = NewPool(0)
	}
	if s.stats == nil {
		s.stats = new(Stats)
	}
	s.beat.s = s
	w.queue(s.limits.Queue, s.limits.Stall, s.stats)
	return s, nil
}

// Peer is who the peer's certificate names.
func (s *Session) Peer() pki.Identity { return s.peer }

// PeerCert is the peer's leaf certificate.
func (s *Session) PeerCert() *x509.Certificate { return s.cert }

// PeerHello is what the peer sent first; valid from Options.Ready on. It must not be changed.
func (s *Session) PeerHello() *fleetpb.Hello { return s.hello }

// RemoteAddr is the address of the peer.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Dialled says whether this side opened the connection.
func (s *Session) Dialled() bool { return s.wire.dialled }

// Since is when the session was made.
func (s *Session) Since() time.Time { return s.since }

// LastHeard is when the peer's last frame came.
func (s *Session) LastHeard() time.Time { return s.since.Add(time.Duration(s.last.Load())) }

// Done is closed when the session is over, before the Waiters' Lost are called.
func (s *Session) Done() <-chan struct{} { return s.done }

// Pending gives the calls that wait for an answer: ours, pings included, and the
// peer's. When both are zero after Goaway nothing is lost by Close.
func (s *Session) Pending() (ours, theirs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiters), len(s.inbound)
}

// Err gives why the session ended, or is about to; nil while it lives. A *Goaway
// in its chain is the peer's reason.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Goaway is the reason that a peer gave for ending the session.
type Goaway struct {
	Code       call.Code
	Reason     string
	RetryAfter time.Duration // zero: the usual wait
}

// Error implements error.
func (g *Goaway) Error() string { return "the peer ended the session: " + g.Unwrap().Error() }

// Unwrap gives the *call.Error with the peer's code.
func (g *Goaway) Unwrap() error { return &call.Error{Code: g.Code, Detail: g.Reason} }

// Goaway tells the peer that the session is about to end: neither side starts a
// call any more, what was started still gets its answer, until Close. retryAfter
// asks the peer to stay away for so long; zero leaves it to its Backoff.
func (s *Session) Goaway(code call.Code, reason string, retryAfter time.Duration) error {
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.leaving = true
	s.mu.Unlock()
	return s.write(TypeGoaway, 0, goawayBody(code, reason, retryAfter))
}

// Close ends the session: the peer gets GOAWAY with the code and reason, and what
// waits for an answer is lost. It does not wait for Serve.
func (s *Session) Close(code call.Code, reason string) {
	s.end(fmt.Errorf("we ended the session: %w", &call.Error{Code: code, Detail: reason}), code, reason)
}

// end sends GOAWAY and closes our side; the reader leaves when the peer did, or
// after Linger.
func (s *Session) end(err error, code call.Code, reason string) {
	s.mu.Lock()
	if s.closing.Load() || s.over {
		s.mu.Unlock()
		return
	}
	s.closing.Store(true)
	if s.err == nil {
		s.err = err
	}
	_ = s.wire.SetReadDeadline(time.Now().Add(s.limits.Linger))
	s.mu.Unlock()
	if s.send(TypeGoaway, 0, goawayBody(code, reason, 0)) == nil {
		_ = s.conn.CloseWrite() // queued like everything else
	}
	s.wire.finish()
}

// fail ends the session without a word: the connection is broken already.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.err == nil && s.gone != nil {
		s.err = s.gone // the peer had said why
	}
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.wire.fail(err)
}

func goawayBody(code call.Code, reason string, retryAfter time.Duration) []byte {
	return encode(&fleetpb.Goaway{Code: uint32(code), Reason: cut(reason, MaxReason), RetryAfterMs: uint64(max(0, retryAfter.Milliseconds()))})
}

// usable says whether new work can be sent; s.mu is held.
func (s *Session) usable() error {
	switch {
	case s.err != nil:
		return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: s.err.Error()}
	case s.gone != nil:
		return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: s.gone.Error()}
	case s.leaving || s.over || s.closing.Load():
		return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: "the session is ending"}
	case !s.ready:
		return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: "the session has not begun"}
	}
	return nil
}

// Serve exchanges HELLO and reads the session until it is over. It runs on the
// caller's goroutine, which should be a fresh one: an idle session costs its stack.
// When ctx ends the peer gets GOAWAY. The error is never nil; it is what Err gives.
func (s *Session) Serve(ctx context.Context) error {
	s.wire.running.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer s.wire.running.Done()
		s.Close(call.Unavailable, "this side shuts down")
	})
	// HELLO goes deep into decoders and callbacks: it gets a stack of its own,
	// so that this goroutine, which lives as long as the session, keeps a small one.
	greeted := make(chan error, 1)
	go func() { greeted <- s.greet() }()
	err := <-greeted
	if err == nil {
		s.stats.Open.Add(1)
		s.opt.Heartbeat.add(&s.beat)
		err = s.read()
		s.opt.Heartbeat.remove(&s.beat)
		s.stats.Open.Add(-1)
	}
	if stop() {
		s.wire.running.Done()
	}
	return s.teardown(err)
}

// teardown says goodbye to everybody who waits.
func (s *Session) teardown(err error) error {
	s.linger()
	if cause := s.wire.cause(); cause != nil && !errors.Is(cause, net.ErrClosed) {
		err = cause // the read error is only its consequence
	}
	s.mu.Lock()
	if s.err == nil {
		s.err = err
		if s.gone != nil {
			s.err = s.gone
		}
	}
	err = s.err
	s.over = true
	waiters, streams, ready := s.waiters, s.streams, s.ready
	s.waiters, s.streams, s.inbound = nil, nil, nil
	s.mu.Unlock()

	s.wire.fail(net.ErrClosed)
	s.wire.running.Wait()
	close(s.done)
	lost := &call.Error{Code: call.SessionLost, Node: s.peer.Name, Detail: err.Error()}
	for _, st := range streams {
		st.fail(lost)
	}
	for id, w := range waiters {
		w.Lost(s, id, lost)
	}
	if ready {
		s.opt.Handler.Closed(s, err)
	}
	s.log("session over", "err", err)
	return err
}

func (s *Session) log(msg string, facts ...any) {
	if s.opt.Log != nil {
		s.opt.Log.Debug("session", append([]any{"what", msg, "peer", s.peer, "remote", s.RemoteAddr(), "dialled", s.wire.dialled}, facts...)...)
	}
}

// linger throws away what still comes after our GOAWAY, so that the peer's
// kernel has no reason to reset the connection before the peer has read it.
func (s *Session) linger() {
	if !s.closing.Load() {
		return
	}
	buf := bufPool.Get().(*[bufSize]byte)
	defer bufPool.Put(buf)
	for {
		if _, err := s.conn.Read(buf[:]); err != nil {
			return
		}
	}
}

// write sends one frame. It does not block; an error means that the session is over.
func (s *Session) write(t Type, id uint64, parts ...[]byte) error {
	err := s.send(t, id, parts...)
	if err == nil || errors.Is(err, errTooLarge) {
		return err
	}
	if !s.closing.Load() {
		s.fail(err)
	}
	return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: err.Error()}
}

var errTooLarge = errors.New("the frame would be too large")

func (s *Session) send(t Type, id uint64, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if limit, _ := t.limit(); n > limit {
		return fmt.Errorf("%w: %s of %d bytes, more than %d", errTooLarge, t, n, limit)
	}
	var frame []byte
	if n <= MaxData {
		pooled := bufPool.Get().(*[bufSize]byte)
		defer bufPool.Put(pooled)
		frame = pooled[:0]
	} else {
		frame = make([]byte, 0, HeaderSize+n)
	}
	frame = Header{Length: n, Type: t, ID: id}.Append(frame)
	for _, p := range parts {
		frame = append(frame, p...)
	}
	for range copies(t) {
		if _, err := s.conn.Write(frame); err != nil { // one call: crypto/tls keeps frames whole
			return err
		}
	}
	return nil
}

func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // only a string that is not UTF-8; cut and the callers see to that
	}
	return b
}
