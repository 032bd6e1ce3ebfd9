package provision

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the old protocol. A connection that waits, be it for its request or,
// refused, for its end, makes room for a new one, the first to come first.
const (
	maxLegacyConns  = 1024
	maxLegacySource = 64                     // of one address
	maxLegacyWork   = 256                    // requests that are worked on, or answered
	maxLegacyOfNode = 4                      // of these of one node
	legacyRetry     = 100 * time.Millisecond // after an Accept that failed
	legacyWait      = "# WAIT\n"
)

// legacyTimes are the limits of one connection.
type legacyTimes struct {
	request  time.Duration // for a request to come
	pause    time.Duration // after which a line without an end is whole
	open     time.Duration // since it came, of who gets nothing: then the old daemon closed a connection, too
	last     time.Duration // for the client to close, too
	write    time.Duration // for a line to leave
	read     time.Duration // for the client to read its script: it reads as its shell runs
	alive    time.Duration // between comments: the old client gives up after 5 s of silence
	assembly time.Duration
}

// defaultLegacyTimes are those that hold but in tests.
func defaultLegacyTimes() legacyTimes {
	return legacyTimes{
		request: 10 * time.Second, pause: 300 * time.Millisecond, open: 15 * time.Second, last: 2 * time.Second,
		write: 10 * time.Second, read: 15 * time.Minute, alive: 2 * time.Second, assembly: 10 * time.Minute,
	}
}

// legacyServer is the connections of the old protocol.
type legacyServer struct {
	s *Service

	mu     sync.Mutex
	conns  map[*legacyConn]struct{}
	from   map[netip.Addr]int
	idle   list.List // of *legacyConn, the first to come in front
	work   int
	ofNode map[string]int
	ends   bool
}

// legacyConn is one of them.
type legacyConn struct {
	net.Conn
	times   legacyTimes
	from    netip.Addr
	reached netip.Addr
	came    time.Time
	place   *list.Element // in idle; nil: it is worked on, or not counted any more
}

// ServeLegacy answers nodes that speak the old protocol until ctx ends, and then
// those that are being answered for at most the grace. It closes the listener.
// All of its goroutines have ended when it returns.
func (s *Service) ServeLegacy(ctx context.Context, ln net.Listener, grace time.Duration) error {
	l := &legacyServer{s: s, conns: make(map[*legacyConn]struct{}), from: make(map[netip.Addr]int), ofNode: make(map[string]int)}
	life, endLife := context.WithCancel(context.WithoutCancel(ctx))
	defer endLife()
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		l.end()
	})
	defer stop()
	var wg sync.WaitGroup
	err := l.accept(ctx, ln, func(c *legacyConn) { wg.Go(func() { l.serve(life, c) }) })
	ln.Close()
	l.end()
	over := time.AfterFunc(grace, func() {
		endLife()
		l.cut()
	})
	defer over.Stop()
	wg.Wait()
	return err
}

// accept takes connections until ctx ends, or the listener does.
func (l *legacyServer) accept(ctx context.Context, ln net.Listener, serve func(*legacyConn)) error {
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // of this connection, or there are no file descriptors left
			l.s.cfg.Log.Warn("no connection of the old protocol taken", "error", err)
			t := time.NewTimer(legacyRetry)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
			continue
		}
		c := &legacyConn{Conn: conn, times: l.s.times, from: addrOf(conn.RemoteAddr()), reached: addrOf(conn.LocalAddr()), came: time.Now()}
		if !l.enter(c) {
			l.s.cfg.Log.Debug("connection of the old protocol refused: too many", "from", conn.RemoteAddr().String())
			conn.Close()
			continue
		}
		serve(c)
	}
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// enter counts a connection, in the place of one that waits when there is no
// room. Not ok: it has to go.
func (l *legacyServer) enter(c *legacyConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends || l.from[c.from] >= maxLegacySource {
		return false
	}
	if len(l.conns) >= maxLegacyConns {
		first, _ := l.idle.Front().Value.(*legacyConn) // not all are worked on: see maxLegacyWork
		l.leaveLocked(first)
		first.Close()
	}
	l.conns[c] = struct{}{}
	l.from[c.from]++
	c.place = l.idle.PushBack(c)
	return true
}

func (l *legacyServer) leave(c *legacyConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(c)
}

func (l *legacyServer) leaveLocked(c *legacyConn) {
	if _, is := l.conns[c]; !is {
		return
	}
	delete(l.conns, c)
	if l.from[c.from]--; l.from[c.from] == 0 {
		delete(l.from, c.from)
	}
	if c.place != nil {
		l.idle.Remove(c.place)
		c.place = nil
	}
}

// begin takes a place for a node's request; done gives it back.
func (l *legacyServer) begin(c *legacyConn, node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.conns[c]; !is || l.ends || l.work >= maxLegacyWork || l.ofNode[node] >= maxLegacyOfNode {
		return false
	}
	l.work++
	l.ofNode[node]++
	l.idle.Remove(c.place)
	c.place = nil
	return true
}

// done gives the place back: the connection waits again.
func (l *legacyServer) done(c *legacyConn, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.conns[c]; is {
		c.place = l.idle.PushBack(c)
	}
	l.work--
	if l.ofNode[node]--; l.ofNode[node] == 0 {
		delete(l.ofNode, node)
	}
}

// end closes what waits, and lets nobody in any more.
func (l *legacyServer) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = true
	for e := l.idle.Front(); e != nil; e = e.Next() {
		if c, ok := e.Value.(*legacyConn); ok {
			c.Close()
		}
	}
}

// cut closes everything.
func (l *legacyServer) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
}

// send writes to a client that is to read it within a time.
func (c *legacyConn) send(b []byte, within time.Duration) error {
	if err := c.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err := c.Write(b)
	return err
}

// receive reads a request: until its line ends, or the client makes a pause. It
// is empty when nothing came.
func (c *legacyConn) receive() ([]byte, error) {
	end := c.came.Add(c.times.request)
	buf := make([]byte, MaxLegacy+1)
	for have := 0; ; {
		until := end
		if pause := time.Now().Add(c.times.pause); have > 0 && pause.Before(end) {
			until = pause
		}
		if err := c.SetReadDeadline(until); err != nil {
			return nil, err
		}
		n, err := c.Read(buf[have:])
		have += n
		for _, b := range buf[have-n : have] {
			if b == '\n' || b == 0 {
				return buf[:have], nil
			}
		}
		switch {
		case have == len(buf): // too long, whatever follows
			return buf, nil
		case err == nil:
		case have > 0 && time.Now().Before(end):
			return buf[:have], nil
		default:
			return nil, err
		}
	}
}

// finish ends a reply. What the client sent meanwhile is read, because the reply
// would be lost to a connection that is closed before that.
func (c *legacyConn) finish() {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok && t.CloseWrite() == nil {
		c.wait(time.Now().Add(c.times.last))
	}
}

// linger waits for who gets nothing to go: then it asks again later.
func (c *legacyConn) linger() { c.wait(c.came.Add(c.times.open)) }

func (c *legacyConn) wait(until time.Time) {
	const most = 64 << 10
	if c.SetReadDeadline(until) == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, most) // it went, or has to
	}
}
