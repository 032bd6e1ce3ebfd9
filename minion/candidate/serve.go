package candidate

import (
	"context"
	"fmt"
	"time"

	"dominion/confd"
)

// Waits between two tries to open the socket; each is twice the one before. Until
// listenSoon nobody is told: the socket of the key before is given back by another
// goroutine, a moment after its server has ended.
const (
	listenFirst = 10 * time.Millisecond
	listenSoon  = 200 * time.Millisecond
	listenMost  = 10 * time.Second
)

// Run answers queries until ctx ends, whenever there is something to serve. A
// socket that cannot be opened is tried again: a port that is taken does not end the
// agent.
func (c *Candidate) Run(ctx context.Context) {
	c.note(func() { c.running = true })
	defer c.note(func() { c.running, c.bound = false, nil })
	wait, said := listenFirst, ""
	for ctx.Err() == nil {
		s := c.wanted()
		if s == nil {
			wait, said = listenFirst, ""
			select {
			case <-c.swap:
			case <-ctx.Done():
			}
			continue
		}
		began := time.Now()
		served, err := c.serve(ctx, s)
		if served && (err == nil || time.Since(began) > listenMost) { // not a socket that fails as soon as it is open
			wait, said = listenFirst, ""
		}
		if err == nil {
			continue
		}
		if why := err.Error(); why != said && wait > listenSoon {
			said = why
			c.note(func() { c.deaf = why })
			c.log.Error("confd queries are not answered; trying again", "address", c.opt.Listen, "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, listenMost)
		case <-c.swap: // setServer has forgotten why there was no socket
			said = ""
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// serve opens the socket and answers until there is another server, and says whether
// it came to that. Without an error there is one, or ctx has ended.
func (c *Candidate) serve(ctx context.Context, s *confd.Server) (served bool, err error) {
	conn, err := confd.Listen(ctx, c.opt.Listen)
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.note(func() { c.bound, c.address, c.deaf = s, conn.LocalAddr().String(), "" })
	c.log.Info("answering confd queries", "address", conn.LocalAddr().String())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	for {
		select {
		case <-c.swap:
			if c.wanted() == s {
				continue
			}
			stop()
			if err := <-done; err != nil { // nobody is answered any more, whatever it was
				c.log.Debug("confd queries are answered by another server", "err", err)
			}
			c.note(func() { c.bound = nil })
			return true, nil
		case err := <-done:
			c.note(func() { c.bound = nil })
			if err != nil {
				err = fmt.Errorf("answer confd queries: %w", err)
			}
			return true, err
		}
	}
}

// wanted gives what is to be served; nil: nothing.
func (c *Candidate) wanted() *confd.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// note changes what settle looks at.
func (c *Candidate) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.turn)
	c.turn = make(chan struct{})
}

// settle waits a little for Run to have a socket for what is to be served, or to
// know why it has none.
func (c *Candidate) settle(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, settleTime)
	defer stop()
	for {
		c.mu.Lock()
		settled, turn := !c.running || c.bound == c.server || c.deaf != "", c.turn
		c.mu.Unlock()
		if settled {
			return
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return
		}
	}
}
