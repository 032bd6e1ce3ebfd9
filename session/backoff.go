package session

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spreads the attempts to connect again, so that the minions of a
// restarted overlord are no herd. Each wait is uniform from 0 to a limit that
// grows with the time since the first: 2 s until 2 s have passed, then 4 s until
// 6 s, 8 s until 14 s, 16 s until 30 s, and 30 s. So whoever draws a few short
// waits is not sent away for long: after an absence of D nobody stays away for
// more than about D + 4 s. The zero value is ready; it is used by one goroutine.
type Backoff struct {
	Rand  *rand.Rand // nil: the runtime's
	began time.Time  // of the first wait; zero: there was none
}

// Next gives the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	now := time.Now()
	if b.began.IsZero() {
		b.began = now
	}
	limit, passed := 2*time.Second, now.Sub(b.began)
	for end := limit; passed >= end && limit < 30*time.Second; end += limit {
		limit *= 2
	}
	limit = min(limit, 30*time.Second)
	if b.Rand != nil {
		return time.Duration(b.Rand.Int64N(int64(limit)))
	}
	return time.Duration(rand.Int64N(int64(limit)))
}

// Reset begins anew; call it once a session passed HELLO.
func (b *Backoff) Reset() { b.began = time.Time{} }

// Wait sleeps for Next, or for at least as long as the peer's GOAWAY asked, and
// returns early with the cause when ctx ends.
func (b *Backoff) Wait(ctx context.Context, atLeast time.Duration) error {
	t := time.NewTimer(atLeast + b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
