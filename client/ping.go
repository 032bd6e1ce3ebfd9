package client

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// Pings are the answers to one ping of a target. They are read once.
type Pings struct {
	target string
	stream *connect.ServerStreamForClient[apipb.PingEvent]
	counts call.Counts
}

// Ping asks every machine of the target for a sign of life on its session: no
// order is signed and no job is made. Options.Timeout is how long it waits;
// zero means DefaultPing. Close the pings when done.
func (c *Client) Ping(ctx context.Context) (*Pings, error) {
	if c.opt.Delegate {
		return nil, call.Errorf(call.Invalid, "a ping goes to the machines of one overlord; by the map call test.ping")
	}
	wait := c.opt.Timeout
	if wait <= 0 {
		wait = DefaultPing
	}
	req := &apipb.PingRequest{
		Target: c.target, Exclude: c.opt.Exclude, Limit: uint64(c.opt.Limit), TimeoutMs: uint64(max(wait.Milliseconds(), 1)),
	}
	if c.narrows() {
		r, err := c.Resolve(ctx)
		if err != nil {
			return nil, err
		}
		req.Narrow, req.Among = true, target.Fold(slices.Concat(r.Names, r.Unknown))
	}
	stream, err := c.conn.Fleet.Ping(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, fmt.Errorf("ping %q: %w", c.target, err)
	}
	return &Pings{target: c.asked(), stream: stream}, nil
}

// Close stops listening for answers.
func (p *Pings) Close() error {
	if err := p.stream.Close(); err != nil {
		return fmt.Errorf("leave ping: %w", err)
	}
	return nil
}

// Counts gives what is known so far; Targeted is known at the end.
func (p *Pings) Counts() call.Counts { return p.counts }

// Results gives one result per machine as they come; Took is the round trip
// between overlord and minion. A pair with an error is the last.
func (p *Pings) Results() iter.Seq2[call.Result, error] {
	return func(yield func(call.Result, error) bool) {
		for p.stream.Receive() {
			m := p.stream.Msg()
			for _, pong := range m.GetPongs() {
				r, err := p.take(pong)
				if !yield(r, err) || err != nil {
					return
				}
			}
			if m.GetClosed() != nil {
				if err := p.close(countsOf(m.GetClosed())); err != nil {
					yield(call.Result{}, err)
				}
				return
			}
		}
		err := p.stream.Err()
		if err == nil {
			err = call.Errorf(call.Internal, "the overlord ended the answer too early")
		}
		yield(call.Result{}, err)
	}
}

// take reads one answer, all of it from outside, and counts it.
func (p *Pings) take(m *apipb.Pong) (call.Result, error) {
	name, err := call.ParseName(m.GetMachine())
	if err != nil {
		return call.Result{}, call.Errorf(call.Internal, "the overlord sent an answer of a machine whose name cannot be read: %v", err)
	}
	p.counts.Add(statusOf(m.GetStatus(), m.GetCode()), 1)
	return call.Result{
		Machine: name, Code: call.Code(m.GetCode()), Detail: m.GetDetail(), Took: time.Duration(m.GetTookUs()) * time.Microsecond,
	}, nil
}

func (p *Pings) close(theirs call.Counts) error {
	p.counts.Targeted = theirs.Targeted
	if theirs.Targeted == 0 {
		return call.Errorf(call.NoMatch, "no minion matches %s", p.target)
	}
	if p.counts != theirs || theirs.Done() != theirs.Targeted {
		return call.Errorf(call.Internal, "the overlord counts %+v, and its answers add up to %+v", theirs, p.counts)
	}
	return nil
}
