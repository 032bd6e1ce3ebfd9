package minion

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"testing"
	"time"

	"dominion/call"
	"dominion/session"
)

// When its sessions are over and its calls have ended, nothing of an agent runs.
func TestNoGoroutineIsLeft(t *testing.T) {
	f := newFleet(t)
	before := runtime.NumGoroutine()
	t.Run("sessions", func(t *testing.T) {
		g := newGate()
		a := newAgent(t, f, gated(t, g, nil))
		o := newOverlord(t, f).listen()
		for range 3 {
			p := attach(t, a, o)
			wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
			c := p.start(f.call(t, draft{method: "gate.wait", stream: true}))
			<-g.begun
			p.s.Close(call.Internal, "gone")
			<-c.lost
		}
		close(g.open)
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		a.Drain(ctx)
	})
	until(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// BenchmarkIdleSession tells what thousands of agents in one process cost: the
// memory of both ends of an idle session, and of the agent without one.
func BenchmarkIdleSession(b *testing.B) {
	f := newFleet(b)
	o := newOverlord(b, f).listen()
	clock := session.NewClock(0, 0)
	background(b, func(ctx context.Context) { _ = clock.Run(ctx) })
	first := newAgent(b, f, nil)
	cert := f.minion(b, "web1")
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	const n = 500
	for b.Loop() {
		start := heap()
		agents := make([]*Agent, n)
		for i := range agents {
			a, err := New(Options{
				Name: fmt.Sprintf("web%d", i), Trust: f.trust, Table: first.verifier.methods, Overlords: []string{"dc1"}, Heartbeat: clock,
			})
			if err != nil {
				b.Fatal(err)
			}
			agents[i] = a
		}
		alone := heap()
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan struct{}, n)
		for _, a := range agents {
			conn, err := session.Dial(ctx, o.addr, session.ClientTLS(session.TLSOptions{
				Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: a.VerifyPeer,
			}))
			if err != nil {
				b.Fatal(err)
			}
			go func() {
				_ = a.Serve(ctx, conn)
				done <- struct{}{}
			}()
			o.peer()
		}
		with := heap()
		goroutines := runtime.NumGoroutine()
		b.ReportMetric((alone-start)/n, "B/agent")
		b.ReportMetric((with-alone)/n, "B/session(both)")
		b.ReportMetric(float64(goroutines)/n, "goroutines/session(both)")
		stop()
		for range agents {
			<-done
		}
		runtime.KeepAlive(agents)
	}
}
