package session

import (
	"google.golang.org/protobuf/encoding/protowire"

	"dominion/api/fleetpb"
	"dominion/call"
)

// maxAcks is how many jobs wait to be acknowledged before they no longer wait
// for the heartbeat.
const maxAcks = 1000

// Acknowledge tells the peer, sooner or later, that the results of a job are
// stored: with the next heartbeat, in one write, or with many others. Nobody
// waits for it: a peer that is not told asks again in its next session.
func (s *Session) Acknowledge(job call.JobID) {
	s.mu.Lock()
	if s.usable() != nil {
		s.mu.Unlock()
		return
	}
	s.acks = append(s.acks, job[:]...)
	var full []byte
	if len(s.acks) >= maxAcks*len(job) {
		full, s.acks = s.acks, nil
	}
	s.mu.Unlock()
	if full != nil {
		_ = s.write(TypeAck, 0, storedBody(full)) // an error ends the session
	}
}

// ping sends the heartbeat's PING, and with it what waits to be acknowledged.
func (s *Session) ping() {
	s.mu.Lock()
	acks := s.acks
	s.acks = nil
	s.mu.Unlock()
	if len(acks) == 0 {
		_ = s.write(TypePing, 0) // an error ends the session
		return
	}
	body := storedBody(acks)
	b := Header{Length: len(body), Type: TypeAck}.Append(make([]byte, 0, 2*HeaderSize+len(body)))
	b = Header{Type: TypePing}.Append(append(b, body...))
	if _, err := s.conn.Write(b); err != nil && !s.closing.Load() {
		s.fail(err)
	}
}

// storedBody encodes an ACK of state STORED.
func storedBody(jobs []byte) []byte {
	const size = len(call.JobID{})
	b := make([]byte, 0, 2+len(jobs)/size*(size+2))
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(fleetpb.Ack_STORED))
	for ; len(jobs) > 0; jobs = jobs[size:] {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, jobs[:size])
	}
	return b
}
