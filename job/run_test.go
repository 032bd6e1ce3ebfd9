package job_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
)

// fleet is a wire whose machines answer as told.
type fleet struct {
	noHops
	mu        sync.Mutex
	run       *job.Run
	answer    func(machine string, c *fleetpb.Call) (*call.Result, error) // nil, nil: silence
	onCancel  func(machine string)
	sent      []string
	cancelled []string
}

func (f *fleet) Send(machine string, _ bool, shared, part []byte) error {
	var c fleetpb.Call
	if err := proto.Unmarshal(append(append([]byte(nil), shared...), part...), &c); err != nil {
		return err
	}
	f.mu.Lock()
	f.sent = append(f.sent, machine)
	f.mu.Unlock()
	res, err := f.answer(machine, &c)
	if err != nil {
		return err
	}
	if res != nil {
		res.Machine = machine
		f.run.Deliver(*res)
	}
	return nil
}

func (f *fleet) Cancel(machine string) {
	f.mu.Lock()
	f.cancelled = append(f.cancelled, machine)
	f.mu.Unlock()
	if f.onCancel != nil {
		f.onCancel(machine)
	}
}

func (f *fleet) Ask(machine string, _ uint64, _ bool) error {
	return call.Errorf(call.NoSession, "%s is not connected", machine)
}

func (f *fleet) Stored([]string) {}

// shelf is a keeper in memory that can refuse.
type shelf struct {
	mu     sync.Mutex
	refuse int
	jam    int // refusals of the end
	groups []job.Group
	closed []call.Counts
}

func (s *shelf) CloseJob(_ context.Context, _ call.JobID, end job.End) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close(end)
}

func (s *shelf) close(end job.End) error {
	if s.jam > 0 {
		s.jam--
		return call.Errorf(call.Unavailable, "disk full")
	}
	s.closed = append(s.closed, end.Counts)
	return nil
}

func (s *shelf) KeepResults(_ context.Context, _ call.JobID, g []job.Group, end *job.End) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse > 0 {
		s.refuse--
		return call.Errorf(call.Unavailable, "disk full")
	}
	if end != nil {
		if err := s.close(*end); err != nil {
			return err
		}
	}
	s.groups = append(s.groups, g...)
	return nil
}

func request(t testing.TB, timeout time.Duration, unknown []string, names ...string) job.Request {
	t.Helper()
	tree, err := call.NewNames(names)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now, salt, args := time.Now().Truncate(time.Millisecond), make([]byte, call.SaltSize), []byte(`{"a":1}`)
	o := &call.Order{
		Job: call.NewJobID(now), Method: "test.ping", ArgsDigest: call.Digest(salt, args), IssuedAt: now, NotBefore: now,
		Expiry: now.Add(time.Hour), Count: len(names), Root: tree.Root(),
	}
	s, err := call.Sign(o, key, []byte("cert"))
	if err != nil {
		t.Fatal(err)
	}
	return job.Request{Signed: s, Salt: salt, Args: args, Whom: job.Whom{Names: names}, Unknown: unknown, Timeout: timeout}
}

func newRun(t testing.TB, r job.Request) *job.Run {
	t.Helper()
	return newRunWith(t, r, slog.New(slog.DiscardHandler))
}

func newRunWith(t testing.TB, r job.Request, log *slog.Logger) *job.Run {
	t.Helper()
	p, err := job.NewPlan(r)
	if err != nil {
		t.Fatal(err)
	}
	return job.NewRun(p, new(job.Budget), log)
}

// account fails unless every targeted machine stands in exactly one stored group.
func account(t testing.TB, r *job.Run, s *shelf) map[string]job.Group {
	t.Helper()
	got := make(map[string]job.Group)
	for i, g := range s.groups {
		if g.Number != i {
			t.Errorf("group %d is numbered %d", i, g.Number)
		}
		for _, n := range g.Names {
			if _, twice := got[n]; twice {
				t.Errorf("%s has two results", n)
			}
			got[n] = g
		}
	}
	c := r.Watch(0).Counts
	if c.Answered+c.Failed+c.Unreachable+c.Skipped != c.Targeted || len(got) != c.Targeted {
		t.Errorf("accounting: %+v, %d machines stored", c, len(got))
	}
	return got
}

func TestDoAccountsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"web1", "web2", "web3", "silent", "gone", "bad"}
		r := newRun(t, request(t, 5*time.Second, []string{"nobody"}, names...))
		s := new(shelf)
		f := &fleet{run: r, answer: func(m string, c *fleetpb.Call) (*call.Result, error) {
			if err := call.VerifyName(m, int(c.LeafIndex), 6, r.Plan.Order.Root, c.Proof); err != nil {
				t.Errorf("%s: %v", m, err)
			}
			if c.TimeoutMs == 0 || c.TimeoutMs > 4980 {
				t.Errorf("%s: %d ms to run", m, c.TimeoutMs)
			}
			switch m {
			case "silent":
				return nil, nil
			case "gone":
				return nil, call.Errorf(call.NoSession, "not connected")
			case "bad":
				return &call.Result{Code: call.Failed, Detail: "broken"}, nil
			}
			return &call.Result{Output: []byte(`{"ok":true}`)}, nil
		}}
		if err := r.Do(t.Context(), f, s); err != nil {
			t.Fatal(err)
		}
		got := account(t, r, s)
		for m, want := range map[string]call.Code{
			"web1": call.OK, "silent": call.NoAnswer, "gone": call.NoSession, "bad": call.Failed, "nobody": call.UnknownName,
		} {
			if got[m].Code != want {
				t.Errorf("%s: %v; want %v", m, got[m].Code, want)
			}
		}
		if n := strings.Join(got["web2"].Names, ","); n != "web1,web2,web3" {
			t.Errorf("equal answers are in a group of %s", n)
		}
		if strings.Join(f.cancelled, ",") != "silent" {
			t.Errorf("cancelled %v; want the one that was late", f.cancelled)
		}
		if r.Deliver(call.Result{Machine: "silent"}) {
			t.Error("an answer after the end was counted")
		}
	})
}

// The operator is told the time-out that was given, and equal answers fold.
func TestTimeoutIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		detail  string // of the machine
		want    string
	}{
		{"its time was over", time.Second, "", "not done within 1s"},
		{"a method's own", time.Second, "the lock was not free within 5ms", "the lock was not free within 5ms"},
		{"no time-out was given", 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, s := newRun(t, request(t, tt.timeout, nil, "a", "b")), &shelf{}
				f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) {
					return &call.Result{Code: call.Timeout, Detail: tt.detail}, nil
				}}
				if err := r.Do(t.Context(), f, s); err != nil {
					t.Fatal(err)
				}
				if got := account(t, r, s)["a"].Detail; got != tt.want || len(s.groups) != 1 {
					t.Errorf("detail %q in %d groups; want %q in 1", got, len(s.groups), tt.want)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, 0, nil, "a", "b", "c", "d"))
		s := new(shelf)
		f := &fleet{run: r}
		f.answer = func(m string, _ *fleetpb.Call) (*call.Result, error) {
			if m == "b" {
				running, skipped := r.Cancel()
				if strings.Join(running, "") != "ab" || strings.Join(skipped, "") != "cd" {
					t.Errorf("Cancel = %v, %v; want a b, c d", running, skipped)
				}
			}
			return nil, nil
		}
		f.onCancel = func(m string) {
			if m == "a" { // b never confirms
				r.Deliver(call.Result{Machine: m, Code: call.Cancelled})
			}
		}
		if err := r.Do(t.Context(), f, s); err != nil {
			t.Fatal(err)
		}
		got := account(t, r, s)
		for m, want := range map[string]call.Code{"a": call.Cancelled, "b": call.NoAnswer, "c": call.Cancelled, "d": call.Cancelled} {
			if got[m].Code != want {
				t.Errorf("%s: %v; want %v", m, got[m].Code, want)
			}
		}
	})
}

func TestStoreThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "a", "b"))
		s := &shelf{refuse: 3}
		f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) { return &call.Result{}, nil }}
		var saw string
		done := make(chan error)
		go func() { done <- r.Do(t.Context(), f, s) }()
		for snap := r.Watch(0); !snap.Closed; snap = r.Watch(0) {
			if snap.Problem != "" {
				saw = snap.Problem
			}
			<-snap.Changed
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(saw, "disk full") {
			t.Errorf("watchers saw the problem %q", saw)
		}
		account(t, r, s)
	})
}

// A store that refuses for long does not fill the log.
func TestStoreThatRefusesIsToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRunWith(t, request(t, time.Minute, nil, "a"), slog.New(slog.NewTextHandler(&log, nil)))
		s := &shelf{refuse: 150} // seconds
		f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) { return &call.Result{}, nil }}
		if err := r.Do(t.Context(), f, s); err != nil {
			t.Fatal(err)
		}
		account(t, r, s)
		if n := strings.Count(log.String(), "level=ERROR"); n != 3 {
			t.Errorf("%d complaints in 150 s; want 3:\n%s", n, log.String())
		}
		if n := strings.Count(log.String(), "level=INFO"); n != 1 || !strings.Contains(log.String(), "stored after all") {
			t.Errorf("%d words of its end; want 1:\n%s", n, log.String())
		}
	})
}

func TestStoreThatRefusesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "a"))
		f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) { return &call.Result{}, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := r.Do(ctx, f, &shelf{refuse: 1000}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do = %v; want the context's error", err)
		}
	})
}

// Who is told that a job is closed finds it closed in the store, also when the
// store could not write for a while.
func TestClosedInTheStoreFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "a", "b"))
		s := &shelf{jam: 3}
		f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) { return &call.Result{}, nil }}
		done := make(chan error)
		go func() { done <- r.Do(t.Context(), f, s) }()
		var saw string
		for snap := r.Watch(0); !snap.Closed; snap = r.Watch(0) {
			saw = max(saw, snap.Problem)
			<-snap.Changed
		}
		s.mu.Lock()
		if want := (call.Counts{Targeted: 2, Answered: 2}); len(s.closed) != 1 || s.closed[0] != want {
			t.Errorf("a watcher is told that the job is closed, and the store closed it with %+v; want %+v once", s.closed, want)
		}
		s.mu.Unlock()
		if !strings.Contains(saw, "disk full") {
			t.Errorf("watchers saw the problem %q", saw)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		account(t, r, s)
	})
}

// A job whose end cannot be written when the overlord stops is not closed.
func TestStopBeforeTheEndIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, request(t, time.Minute, nil, "a"))
		f := &fleet{run: r, answer: func(string, *fleetpb.Call) (*call.Result, error) { return &call.Result{}, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := r.Do(ctx, f, &shelf{jam: 1000}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do = %v; want the context's error", err)
		}
		if snap := r.Watch(0); snap.Closed || !snap.Stopped {
			t.Errorf("a watcher sees %+v; want a job that stopped", snap)
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*job.Request)
		want   call.Code
	}{
		{"an argument byte", func(r *job.Request) { r.Args[2] ^= 1 }, call.BadOrder},
		{"the salt", func(r *job.Request) { r.Salt[0] ^= 1 }, call.BadOrder},
		{"a short salt", func(r *job.Request) { r.Salt = r.Salt[1:] }, call.Invalid},
		{"one machine more", func(r *job.Request) { r.Names = append(r.Names, "c") }, call.BadOrder},
		{"another machine", func(r *job.Request) { r.Names = []string{"a", "c"} }, call.BadOrder},
		{"no machine", func(r *job.Request) { r.Names = nil }, call.BadOrder},
		{"known and unknown", func(r *job.Request) { r.Unknown = []string{"a"} }, call.Invalid},
		{"a cut order", func(r *job.Request) { r.Signed.Order = r.Signed.Order[1:] }, call.BadOrder},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, 0, nil, "a", "b")
			tt.change(&r)
			if _, err := job.NewPlan(r); call.CodeOf(err) != tt.want {
				t.Errorf("NewPlan = %v; want %v", err, tt.want)
			}
		})
	}
}

func TestOutputBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 300 {
			names = append(names, fmt.Sprintf("n%03d", i))
		}
		r := newRun(t, request(t, time.Minute, nil, names...))
		s := new(shelf)
		f := &fleet{run: r, answer: func(m string, _ *fleetpb.Call) (*call.Result, error) {
			return &call.Result{Output: []byte(`"` + m + strings.Repeat("x", 1<<20) + `"`)}, nil
		}}
		if err := r.Do(t.Context(), f, s); err != nil {
			t.Fatal(err)
		}
		account(t, r, s)
		kept, cut := 0, 0
		for _, g := range s.groups {
			kept += len(g.Output)
			if g.Cut > 0 {
				cut++
			}
		}
		if kept > job.MaxJobOutput || cut == 0 {
			t.Errorf("kept %d bytes, cut %d outputs; want at most %d", kept, cut, job.MaxJobOutput)
		}
	})
}

func BenchmarkRun(b *testing.B) {
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf("web%04d", i))
	}
	req := request(b, time.Minute, nil, names...)
	b.Run("5000", func(b *testing.B) {
		for b.Loop() {
			r := newRun(b, req)
			w := &instant{run: r}
			if err := r.Do(b.Context(), w, new(shelf)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/call")
	})
}

type instant struct {
	noHops
	run *job.Run
}

func (w *instant) Send(m string, _ bool, _, _ []byte) error {
	w.run.Deliver(call.Result{Machine: m, Output: []byte(`{"ok":true}`)})
	return nil
}
func (w *instant) Cancel(string) {}

func (w *instant) Ask(string, uint64, bool) error { return nil }
func (w *instant) Stored([]string)                {}
