package minion

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/site"
	"dominion/session"
)

// Times of offers.
const (
	offerTimeout = 30 * time.Second // for an overlord to take one
	offerAgain   = 3 * time.Second  // before one that is busy is told again
	offerTries   = 4
	siteFirst    = time.Second // that sessions wait at the start for the site's modules to describe themselves
)

// setOffer says what this machine offers beside its agent's methods, a module.Offer
// in JSON.
func (a *Agent) setOffer(offer []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offer = offer
}

// tellOffer returns when the overlords with a session know what is offered, or do not
// take it.
func (a *Agent) tellOffer(ctx context.Context) {
	for _, l := range a.allLinks() {
		l.tellOffer(ctx)
	}
}

func (a *Agent) currentOffer() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.offer
}

// offerDigest is what HELLO tells of the offer; nil: there is none.
func (a *Agent) offerDigest() []byte {
	offer := a.currentOffer()
	if len(offer) == 0 {
		return nil
	}
	sum := sha256.Sum256(offer)
	return sum[:]
}

// tellOffer tells the overlord of an offer that it was not told of yet.
func (l *link) tellOffer(ctx context.Context) {
	l.offering.Lock()
	defer l.offering.Unlock()
	var err error
	for try := range offerTries {
		digest := l.agent.offerDigest()
		if string(digest) == l.offered {
			return
		}
		if try > 0 && !sleep(ctx, offerAgain) {
			return
		}
		if err = l.sendOffer(ctx, digest); err == nil {
			l.offered = string(digest)
			continue // it may have changed meanwhile
		}
		if call.CodeOf(err) != call.Busy {
			break
		}
	}
	if err != nil {
		l.agent.log.Warn("modules of the site are not known to the overlord", "overlord", l.peer, "err", err)
	}
}

func (l *link) sendOffer(ctx context.Context, digest []byte) error {
	ctx, stop := context.WithTimeoutCause(ctx, offerTimeout, fmt.Errorf("no answer within %s", offerTimeout))
	defer stop()
	args, err := json.Marshal(session.OfferArgs{Digest: digest})
	if err != nil {
		return fmt.Errorf("encode the digest of the offer: %w", err)
	}
	_, err = l.session.Call(ctx, session.MethodOffer, args)
	if call.CodeOf(err) == call.NotFound {
		return nil // an overlord of an earlier version: nobody there can use it
	}
	return err
}

// openSite makes the set of the site's modules, which has read nothing yet.
func (d *daemon) openSite() {
	taken := make(map[string]bool)
	for _, m := range modules(nil, nil, nil) {
		taken[m.Name] = true
	}
	d.site = site.New(site.Options{
		Dir: d.cfg.modulesDir, Push: d.cfg.modulesPush, Memory: d.cfg.modulesMemory, Log: d.log,
		Taken: func(name string) bool { return taken[name] }, OnChange: d.offerModules,
	})
}

// siteModules keeps the site's modules as they are on the disk until ctx ends. It
// waits at most siteFirst for them the first time; the rest is done by what it gives.
func (d *daemon) siteModules(ctx context.Context) (rest func() error) {
	first := make(chan struct{})
	go func() { // awaited by rest
		defer close(first)
		if d.site.Load(ctx, false) {
			d.offerModules(ctx)
		}
	}()
	late := time.NewTimer(siteFirst)
	defer late.Stop()
	select {
	case <-first:
	case <-late.C:
	}
	return func() error {
		<-first
		d.site.Run(ctx, d.again)
		return nil
	}
}

// offerModules takes the site's modules as they are into the table of methods, and
// tells the overlords.
func (d *daemon) offerModules(ctx context.Context) {
	d.offering.Lock()
	table, err := module.NewTable(append(modules(d.own, d.key, d.site), d.site.Modules()...))
	if err != nil { // each was tried by itself
		d.offering.Unlock()
		d.log.Error("modules of the site are not taken into use", "err", err)
		return
	}
	o := d.site.Offer()
	o.Below = d.below
	b, err := o.Encode()
	for err != nil && len(o.Below) > 0 { // too many for one message: the rarest are left out
		o.Below = o.Below[:len(o.Below)/2]
		b, err = o.Encode()
	}
	if err != nil {
		d.log.Error("modules of the site are not offered", "err", err)
	}
	d.agent.SetTable(table)
	d.agent.setOffer(b)
	d.offering.Unlock()
	d.agent.tellOffer(ctx)
}

// OfferBelow says what machines below the overlord offer, those that most have
// first; the parent is told.
func (m *Embedded) OfferBelow(ctx context.Context, below []module.Below) {
	m.d.offering.Lock()
	m.d.below = slices.Clone(below)
	m.d.offering.Unlock()
	m.d.offerModules(ctx)
}
