package session

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Errors that end a session because of its peer's reading.
var (
	// ErrSlow ends a session whose peer reads more slowly than it is called.
	ErrSlow = errors.New("the peer does not read: too much waits to be sent to it")
	// ErrStalled ends a session whose peer took not one byte for the stall time.
	ErrStalled = errors.New("the peer does not read: nothing could be sent to it")
)

const (
	drainPiece = 64 << 10  // bytes of one blocking write
	softQueue  = 128 << 10 // streams wait while more than this is queued
)

// wire sits below TLS, because crypto/tls cannot be used any more after a write
// that timed out. Until queue is called it passes everything through, which is what
// handshakes and HTTP want. From then on Write never blocks: it tries one write(2),
// and what the socket does not take waits in a bounded queue, emptied by a
// goroutine that exists only as long as the queue does.
type wire struct {
	net.Conn
	dialled bool // this side opened the connection
	gate    *gate

	mu       sync.Mutex // covers what follows
	live     bool       // queue was called
	draining bool       // the goroutine runs
	finished bool       // FIN follows the last byte
	err      error      // why nothing can be written any more
	backlog  []byte     // not yet taken by the goroutine
	waiting  int        // bytes in backlog and in the goroutine's hands
	limit    int
	stall    time.Duration
	stats    *Stats
	raw      syscall.RawConn // nil: everything is queued
	try      func(fd uintptr) bool
	tryBytes []byte
	tryN     int
	tryErr   error
	room     chan struct{} // one token: its holder may write DATA; nil until the first stream
	owed     bool          // the token comes back when the queue is short again
	running  sync.WaitGroup
}

// Wrap prepares a connection for TLS and New. dialled says that this side
// opened it. Dial and Listener do it themselves.
func Wrap(c net.Conn, dialled bool) net.Conn { return &wire{Conn: c, dialled: dialled} }

// queue makes Write non-blocking. No write may be in progress.
func (w *wire) queue(limit int, stall time.Duration, stats *Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live, w.limit, w.stall, w.stats, w.gate = true, limit, stall, stats, nil
	sc, ok := w.Conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	w.raw = raw
	w.try = func(fd uintptr) bool {
		for {
			w.tryN, w.tryErr = syscall.Write(int(fd), w.tryBytes)
			if !errors.Is(w.tryErr, syscall.EINTR) {
				return true
			}
		}
	}
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if w.gate != nil {
		return w.gate.read(w.Conn, p)
	}
	return w.Conn.Read(p)
}

// Write implements net.Conn. It keeps no reference to p.
func (w *wire) Write(p []byte) (int, error) {
	if !w.live { // set before the first concurrent writer exists
		return w.Conn.Write(p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	n := 0
	if !w.draining && w.raw != nil {
		var err error
		if n, err = w.tryWrite(p); err != nil {
			w.failLocked(err)
			return n, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	if w.waiting+len(p)-n > w.limit {
		w.stats.Overflow.Add(1)
		w.failLocked(ErrSlow)
		return n, ErrSlow
	}
	w.backlog = append(w.backlog, p[n:]...)
	w.waiting += len(p) - n
	if !w.draining {
		w.draining = true
		w.stats.Backlogged.Add(1)
		w.running.Go(w.drain)
	}
	return len(p), nil
}

func (w *wire) tryWrite(p []byte) (int, error) {
	w.tryBytes = p
	err := w.raw.Write(w.try)
	w.tryBytes = nil
	if err != nil {
		return 0, err
	}
	if w.tryErr != nil {
		if errors.Is(w.tryErr, syscall.EAGAIN) {
			return 0, nil
		}
		return 0, os.NewSyscallError("write", w.tryErr)
	}
	return w.tryN, nil
}

// drain writes the backlog until none is left.
func (w *wire) drain() {
	for {
		w.mu.Lock()
		todo := w.backlog
		w.backlog = nil
		if w.err != nil || len(todo) == 0 {
			w.draining = false
			_ = w.Conn.SetWriteDeadline(time.Time{}) // else the next try finds an old one
			if w.finished {
				w.closeWrite()
			}
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		for len(todo) > 0 {
			n, err := w.drainPiece(todo[:min(len(todo), drainPiece)])
			if err != nil {
				break // the next turn ends
			}
			todo = todo[n:]
		}
	}
}

// drainPiece writes some bytes of p, waiting for at most the stall time for the first one.
func (w *wire) drainPiece(p []byte) (int, error) {
	_ = w.Conn.SetWriteDeadline(time.Now().Add(w.stall))
	n, err := w.Conn.Write(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting -= n
	if w.owed && w.waiting < softQueue {
		w.owed = false
		w.room <- struct{}{} // has space for the only token
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if n > 0 {
			return n, nil
		}
		if w.err == nil {
			w.stats.Stalled.Add(1)
		}
		err = ErrStalled
	}
	if err != nil {
		w.failLocked(err)
	}
	return n, err
}

// tokens gives the channel that holds the right to write DATA. Who took the token
// gives it back with giveRoom, so that streams together never queue more than
// softQueue and one chunk.
func (w *wire) tokens() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.room == nil {
		w.room = make(chan struct{}, 1)
		w.room <- struct{}{}
	}
	return w.room
}

func (w *wire) giveRoom() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting >= softQueue && w.err == nil {
		w.owed = true
		return
	}
	w.room <- struct{}{}
}

// fail ends the connection at once; the first reason stays.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failLocked(err)
}

func (w *wire) failLocked(err error) {
	if w.err != nil {
		return
	}
	w.err = err
	w.backlog = nil
	_ = w.Conn.Close()
}

// cause gives why writing ended; nil while it has not.
func (w *wire) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// finish sends FIN once everything queued is sent.
func (w *wire) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = true
	if !w.draining && w.err == nil {
		w.closeWrite()
	}
}

func (w *wire) closeWrite() {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // the reader's deadline ends the session if the peer does not
	}
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.fail(net.ErrClosed)
	return nil
}

// SetDeadline implements net.Conn. Once writes are queued it is for reading only.
func (w *wire) SetDeadline(t time.Time) error {
	if w.live {
		return w.Conn.SetReadDeadline(t)
	}
	return w.Conn.SetDeadline(t)
}

// SetWriteDeadline implements net.Conn; once writes are queued it does nothing.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.live {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}
