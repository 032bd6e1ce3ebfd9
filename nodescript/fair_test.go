package nodescript

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

// TestTurns: keys that wait take turns, whoever asked most, and none has two
// places.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFair(2)
		for _, key := range []string{"x", "y"} { // x has its place all the time
			if err := f.acquire(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		given := make(chan string, 10)
		for _, key := range []string{"x", "a", "a", "a", "b", "a", "b", "c"} {
			go func() {
				if err := f.acquire(t.Context(), key); err != nil {
					t.Error(err)
				}
				given <- key
			}()
			synctest.Wait()
		}
		var order []string
		for f.release("y"); len(order) < 7; f.release(order[len(order)-1]) {
			order = append(order, <-given)
		}
		synctest.Wait()
		if got, want := fmt.Sprint(order), "[a b c a b a a]"; got != want || len(given) > 0 {
			t.Errorf("places were given to %v, and %d more; want %v", got, len(given), want)
		}
		f.release("x")
		if key := <-given; key != "x" {
			t.Errorf("the last place was given to %s; want x", key)
		}
	})
}

// TestGivingUp: who gives up leaves nothing behind, also when the place was
// given in that moment.
func TestGivingUp(t *testing.T) {
	f := newFair(3)
	why := errors.New("enough")
	var all sync.WaitGroup
	for i := range 60 {
		ctx, cancel := context.WithCancelCause(t.Context())
		key := fmt.Sprint(i % 7)
		all.Go(func() {
			switch err := f.acquire(ctx, key); {
			case err == nil:
				f.release(key)
			case !errors.Is(err, why):
				t.Error(err)
			}
		})
		if i%2 == 0 {
			all.Go(func() { cancel(why) })
		} else {
			defer cancel(nil)
		}
	}
	all.Wait()
	if f.free != 3 || len(f.running) > 0 || len(f.waiting) > 0 || len(f.turn) > 0 {
		t.Errorf("left: %d free, running %v, waiting %v, turn %v", f.free, f.running, f.waiting, f.turn)
	}
}

// TestGivenUpInTurn: a place that was given to somebody who had given up goes
// to the next.
func TestGivenUpInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFair(1)
		if err := f.acquire(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := f.acquire(ctx, "a"); !errors.Is(err, context.Canceled) {
				t.Errorf("%v; want that it was cancelled", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if err := f.acquire(t.Context(), "b"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		f.release("x")
		all.Wait()
		f.release("b")
		if f.free != 1 || len(f.running)+len(f.waiting)+len(f.turn) > 0 {
			t.Errorf("left: %+v", f)
		}
	})
}
