package enrol_test

import (
	"context"
	"crypto/ed25519"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// An overlord whose certificate has ended is let in again by an operator, with the
// same keys and the same log.
func TestOverlordExpired(t *testing.T) {
	w, _ := topAndMid(t)
	n := newNewcomer(t, "low", "0123")
	d, err := w.Request(t.Context(), n.asks(w.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})))
	n.got(w, d, err)
	w.pass(pki.OverlordLife + time.Hour)
	_, err = w.Request(t.Context(), n.renews())
	wantCode(t, err, call.Denied, "no valid certificate for this key")
	w.must(enrol.StateWaiting)(w.Request(t.Context(), n.asks("")))
	if _, err := w.Sign(t.Context(), "operator/alice", "overlord/low", pki.Fingerprint(n.key.Public()), false); err != nil {
		t.Fatal(err)
	}
	d, err = w.Request(t.Context(), n.asks(""))
	n.got(w, d, err)
}

// A machine that gets the name while the request is above keeps it.
func TestNameTakenWhileRelayed(t *testing.T) {
	top, mid := topAndMid(t)
	cfg, relay := mid.cfg, mid.cfg.Relay
	cfg.Relay = func(ctx context.Context, r enrol.Request) (enrol.Decision, error) {
		d, err := relay(ctx, r)
		mid.must(enrol.StateGranted)(mid.ask("minion/low", newKey(t), mid.token(enrol.TokenSpec{Name: "low"})))
		return d, err
	}
	r, err := enrol.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := newNewcomer(t, "low", "0123")
	_, err = r.Request(t.Context(), n.asks(top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})))
	wantCode(t, err, call.Conflict, "minion/low has a certificate")
	if mid.store.data.subs["low"] {
		t.Error("two machines of mid have the name low")
	}
}

// gated is a store that lets nobody through until it is open.
type gated struct {
	enrol.Store
	inside atomic.Int32
	open   chan struct{}
}

func (g *gated) Update(ctx context.Context, fn func(enrol.Tx) error) error {
	g.inside.Add(1)
	<-g.open
	return g.Store.Update(ctx, fn)
}

// Strangers who ask to be overlords take the store no more than others.
func TestFewAskTheStoreAtOnce(t *testing.T) {
	_, mid := topAndMid(t)
	n := newNewcomer(t, "low", "0123")
	synctest.Test(t, func(t *testing.T) {
		g := &gated{Store: mid.store, open: make(chan struct{})}
		cfg := mid.cfg
		cfg.Store = g
		cfg.Relay = func(context.Context, enrol.Request) (enrol.Decision, error) {
			return enrol.Decision{State: enrol.StateWaiting}, nil
		}
		r, err := enrol.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if _, err := r.Request(t.Context(), n.asks("")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if got := g.inside.Load(); got != 8 {
			t.Errorf("%d are with the store at once; want 8", got)
		}
		close(g.open)
		wg.Wait()
	})
}

// Whoever has the key of an overlord gets what it was let in for, and no other log,
// which its machines would believe, and no other place in the fleet.
func TestOverlordIsBound(t *testing.T) {
	top, mid := topAndMid(t)
	n := newNewcomer(t, "low", "0123")
	d, err := mid.Request(t.Context(), n.asks(top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})))
	n.got(top, d, err)
	d, err = mid.Request(t.Context(), n.asks(""))
	n.got(top, d, err)

	forked := *n
	log, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if forked.req, err = pki.NewOverlordRequest("low", n.key, n.issuing, log, "4567"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []enrol.Request{forked.asks(""), forked.renews()} {
		_, err = mid.Request(t.Context(), r)
		wantCode(t, err, call.Conflict, `has the audit log "0123" and asks for another, "4567"`)
	}
	if len(top.store.data.logs) != 2 {
		t.Errorf("logs %v; want one for each overlord", top.store.data.logs)
	}

	_, err = top.Request(t.Context(), n.asks(""))
	wantCode(t, err, call.Conflict, "was let in below overlord/mid and asks now below the host of the root's key")
	r := n.asks("")
	r.Via = []string{"other"}
	_, err = top.Request(t.Context(), r)
	wantCode(t, err, call.Conflict, "below overlord/other")
	if top.store.data.subs["low"] {
		t.Error("low is a machine of the top, where nobody let it in")
	}
}
