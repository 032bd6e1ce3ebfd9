package overlord

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/pki"
	"dominion/session"
)

// maxDialling bounds the connections that are being made at a time.
const maxDialling = 64

// dialer keeps sessions with the minions that have an address to be dialled.
type dialer struct {
	o      *Overlord
	wake   chan struct{} // one: an address changed or a session ended
	next   map[string]*attempt
	ended  chan string // names whose attempt, or session, is over
	inHand int
}

// attempt is how dialling one minion fares. The dialer's goroutine owns it.
type attempt struct {
	backoff session.Backoff
	due     time.Time
	busy    bool
}

func newDialer(o *Overlord) *dialer {
	return &dialer{o: o, wake: make(chan struct{}, 1), next: make(map[string]*attempt), ended: make(chan string)}
}

// look makes the dialer see what has changed.
func (d *dialer) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run dials until ctx ends; it returns when every attempt has.
func (d *dialer) run(ctx context.Context) error {
	g := new(errgroup.Group)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			go d.swallow()
			err := g.Wait()
			close(d.ended)
			return err
		case <-d.wake:
		case <-timer.C:
		case name := <-d.ended:
			d.over(name)
		}
		timer.Reset(d.start(ctx, g))
	}
}

func (d *dialer) swallow() {
	for range d.ended {
	}
}

func (d *dialer) over(name string) {
	if a := d.next[name]; a != nil {
		a.busy = false
		a.due = time.Now().Add(a.backoff.Next())
	}
	d.inHand--
}

// start begins the attempts that are due and says when to look again.
func (d *dialer) start(ctx context.Context, g *errgroup.Group) time.Duration {
	wait := time.Minute
	addresses := d.o.fleet.dialled()
	for name := range d.next {
		if addresses[name] == "" && !d.next[name].busy {
			delete(d.next, name)
		}
	}
	for name, addr := range addresses {
		a := d.next[name]
		if a == nil {
			a = new(attempt)
			d.next[name] = a
		}
		if a.busy || d.o.fleet.get(name) != nil {
			continue
		}
		if due := time.Until(a.due); due > 0 || d.inHand >= maxDialling {
			wait = min(wait, max(due, 100*time.Millisecond))
			continue
		}
		a.busy = true
		d.inHand++
		g.Go(func() error {
			d.session(ctx, name, addr, &a.backoff)
			d.ended <- name
			return nil
		})
	}
	return wait
}

// session dials one minion and serves the session until it ends.
func (d *dialer) session(ctx context.Context, name, addr string, b *session.Backoff) {
	conn, err := session.Dial(ctx, addr, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return d.o.keys.server.Load(), nil },
		Verify:      func(cs tls.ConnectionState) error { return d.verify(cs, name) },
	}))
	if err != nil {
		d.o.fleet.unreached(name, "dialling "+addr+": "+err.Error())
		d.o.log.Debug("minion not reached", "machine", name, "address", addr, "error", err)
		return
	}
	b.Reset()
	d.o.serve(conn)
}

// verify wants the minion of that name and no other.
func (d *dialer) verify(cs tls.ConnectionState, name string) error {
	if err := d.o.verifyMinion(cs); err != nil {
		return err
	}
	id, err := pki.IdentityOf(cs.PeerCertificates[0])
	if err != nil {
		return err
	}
	if id.Name != name {
		return fmt.Errorf("%s answers where %s was expected", id, name)
	}
	return nil
}
