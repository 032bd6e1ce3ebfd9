package job_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/target"
)

// returnGrace is how long a sub-overlord is awaited.
const returnGrace = 30 * time.Second

// level is an overlord's view: its machines, and sub-overlords that carry out
// what they are sent with a run of their own.
type level struct {
	*machines
	names []string // of the whole order
	hops  map[string]*subOverlord
}

// subOverlord is one of them.
type subOverlord struct {
	level

	smu      sync.Mutex
	up       bool
	arrive   chan struct{}
	gone     chan struct{} // closed when the session ends
	refuse   error         // what it answers instead
	liar     func(g job.Group) []job.Group
	endless  bool          // it gives all results, and never says so
	pause    time.Duration // before it takes an order
	store    *shelf
	calls    int
	got      []*fleetpb.Delegate
	finished sync.WaitGroup // runs
	jobs     map[string]*job.Run
}

func newLevel(directs ...string) level {
	return level{machines: world(directs...), hops: make(map[string]*subOverlord)}
}

// below adds a sub-overlord.
func (l *level) below(name string, directs ...string) *subOverlord {
	s := &subOverlord{level: newLevel(directs...), up: true, gone: make(chan struct{}), arrive: make(chan struct{}), store: new(shelf)}
	close(s.arrive)
	l.hops[name] = s
	return s
}

func (s *subOverlord) down() {
	s.smu.Lock()
	defer s.smu.Unlock()
	if s.up {
		s.up, s.arrive = false, make(chan struct{})
		close(s.gone)
	}
}

func (s *subOverlord) back() {
	s.smu.Lock()
	defer s.smu.Unlock()
	s.up, s.gone = true, make(chan struct{})
	close(s.arrive)
}

// Arrival implements the run's wire.
func (l *level) Arrival(hop string) <-chan struct{} {
	s := l.hops[hop]
	if s == nil {
		return nil
	}
	s.smu.Lock()
	defer s.smu.Unlock()
	return s.arrive
}

// Delegate implements the run's wire.
func (l *level) Delegate(ctx context.Context, hop string, d *fleetpb.Delegate, withdraw <-chan struct{}, take func(job.Told)) error {
	s := l.hops[hop]
	if s == nil {
		return call.Errorf(call.NoSession, "there is no %s", hop)
	}
	s.smu.Lock()
	s.calls++
	s.got = append(s.got, d)
	up, gone, refuse, pause := s.up, s.gone, s.refuse, s.pause
	s.smu.Unlock()
	time.Sleep(pause)
	if !up {
		return call.Errorf(call.NoSession, "%s is off", hop)
	}
	if refuse != nil {
		return refuse
	}
	r, err := s.job(l.names, d)
	if err != nil {
		return err
	}
	if d.Cancel {
		r.Cancel()
	}
	for seen := int(d.Seen); ; {
		snap := r.Watch(seen)
		for _, g := range snap.Groups {
			said := []job.Group{g}
			if s.liar != nil {
				said = s.liar(g)
			}
			for _, g := range said {
				take(told(l.run.Plan, g))
			}
		}
		seen += len(snap.Groups)
		if snap.Closed && s.endless {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if snap.Closed {
			return nil
		}
		select {
		case <-snap.Changed:
		case <-gone:
			return call.Errorf(call.SessionLost, "%s fell", hop)
		case <-withdraw:
			withdraw = nil
			r.Cancel()
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), job.ErrGivenUp) {
				r.Cancel()
			}
			return context.Cause(ctx)
		}
	}
}

// told gives a group as a parent hears of it.
func told(p *job.Plan, g job.Group) job.Told {
	at, others, err := p.Find(target.Fold(g.Names))
	if err != nil {
		panic(err)
	}
	t := job.Told{At: at, Others: others, Code: g.Code, Detail: g.Detail, Output: g.Output, Cut: g.Cut}
	if len(g.Took) == len(at) && len(others) == 0 {
		t.Took = micros(g.Took)
	}
	return t
}

