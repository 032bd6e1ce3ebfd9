package overlord

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion"
	"dominion/session"
)

// Of long orders only few are read at a time: the next one is left where it is.
func TestFewLongOrdersAreRead(t *testing.T) {
	args, err := proto.Marshal(&fleetpb.Delegate{Streamed: true})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := &Overlord{reading: semaphore.NewWeighted(maxReading)}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, maxReading)
		for range maxReading {
			go func() {
				_, _, err := o.readOrder(ctx, minion.Delegation{Args: args}) // its stream never comes
				over <- err
			}()
		}
		synctest.Wait()
		order := make(chan *session.Stream, 1)
		order <- nil
		short, end := context.WithTimeoutCause(t.Context(), time.Second, call.Errorf(call.Cancelled, "withdrawn"))
		defer end()
		if _, _, err := o.readOrder(short, minion.Delegation{Args: args, Order: order}); call.CodeOf(err) != call.Cancelled || len(order) != 1 {
			t.Errorf("one more: %v, and %d streams wait; want it to wait until it is withdrawn", err, len(order))
		}
		cancel()
		for range maxReading {
			if err := <-over; err == nil {
				t.Error("an order that never came was read")
			}
		}
		if !o.reading.TryAcquire(maxReading) {
			t.Error("places are lost")
		}
	})
}
