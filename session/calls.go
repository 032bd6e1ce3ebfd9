package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

const (
	// resultStream is the name of the stream that carries a large output.
	resultStream = "result"
	// MaxCallOutput is the largest output that Call accepts, in bytes.
	MaxCallOutput = 4 << 20
	ownCalls      = 1 << 63 // set in the ids that Call gives itself
)

// Start sends a CALL whose body, an encoded fleetpb.Call, is given in parts: they
// are sent one after the other, and as protobuf messages may be concatenated, what
// many peers share is encoded once and followed by what is each one's own. The parts
// are not kept. It never blocks on a slow peer. id is the caller's, may be the same
// on many sessions, and is not used again on one; at most 1<<63-1, not zero.
//
// With an error the peer has not heard of the call and w is not called: code
// NoSession (no session any more), Busy (too many calls unanswered), Invalid (id or
// size). Without one w is called, be it because the session broke while writing.
func (s *Session) Start(id uint64, w Waiter, parts ...[]byte) error {
	if id&ownCalls != 0 {
		return call.Errorf(call.Invalid, "call id %d is reserved", id)
	}
	return s.start(TypeCall, id, w, parts...)
}

// StartPing is Start for a PING: a PONG is its result, without a body.
func (s *Session) StartPing(id uint64, w Waiter) error { return s.start(TypePing, id, w) }

func (s *Session) start(t Type, id uint64, w Waiter, parts ...[]byte) error {
	if id == 0 {
		return call.Errorf(call.Invalid, "call id 0 is reserved")
	}
	if err := s.wait(id, waiting{w, t == TypePing}); err != nil {
		return err
	}
	if err := s.write(t, id, parts...); errors.Is(err, errTooLarge) && s.Forget(id) {
		return call.Errorf(call.Invalid, "%v", err)
	}
	return nil // with another error the session is over, and w is told so
}

func (s *Session) wait(id uint64, w waiting) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if len(s.waiters) >= s.limits.Calls {
		return &call.Error{Code: call.Busy, Node: s.peer.Name, Detail: fmt.Sprintf("%d calls of this session are unanswered", s.limits.Calls)}
	}
	if _, used := s.waiters[id]; used {
		return call.Errorf(call.Invalid, "call id %d is in use", id)
	}
	if s.waiters == nil {
		s.waiters = make(map[uint64]waiting)
	}
	s.waiters[id] = w
	return nil
}

// Forget drops interest in call id: its Waiter is not called any more, and a late
// answer is dropped. It says whether the Waiter was still to be called.
func (s *Session) Forget(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.waiters[id]
	delete(s.waiters, id)
	return ok
}

// Cancel asks the peer to stop call id. The call is still answered.
func (s *Session) Cancel(id uint64, reason string) error {
	return s.write(TypeCancel, id, encode(&fleetpb.Cancel{Reason: cut(reason, MaxReason)}))
}

// Ack tells the caller of id that its call was received or started, or, with any
// id, that the results of jobs are stored.
func (s *Session) Ack(id uint64, a *fleetpb.Ack) error {
	b, err := proto.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode ACK: %w", err)
	}
	return s.write(TypeAck, id, b)
}

// Reply answers the peer's call id, once. Its detail is cut to 4 KiB. Output of
// more than 256 KiB goes as a stream before the RESULT, and Reply blocks until the
// peer has taken it, so it must not run on the session's reader then. If the peer
// closes the stream, success becomes Failed, with a detail that says so.
func (s *Session) Reply(id uint64, r *fleetpb.Result) error {
	s.mu.Lock()
	_, ok := s.inbound[id]
	over, err := s.over || s.closing.Load(), s.err
	s.mu.Unlock()
	switch {
	case over:
		return &call.Error{Code: call.NoSession, Node: s.peer.Name, Detail: err.Error()}
	case !ok:
		return call.Errorf(call.NotFound, "no call %d waits for an answer", id)
	}
	out := &fleetpb.Result{Code: r.Code, Detail: cut(r.Detail, MaxDetail), Output: r.Output, TookUs: r.TookUs}
	if len(r.Output) > MaxOutput {
		stream, err := s.sendOutput(id, r.Output)
		out.Output, out.OutputStream = nil, stream
		if err != nil && r.Code == 0 {
			out.Code, out.Detail = uint32(call.Failed), cut("the method succeeded, but its output was not taken: "+err.Error(), MaxDetail)
		}
	}
	s.mu.Lock()
	_, ok = s.inbound[id]
	delete(s.inbound, id)
	s.mu.Unlock()
	if !ok && !s.closing.Load() {
		return call.Errorf(call.NotFound, "call %d was answered twice", id)
	}
	return s.write(TypeResult, id, encode(out))
}

