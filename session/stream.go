package session

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"dominion/api/fleetpb"
	"dominion/call"
)

// dataChunk is what a sender puts into one DATA frame: with the header just
// one TLS record, so one system call.
const dataChunk = 16<<10 - HeaderSize

// ErrStreamClosed is what reading and writing give after this side closed a stream.
var ErrStreamClosed = errors.New("the stream is closed")

// StreamError is the reason with which the peer closed a stream early.
type StreamError struct{ Reason string }

// Error implements error.
func (e *StreamError) Error() string { return "the peer closed the stream: " + e.Reason }

// Stream carries bytes one way, from the side that opened it: that side uses
// Write and Close, the other one Accept, Read and Close. One goroutine at a time
// writes or reads; Close and CloseWithReason may come from any.
type Stream struct {
	s      *Session
	id     uint64
	callID uint64
	name   string
	sender bool
	wake   chan struct{} // one signal: credit, data or the end has come
	done   chan struct{} // closed at the end
	turn   *list.Element // in the pool's queue; covered by the pool's mutex

	mu       sync.Mutex // covers what follows
	err      error      // why it ended; io.EOF if orderly
	credit   int        // sender: may be sent; receiver: may still come
	stop     func() bool
	accepted bool
	window   int // receiver: held from the pool
	consumed int // read and not yet granted again
	chunks   []chunk
	released bool // the window went back to the pool
}

// chunk is a pooled frame buffer with bytes not yet read.
type chunk struct {
	buf        *[bufSize]byte
	start, end int
}

func newStream(s *Session, id, callID uint64, name string, sender bool) *Stream {
	return &Stream{s: s, id: id, callID: callID, name: name, sender: sender, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// ID is the stream's id in the session: odd if the side that dialled opened it.
func (st *Stream) ID() uint64 { return st.id }

// CallID is the call that the stream belongs to.
func (st *Stream) CallID() uint64 { return st.callID }

// Name says what it carries: "stdout", "stderr", "result".
func (st *Stream) Name() string { return st.name }

// Session is the session that carries it.
func (st *Stream) Session() *Session { return st.s }

// Open opens a stream for call callID towards the peer. Write then blocks until
// the peer grants credit; it and the stream end with ctx's cause. The caller must
// Close it. Errors: code NoSession, or Busy with too many streams open.
func (s *Session) Open(ctx context.Context, callID uint64, name string) (*Stream, error) {
	if len(name) == 0 || len(name) > MaxName {
		return nil, call.Errorf(call.Invalid, "stream name %q", name)
	}
	s.mu.Lock()
	if s.over || !s.ready || s.closing.Load() {
		s.mu.Unlock()
		return nil, &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: "the session is over"}
	}
	if s.streamsOut.Load() >= int32(s.limits.Streams) {
		s.mu.Unlock()
		return nil, &call.Error{Code: call.Busy, Node: s.peer.Name, Detail: fmt.Sprintf("%d streams are open", s.limits.Streams)}
	}
	st := newStream(s, s.nextStream, callID, name, true)
	s.nextStream += 2
	s.addStream(st)
	s.streamsOut.Add(1)
	// Under the mutex, so that ids reach the peer in their order.
	err := s.send(TypeOpen, st.id, encode(&fleetpb.Open{CallId: callID, Name: cut(name, MaxName)}))
	s.mu.Unlock()
	if err != nil {
		s.fail(err)
		return nil, &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: err.Error()}
	}
	stop := context.AfterFunc(ctx, func() { st.end(context.Cause(ctx), "cancelled") })
	st.mu.Lock()
	st.stop = stop
	st.mu.Unlock()
	return st, nil
}

// addStream is called with s.mu held.
func (s *Session) addStream(st *Stream) {
	if s.streams == nil {
		s.streams = make(map[uint64]*Stream)
	}
	s.streams[st.id] = st
}

// takeStream removes a stream from the session and says whether it was there.
func (s *Session) takeStream(id uint64) (*Stream, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.streams[id]
	delete(s.streams, id)
	if ok && st.sender {
		s.streamsOut.Add(-1)
	}
	return st, ok
}

func (s *Session) stream(id uint64) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// known says whether an id was ever a stream's: a frame for one that ended is
// late, for any other a breach.
func (s *Session) known(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id&1 == s.nextStream&1 {
		return id < s.nextStream
	}
	return id <= s.lastStream
}

