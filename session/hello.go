package session

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Limits inside HELLO.
const (
	maxFeatures    = 64
	maxWord        = 128 // bytes of a feature or version
	maxCheckpoints = 64
	maxCheckpoint  = 4 << 10 // bytes
	maxSharers     = 64
	maxAddresses   = 64  // of a sharer
	maxAddress     = 300 // bytes
)

func decodeHello(body []byte) (*fleetpb.Hello, error) {
	h := new(fleetpb.Hello)
	if err := decode(TypeHello, body, h); err != nil {
		return nil, err
	}
	ok := len(h.Features) <= maxFeatures && len(h.AgentVersion) <= maxWord && len(h.Checkpoints) <= maxCheckpoints &&
		len(h.Sharers) <= maxSharers && (len(h.JournalId) == 0 || len(h.JournalId) == 16) &&
		(len(h.FactsDigest) == 0 || len(h.FactsDigest) == 32) && (len(h.Offer) == 0 || len(h.Offer) == 32)
	for _, f := range h.Features {
		ok = ok && len(f) <= maxWord
	}
	for _, c := range h.Checkpoints {
		ok = ok && len(c) <= maxCheckpoint
	}
	for _, o := range h.Sharers {
		ok = ok && o != nil && len(o.Name) <= call.MaxName && len(o.Addresses) <= maxAddresses
		for _, a := range o.GetAddresses() {
			ok = ok && len(a) <= maxAddress
		}
	}
	if !ok {
		return nil, fmt.Errorf("%w: HELLO with a field over its limit", ErrProtocol)
	}
	return h, nil
}

// greet exchanges HELLO.
func (s *Session) greet() error {
	s.mu.Lock()
	if !s.closing.Load() {
		_ = s.wire.SetReadDeadline(time.Now().Add(s.limits.Hello))
	}
	s.mu.Unlock()
	if !s.opt.Answer {
		if err := s.sayHello(nil); err != nil {
			return err
		}
	}
	if err := s.hearHello(); err != nil {
		return err
	}
	if s.opt.Answer {
		if err := s.sayHello(s.hello); err != nil {
			return err
		}
	} else if s.opt.Hello != nil {
		if _, err := s.opt.Hello(s, s.hello); err != nil {
			return s.refuse(err)
		}
	}
	s.mu.Lock()
	if s.closing.Load() {
		defer s.mu.Unlock()
		return s.err
	}
	s.ready = true
	_ = s.wire.SetReadDeadline(time.Time{})
	s.mu.Unlock()
	s.last.Store(int64(time.Since(s.since)))
	s.log("session begun")
	if s.opt.Ready != nil {
		s.opt.Ready(s)
	}
	return nil
}

func (s *Session) sayHello(peer *fleetpb.Hello) error {
	mine := new(fleetpb.Hello)
	if s.opt.Hello != nil {
		h, err := s.opt.Hello(s, peer)
		if err != nil {
			return s.refuse(err)
		}
		mine = h
	}
	b, err := proto.Marshal(mine)
	if err == nil {
		err = s.send(TypeHello, 0, b)
	}
	if err != nil {
		return fmt.Errorf("send HELLO: %w", err)
	}
	return nil
}

func (s *Session) hearHello() error {
	var head [HeaderSize]byte
	h, body, pooled, err := s.next(head[:])
	if err != nil {
		if errors.Is(err, ErrProtocol) {
			return s.breach(err)
		}
		return fmt.Errorf("wait for the peer's HELLO: %w", err)
	}
	if pooled != nil {
		defer bufPool.Put(pooled)
	}
	switch h.Type {
	case TypeGoaway:
		if err = s.onGoaway(body); errors.Is(err, ErrProtocol) {
			return s.breach(err)
		}
		return err
	case TypeHello:
	default:
		return s.breach(fmt.Errorf("%w: %s before HELLO", ErrProtocol, h.Type))
	}
	hello, err := decodeHello(body)
	if err != nil {
		return s.breach(err)
	}
	s.hello = hello
	return nil
}

// refuse ends the session because Options.Hello said so.
func (s *Session) refuse(err error) error {
	code, reason := call.CodeOf(err), ""
	if e, ok := errors.AsType[*call.Error](err); ok {
		reason = e.Detail
	}
	s.end(err, code, reason)
	return err
}

// breach ends the session because the peer broke the protocol.
func (s *Session) breach(err error) error {
	s.stats.Protocol.Add(1)
	s.end(err, call.Invalid, err.Error())
	return err
}
