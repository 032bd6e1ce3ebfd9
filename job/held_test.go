package job_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/job"
)

// A job that stays open for long does not hold the outputs that are stored at
// the expense of others; who watches it finds them in the store.
func TestStoredOutputIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		budget := new(job.Budget)
		names := make([]string, 250)
		for i := range names {
			names[i] = fmt.Sprintf("m%04d", i)
		}
		req, output := request(t, time.Hour, nil, names...), make([]byte, size)
		p, err := job.NewPlan(req)
		if err != nil {
			t.Fatal(err)
		}
		var runs []*job.Run
		for range 5 { // together more than all may hold
			r := job.NewRun(p, budget, slog.New(slog.DiscardHandler))
			s := new(shelf)
			go func() { _ = r.Do(t.Context(), patient{}, s) }()
			synctest.Wait()
			for i, n := range names[:249] { // the last one keeps the job open
				r.Deliver(call.Result{Machine: n, Detail: n, Output: output})
				if i%20 == 19 {
					time.Sleep(time.Second) // stored
				}
			}
			time.Sleep(time.Second)
			s.mu.Lock()
			for _, g := range s.groups {
				if g.Cut > 0 {
					t.Fatalf("run %d: the output of %s was not kept", len(runs), g.Names)
				}
			}
			s.mu.Unlock()
			runs = append(runs, r)
		}
		r := runs[0]
		snap := r.Watch(0)
		if snap.Counts.Done() != 249 || snap.Base == 0 || snap.Base+len(snap.Groups) != 249 || len(snap.Groups) > 20 {
			t.Errorf("a watcher sees %+v, base %d and %d groups", snap.Counts, snap.Base, len(snap.Groups))
		}
		if !r.Kept(names[0]) || !r.Kept(names[248]) || r.Kept(names[249]) {
			t.Error("what is stored is not known to be kept, or the other way round")
		}
		for _, r := range runs {
			r.Cancel()
		}
		time.Sleep(time.Minute)
		for i, r := range runs {
			if snap := r.Watch(0); !snap.Closed {
				t.Errorf("run %d is not closed: %+v", i, snap.Counts)
			}
		}
	})
}

// A machine may say as often as it likes that its result waits: it is looked up
// among all groups once.
func BenchmarkKept(b *testing.B) {
	names := make([]string, 20_000)
	for i := range names {
		names[i] = fmt.Sprintf("m%05d", i)
	}
	r := newRun(b, request(b, time.Hour, nil, names...))
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- r.Do(ctx, patient{}, new(shelf)) }()
	for _, n := range names[1:] {
		r.Deliver(call.Result{Machine: n, Detail: n})
	}
	for !r.Kept(names[len(names)-1]) {
		<-r.Watch(0).Changed
	}
	for b.Loop() {
		r.Kept(names[len(names)-1])
	}
	stop()
	<-done
}

// patient is a wire to machines that answer when they like.
type patient struct{ noHops }

func (patient) Send(string, bool, []byte, []byte) error { return nil }
func (patient) Cancel(string)                           {}
func (patient) Ask(string, uint64, bool) error          { return nil }
func (patient) Stored([]string)                         {}
