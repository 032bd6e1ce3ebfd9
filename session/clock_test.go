package session

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
)

// runClock runs a clock until the test ends.
func runClock(t testing.TB, c *Clock) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestHeartbeatIsAnswered(t *testing.T) {
	clock := NewClock(5*time.Millisecond, time.Minute)
	runClock(t, clock)
	f := pair(t, &Options{Heartbeat: clock}, &Options{}, false)
	for range 5 {
		last := f.overlord.LastHeard()
		eventually(t, "a PONG comes", func() bool { return f.overlord.LastHeard().After(last) })
	}
}

func TestHeartbeatFindsTheDead(t *testing.T) {
	clock := NewClock(5*time.Millisecond, 100*time.Millisecond)
	runClock(t, clock)
	stats := new(Stats)
	f := pair(t, &Options{Heartbeat: clock, Stats: stats}, &Options{}, false)
	// The minion's reader hangs: what SIGSTOP looks like from outside.
	hang := make(chan struct{})
	f.minion.mu.Lock()
	go func() { <-hang; f.minion.mu.Unlock() }()
	_ = f.overlord.Start(1, newWaiter()) // takes the minion's mutex
	err := receive(t, f.overErr, "end of the session")
	if !errors.Is(err, ErrDead) || stats.Dead.Load() != 1 {
		t.Errorf("Serve = %v; want ErrDead", err)
	}
	close(hang)
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if len(clock.heap) != 0 {
		t.Errorf("%d sessions are left in the clock", len(clock.heap))
	}
}

// The clock under a false time: sessions whose frames are written to nowhere.
func TestClockTimes(t *testing.T) {
	ca := newAuthority(t)
	mc, oc := connect(t, ca.options(t, "minion/web1", pki.Overlord), ca.options(t, "overlord/main", pki.Minion))
	defer mc.Close()
	defer oc.Close()
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock(0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = clock.Run(ctx) }()
		began := time.Now()
		s := &Session{conn: oc, wire: &wire{Conn: oc.NetConn()}, since: began, stats: new(Stats)}
		s.beat.s = s
		clock.add(&s.beat)
		heard := 20 * time.Second
		time.Sleep(heard)
		s.last.Store(int64(heard))
		time.Sleep(DeadAfter - time.Second)
		synctest.Wait()
		if s.Err() != nil {
			t.Errorf("ended %s after its last frame: %v", DeadAfter-time.Second, s.Err())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !errors.Is(s.Err(), ErrDead) {
			t.Errorf("%s after its last frame: %v; want ErrDead", DeadAfter+time.Second, s.Err())
		}
		cancel()
	})
}

func TestClockHeap(t *testing.T) {
	c := NewClock(time.Hour, 0)
	base := time.Now()
	var all []*beat
	for range 500 {
		b := &beat{in: true, due: base.Add(time.Duration(rand.IntN(1000)))}
		c.push(b)
		all = append(all, b)
	}
	for _, b := range all[:200] {
		c.remove(b)
		c.remove(b) // twice is once
	}
	var got []time.Time
	for b := c.pop(base.Add(time.Hour)); b != nil; b = c.pop(base.Add(time.Hour)) {
		got = append(got, b.due)
	}
	if len(got) != 300 || !slices.IsSortedFunc(got, time.Time.Compare) {
		t.Errorf("%d beats came, in order: %v; want 300 in order", len(got), slices.IsSortedFunc(got, time.Time.Compare))
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{Rand: rand.New(rand.NewPCG(1, 2))}
		for range 200 {
			b.Reset()
			began := time.Now()
			for time.Since(began) < time.Minute {
				limit := 30 * time.Second
				for _, step := range []struct{ until, limit time.Duration }{{30, 16}, {14, 8}, {6, 4}, {2, 2}} {
					if time.Since(began) < step.until*time.Second {
						limit = step.limit * time.Second
					}
				}
				d := b.Next()
				if d < 0 || d >= limit {
					t.Fatalf("wait %s after %s; want less than %s", d, time.Since(began), limit)
				}
				time.Sleep(max(d, time.Millisecond))
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		began := time.Now()
		if err := b.Wait(t.Context(), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 5*time.Second || d > 7*time.Second {
			t.Errorf("waited %s; want 5 to 7 s", d)
		}
		why := call.Errorf(call.Unavailable, "stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if err := b.Wait(ctx, time.Hour); !errors.Is(err, why) {
			t.Errorf("Wait = %v; want the cause", err)
		}
	})
}

// Two sessions' ends with the real times, over a pipe and under a false clock: an
// hour of silence does no harm, a peer that hangs is ended after 45 s.
func TestIdleHourAndHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		a, b := net.Pipe()
		server := tls.Server(Wrap(a, false), ServerTLS(ca.options(t, "overlord/main", pki.Minion)))
		client := tls.Client(Wrap(b, true), ClientTLS(ca.options(t, "minion/web1", pki.Overlord)))
		go func() { _ = server.HandshakeContext(t.Context()) }()
		if err := client.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		clock, hang := NewClock(0, 0), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = clock.Run(ctx) }()
		stats := new(Stats)
		over := must(New(server, &Options{Answer: true, Handler: &handler{}, Heartbeat: clock, Stats: stats}))(t)
		minion := must(New(client, &Options{Handler: &handler{call: func(*Session, uint64, *fleetpb.Call) { <-hang }}}))(t)
		overErr, minErr := make(chan error, 1), make(chan error, 1)
		go func() { overErr <- over.Serve(ctx) }()
		go func() { minErr <- minion.Serve(ctx) }()
		time.Sleep(time.Hour)
		if over.Err() != nil || minion.Err() != nil {
			t.Fatalf("an idle hour ended the session: %v, %v", over.Err(), minion.Err())
		}
		began := time.Now()
		w := newWaiter()
		if err := over.Start(1, w); err != nil {
			t.Fatal(err)
		}
		err := <-overErr
		if took := time.Since(began); !errors.Is(err, ErrDead) || took < DeadAfter-PingEvery || took > DeadAfter {
			t.Errorf("a peer that hangs was ended after %s with %v; want ErrDead within %s", took, err, DeadAfter)
		}
		if err := <-w.lost; call.CodeOf(err) != call.SessionLost {
			t.Errorf("Lost got %v", err)
		}
		close(hang)
		if err := <-minErr; err == nil {
			t.Error("the minion's Serve = nil")
		}
		cancel()
	})
}

func TestPendingAndDrain(t *testing.T) {
	ids := make(chan uint64, 1)
	f := pair(t, &Options{}, &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) { ids <- id }}}, false)
	w := newWaiter()
	if err := f.overlord.Start(1, w); err != nil {
		t.Fatal(err)
	}
	id := receive(t, ids, "call")
	if ours, theirs := f.overlord.Pending(); ours != 1 || theirs != 0 {
		t.Errorf("the overlord's Pending() = %d, %d; want 1, 0", ours, theirs)
	}
	if ours, theirs := f.minion.Pending(); ours != 0 || theirs != 1 {
		t.Errorf("the minion's Pending() = %d, %d; want 0, 1", ours, theirs)
	}
	_ = f.minion.Reply(id, &fleetpb.Result{})
	receive(t, w.body, "RESULT")
	if ours, theirs := f.overlord.Pending(); ours+theirs != 0 {
		t.Errorf("after the answer Pending() = %d, %d; want 0, 0", ours, theirs)
	}
}
