package overlord

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"dominion/pki"
	"dominion/session"
)

// maxDialling bounds the connections that are being made at a time.
const maxDialling = 64

// dialer keeps sessions with the minions that have an address to be dialled.
type dialer struct {
	addresses func() map[string]string // of those minions, by name
	connected func(name string) bool   // has a session, whoever dialled
	connect   func(ctx context.Context, name, addr string) (serve func(), err error)

	wake   chan struct{} // one: an address changed or a session ended
	news   chan dialNews
	next   map[string]*attempt
	inHand int // connections being made
}

// dialNews is how far an attempt has come.
type dialNews struct {
	name string
	made bool // the connection is made, or could not be
	over bool // so is the session
}

// attempt is how dialling one minion fares. The dialer's goroutine owns it.
type attempt struct {
	backoff session.Backoff
	due     time.Time
	busy    bool
}

func newDialer(o *Overlord) *dialer {
	d := &dialer{
		addresses: o.fleet.dialled, connected: func(name string) bool { return o.fleet.get(name) != nil },
		wake: make(chan struct{}, 1), news: make(chan dialNews), next: make(map[string]*attempt),
	}
	d.connect = func(ctx context.Context, name, addr string) (func(), error) { return o.dial(ctx, name, addr) }
	return d
}

// look makes the dialer see what has changed.
func (d *dialer) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run dials until ctx ends; it returns when every attempt, and every session
// that came of one, has ended.
func (d *dialer) run(ctx context.Context) error {
	var attempts sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			done := make(chan struct{})
			go func() { // ends with the attempts
				for range d.news {
				}
				close(done)
			}()
			attempts.Wait()
			close(d.news)
			<-done
			return nil
		case <-d.wake:
		case <-timer.C:
		case n := <-d.news:
			d.hear(n)
		}
		timer.Reset(d.start(ctx, &attempts))
	}
}

func (d *dialer) hear(n dialNews) {
	a := d.next[n.name]
	if n.made {
		d.inHand--
	}
	if n.over {
		a.busy = false
		a.due = time.Now().Add(a.backoff.Next())
	}
}

// start begins the attempts that are due and says when to look again.
func (d *dialer) start(ctx context.Context, attempts *sync.WaitGroup) time.Duration {
	wait := time.Minute
	addresses := d.addresses()
	for name, a := range d.next {
		if addresses[name] == "" && !a.busy {
			delete(d.next, name)
		}
	}
	for name, addr := range addresses {
		a := d.next[name]
		if a == nil {
			a = new(attempt)
			d.next[name] = a
		}
		if a.busy || d.connected(name) {
			continue
		}
		if due := time.Until(a.due); due > 0 {
			wait = min(wait, due)
			continue
		}
		if d.inHand >= maxDialling {
			continue // the next connection made, or not, brings us back
		}
		a.busy = true
		d.inHand++
		attempts.Go(func() { d.session(ctx, name, addr, &a.backoff) })
	}
	return wait
}

// session dials one minion and serves the session until it ends.
func (d *dialer) session(ctx context.Context, name, addr string, b *session.Backoff) {
	serve, err := d.connect(ctx, name, addr)
	if err != nil {
		d.news <- dialNews{name: name, made: true, over: true}
		return
	}
	b.Reset()
	d.news <- dialNews{name: name, made: true}
	serve()
	d.news <- dialNews{name: name, over: true}
}

// dial connects to one minion, and gives what serves the session.
func (o *Overlord) dial(ctx context.Context, name, addr string) (serve func(), err error) {
	conn, err := session.Dial(ctx, addr, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return o.keys.server.Load(), nil },
		Verify:      func(cs tls.ConnectionState) error { return o.verifyDialled(cs, name) },
	}))
	if err != nil {
		o.fleet.unreached(name, "dialling "+addr+": "+err.Error())
		o.log.Debug("minion not reached", "machine", name, "address", addr, "error", err)
		return nil, err
	}
	return func() { o.serve(conn) }, nil
}

// verifyDialled wants the minion of that name and no other.
func (o *Overlord) verifyDialled(cs tls.ConnectionState, name string) error {
	if err := o.verifyMinion(cs); err != nil {
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