func (s *Session) onOpen(id uint64, body []byte) error {
	m := new(fleetpb.Open)
	if err := decode(TypeOpen, body, m); err != nil {
		return err
	}
	if m.Name == "" || len(m.Name) > MaxName {
		return fmt.Errorf("%w: OPEN with a name of %d bytes", ErrProtocol, len(m.Name))
	}
	s.mu.Lock()
	if id&1 == s.nextStream&1 || id <= s.lastStream {
		s.mu.Unlock()
		return fmt.Errorf("%w: OPEN with the id %d", ErrProtocol, id)
	}
	s.lastStream = id
	full := s.streamsIn.Load() >= int32(s.limits.Streams)
	st := newStream(s, id, m.CallId, m.Name, false)
	if !full {
		s.addStream(st)
		s.streamsIn.Add(1)
	}
	w := s.waiters[m.CallId].Waiter
	s.mu.Unlock()
	if full {
		s.stats.Busy.Add(1)
		_ = s.write(TypeClose, id, encode(&fleetpb.Close{Reason: fmt.Sprintf("busy: %d streams are open", s.limits.Streams)}))
		return nil
	}
	s.handOver(w, st)
	st.mu.Lock()
	accepted := st.accepted
	st.mu.Unlock()
	if !accepted {
		st.CloseWithReason("not wanted")
	}
	return nil
}

// Accept takes a stream that the peer opened: its sender gets credit as soon as
// the pool has a window. The caller must read it to its end or close it.
func (st *Stream) Accept() {
	st.mu.Lock()
	if st.accepted || st.sender || st.err != nil {
		st.mu.Unlock()
		return
	}
	st.accepted = true
	st.mu.Unlock()
	if st.s.pool.begin(st) {
		st.granted()
	}
}

// granted is called when the pool has given MinWindow.
func (st *Stream) granted() {
	st.mu.Lock()
	if st.err != nil {
		st.mu.Unlock()
		st.s.pool.end(st, MinWindow)
		return
	}
	st.window, st.credit = MinWindow, MinWindow
	st.mu.Unlock()
	st.grant(MinWindow)
}

func (st *Stream) grant(n int) {
	_ = st.s.write(TypeCredit, st.id, encode(&fleetpb.Credit{Bytes: uint32(n)})) // an error ends the session, and so the stream
}

