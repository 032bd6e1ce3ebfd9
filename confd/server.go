package confd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// DefaultLimit is how many bytes per second a source may be sent beyond what
// came from it, where a server's configuration says nothing.
const DefaultLimit = 4 << 20

// readBuffer is what a server asks for as its socket's buffer, in bytes, so
// that a burst from many clients waits there; the system may give less.
const readBuffer = 4 << 20

// ServerConfig is what a server needs.
type ServerConfig struct {
	// Key signs; whoever has it can ask, and can forge answers. Required, but
	// may be empty, as in the original.
	Key []byte
	// Log; nil: nothing is logged.
	Log *slog.Logger
	// Limit is how many bytes per second a source address (of IPv6: its /64)
	// may be sent beyond those that came from it, with as many saved up for a
	// burst. It is there because a request that was overheard can be sent again
	// with a forged source, and most answers to small requests are small.
	// Zero: DefaultLimit, but for loopback, which nobody can forge from
	// elsewhere, none. Negative: no limit for anybody.
	Limit int
	// Now is the clock; nil: the system's.
	Now func() time.Time
}

// Server answers requests from the data it was given last. It is safe for
// concurrent use.
type Server struct {
	cfg   ServerConfig
	log   *slog.Logger
	state atomic.Pointer[state]
	stats serverStats
}

type serverStats struct{ received, answered, refused, limited atomic.Uint64 }

// Stats counts what became of datagrams since the start.
type Stats struct {
	Received uint64
	Answered uint64
	Refused  uint64 // garbage, other keys, other times: no reply
	Limited  uint64 // a reply was withheld from a source over its limit
}

// NewServer makes a server that answers every request with an error until it
// has data.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{cfg: cfg, log: cfg.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Now == nil {
		s.cfg.Now = time.Now
	}
	s.SetError("Configuration not yet loaded")
	return s
}

// SetData makes the server answer from c from now on.
func (s *Server) SetData(c *Cluster) { s.state.Store(&state{cluster: c}) }

// SetError takes the server's data away: from now on the answer to everything is
// an error with this text.
func (s *Server) SetError(why string) { s.state.Store(&state{none: failureText(why)}) }

// Data gives what the server answers from; nil when it has no data.
func (s *Server) Data() *Cluster { return s.state.Load().cluster }

// Stats gives the counts until now.
func (s *Server) Stats() Stats {
	return Stats{
		Received: s.stats.received.Load(), Answered: s.stats.answered.Load(),
		Refused: s.stats.refused.Load(), Limited: s.stats.limited.Load(),
	}
}

// Serve answers on a socket until ctx ends, and closes it. An error other than
// nil means that the socket failed. On a socket for all addresses replies leave from
// the one that was asked.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	_ = conn.SetReadBuffer(readBuffer) // what the system gives is enough to work with
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }() // nothing is written that must arrive
	w := s.newWorker()
	sock := newSocket(conn)
	in := make([]byte, 1<<16)
	var out []byte
	failures := 0
	for {
		n, from, err := sock.read(in)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// What an earlier reply met on its way may be reported here.
			if failures++; errors.Is(err, net.ErrClosed) || failures > 100 {
				return err
			}
			continue
		}
		failures = 0
		out = w.answer(out[:0], in[:n], from.Addr())
		if w.refused != nil && s.log.Enabled(ctx, slog.LevelDebug) { // garbage makes no garbage
			s.log.Debug("datagram refused", "from", from, "error", w.refused)
		}
		if len(out) == 0 {
			continue
		}
		if err := sock.write(out, from); err != nil && ctx.Err() == nil {
			s.log.Debug("reply not sent", "to", from, "bytes", len(out), "error", err)
		}
	}
}

// worker answers datagrams for one goroutine.
type worker struct {
	s *Server
	answerer
	limiter limiter
	refused error // why the last datagram was no request; nil: it was one
}

func (s *Server) newWorker() *worker {
	return &worker{s: s, answerer: answerer{parser: parser{signer: *newSigner(s.cfg.Key)}}, limiter: newLimiter(s.cfg.Limit)}
}

// answer appends the reply to one datagram to dst; nothing where there is none.
// It does no input or output.
func (w *worker) answer(dst, datagram []byte, from netip.Addr) []byte {
	now := w.s.cfg.Now()
	w.s.stats.received.Add(1)
	if w.refused = w.parse(datagram, now); w.refused != nil {
		w.s.stats.refused.Add(1)
		return dst
	}
	start := len(dst)
	dst = w.answerer.answer(dst, w.s.state.Load())
	if len(dst) == start {
		return dst
	}
	if !w.limiter.allow(from, len(dst)-start-len(datagram), now) {
		w.s.stats.limited.Add(1)
		return dst[:start]
	}
	w.s.stats.answered.Add(1)
	return dst
}
