package minion

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"dominion/module/facts"
	"dominion/session"
)

// Times of facts.
const (
	factsEvery  = 10 * time.Minute // between two gatherings, with up to a tenth of jitter
	factsGather = 30 * time.Second // for one
)

// keep holds a session with the overlord at one address until accept ends:
// enrols when there is no certificate, dials, serves, waits, and again. The
// sessions themselves live until work ends.
func (d *daemon) keep(accept, work context.Context, addr string) {
	var wait session.Backoff
	var said string // the last reason that was logged
	for accept.Err() == nil {
		c := d.at(addr)
		if c == nil || d.cfg.now().After(c.leaf().NotAfter) {
			if c != nil {
				d.log.Warn("certificate expired; enrolling again", "overlord", c.overlord, "expired", stamp(c.leaf().NotAfter))
			}
			if err := d.enrol(accept, addr); err != nil {
				said = d.tell(accept, "not enrolled", addr, err, said)
				_ = wait.Wait(accept, 0) // the loop looks at accept
				continue
			}
			if c = d.at(addr); c == nil {
				continue
			}
		}
		if done := d.agent.Done(c.overlord); done != nil {
			select {
			case <-done:
			case <-accept.Done():
				return
			}
			_ = wait.Wait(accept, 0)
			continue
		}
		opened, err := d.connect(accept, work, addr, c.overlord)
		if opened {
			wait.Reset()
			said = ""
		} else {
			said = d.tell(accept, "no session", addr, err, said)
		}
		var atLeast time.Duration
		if g, ok := errors.AsType[*session.Goaway](err); ok {
			atLeast = g.RetryAfter
		}
		_ = wait.Wait(accept, atLeast)
	}
}

// tell logs a reason once, and again only when it is another.
func (d *daemon) tell(ctx context.Context, what, addr string, err error, said string) string {
	if ctx.Err() != nil || err == nil {
		return said
	}
	if err.Error() == said {
		d.log.Debug(what, "address", addr, "err", err)
		return said
	}
	d.log.Warn(what+"; trying again", "address", addr, "err", err)
	return err.Error()
}

// connect dials an overlord and serves the session to its end.
func (d *daemon) connect(accept, work context.Context, addr, overlord string) (opened bool, err error) {
	conn, err := session.Dial(accept, addr, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.certs[overlord].tls, nil
		},
		Verify: d.agent.VerifyPeer,
	}))
	if err != nil {
		return false, err
	}
	return d.agent.serve(work, conn)
}

// gatherFacts gathers facts at the start and from time to time.
func (d *daemon) gatherFacts(ctx context.Context) {
	for {
		if err := d.gather(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("facts not gathered", "err", err)
		}
		if !sleep(ctx, factsEvery-factsEvery/20+rand.N(factsEvery/10)) {
			return
		}
	}
}

func (d *daemon) gather(ctx context.Context) error {
	gathering, stop := context.WithTimeout(ctx, factsGather)
	defer stop()
	f, err := facts.Gather(gathering, d.cfg.version)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(f)
	if err != nil {
		return err
	}
	digest := f.Digest()
	d.agent.SetFacts(ctx, doc, digest[:])
	return nil
}
