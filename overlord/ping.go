package overlord

import (
	"context"
	"sync"
	"time"

	"dominion/call"
	"dominion/session"
)

// pong is one machine's answer to a ping, or why there is none.
type pong struct {
	machine string
	code    call.Code
	detail  string
	took    time.Duration
}

// pinger gathers the answers of one ping of many machines.
type pinger struct {
	mu      sync.Mutex
	started map[string]time.Time // still awaited
	ready   []pong
	wake    chan struct{} // one: ready is not empty
}

// Result implements session.Waiter.
func (p *pinger) Result(s *session.Session, _ uint64, _ []byte) {
	p.answer(s.Peer().Name, call.OK, "")
}

// Lost implements session.Waiter.
func (p *pinger) Lost(s *session.Session, _ uint64, _ error) {
	p.answer(s.Peer().Name, call.SessionLost, "the connection ended before the answer")
}

func (p *pinger) answer(machine string, c call.Code, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start, ok := p.started[machine]
	if !ok {
		return
	}
	delete(p.started, machine)
	p.ready = append(p.ready, pong{machine: machine, code: c, detail: detail, took: time.Since(start)})
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pinger) take() (ready []pong, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ready, p.ready = p.ready, nil
	return ready, len(p.started)
}

// ping asks all machines for a sign of life and calls each with the answers as
// they come. Every machine is in exactly one answer, in time or not.
func (o *Overlord) ping(ctx context.Context, machines []string, timeout time.Duration, each func([]pong) error) error {
	p := &pinger{started: make(map[string]time.Time, len(machines)), wake: make(chan struct{}, 1)}
	id := o.callID.Add(1)
	for _, m := range machines {
		p.mu.Lock()
		p.started[m] = time.Now()
		p.mu.Unlock()
		s := o.fleet.get(m)
		if s == nil {
			p.answer(m, call.NoSession, o.fleet.why(m))
		} else if err := s.StartPing(id, p); err != nil {
			p.answer(m, call.NoSession, "the connection ended: "+err.Error())
		}
	}
	defer o.abandon(p, id, timeout) // the caller may leave before the answers come
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		ready, waiting := p.take()
		if len(ready) > 0 {
			if err := each(ready); err != nil {
				return err
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-late.C:
			o.abandon(p, id, timeout)
		}
	}
}

func (o *Overlord) abandon(p *pinger, id uint64, timeout time.Duration) {
	p.mu.Lock()
	missing := make([]string, 0, len(p.started))
	for m := range p.started {
		missing = append(missing, m)
	}
	p.mu.Unlock()
	for _, m := range missing {
		p.answer(m, call.NoAnswer, "no answer within "+timeout.String())
		if s := o.fleet.get(m); s != nil {
			s.Forget(id)
		}
	}
}
