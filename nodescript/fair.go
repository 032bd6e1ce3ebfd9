package nodescript

import (
	"context"
	"slices"
	"sync"
)

// fair gives out places. Each key has one at most, and keys that wait take
// turns, so that one that asks often delays the others by one place only.
type fair struct {
	mu      sync.Mutex
	free    int
	running map[string]bool
	waiting map[string][]chan struct{} // closed when the place is given; never empty
	turn    []string                   // keys that wait and have no place, the longest waiting first
}

func newFair(places int) *fair {
	return &fair{free: places, running: make(map[string]bool), waiting: make(map[string][]chan struct{})}
}

// acquire waits for a place; who gets nil gives it back with release.
func (f *fair) acquire(ctx context.Context, key string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	mine := make(chan struct{})
	f.mu.Lock()
	if f.waiting[key] = append(f.waiting[key], mine); len(f.waiting[key]) == 1 && !f.running[key] {
		f.turn = append(f.turn, key)
	}
	f.give()
	f.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if isClosed(mine) {
		f.takeBack(key)
		return context.Cause(ctx)
	}
	f.waiting[key] = slices.DeleteFunc(f.waiting[key], func(c chan struct{}) bool { return c == mine })
	if len(f.waiting[key]) == 0 {
		delete(f.waiting, key)
		f.turn = slices.DeleteFunc(f.turn, func(k string) bool { return k == key })
	}
	return context.Cause(ctx)
}

func (f *fair) release(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeBack(key)
}

// takeBack ends the use of a key's place. The lock is held.
func (f *fair) takeBack(key string) {
	delete(f.running, key)
	f.free++
	if len(f.waiting[key]) > 0 {
		f.turn = append(f.turn, key)
	}
	f.give()
}

// give gives free places to those whose turn it is. The lock is held.
func (f *fair) give() {
	for f.free > 0 && len(f.turn) > 0 {
		key := f.turn[0]
		f.turn = f.turn[1:]
		close(f.waiting[key][0])
		if f.waiting[key] = f.waiting[key][1:]; len(f.waiting[key]) == 0 {
			delete(f.waiting, key)
		}
		f.running[key] = true
		f.free--
	}
}
