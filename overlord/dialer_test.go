package overlord

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// scene is what a dialer under test sees: machines whose sessions last until
// they are ended.
type scene struct {
	mu       sync.Mutex
	making   int // connections under way
	most     int // of them at a time
	sessions map[string]chan struct{}
	attempts map[string]int
	dead     map[string]bool // nobody answers there
}

func (s *scene) connected(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[name] != nil
}

func (s *scene) connect(ctx context.Context, name, _ string) (func(), error) {
	s.mu.Lock()
	s.attempts[name]++
	s.making++
	s.most = max(s.most, s.making)
	s.mu.Unlock()
	time.Sleep(time.Second) // a handshake, in the bubble's time
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making--
	if s.dead[name] {
		return nil, errors.New("nobody answers")
	}
	end := make(chan struct{})
	s.sessions[name] = end
	return func() {
		select {
		case <-end:
		case <-ctx.Done():
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, name)
	}, nil
}

// A hundred and fifty machines are dialled, few at a time, and all have a
// session; one that never answers is tried again less and less often; a session
// that ends is made anew.
func TestDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{sessions: make(map[string]chan struct{}), attempts: make(map[string]int), dead: map[string]bool{"m000": true}}
		addresses := make(map[string]string)
		for i := range 150 {
			addresses[fmt.Sprintf("m%03d", i)] = "somewhere"
		}
		d := &dialer{
			addresses: func() map[string]string { return addresses }, connected: s.connected, connect: s.connect,
			wake: make(chan struct{}, 1), news: make(chan dialNews), next: make(map[string]*attempt),
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.run(ctx) }()

		time.Sleep(5 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		if len(s.sessions) != 149 || s.most != maxDialling {
			t.Errorf("%d sessions after 5s, at most %d connections made at a time; want 149 and %d", len(s.sessions), s.most, maxDialling)
		}
		close(s.sessions["m001"])
		s.mu.Unlock()

		time.Sleep(10 * time.Minute)
		synctest.Wait()
		s.mu.Lock()
		if len(s.sessions) != 149 || s.attempts["m001"] != 2 || s.attempts["m002"] != 1 {
			t.Errorf("%d sessions; m001 was dialled %d times and m002 %d times; want 149, 2 and 1", len(s.sessions), s.attempts["m001"], s.attempts["m002"])
		}
		if n := s.attempts["m000"]; n < 20 || n > 120 {
			t.Errorf("m000 was dialled %d times in 10 minutes; want about 40", n)
		}
		s.mu.Unlock()
		stop()
		if err := <-done; err != nil || len(s.sessions) != 0 {
			t.Errorf("run gives %v and leaves %d sessions; want none", err, len(s.sessions))
		}
	})
}

// A minion that dialled us and went away is dialled at once, if it has an
// address.
func TestDialerSeesWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{sessions: map[string]chan struct{}{"m000": make(chan struct{})}, attempts: make(map[string]int)}
		d := &dialer{
			addresses: func() map[string]string { return map[string]string{"m000": "somewhere"} }, connected: s.connected, connect: s.connect,
			wake: make(chan struct{}, 1), news: make(chan dialNews), next: make(map[string]*attempt),
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.run(ctx) }()
		time.Sleep(time.Hour)
		s.mu.Lock()
		if s.attempts["m000"] != 0 {
			t.Errorf("it was dialled %d times while it had a session; want never", s.attempts["m000"])
		}
		delete(s.sessions, "m000")
		s.mu.Unlock()
		d.look()
		synctest.Wait()
		s.mu.Lock()
		if s.attempts["m000"] != 1 {
			t.Errorf("it was dialled %d times; want once, at once", s.attempts["m000"])
		}
		s.mu.Unlock()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
