package session

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"
)

// ListenOptions say what a Listener does with its connections.
type ListenOptions struct {
	// Fleet verifies peers that offer fleet/1. Required.
	Fleet TLSOptions
	// Serve gets each of them, verified, on a goroutine of its own; the
	// connection is closed when it returns. ctx is Run's. Required.
	Serve func(ctx context.Context, conn *tls.Conn)
	// HTTP verifies everybody else, if they give a certificate; they come out
	// of Listener.HTTP. nil: only fleet/1 is served.
	HTTP *TLSOptions
	// FuncFace makes HTTP that of Func's clients: TLS 1.2 is enough, a certificate
	// is required, and there is no HTTP/2.
	FuncFace bool

	Pending int           // unfinished handshakes; zero means 4,096
	Slots   int           // handshakes that compute at a time; zero means 4 for each core
	Timeout time.Duration // of one handshake; zero means 10 s
	Stats   *Stats        // nil: counted and thrown away
	Log     *slog.Logger  // nil: silent
}

// Listener shares one TCP port between fleet/1 and HTTP, by what the client's
// hello offers. Handshakes are bounded twice: their number, where the one that has
// waited longest for its peer makes room for a new one, and how many of them
// compute at a time; one that waits for its peer holds no such slot.
type Listener struct {
	ln     net.Listener
	opt    ListenOptions
	config *tls.Config
	http   *httpListener
	slots  chan struct{}
	tasks  sync.WaitGroup

	mu      sync.Mutex // covers what follows
	pending map[*handshake]struct{}
	waiting list.List     // of *handshake, waiting for their peers, the longest first
	changed chan struct{} // one signal: a place may be free
}