// job gives the sub-overlord's run of an order, begun if need be.
func (s *subOverlord) job(names []string, d *fleetpb.Delegate) (*job.Run, error) {
	s.smu.Lock()
	defer s.smu.Unlock()
	if r := s.jobs[d.Reach.String()]; r != nil {
		return r, nil
	}
	if d.Cancel {
		return nil, call.Errorf(call.Cancelled, "not begun")
	}
	p, err := job.NewPlan(job.Request{
		Signed: call.Signed{Order: d.Order, Signature: d.Signature, Cert: d.OperatorCert}, Salt: d.Salt, Args: d.Args,
		Timeout: time.Duration(d.TimeoutMs) * time.Millisecond, Nominal: time.Duration(d.NominalMs) * time.Millisecond, Wait: d.Wait, Whom: job.Whom{Names: names, Reach: d.Reach, Part: true},
	})
	if err != nil {
		return nil, err
	}
	r := job.NewRun(p, new(job.Budget), slog.New(slog.DiscardHandler))
	if s.jobs == nil {
		s.jobs = make(map[string]*job.Run)
	}
	s.jobs[d.Reach.String()] = r
	l := &level{machines: &machines{run: r, mu: s.mu, of: s.of}, names: names, hops: s.hops}
	s.finished.Go(func() { _ = r.Do(context.Background(), l, s.store) })
	return r, nil
}

// only is the sub-overlord's run, when it has but one.
func (s *subOverlord) only() *job.Run {
	s.smu.Lock()
	defer s.smu.Unlock()
	for _, r := range s.jobs {
		return r
	}
	return nil
}

// branch is a short way to write one.
func branch(name string, machines []string, below ...*fleetpb.Branch) *fleetpb.Branch {
	return &fleetpb.Branch{Name: name, Machines: target.Fold(machines), Below: below}
}

// delegate runs an order at a level and gives what became of it.
func delegate(t *testing.T, l *level, timeout time.Duration, reach *fleetpb.Branch, change func(*job.Request), names ...string) (*job.Run, *shelf, func() map[string]job.Group) {
	t.Helper()
	req := request(t, timeout, nil, names...)
	req.Reach = reach
	if change != nil {
		change(&req)
	}
	r := newRun(t, req)
	l.names, l.machines.run = names, r
	s := new(shelf)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Do(t.Context(), l, s); err != nil {
			t.Error(err)
		}
	}()
	return r, s, func() map[string]job.Group {
		<-done
		return account(t, r, s)
	}
}

func wantCode(t *testing.T, got map[string]job.Group, code call.Code, detail string, names ...string) {
	t.Helper()
	for _, n := range names {
		if g := got[n]; g.Code != code || !strings.Contains(g.Detail, detail) {
			t.Errorf("%s: %v %q; want %v with %q", n, g.Code, g.Detail, code, detail)
		}
	}
}

func (w *machines) runsOnce(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, m := range w.of {
		if m.started > 1 {
			t.Errorf("%s ran %d times", n, m.started)
		}
	}
}

// twoLevels gives top with m1 of its own, dc1 with a1, a2 and below it rack1 with b1.
func twoLevels() (*level, *subOverlord, *subOverlord, *fleetpb.Branch, []string) {
	top := newLevel("m1")
	dc1 := top.below("dc1", "a1", "a2")
	rack1 := dc1.below("rack1", "b1")
	reach := branch("top", []string{"m1"}, branch("dc1", []string{"a1", "a2"}, branch("rack1", []string{"b1"})))
	return &top, dc1, rack1, reach, []string{"a1", "a2", "b1", "m1"}
}

// micros gives times as they are told.
func micros(took []time.Duration) []uint64 {
	out := make([]uint64, len(took))
	for i, t := range took {
		out[i] = uint64(t.Microseconds())
	}
	return out
}
