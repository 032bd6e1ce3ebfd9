package session

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spreads the attempts to connect again, so that the minions of a
// restarted overlord are no herd: the first wait is uniform in 0 to 2 s, then
// 0 to 4, 8, 16 and 30 s. The zero value is ready; it is used by one goroutine.
type Backoff struct {
	Rand  *rand.Rand // nil: the runtime's
	tries int
}

// Next gives the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	limit := min(2*time.Second<<min(b.tries, 4), 30*time.Second)
	b.tries++
	if b.Rand != nil {
		return time.Duration(b.Rand.Int64N(int64(limit)))
	}
	return time.Duration(rand.Int64N(int64(limit)))
}

// Reset begins anew; call it once a session passed HELLO.
func (b *Backoff) Reset() { b.tries = 0 }

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