func (s *Session) sendOutput(id uint64, output []byte) (stream uint64, err error) {
	st, err := s.Open(context.Background(), id, resultStream)
	if err != nil {
		return 0, err
	}
	if _, err := st.Write(output); err != nil {
		st.CloseWithReason("not sent")
		return 0, err
	}
	return st.ID(), st.Close()
}

// Call makes one call and waits for its answer; for the session's own methods,
// which need no order. The time that ctx leaves travels along; when ctx ends the peer
// gets CANCEL. A failure of the method is a *call.Error with the peer's code; the
// output is at most MaxCallOutput bytes.
func (s *Session) Call(ctx context.Context, method string, args []byte) ([]byte, error) {
	c := &fleetpb.Call{Method: method, Args: args}
	if d, ok := ctx.Deadline(); ok {
		c.TimeoutMs = uint64(max(1, time.Until(d).Milliseconds()))
	}
	body, err := proto.Marshal(c)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "method %q: %v", method, err)
	}
	id := s.ownID()
	w := &callWaiter{answers: make(answers, 1), output: make(chan *Stream, 1)}
	if err := s.start(TypeCall, id, w, body); err != nil {
		return nil, err
	}
	return w.wait(ctx, s, id)
}

// ownID gives the id of a call of the session's own.
func (s *Session) ownID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return s.calls | ownCalls
}

// callWaiter is the Waiter of Call.
type callWaiter struct {
	answers
	output chan *Stream // holds one

	mu   sync.Mutex
	gone bool // nobody reads output any more
}

type answer struct {
	result *fleetpb.Result
	err    error
}

// answers is the part of a Waiter that takes the one answer. It holds one.
type answers chan answer

// Result implements Waiter.
func (c answers) Result(s *Session, _ uint64, body []byte) {
	r, err := DecodeResult(body)
	if err != nil {
		s.Close(call.Invalid, err.Error())
	}
	c <- answer{r, err}
}

// Lost implements Waiter.
func (c answers) Lost(_ *Session, _ uint64, err error) { c <- answer{nil, err} }

// open takes the stream with a large output; on the reader's goroutine. A second
// one, or one that is too late, is not accepted.
func (w *callWaiter) open(st *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return
	}
	select {
	case w.output <- st:
		st.Accept()
	default:
	}
}

const notWaiting = "the caller does not wait any longer"

func (w *callWaiter) wait(ctx context.Context, s *Session, id uint64) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() {
		if s.Forget(id) {
			_ = s.Cancel(id, notWaiting)
			w.answers <- answer{nil, context.Cause(ctx)}
		}
	})
	defer stop()
	defer w.leave()
	var out output
	for {
		select {
		case st := <-w.output:
			out.read(ctx, st)
		case a := <-w.answers:
			if out.stream == nil {
				select {
				case st := <-w.output:
					out.read(ctx, st)
				default:
				}
			}
			return out.finish(ctx, s, a)
		}
	}
}

// leave refuses streams from now on.
func (w *callWaiter) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	select {
	case st := <-w.output:
		st.CloseWithReason(notWaiting)
	default:
	}
}

// output is what came in a stream of its own.
type output struct {
	stream *Stream
	bytes  []byte
	err    error
}

func (o *output) read(ctx context.Context, st *Stream) {
	o.stream = st
	stop := context.AfterFunc(ctx, func() { st.CloseWithReason(notWaiting) })
	defer stop()
	o.bytes, o.err = io.ReadAll(io.LimitReader(st, MaxCallOutput+1))
	st.CloseWithReason("the output is too large") // nothing, if it was read to its end
}

func (o *output) finish(ctx context.Context, s *Session, a answer) ([]byte, error) {
	switch {
	case a.err != nil:
		return nil, a.err
	case len(o.bytes) > MaxCallOutput:
		return nil, &call.Error{Code: call.Failed, Node: s.peer.Name, Detail: fmt.Sprintf("the output is larger than %d bytes", MaxCallOutput)}
	case a.result.Code != 0:
		return nil, &call.Error{Code: call.Code(a.result.Code), Node: s.peer.Name, Detail: a.result.Detail}
	case a.result.OutputStream == 0:
		return a.result.Output, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case o.stream == nil || o.stream.ID() != a.result.OutputStream:
		return nil, &call.Error{Code: call.Internal, Node: s.peer.Name, Detail: "the output's stream is missing"}
	case o.err != nil:
		return nil, o.err
	}
	return o.bytes, nil
}