// NewListener takes over ln.
func NewListener(ln net.Listener, opt ListenOptions) *Listener {
	if opt.Pending == 0 {
		opt.Pending = 4096
	}
	if opt.Slots == 0 {
		opt.Slots = 4 * runtime.GOMAXPROCS(0)
	}
	if opt.Timeout == 0 {
		opt.Timeout = 10 * time.Second
	}
	if opt.Stats == nil {
		opt.Stats = new(Stats)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	l := &Listener{
		ln: ln, opt: opt, slots: make(chan struct{}, opt.Slots),
		pending: make(map[*handshake]struct{}), changed: make(chan struct{}, 1),
		http: &httpListener{addr: ln.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	var http *tls.Config
	switch {
	case opt.HTTP != nil && opt.FuncFace:
		http = funcTLS(*opt.HTTP)
	case opt.HTTP != nil:
		http = httpTLS(*opt.HTTP)
	}
	l.config = choose(ServerTLS(opt.Fleet), http)
	return l
}

// Addr is the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// HTTP gives the connections that did not offer fleet/1, as *tls.Conn with their
// handshake done, for http.Server.Serve.
func (l *Listener) HTTP() net.Listener { return l.http }

// Run accepts connections until ctx ends; then it closes the port, drops what is
// in its handshake, and returns when every Serve has returned.
func (l *Listener) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.shut)
	defer stop()
	err := l.accept(ctx)
	l.shut()
	l.tasks.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// shut closes everything that is not a session.
func (l *Listener) shut() {
	_ = l.ln.Close()
	_ = l.http.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for h := range l.pending {
		_ = h.conn.Close()
	}
}

func (l *Listener) accept(ctx context.Context) error {
	var pause time.Duration
	for {
		if !l.room(ctx) {
			return context.Cause(ctx)
		}
		c, err := l.ln.Accept()
		switch {
		case err == nil:
			pause = 0
			l.admit(ctx, c)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, or a connection that was reset in the queue
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.opt.Log.Warn("accept", "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// room waits until a handshake may begin. If all places are taken it drops the
// one that has waited longest for its peer; those that wait for us are not dropped.
func (l *Listener) room(ctx context.Context) bool {
	for {
		l.mu.Lock()
		if len(l.pending) < l.opt.Pending {
			l.mu.Unlock()
			return ctx.Err() == nil
		}
		if e := l.waiting.Front(); e != nil {
			h := e.Value.(*handshake)
			l.forget(h)
			_ = h.conn.Close()
			l.opt.Stats.Dropped.Add(1)
		}
		full := len(l.pending) >= l.opt.Pending
		l.mu.Unlock()
		if !full {
			continue
		}
		select {
		case <-l.changed:
		case <-ctx.Done():
			return false
		}
	}
}

// forget frees a handshake's place; l.mu is held.
func (l *Listener) forget(h *handshake) {
	if h.turn != nil {
		l.waiting.Remove(h.turn)
		h.turn = nil
	}
	if _, ok := l.pending[h]; ok {
		delete(l.pending, h)
		l.opt.Stats.Pending.Add(-1)
		l.signal()
	}
}

func (l *Listener) signal() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// handshake is a connection whose handshake is not complete.
type handshake struct {
	l    *Listener
	conn net.Conn
	stop <-chan struct{}
	slot bool          // held; owned by the handshake's goroutine
	turn *list.Element // in l.waiting; covered by l.mu
}

func (l *Listener) admit(ctx context.Context, c net.Conn) {
	h := &handshake{l: l, conn: c, stop: ctx.Done()}
	l.mu.Lock()
	l.pending[h] = struct{}{}
	l.mu.Unlock()
	l.opt.Stats.Pending.Add(1)
	l.tasks.Go(func() { l.handshake(ctx, h) })
}

func (l *Listener) handshake(ctx context.Context, h *handshake) {
	_ = h.conn.SetDeadline(time.Now().Add(l.opt.Timeout))
	w := &wire{Conn: h.conn, gate: &gate{h}}
	conn := tls.Server(w, l.config)
	// The deadline and shut end it; a context would cost a goroutine more.
	err := conn.HandshakeContext(context.WithoutCancel(ctx))
	h.release()
	w.gate = nil
	l.mu.Lock()
	_, mine := l.pending[h]
	l.forget(h)
	l.mu.Unlock()
	if err == nil && (!mine || ctx.Err() != nil) {
		err = net.ErrClosed
	}
	if err != nil {
		l.opt.Stats.Refused.Add(1)
		l.opt.Log.Debug("handshake refused", "remote", h.conn.RemoteAddr(), "err", err)
		_ = h.conn.Close()
		return
	}
	l.opt.Stats.Handshakes.Add(1)
	_ = h.conn.SetDeadline(time.Time{})
	if conn.ConnectionState().NegotiatedProtocol != ALPN {
		l.http.hand(conn, l.opt.Timeout)
		return
	}
	// A fresh goroutine: this one's stack has grown with the handshake.
	l.tasks.Go(func() {
		defer conn.Close()
		l.opt.Serve(ctx, conn)
	})
}

// gate sits in a handshake's reads: while it waits for its peer it gives the slot
// to another one.
type gate struct{ h *handshake }

func (g *gate) read(c net.Conn, p []byte) (int, error) {
	h := g.h
	h.release()
	h.l.mu.Lock()
	if _, ok := h.l.pending[h]; ok {
		h.turn = h.l.waiting.PushBack(h)
		h.l.signal()
	}
	h.l.mu.Unlock()
	n, err := c.Read(p)
	h.l.mu.Lock()
	if h.turn != nil {
		h.l.waiting.Remove(h.turn)
		h.turn = nil
	}
	h.l.mu.Unlock()
	if err != nil {
		return n, err
	}
	select {
	case h.l.slots <- struct{}{}:
		h.slot = true
	case <-h.stop:
		return n, net.ErrClosed
	}
	return n, nil
}

func (h *handshake) release() {
	if h.slot {
		h.slot = false
		<-h.l.slots
	}
}

// httpListener hands connections to an http.Server.
type httpListener struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// hand gives c to Accept, or closes it if nobody takes it in time.
func (l *httpListener) hand(c net.Conn, timeout time.Duration) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case l.conns <- c:
		return
	case <-l.closed:
	case <-t.C:
	}
	_ = c.Close()
}

// Accept implements net.Listener.
func (l *httpListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *httpListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *httpListener) Addr() net.Addr { return l.addr }
