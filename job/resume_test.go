package job_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/job"
)

// resumed gives a job that was begun by another process some time ago.
func resumed(t *testing.T, ago time.Duration, change func(r *job.Request), names ...string) *ordered {
	t.Helper()
	req := request(t, time.Minute, []string{"nobody"}, names...)
	change(&req)
	o := &ordered{machines: world(names...), shelf: new(shelf)}
	time.Sleep(ago)
	o.run = newRun(t, req)
	return o
}

func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name      string
		ago       time.Duration
		cancelled bool
		change    func(r *job.Request)
		before    func(m *machine)
		script    func(o *ordered)
		want      want
	}{
		{
			name: "it was never sent", ago: time.Second,
			script: func(o *ordered) { time.Sleep(time.Second); o.back("m") }, want: want{after: 2 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it has finished", ago: time.Second, before: func(m *machine) { m.done, m.started = true, 1 },
			script: func(o *ordered) { time.Sleep(time.Second); o.back("m") }, want: want{after: time.Second, runs: 1},
		},
		{
			name: "it is there before us", ago: time.Second, before: func(m *machine) { m.done, m.started, m.away = true, 1, false },
			want: want{runs: 1},
		},
		{
			name: "its time-out was over before the start", ago: 2 * time.Minute,
			script: func(o *ordered) { time.Sleep(20 * time.Second); o.back("m") }, want: want{after: 21 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it does not come back", ago: time.Second, want: want{code: call.SessionLost, after: 30 * time.Second},
		},
		{
			name: "its time-out was over and it does not come back", ago: time.Hour / 2, want: want{code: call.SessionLost, after: 30 * time.Second},
		},
		{
			name: "the order has expired", ago: 2 * time.Hour,
			script: func(o *ordered) { time.Sleep(time.Second); o.back("m") }, want: want{code: call.Expired, after: time.Second},
		},
		{
			name: "it was wiped", ago: time.Minute, before: func(m *machine) { m.birth = time.Now() },
			script: func(o *ordered) { time.Sleep(time.Second); o.back("m") }, want: want{code: call.Unknown, after: time.Second},
		},
		{
			name: "it is awaited", ago: time.Minute, change: func(r *job.Request) { r.Wait = true },
			script: func(o *ordered) { time.Sleep(time.Hour / 2); o.back("m") }, want: want{after: time.Hour/2 + time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and does not come", ago: time.Hour / 2, change: func(r *job.Request) { r.Wait = true },
			want: want{code: call.SessionLost, after: time.Hour/2 + time.Minute},
		},
		{
			name: "it was withdrawn before it was sent", ago: time.Second, cancelled: true,
			script: func(o *ordered) { time.Sleep(20 * time.Second); o.back("m") }, want: want{code: call.Cancelled, after: 20 * time.Second},
		},
		{
			name: "it was withdrawn and runs", ago: time.Second, cancelled: true, before: func(m *machine) { m.running, m.started = true, 1 },
			script: func(o *ordered) { time.Sleep(20 * time.Second); o.back("m") }, want: want{code: call.Cancelled, after: 20 * time.Second, runs: 1},
		},
		{
			name: "it was withdrawn and does not come back", ago: time.Second, cancelled: true,
			want: want{code: call.SessionLost, after: 30 * time.Second},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				change := func(r *job.Request) {
					r.Created = time.Now()
					if tt.change != nil {
						tt.change(r)
					}
				}
				o := resumed(t, tt.ago, change, "a", "b", "m")
				o.with("m", func(m *machine) {
					m.runs, m.away = time.Second, true
					if tt.before != nil {
						tt.before(m)
					}
				})
				o.run.Restore(job.Group{Number: 0, Names: []string{"a", "nobody"}, Status: call.Unreachable})
				o.run.Restore(job.Group{Number: 1, Names: []string{"b"}, Status: call.Answered})
				o.run.Resume(tt.cancelled)
				if s := o.run.Watch(0); s.Base != 2 || s.Counts.Done() != 3 || len(s.Groups) != 0 {
					t.Errorf("before it goes on: %+v", s)
				}
				o.shelf.groups = []job.Group{
					{Number: 0, Names: []string{"a", "nobody"}, Status: call.Unreachable}, {Number: 1, Names: []string{"b"}, Status: call.Answered},
				}
				started := time.Now()
				o.carryOut(t, func() {
					if tt.script != nil {
						tt.script(o)
					}
				})
				o.began = o.run.Plan.Created.Add(o.began.Sub(started)) // since it went on
				o.check(t, tt.want)
				if n := o.of["a"].sent + o.of["b"].sent + o.of["a"].asked + o.of["b"].asked; n != 0 {
					t.Errorf("machines whose results were stored heard of it %d times", n)
				}
				if !o.run.Kept("a") || !o.run.Kept("m") || o.run.Kept("nobody else") {
					t.Error("the run does not know whose results it has stored")
				}
			})
		})
	}
}

// A job of which every result was stored is closed at once.
func TestResumeAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := resumed(t, time.Second, func(*job.Request) {}, "a", "b")
		o.run.Restore(job.Group{Names: []string{"a", "b", "nobody"}, Status: call.Answered})
		o.run.Resume(false)
		if err := o.run.Do(t.Context(), o, o.shelf); err != nil || len(o.shelf.groups) != 0 {
			t.Errorf("Do = %v with %d groups", err, len(o.shelf.groups))
		}
		if s := o.run.Watch(0); !s.Closed || s.Stopped {
			t.Errorf("at the end: %+v", s)
		}
	})
}

// What the overlord's end cuts off is not closed, and can be resumed.
func TestStoppedIsNotClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "m", "n"))
		w := world("m", "n")
		w.run = r
		w.of["m"].runs, w.of["n"].deaf = time.Second, true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s := new(shelf)
		if err := r.Do(ctx, w, s); err == nil {
			t.Error("Do = nil; want the context's error")
		}
		if snap := r.Watch(0); snap.Closed || !snap.Stopped || snap.Counts.Done() != 1 {
			t.Errorf("a watcher sees %+v; want a job that stopped with one result", snap)
		}
		if !r.Busy(func(string) bool { return true }) || r.Busy(func(string) bool { return false }) {
			t.Error("Busy does not ask who is connected")
		}
	})
}