func (s *Session) onCredit(id uint64, body []byte) error {
	m := new(fleetpb.Credit)
	if err := decode(TypeCredit, body, m); err != nil {
		return err
	}
	st := s.stream(id)
	if st == nil {
		return s.late(TypeCredit, id)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.sender || m.Bytes == 0 || m.Bytes > MaxWindow || st.credit+int(m.Bytes) > MaxWindow {
		return fmt.Errorf("%w: CREDIT of %d bytes for stream %d", ErrProtocol, m.Bytes, id)
	}
	st.credit += int(m.Bytes)
	st.signal()
	return nil
}

func (s *Session) late(t Type, id uint64) error {
	if !s.known(id) {
		return fmt.Errorf("%w: %s for stream %d, which was never opened", ErrProtocol, t, id)
	}
	s.stats.Late.Add(1)
	return nil
}

func (s *Session) onData(id uint64, body []byte, pooled *[bufSize]byte) (kept bool, err error) {
	s.stats.StreamBytes.Add(uint64(len(body)))
	st := s.stream(id)
	if st == nil {
		return false, s.late(TypeData, id)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return false, nil // it ends just now
	}
	if st.sender || len(body) == 0 || len(body) > st.credit {
		return false, fmt.Errorf("%w: DATA of %d bytes for stream %d with credit for %d", ErrProtocol, len(body), id, st.credit)
	}
	st.credit -= len(body)
	defer st.signal()
	// Small frames share a buffer, so that a window of single bytes costs no more
	// than twice a window.
	if n := len(st.chunks); n > 0 {
		if c := &st.chunks[n-1]; bufSize-c.end >= len(body) {
			c.end += copy(c.buf[c.end:], body)
			return false, nil
		}
	}
	st.chunks = append(st.chunks, chunk{buf: pooled, end: len(body)})
	return true, nil
}

// signal wakes whoever reads or writes.
func (st *Stream) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// Read implements io.Reader: io.EOF when the peer closed the stream in order, a
// *StreamError when it gave a reason, a *call.Error (SessionLost) when the session
// ended. What had come before is read first. Credit is granted as it is read.
func (st *Stream) Read(p []byte) (int, error) {
	if st.sender {
		return 0, errors.New("read from a stream that this side opened")
	}
	for len(p) > 0 {
		st.mu.Lock()
		n := st.take(p)
		grant := st.due(n)
		err := st.err
		held, over := st.leave()
		st.mu.Unlock()
		if over {
			st.release(held)
		}
		if grant > 0 {
			st.grant(grant)
		}
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		<-st.wake
	}
	return 0, nil
}

// take copies what is buffered to p; st.mu is held.
func (st *Stream) take(p []byte) int {
	n := 0
	for n < len(p) && len(st.chunks) > 0 {
		c := &st.chunks[0]
		m := copy(p[n:], c.buf[c.start:c.end])
		c.start += m
		n += m
		if c.start == c.end {
			bufPool.Put(c.buf)
			*c = chunk{}
			st.chunks = st.chunks[1:]
		}
	}
	if len(st.chunks) == 0 {
		st.chunks = nil
	}
	return n
}

// due gives the credit to grant after n bytes were read; st.mu is held.
func (st *Stream) due(n int) int {
	st.consumed += n
	if n == 0 || st.err != nil || st.consumed < st.window/2 {
		return 0
	}
	grant := st.consumed
	st.consumed = 0
	// The reader waits for the sender: a larger window lets it send more at once.
	if len(st.chunks) == 0 && st.window < MaxWindow && st.s.pool.grow(st.window) {
		grant += st.window
		st.window *= 2
	}
	st.credit += grant
	return grant
}

// leave says, once, that a received stream has ended and is read to its end, and
// how much of the pool it held; st.mu is held.
func (st *Stream) leave() (held int, over bool) {
	if st.sender || st.released || st.err == nil || len(st.chunks) > 0 {
		return 0, false
	}
	st.released = true
	held, st.window = st.window, 0
	return held, true
}

func (st *Stream) release(held int) {
	st.s.streamsIn.Add(-1)
	st.s.pool.end(st, held)
}

// Write implements io.Writer: it sends p as credit comes, and waits while the
// socket is full. Errors: a *StreamError when the peer closed the stream, the cause
// of Open's context, ErrStreamClosed, or a *call.Error when the session ended.
func (st *Stream) Write(p []byte) (int, error) {
	if !st.sender {
		return 0, errors.New("write to a stream that the peer opened")
	}
	written := 0
	for written < len(p) {
		n, err := st.spend(min(len(p)-written, dataChunk))
		if err != nil {
			return written, err
		}
		if err := st.sendData(p[written : written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// spend waits for credit and takes at most n bytes of it.
func (st *Stream) spend(n int) (int, error) {
	for {
		st.mu.Lock()
		if st.err != nil {
			defer st.mu.Unlock()
			return 0, st.err
		}
		if st.credit > 0 {
			defer st.mu.Unlock()
			n = min(n, st.credit)
			st.credit -= n
			return n, nil
		}
		st.mu.Unlock()
		select {
		case <-st.wake:
		case <-st.done:
		}
	}
}

func (st *Stream) sendData(p []byte) error {
	tokens := st.s.wire.tokens()
	select {
	case <-tokens:
		defer st.s.wire.giveRoom()
		return st.s.write(TypeData, st.id, p)
	case <-st.done:
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.err
	}
}

// Close ends the stream. At the side that opened it the peer reads io.EOF after
// what was written; at the other side the peer's Write fails. It never fails.
func (st *Stream) Close() error {
	st.end(ErrStreamClosed, "")
	return nil
}

// CloseWithReason ends the stream early: the peer's Read or Write gives the
// reason in a *StreamError. Nothing happens if it has ended before.
func (st *Stream) CloseWithReason(reason string) { st.end(ErrStreamClosed, reason) }

// Abandon ends a stream that the peer opened, unless the peer has: what came
// before can still be read, and then Read gives ErrStreamClosed.
func (st *Stream) Abandon(reason string) {
	if st.finish(ErrStreamClosed, false) {
		st.gone(reason)
	}
}

// end closes the stream from this side.
func (st *Stream) end(err error, reason string) {
	if st.finish(err, true) {
		st.gone(reason)
	}
}

// gone tells the peer that this side ended the stream.
func (st *Stream) gone(reason string) {
	if _, ok := st.s.takeStream(st.id); ok {
		_ = st.s.write(TypeClose, st.id, encode(&fleetpb.Close{Reason: cut(reason, MaxReason)}))
	}
}

// fail ends the stream because the peer or the session did; what was received
// can still be read.
func (st *Stream) fail(err error) { st.finish(err, false) }

func (st *Stream) finish(err error, discard bool) (first bool) {
	st.mu.Lock()
	if first = st.err == nil; first {
		st.err = err
		close(st.done)
	}
	if discard {
		for _, c := range st.chunks {
			bufPool.Put(c.buf)
		}
		st.chunks = nil
	}
	held, over := st.leave()
	stop := st.stop
	st.stop = nil
	st.mu.Unlock()
	if stop != nil {
		stop()
	}
	if over {
		st.release(held)
	}
	st.signal()
	return first
}

func (s *Session) onClose(id uint64, body []byte) error {
	m := new(fleetpb.Close)
	if err := decode(TypeClose, body, m); err != nil {
		return err
	}
	st, ok := s.takeStream(id)
	switch {
	case !ok:
		return s.late(TypeClose, id)
	case m.Reason != "":
		st.fail(&StreamError{Reason: cut(m.Reason, MaxReason)})
	case st.sender:
		st.fail(&StreamError{Reason: "it wants no more"})
	default:
		st.fail(io.EOF)
	}
	return nil
}
