package provision

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"dominion/nodescript"
)

// legacyAction is what refusals of the old protocol are called on the audit log.
const legacyAction = "node.script over the old protocol"

// serve answers one connection.
func (l *legacyServer) serve(ctx context.Context, c *legacyConn) {
	defer c.Close()
	defer l.leave(c)
	if c.send([]byte(nodescript.WireStart), c.times.write) != nil {
		return
	}
	b, err := c.receive()
	if err != nil {
		return // it went, or said nothing
	}
	req, err := ParseLegacy(b)
	switch {
	case err != nil:
		l.refuse(ctx, c, invalid(err))
	case req.State == legacyPing:
		c.pong(req)
	case req.State == legacyLog:
		l.message(ctx, c, req)
	default:
		l.script(ctx, c, req)
	}
}

// pong gives back the words of a ping.
func (c *legacyConn) pong(req LegacyRequest) {
	text := legacyPing
	if len(req.Words) > 0 {
		text = strings.Join(req.Words, " ")
	}
	if c.send([]byte(text+"\n"), c.times.write) == nil {
		c.finish()
	}
}

// refuse ends a request that gets nothing. Who has to go away waits, so that it
// does not ask again at once; who would only lose time by that does not.
func (l *legacyServer) refuse(ctx context.Context, c *legacyConn, err error) {
	s := l.s
	if f, ok := errors.AsType[*Refusal](err); ok && s.old.has(f.node+" "+c.from.String()+" "+f.why+f.Detail, s.cfg.Now()) {
		again := *f
		again.quiet = true
		err = &again
	}
	switch f := s.refuseTo(ctx, c.RemoteAddr().String(), legacyAction, err); {
	case f.notAdded:
		if c.send([]byte("echo \"Could not add node to DB.\"\n"), c.times.write) == nil {
			c.finish()
		}
	case f.Status == http.StatusNotFound, f.Status >= http.StatusInternalServerError:
		c.finish()
	default:
		c.linger()
	}
}

// message puts into the log what a node says for it.
func (l *legacyServer) message(ctx context.Context, c *legacyConn, req LegacyRequest) {
	s := l.s
	var n Node
	err := s.cfg.Store.View(ctx, func(v View) error {
		a, err := s.legacyAsker(v, req, c.from)
		if err != nil {
			return err
		}
		var ok bool
		if n, ok, err = v.NodeOf(a.hwaddr); err == nil && (!ok || n.held()) {
			err = denied(a.hwaddr, "log: no node that is approved has this hardware address")
		}
		return err
	})
	if err != nil {
		l.refuse(ctx, c, err)
		return
	}
	if more, ok := s.messages.Take(); ok {
		s.cfg.Log.Info("a node says", "node", n.Name, "from", c.from.String(), "text", cut(strings.Join(req.Words, " "), 1000), "left_out", more)
	}
	c.finish()
}

// script answers a request for a script.
func (l *legacyServer) script(ctx context.Context, c *legacyConn, req LegacyRequest) {
	s := l.s
	a, n, err := s.legacyAsks(ctx, req, c.from)
	if err != nil {
		l.refuse(ctx, c, err)
		return
	}
	if !l.begin(c, n.Name) {
		s.cfg.Log.Warn("too many requests over the old protocol at once", "node", n.Name, "from", c.from.String())
		c.linger()
		return
	}
	made, err := l.assemble(ctx, c, a, n)
	var lost error
	if err == nil {
		_, boot := s.cfg.At(c.reached)
		lost = c.send(legacyReply(s.cfg.Legacy.Rules, made.Text, boot), c.times.read)
	}
	l.done(c, n.Name)
	switch {
	case err != nil:
		l.refuse(ctx, c, err)
	case lost != nil:
		s.cfg.Log.Warn("a script did not arrive over the old protocol", "node", n.Name, "from", c.from.String(), "error", lost)
	default:
		c.finish()
	}
}

// assemble makes a script, and notes that it is handed out, while the client is
// kept waiting.
func (l *legacyServer) assemble(ctx context.Context, c *legacyConn, a legacyAsk, n Node) (made *nodescript.Script, err error) {
	s := l.s
	ctx, cancel := context.WithTimeoutCause(ctx, c.times.assembly, errors.New("the time for a script is over"))
	defer cancel()
	n.Addr = c.from
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		if made, err = s.cfg.Scripts.Assemble(ctx, n.forScripts(c.reached.String()), a.State); err != nil {
			err = fmt.Errorf("assemble the script of %s in state %s: %w", n.Name, a.State, err)
			return
		}
		err = s.legacyHand(ctx, a, made)
	}()
	alive := time.NewTicker(c.times.alive)
	defer alive.Stop()
	for {
		select {
		case <-ready:
			return made, err
		case <-alive.C:
			if c.send([]byte(legacyWait), c.times.write) != nil {
				cancel()
				<-ready
				return made, busy(n.Name, "it went away")
			}
		}
	}
}

// legacySeen is which refusals are on the audit log already: the old client asks
// again and again, a machine that waits for approval every six seconds.
type legacySeen struct {
	mu sync.Mutex
	at map[string]time.Time
}

// Bounds of legacySeen: it forgets everything when it is full, and one by one.
const (
	maxLegacySeen = 4096
	legacySeenFor = time.Hour
)

// has says whether a refusal was there, and notes it if not.
func (s *legacySeen) has(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.at[key]; ok && now.Sub(at) < legacySeenFor {
		return true
	}
	if s.at == nil || len(s.at) >= maxLegacySeen {
		s.at = make(map[string]time.Time)
	}
	s.at[key] = now
	return false
}
