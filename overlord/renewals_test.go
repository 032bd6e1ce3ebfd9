package overlord

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dominion/pki"
)

// Certificates are renewed when they are due, tried again ten minutes after a
// failure, and left alone otherwise.
func TestWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		at, due := []time.Duration{}, began.Add(100*time.Minute)
		over := make(chan struct{})
		go func() {
			defer close(over)
			whenDue(ctx, func() time.Time { return due }, func() error {
				at = append(at, time.Since(began))
				switch len(at) {
				case 1, 2:
					return errors.New("no session with the parent")
				case 3:
					due = time.Now().Add(30 * time.Second) // less than it looks
				case 4:
					due = time.Now().Add(240 * time.Hour)
				default:
					due = time.Now().Add(24 * 365 * time.Hour)
				}
				return nil
			})
		}()
		time.Sleep(300 * 24 * time.Hour)
		stop()
		<-over
		m := time.Minute
		if want := []time.Duration{100 * m, 110 * m, 120 * m, 121 * m, 121*m + 240*time.Hour}; !slices.Equal(at, want) {
			t.Errorf("renewed at %v; want %v", at, want)
		}
	})
}

// It is looked at once an hour, so that a clock that was set forward is noticed; and
// what is due at the start is renewed at once.
func TestWhenDueClockSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var due atomic.Pointer[time.Time]
		due.Store(new(time.Now()))
		var looks, renewed atomic.Int64
		over := make(chan struct{})
		go func() {
			defer close(over)
			whenDue(ctx, func() time.Time { looks.Add(1); return *due.Load() }, func() error {
				renewed.Add(1)
				due.Store(new(time.Now().Add(24 * 365 * time.Hour)))
				return nil
			})
		}()
		synctest.Wait()
		if n := renewed.Load(); n != 1 {
			t.Errorf("renewed %d times at the start; want once", n)
		}
		time.Sleep(10*time.Hour + time.Minute)
		synctest.Wait()
		if n := looks.Load(); n < 20 {
			t.Errorf("the clock was looked at %d times in 10 hours", n)
		}
		due.Store(new(time.Now().Add(-time.Hour)))
		time.Sleep(time.Hour)
		synctest.Wait()
		stop()
		<-over
		if n := renewed.Load(); n != 2 {
			t.Errorf("renewed %d times; want once more, within an hour", n)
		}
	})
}

// A parent that answers with older certificates that hold, or with those at hand.
func TestRenewalIsNewer(t *testing.T) {
	now := time.Now()
	root, err := pki.NewRoot(now.Add(-3 * pki.OverlordLife))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	grant := func(leafAge, issuingAge time.Duration) (g pki.OverlordGrant) {
		if g.Leaf, err = root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: "mid"}, PublicKey: key.Public()}, now.Add(-leafAge)); err != nil {
			t.Fatal(err)
		}
		if g.Issuing, err = root.NewIssuing("mid", key.Public(), now.Add(-issuingAge)); err != nil {
			t.Fatal(err)
		}
		return g
	}
	const due = pki.OverlordLife * 3 / 4
	old, young := due+time.Hour, time.Hour
	for _, tt := range []struct {
		name       string
		have, came pki.OverlordGrant
		ok         bool
	}{
		{"fresh", grant(due, due), grant(0, 0), true},
		{"the leaf alone was due", grant(due, young), grant(0, young), true},
		{"not due, the same", grant(young, young), grant(young, young), true},
		{"due, the same", grant(due, due), grant(due, due), false},
		{"due, half", grant(due, due), grant(0, due), false},
		{"older", grant(due, due), grant(old, old), false},
		{"an older issuing CA", grant(due, due), grant(0, old), false},
	} {
		k := &keys{}
		k.server.Store(&tls.Certificate{Leaf: tt.have.Leaf})
		k.issuing.Store(&pki.Authority{Cert: tt.have.Issuing, Key: key})
		if err := k.newer(tt.came, now); (err == nil) != tt.ok {
			t.Errorf("%s: %v; want it taken: %v", tt.name, err, tt.ok)
		}
	}
}

// Without a session the parent is asked after three minutes, and then every ten.
func TestWhenMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		m := time.Minute
		var at []time.Duration
		over := make(chan struct{})
		go func() {
			defer close(over)
			whenMissed(ctx, func() bool {
				d := time.Since(began)
				return d < 60*m || d > 85*m && d < 200*m || d == 202*m // a session that is lost once in a while is not missed
			}, func() { at = append(at, time.Since(began)) })
		}()
		time.Sleep(210 * m)
		stop()
		<-over
		if want := []time.Duration{62 * m, 72 * m, 82 * m, 205 * m}; !slices.Equal(at, want) {
			t.Errorf("asked at %v; want %v", at, want)
		}
	})
}
