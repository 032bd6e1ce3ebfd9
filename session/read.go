package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// next reads one frame. The body is in pooled, if that is not nil.
func (s *Session) next(head []byte) (Header, []byte, *[bufSize]byte, error) {
	if _, err := io.ReadFull(s.conn, head); err != nil {
		return Header{}, nil, nil, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return Header{}, nil, nil, err
	}
	body, pooled, err := readBody(s.conn, h.Length)
	if err != nil && pooled != nil {
		bufPool.Put(pooled)
		pooled = nil
	}
	return h, body, pooled, err
}

// read handles frames until the session ends.
func (s *Session) read() error {
	head := make([]byte, HeaderSize)
	for {
		h, body, pooled, err := s.next(head)
		if err != nil {
			return s.readError(err)
		}
		if s.closing.Load() {
			if pooled != nil {
				bufPool.Put(pooled)
			}
			return s.Err()
		}
		s.last.Store(int64(time.Since(s.since)))
		kept, err := s.handle(h, body, pooled)
		if pooled != nil && !kept {
			bufPool.Put(pooled)
		}
		if err != nil {
			return s.breach(err)
		}
	}
}

func (s *Session) readError(err error) error {
	switch {
	case errors.Is(err, ErrProtocol):
		return s.breach(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the peer closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read from the peer: %w", err)
}

// handle acts on one frame. kept says that pooled belongs to a stream now. An
// error is a breach of the protocol and wraps ErrProtocol.
func (s *Session) handle(h Header, body []byte, pooled *[bufSize]byte) (kept bool, err error) {
	switch h.Type {
	case TypeResult, TypePong:
		s.onAnswer(h, body)
	case TypeData:
		return s.onData(h.ID, body, pooled)
	case TypeCredit:
		return false, s.onCredit(h.ID, body)
	case TypeCall:
		if pooled != nil { // the call outlives the frame
			body = bytes.Clone(body)
		}
		return false, s.onCall(h.ID, body)
	case TypePing:
		_ = s.write(TypePong, h.ID, body) // an error ends the reader soon
	case TypeAck:
		a := new(fleetpb.Ack)
		if err := decode(h.Type, body, a); err != nil {
			return false, err
		}
		s.opt.Handler.Ack(s, h.ID, a)
	case TypeOpen:
		return false, s.onOpen(h.ID, body)
	case TypeClose:
		return false, s.onClose(h.ID, body)
	case TypeCancel:
		return false, s.onCancel(h.ID, body)
	case TypeGoaway:
		if err := s.onGoaway(body); errors.Is(err, ErrProtocol) {
			return false, err
		}
	case TypeHello:
		return false, fmt.Errorf("%w: a second HELLO", ErrProtocol)
	default:
		s.stats.Skipped.Add(1)
	}
	return false, nil
}

func (s *Session) onAnswer(h Header, body []byte) {
	s.mu.Lock()
	w, ok := s.waiters[h.ID]
	if ok && w.ping == (h.Type == TypePong) {
		delete(s.waiters, h.ID)
	} else {
		ok = false
	}
	s.mu.Unlock()
	switch {
	case !ok:
		if h.ID != 0 { // 0: the heartbeat's
			s.stats.Late.Add(1)
		}
	case w.ping:
		w.Result(s, h.ID, nil)
	default:
		w.Result(s, h.ID, body)
	}
}

// onCall keeps body.
func (s *Session) onCall(id uint64, body []byte) error {
	c, err := decodeCall(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if _, dup := s.inbound[id]; dup {
		s.mu.Unlock()
		return fmt.Errorf("%w: CALL with the id of an unanswered one, %d", ErrProtocol, id)
	}
	refusal := call.OK
	switch {
	case s.leaving:
		refusal = call.Unavailable
	case len(s.inbound) >= s.limits.Calls:
		refusal = call.Busy
	default:
		if s.inbound == nil {
			s.inbound = make(map[uint64]struct{})
		}
		s.inbound[id] = struct{}{}
	}
	s.mu.Unlock()
	switch refusal {
	case call.OK:
		s.opt.Handler.Call(s, id, c)
	case call.Busy:
		s.stats.Busy.Add(1)
		_ = s.write(TypeResult, id, encode(&fleetpb.Result{Code: uint32(refusal), Detail: fmt.Sprintf("%d calls of this session are unanswered", s.limits.Calls)}))
	default:
		_ = s.write(TypeResult, id, encode(&fleetpb.Result{Code: uint32(refusal), Detail: "the session is ending"}))
	}
	return nil
}

func (s *Session) onCancel(id uint64, body []byte) error {
	if err := decode(TypeCancel, body, new(fleetpb.Cancel)); err != nil {
		return err
	}
	s.mu.Lock()
	_, pending := s.inbound[id]
	s.mu.Unlock()
	if pending {
		s.opt.Handler.Cancel(s, id)
	}
	return nil
}

// onGoaway gives the peer's reason as an error.
func (s *Session) onGoaway(body []byte) error {
	m := new(fleetpb.Goaway)
	if err := decode(TypeGoaway, body, m); err != nil {
		return err
	}
	retry := time.Duration(min(m.RetryAfterMs, uint64(time.Hour/time.Millisecond))) * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.gone = &Goaway{Code: call.Code(m.Code), Reason: cut(m.Reason, MaxReason), RetryAfter: retry}
	return s.gone
}

// decode reads a frame's body; the error wraps ErrProtocol. Fields that we do
// not know are dropped: a HELLO stays in memory as long as its session.
func decode(t Type, body []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrProtocol, t, err)
	}
	return nil
}

// DecodeResult reads the body that a Waiter got. The error wraps ErrProtocol;
// whoever gets it should end the session with Close(call.Invalid, …).
func DecodeResult(body []byte) (*fleetpb.Result, error) {
	r := new(fleetpb.Result)
	if err := decode(TypeResult, body, r); err != nil {
		return nil, err
	}
	if len(r.Output) > MaxOutput || len(r.Detail) > MaxDetail {
		return nil, fmt.Errorf("%w: RESULT with %d bytes of output and %d of detail", ErrProtocol, len(r.Output), len(r.Detail))
	}
	return r, nil
}

// cut shortens text for a frame to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
