package client

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
)

// patience is how long we wait for an overlord that says nothing: its process
// may be stopped, or its host gone, while the connection stays.
type patience struct {
	stream time.Duration // for the next message of a stream; job, list and verification send one at least every few seconds
	ping   time.Duration // for a ping's end after its own time-out
	answer time.Duration // for an answer, when the caller's context has no deadline
	whole  time.Duration // for an answer that needs the whole audit log read
	first  time.Duration // before a job's broken connection is tried again, doubled each time
	most   time.Duration // of that
}

func defaultPatience() *patience {
	return &patience{
		stream: 45 * time.Second, ping: 10 * time.Second, answer: 30 * time.Second, whole: 30 * time.Minute,
		first: 200 * time.Millisecond, most: 5 * time.Second,
	}
}

// unary is the limit of a question with one answer.
func (p *patience) unary(procedure string) time.Duration {
	if procedure == apipbconnect.AuditServiceRecoverProcedure {
		return p.whole
	}
	return p.answer
}

// silent says that nothing came for so long.
func (m errorMapper) silent(limit time.Duration) *call.Error {
	if limit > time.Second {
		limit = limit.Round(time.Second)
	}
	return call.Errorf(call.Unavailable, "the overlord at %s says nothing for %s", m.where, limit)
}

// mappedConn is a stream of the overlord whose errors are mapped, and which
// ends when the overlord says nothing for too long while we wait for it. A
// reader that takes its time does not count.
type mappedConn struct {
	connect.StreamingClientConn
	mapper errorMapper
	cause  func(error) error       // explains an error
	end    context.CancelCauseFunc // of the stream

	heard   bool      // a message came
	pingEnd time.Time // when the end of a ping must have come; zero: it is no ping
}

// Send implements connect.StreamingClientConn; it waits for the beginning of
// the answer.
func (c *mappedConn) Send(m any) error {
	if ping, ok := m.(*apipb.PingRequest); ok {
		wait := time.Duration(ping.GetTimeoutMs()) * time.Millisecond
		if wait == 0 {
			wait = DefaultPing
		}
		c.pingEnd = time.Now().Add(wait + c.mapper.patience.ping)
	}
	return c.watch(func() error { return c.StreamingClientConn.Send(m) })
}

// Receive implements connect.StreamingClientConn. Mere signs of life of a list
// are left out.
func (c *mappedConn) Receive(m any) error {
	for {
		if err := c.watch(func() error { return c.StreamingClientConn.Receive(m) }); err != nil {
			return err
		}
		c.heard = true
		if r, ok := m.(*apipb.AuditRecord); !ok || len(r.GetLeafHash()) > 0 {
			return nil
		}
	}
}

// CloseResponse implements connect.StreamingClientConn.
func (c *mappedConn) CloseResponse() error {
	defer c.end(nil)
	return c.StreamingClientConn.CloseResponse()
}

// watch ends the stream when do takes too long, and explains its error.
func (c *mappedConn) watch(do func() error) error {
	limit, begun := c.limit(), c.heard
	late := time.AfterFunc(limit, func() {
		e := c.mapper.silent(limit)
		if c.Spec().Procedure == apipbconnect.FleetServiceCallProcedure && !begun {
			e.Detail += "; if it has the order, the job goes on there"
		}
		c.end(&brokenError{e})
	})
	defer late.Stop()
	err := do()
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return c.cause(err)
}

func (c *mappedConn) limit() time.Duration {
	if c.pingEnd.IsZero() {
		return c.mapper.patience.stream
	}
	return max(time.Until(c.pingEnd), c.mapper.patience.ping)
}
