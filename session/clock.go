package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrDead ends a session whose peer was not heard of for too long.
var ErrDead = errors.New("nothing came from the peer for too long")

// The heartbeat's times.
const (
	PingEvery = 15 * time.Second
	DeadAfter = 45 * time.Second
)

// Clock sends the heartbeats of all sessions of a process from one goroutine:
// a PING each interval, the first after a random part of it, so that the sessions
// of a restarted overlord do not ping together. A session from which no frame came
// for the dead time is ended.
type Clock struct {
	interval, dead time.Duration

	mu   sync.Mutex
	heap []*beat // the next one due first
	wake chan struct{}
}

// beat is a session's place in the clock; a part of the session.
type beat struct {
	s     *Session
	due   time.Time
	index int // in the heap, from 1; 0: not there
	in    bool
}

// NewClock makes a clock. Zero times mean PingEvery and DeadAfter.
func NewClock(interval, dead time.Duration) *Clock {
	if interval == 0 {
		interval = PingEvery
	}
	if dead == 0 {
		dead = DeadAfter
	}
	return &Clock{interval: interval, dead: dead, wake: make(chan struct{}, 1)}
}

// Run pings until ctx ends, and returns its cause. It must run as long as sessions use the clock.
func (c *Clock) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		now := time.Now()
		for b := c.pop(now); b != nil; b = c.pop(now) {
			c.visit(b)
		}
		c.mu.Lock()
		if len(c.heap) > 0 {
			wait = max(time.Until(c.heap[0].due), time.Millisecond)
		}
		c.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// visit pings a session, or ends it.
func (c *Clock) visit(b *beat) {
	now := time.Now()
	silent := now.Sub(b.s.LastHeard())
	if silent >= c.dead {
		b.s.stats.Dead.Add(1)
		b.s.fail(fmt.Errorf("%w: %s", ErrDead, silent.Round(time.Millisecond)))
		return // Serve removes it
	}
	b.s.ping()
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.in {
		b.due = now.Add(min(c.interval, c.dead-silent))
		c.push(b)
	}
}

func (c *Clock) add(b *beat) {
	if c == nil {
		return
	}
	c.mu.Lock()
	b.in = true
	b.due = time.Now().Add(time.Duration(rand.Int64N(int64(c.interval))))
	c.push(b)
	first := c.heap[0] == b
	c.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Clock) remove(b *beat) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b.in = false
	if b.index > 0 {
		c.drop(b.index - 1)
	}
}

// pop takes the first beat that is due.
func (c *Clock) pop(now time.Time) *beat {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.heap) == 0 || c.heap[0].due.After(now) {
		return nil
	}
	b := c.heap[0]
	c.drop(0)
	return b
}

// push, drop, up and down are a binary heap; c.mu is held. (container/heap would
// allocate for every element that passes through its interface.)
func (c *Clock) push(b *beat) {
	c.heap = append(c.heap, b)
	b.index = len(c.heap)
	c.up(len(c.heap) - 1)
}

func (c *Clock) drop(i int) {
	last := len(c.heap) - 1
	c.heap[i].index = 0
	if i != last {
		c.heap[i] = c.heap[last]
		c.heap[i].index = i + 1
	}
	c.heap[last] = nil
	c.heap = c.heap[:last]
	if i < last {
		c.down(i)
		c.up(i)
	}
}

func (c *Clock) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !c.heap[i].due.Before(c.heap[parent].due) {
			return
		}
		c.swap(i, parent)
		i = parent
	}
}

func (c *Clock) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(c.heap) {
			return
		}
		if child+1 < len(c.heap) && c.heap[child+1].due.Before(c.heap[child].due) {
			child++
		}
		if !c.heap[child].due.Before(c.heap[i].due) {
			return
		}
		c.swap(i, child)
		i = child
	}
}

func (c *Clock) swap(i, j int) {
	c.heap[i], c.heap[j] = c.heap[j], c.heap[i]
	c.heap[i].index, c.heap[j].index = i+1, j+1
}
