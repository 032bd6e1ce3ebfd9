package overlord

import (
	"context"
	"time"

	"dominion/enrol"
	"dominion/pki"
)

// Times of asking a parent again that gives no session.
const (
	missLook  = time.Minute
	missAfter = 3                // looks that found no session
	missAgain = 10 * time.Minute // between two times of asking
	missTime  = 30 * time.Second // for one
)

// rejoins asks the parent for this overlord's certificates as at the first start,
// when there has been no session for some time. A parent that was made anew, or put
// back to an older store, does not know us; and with a certificate that has ended
// nobody gets a session. Whoever has the root's key decides: it gives the same ones
// again, or waits for an operator.
func (o *Overlord) rejoins(ctx context.Context) {
	whenMissed(ctx, func() bool { _, ok := o.parent.agent.Connected(); return ok }, func() {
		if err := o.rejoin(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("no session with the parent, and it grants nothing", "parent", o.parent.Address, "error", err)
		}
	})
}

// whenMissed asks when there has been no session for missAfter looks, and again
// after missAgain, until ctx ends.
func whenMissed(ctx context.Context, connected func() bool, ask func()) {
	tick := time.NewTicker(missLook)
	defer tick.Stop()
	missed, asked := 0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if missed++; connected() {
			missed = 0
		}
		if now := time.Now(); missed >= missAfter && now.Sub(asked) >= missAgain {
			asked = now
			ask()
		}
	}
}

// rejoin asks once. What is granted is taken if it is fresher than what is at hand.
func (o *Overlord) rejoin(ctx context.Context) error {
	p := o.parent
	p.renewing.Lock()
	defer p.renewing.Unlock()
	req, err := o.subRequest()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, missTime)
	defer cancel()
	var said string
	g, err := enrol.Ask(ctx, enrol.Options{
		Address: p.Address, Pin: p.Pin, Identity: pki.Identity{Role: pki.Overlord, Name: o.cfg.Name}, Key: o.keys.sub.tls,
		Overlord: &req, Attempts: 1, Progress: func(p enrol.Progress) { said = o.tellJoining(p, said) },
	})
	if err != nil {
		return err
	}
	if len(g.Revocations) > 0 {
		if err := p.agent.TakeRevocations(g.Revocations); err != nil { // in force here, too: see onParentList
			return err
		}
	}
	granted := pki.OverlordGrant{Leaf: g.Chain[0], Issuing: g.Issuing, Root: g.Root, LogKey: g.LogKey}
	if o.keys.newer(granted, time.Now()) != nil {
		return nil // the same again: the parent knows us now
	}
	if err := o.keys.keepSub(granted); err != nil {
		return err
	}
	o.registrar.SetIssuing(o.keys.issuing.Load())
	o.log.Info("enrolled again", "parent", g.Overlord, "until", g.Chain[0].NotAfter)
	return nil
}
