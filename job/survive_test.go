package job_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/job"
)

type want struct {
	code  call.Code
	in    string // the detail
	after time.Duration
	slack time.Duration // on both sides; zero: 50 ms
	sent  int
	runs  int // methods begun
}

// Every way in which a call can be lost, late, refused or withdrawn. The order
// lives for an hour; the machine's method takes a second.
func TestSurvive(t *testing.T) {
	const hour = time.Hour
	sleep := time.Sleep
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		wait    bool
		read    bool
		before  func(m *machine)
		script  func(o *ordered)
		want    want
	}{
		{name: "nothing happens", timeout: time.Minute, want: want{after: time.Second, sent: 1, runs: 1}},
		{
			name: "lost and back while it runs", timeout: time.Minute,
			script: func(o *ordered) { sleep(hurry); o.cut("m"); sleep(hurry); o.back("m") },
			want:   want{after: time.Second, sent: 1, runs: 1},
		},
		{
			name: "finished while it was away", timeout: time.Minute,
			script: func(o *ordered) { sleep(hurry); o.cut("m"); sleep(20 * time.Second); o.back("m") },
			want:   want{after: 20*time.Second + hurry, sent: 1, runs: 1},
		},
		{
			name: "the session is another before the loss is noticed", timeout: time.Minute,
			script: func(o *ordered) {
				sleep(hurry)
				o.with("m", func(m *machine) { m.drop = 1 })
				o.back("m")
				sleep(2 * time.Second)
				o.run.Lost("m")
			},
			want: want{after: 2*time.Second + hurry, sent: 1, runs: 1},
		},
		{
			name: "the call got lost with the session", timeout: time.Minute, before: func(m *machine) { m.lose = 1 },
			script: func(o *ordered) { sleep(hurry); o.cut("m"); sleep(time.Second); o.back("m") },
			want:   want{after: 2*time.Second + hurry, sent: 2, runs: 1},
		},
		{
			name: "the call got lost and the session did not", timeout: time.Minute, before: func(m *machine) { m.lose = 1 },
			want: want{after: job.AskEvery + time.Second, slack: job.AskEvery/2 + hurry, sent: 2, runs: 1},
		},
		{
			name: "the result got lost and the session did not", timeout: time.Minute, before: func(m *machine) { m.drop = 1 },
			want: want{after: job.AskEvery, slack: job.AskEvery/2 + hurry, sent: 1, runs: 1},
		},
		{
			name: "it says itself that it has finished", timeout: time.Minute, before: func(m *machine) { m.drop = 1 },
			script: func(o *ordered) { sleep(3 * time.Second); o.run.Finishing("m") },
			want:   want{after: 3 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it does not come back", timeout: time.Minute,
			script: func(o *ordered) { sleep(hurry); o.cut("m") },
			want:   want{code: call.SessionLost, in: "whether the call ran is not known", after: 30*time.Second + hurry, sent: 1, runs: 1},
		},
		{
			name: "it does not come back in time", timeout: 10 * time.Second,
			script: func(o *ordered) { sleep(hurry); o.cut("m") },
			want:   want{code: call.SessionLost, after: 10 * time.Second, sent: 1, runs: 1},
		},
		{
			name:   "it does not come back, without a time-out",
			script: func(o *ordered) { sleep(hurry); o.cut("m") },
			want:   want{code: call.SessionLost, after: 30*time.Second + hurry, sent: 1, runs: 1},
		},
		{
			name: "it comes and goes", timeout: 5 * time.Minute, before: func(m *machine) { m.runs = 2 * time.Minute },
			script: func(o *ordered) {
				for range 5 {
					sleep(20 * time.Second)
					o.cut("m")
					sleep(20 * time.Second)
					o.back("m")
				}
			},
			want: want{after: 2 * time.Minute, slack: 20*time.Second + hurry, sent: 1, runs: 1},
		},
		{
			name: "its journal is younger than the order", timeout: time.Minute, before: func(m *machine) { m.lose = 1 },
			script: func(o *ordered) {
				sleep(hurry)
				o.cut("m")
				o.with("m", func(m *machine) { m.birth = time.Now() })
				o.back("m")
			},
			want: want{code: call.Unknown, in: "journal", after: hurry, sent: 1},
		},
		{
			name: "its journal is younger, and the method only reads", timeout: time.Minute, read: true, before: func(m *machine) { m.lose = 1 },
			script: func(o *ordered) {
				sleep(hurry)
				o.cut("m")
				o.with("m", func(m *machine) { m.birth = time.Now() })
				o.back("m")
			},
			want: want{after: time.Second + hurry, sent: 2, runs: 1},
		},
		{
			name: "the order has expired when it is back", wait: true, timeout: 2 * hour, before: func(m *machine) { m.lose = 1 },
			script: func(o *ordered) { sleep(hurry); o.cut("m"); sleep(hour); o.back("m") },
			want:   want{code: call.Expired, in: "expired at", after: hour + hurry, sent: 1},
		},
		{
			name: "an agent that cannot be asked keeps its session", timeout: time.Minute,
			before: func(m *machine) { m.runs, m.askErr = 40*time.Second, call.Errorf(call.NotFound, "no such method") },
			want:   want{after: 40 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "an agent that cannot be asked loses its session", timeout: 2 * time.Minute,
			before: func(m *machine) { m.runs, m.askErr = 40*time.Second, call.Errorf(call.NotFound, "no such method") },
			script: func(o *ordered) { sleep(20 * time.Second); o.cut("m"); sleep(time.Second); o.back("m") },
			want:   want{code: call.SessionLost, after: 21 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "the session ends while it is asked", timeout: time.Minute, before: func(m *machine) { m.drop = 1 },
			script: func(o *ordered) {
				sleep(2 * time.Second)
				o.with("m", func(m *machine) { m.askErr = call.Errorf(call.SessionLost, "gone") })
				o.run.Finishing("m")
				sleep(hurry)
				o.with("m", func(m *machine) { m.askErr = nil })
			},
			want: want{after: 3 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it says that it is busy when it is asked", timeout: time.Minute, before: func(m *machine) { m.drop = 1 },
			script: func(o *ordered) {
				o.with("m", func(m *machine) { m.askErr = call.Errorf(call.Busy, "later") })
				sleep(20 * time.Second)
				o.with("m", func(m *machine) { m.askErr = nil })
			},
			want: want{after: 25 * time.Second, slack: 6 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it never answers when it is asked", timeout: time.Minute, before: func(m *machine) { m.drop, m.mum = 1, true },
			want: want{code: call.NoAnswer, in: "within 1m0s", after: time.Minute, sent: 1, runs: 1},
		},
		{
			name: "it is off", timeout: time.Minute, before: func(m *machine) { m.away = true },
			want: want{code: call.NoSession, in: "m is off"},
		},
		{
			name: "it is busy", timeout: time.Minute, before: func(m *machine) { m.busy = true },
			want: want{code: call.Busy, in: "journal is full", sent: 1},
		},
		{
			name: "it is awaited and comes", wait: true, timeout: time.Minute, before: func(m *machine) { m.away = true },
			script: func(o *ordered) { sleep(hour / 2); o.back("m") },
			want:   want{after: hour/2 + time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and comes late, for long", wait: true, timeout: hour / 4, before: func(m *machine) { m.away, m.runs = true, hour/5 },
			script: func(o *ordered) { sleep(hour - time.Second); o.back("m") },
			want:   want{after: hour + hour/5 - time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and does not come", wait: true, timeout: time.Minute, before: func(m *machine) { m.away = true },
			want: want{code: call.NoSession, in: "m is off", after: hour},
		},
		{
			name: "it is awaited and lost while it runs", wait: true, timeout: time.Minute,
			script: func(o *ordered) { sleep(hurry); o.cut("m"); sleep(hour / 2); o.back("m") },
			want:   want{after: hour/2 + hurry, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and lost for good", wait: true, timeout: time.Minute,
			script: func(o *ordered) { sleep(hurry); o.cut("m") },
			want:   want{code: call.SessionLost, after: hour + time.Minute, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and lost for good, without a time-out", wait: true,
			script: func(o *ordered) { sleep(hurry); o.cut("m") },
			want:   want{code: call.SessionLost, after: hour + 30*time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is awaited and hangs", wait: true, timeout: time.Minute, before: func(m *machine) { m.deaf = true },
			want: want{code: call.NoAnswer, after: hour + time.Minute, sent: 1},
		},
		{
			name: "it is awaited and busy for a while", wait: true, timeout: time.Minute, before: func(m *machine) { m.busy = true },
			script: func(o *ordered) { sleep(12 * time.Second); o.with("m", func(m *machine) { m.busy = false }) },
			want:   want{after: 16 * time.Second, sent: 4, runs: 1},
		},
		{
			name: "it is awaited and busy for ever", wait: true, timeout: time.Minute, before: func(m *machine) { m.busy = true },
			want: want{code: call.Expired, in: "busy: the journal is full", after: hour, slack: 6 * time.Second, sent: 720},
		},
		{
			name: "it is withdrawn while it is awaited", wait: true, timeout: time.Minute, before: func(m *machine) { m.away = true },
			script: func(o *ordered) { sleep(time.Minute); o.run.Cancel(); o.back("m") },
			want:   want{code: call.Cancelled, in: "before it was sent", after: time.Minute},
		},
		{
			name: "it is withdrawn and confirms", timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) { sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.Cancelled, after: time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn and does not confirm", timeout: time.Minute, before: func(m *machine) { m.runs, m.stubborn = hour, true },
			script: func(o *ordered) { sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.NoAnswer, in: "did not confirm", after: 6 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn while it is away", timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) { sleep(time.Second); o.cut("m"); sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.SessionLost, after: 7 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn while it is away, and back at once", timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) { sleep(time.Second); o.cut("m"); o.run.Cancel(); sleep(time.Second); o.back("m") },
			want:   want{code: call.Cancelled, after: 2 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn and goes away", timeout: time.Minute, before: func(m *machine) { m.runs, m.stubborn = hour, true },
			script: func(o *ordered) { sleep(time.Second); o.run.Cancel(); sleep(time.Second); o.cut("m") },
			want:   want{code: call.SessionLost, after: 6 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn, awaited, and back", wait: true, timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) {
				sleep(time.Second)
				o.cut("m")
				sleep(time.Second)
				o.run.Cancel()
				sleep(20 * time.Second)
				o.back("m")
			},
			want: want{code: call.Cancelled, after: 22 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn, awaited, and never had it", wait: true, timeout: time.Minute, before: func(m *machine) { m.lose = 1 },
			script: func(o *ordered) {
				sleep(time.Second)
				o.cut("m")
				sleep(time.Second)
				o.run.Cancel()
				sleep(20 * time.Second)
				o.back("m")
			},
			want: want{code: call.Cancelled, in: "before it had the call", after: 22 * time.Second, sent: 1},
		},
		{
			name: "it is withdrawn, awaited, and does not come back", wait: true, timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) { sleep(time.Second); o.cut("m"); sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.SessionLost, after: 32 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn, awaited, back and stubborn", wait: true, timeout: time.Minute, before: func(m *machine) { m.runs, m.stubborn = hour, true },
			script: func(o *ordered) { sleep(time.Second); o.cut("m"); o.run.Cancel(); sleep(20 * time.Second); o.back("m") },
			want:   want{code: call.NoAnswer, in: "did not confirm", after: 26 * time.Second, sent: 1, runs: 1},
		},
		{
			name: "it is withdrawn while it is busy", wait: true, timeout: time.Minute, before: func(m *machine) { m.busy = true },
			script: func(o *ordered) { sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.Cancelled, after: time.Second, sent: 1},
		},
		{
			name: "it is withdrawn on another session", timeout: time.Minute, before: func(m *machine) { m.runs = hour },
			script: func(o *ordered) { sleep(time.Second); o.cut("m"); o.back("m"); sleep(time.Second); o.run.Cancel() },
			want:   want{code: call.Cancelled, after: 2 * time.Second, sent: 1, runs: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := request(t, tt.timeout, nil, "m")
				req.Wait, req.Read = tt.wait, tt.read
				o := &ordered{machines: world("m"), shelf: new(shelf)}
				o.run = newRun(t, req)
				o.with("m", func(m *machine) {
					m.runs = time.Second
					m.birth = time.Now().Add(-time.Hour)
					if tt.before != nil {
						tt.before(m)
					}
				})
				o.carryOut(t, func() {
					if tt.script != nil {
						tt.script(o)
					}
				})
				o.check(t, tt.want)
			})
		})
	}
}

const hurry = 100 * time.Millisecond

// carryOut does the job beside a script.
func (o *ordered) carryOut(t *testing.T, script func()) {
	t.Helper()
	o.began = time.Now()
	ended := make(chan time.Duration, 1)
	go func() {
		if err := o.run.Do(t.Context(), o, o.shelf); err != nil {
			t.Error(err)
		}
		ended <- time.Since(o.began)
	}()
	script()
	o.began = o.began.Add(<-ended) // when it ended
	time.Sleep(24 * time.Hour)     // methods that go on end
}

func (o *ordered) check(t *testing.T, w want) {
	t.Helper()
	got := account(t, o.run, o.shelf)["m"]
	if got.Code != w.code || !strings.Contains(got.Detail, w.in) {
		t.Errorf("it ended as %v, %q; want %v, %q", got.Code, got.Detail, w.code, w.in)
	}
	m := o.of["m"]
	if m.sent != w.sent || m.started != w.runs {
		t.Errorf("the call was sent %d times and began %d times; want %d and %d", m.sent, m.started, w.sent, w.runs)
	}
	if !slices.Contains(o.stored, "m") {
		t.Error("the machine is not told that its result is stored")
	}
	took := o.began.Sub(o.run.Plan.Created)
	if slack := max(w.slack, 60*time.Millisecond); took < w.after-slack || took > w.after+slack {
		t.Errorf("it took %s; want %s, give or take %s", took, w.after, slack)
	}
}

// A machine that says of every call that it knows it, and when asked that it
// does not, does not keep us busy.
func TestLiarIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "m"))
		l := &liar{run: r}
		s := new(shelf)
		if err := r.Do(t.Context(), l, s); err != nil {
			t.Fatal(err)
		}
		if got := account(t, r, s)["m"].Code; got != call.NoAnswer {
			t.Errorf("it ended as %v; want no answer", got)
		}
		if l.sent > 15 || l.asked > 60 {
			t.Errorf("in a minute it was sent %d calls and asked %d times", l.sent, l.asked)
		}
	})
}

type liar struct {
	noHops
	run         *job.Run
	mu          sync.Mutex
	sent, asked int
}

func (l *liar) Send(m string, _ bool, _, _ []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	go l.run.Deliver(call.Result{Machine: m, Code: call.Repeated})
	return nil
}

func (l *liar) Ask(m string, number uint64, _ bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	go func() {
		l.run.Told(m, job.Answer{Number: number, State: job.None})
		for range 100 {
			l.run.Finishing(m)
		}
	}()
	return nil
}
func (l *liar) Cancel(string)   {}
func (l *liar) Stored([]string) {}

// Machines that come, go, refuse and lose what they are sent, in every order:
// each ends with one result, and no method begins twice.
func TestSurviveStorm(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storm(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func storm(t *testing.T, rnd *rand.Rand) {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	req := request(t, 2*time.Minute, nil, names...)
	req.Wait = rnd.IntN(2) == 0
	o := &ordered{machines: world(names...), shelf: new(shelf)}
	o.run = newRun(t, req)
	for _, m := range o.of {
		m.runs, m.lose, m.drop = time.Duration(rnd.IntN(20))*time.Second, rnd.IntN(3), rnd.IntN(2)
		m.away, m.busy = rnd.IntN(4) == 0, rnd.IntN(8) == 0
	}
	cancelAt := rnd.IntN(400)
	o.carryOut(t, func() {
		for i := range 200 {
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
			if i == cancelAt {
				o.run.Cancel()
			}
			name := names[rnd.IntN(len(names))]
			o.with(name, func(m *machine) { m.busy = false })
			if o.of[name].away {
				o.back(name)
			} else {
				o.cut(name)
			}
		}
		for _, name := range names {
			o.back(name)
		}
	})
	account(t, o.run, o.shelf)
	for name, m := range o.of {
		if m.started > 1 {
			t.Errorf("%s began %d times", name, m.started)
		}
	}
	if req.Wait && cancelAt >= 200 {
		if c := o.run.Watch(0).Counts; c.Answered != len(names) {
			t.Errorf("%+v; want all answered: all are back", c)
		}
	}
}
