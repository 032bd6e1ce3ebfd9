package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

// cut ends a stream in the middle: the connection closes without an end.
func cut() { panic(http.ErrAbortHandler) }

func progressed(c *apipb.Counts) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Progress{Progress: &apipb.Progress{Counts: c, Waiting: "web2"}}}
}

// fragile is an overlord whose streams break. Its job has three groups of
// results, the last of a name that nobody knows.
type fragile struct {
	*fakeOverlord
	order func(n int) string // what becomes of the nth order: "taken" before it breaks, "lost", or "" for both work
	least int                // messages of each stream before it breaks; negative: it does not

	mu      sync.Mutex
	orders  []string // the exact bytes
	begun   bool
	seen    []uint64 // of each Watch
	refuses *call.Error
}

func newFragile(t *testing.T) *fragile {
	f := &fragile{fakeOverlord: newFake(t, "web1", "web2"), least: -1, order: func(int) string { return "" }}
	f.events = func(req *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		sent, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.orders = append(f.orders, string(sent))
		how := f.order(len(f.orders))
		repeated := f.begun
		f.begun = f.begun || how != "lost"
		f.mu.Unlock()
		if repeated {
			return call.Errorf(call.Repeated, "ordered before")
		}
		if how != "" {
			cut()
		}
		return f.stream(0, send)
	}
	f.watch = func(req *apipb.WatchRequest, send func(*apipb.CallEvent) error) error {
		f.mu.Lock()
		f.seen = append(f.seen, req.GetSeen())
		begun, refuses := f.begun, f.refuses
		f.mu.Unlock()
		switch {
		case refuses != nil:
			return refuses
		case !begun:
			return call.Errorf(call.NotFound, "no such job")
		}
		return f.stream(int(req.GetSeen()), send)
	}
	return f
}

// stream sends what happens in the job from a group on.
func (f *fragile) stream(seen int, send func(*apipb.CallEvent) error) error {
	all := []*apipb.CallEvent{group("web1", call.OK, "", "{}"), group("web2", call.Failed, "x", ""), group("nosuch", call.UnknownName, "", "")}
	events := []*apipb.CallEvent{accepted()}
	for _, g := range all[seen:] {
		events = append(events, g, progressed(&apipb.Counts{Targeted: 3}))
	}
	events = append(events, closed(&apipb.Counts{Targeted: 3, Answered: 1, Failed: 1, Unreachable: 1}))
	for i, e := range events {
		if i == f.least {
			cut()
		}
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

// follow orders and reads to the end; breaks is how often the connection broke.
func (f *fragile) follow(t *testing.T, opt client.Options) (job *client.Job, names []string, breaks int, err error) {
	t.Helper()
	return f.followOver(t, impatient(t, f.state(t), ages, ages, ages), opt)
}

func (f *fragile) followOver(t *testing.T, conn *client.Conn, opt client.Options) (job *client.Job, names []string, breaks int, err error) {
	t.Helper()
	c, err := conn.Target("web*,nosuch", opt)
	if err != nil {
		t.Fatal(err)
	}
	job, err = c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		return nil, nil, 0, err
	}
	defer job.Close()
	lost := false
	for e, err := range job.Events() {
		if err != nil {
			return job, names, breaks, err
		}
		switch e := e.(type) {
		case *client.Group:
			names = append(names, e.Names...)
		case *client.Reconnecting:
			if lost {
				t.Error("the same break is told twice")
			}
			lost = true
			breaks++
		case *client.Resumed:
			if !lost {
				t.Error("resumed and never lost")
			}
			lost = false
		}
	}
	return job, names, breaks, nil
}

func (f *fragile) whole(t *testing.T, job *client.Job, names []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"nosuch", "web1", "web2"}, names); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
	if want := (call.Counts{Targeted: 3, Answered: 1, Failed: 1, Unreachable: 1}); job.Counts() != want {
		t.Errorf("Counts = %+v; want %+v", job.Counts(), want)
	}
	if n := len(slices.Compact(slices.Clone(f.orders))); n != 1 {
		t.Errorf("%d different orders were sent", n)
	}
}

// Wherever the stream breaks, each machine is told of once, and the order is
// sent again only when it never arrived.
func TestReconnect(t *testing.T) {
	for least := 2; least < 8; least++ {
		t.Run(fmt.Sprintf("each stream breaks after %d messages", least), func(t *testing.T) {
			f := newFragile(t)
			f.least = least
			job, names, breaks, err := f.follow(t, client.Options{})
			f.whole(t, job, names, err)
			if breaks == 0 || len(f.orders) != 1 {
				t.Errorf("broke %d times, %d orders; want more than none, and one", breaks, len(f.orders))
			}
			if !slices.IsSorted(f.seen) {
				t.Errorf("watched from %v; want it only rising", f.seen)
			}
		})
	}
	for name, tt := range map[string]struct {
		order  func(n int) string
		orders int
	}{
		"the order arrives, the answer does not": {func(int) string { return "taken" }, 1},
		"the first order does not arrive":        {func(n int) string { return map[bool]string{true: "lost"}[n == 1] }, 2},
		"five orders do not arrive":              {func(n int) string { return map[bool]string{true: "lost"}[n <= 5] }, 6},
		"the second arrives unanswered":          {func(n int) string { return []string{"", "lost", "taken"}[n] }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFragile(t)
			f.order = tt.order
			job, names, breaks, err := f.follow(t, client.Options{})
			f.whole(t, job, names, err)
			if breaks != 1 || len(f.orders) != tt.orders {
				t.Errorf("told of %d breaks, %d orders; want 1, %d", breaks, len(f.orders), tt.orders)
			}
		})
	}
}

// The same over TLS, where a broken stream has another form.
func TestReconnectTLS(t *testing.T) {
	for least := 2; least < 5; least++ {
		t.Run(fmt.Sprint(least), func(t *testing.T) {
			f := newFragile(t)
			f.least = least
			f.order = func(n int) string { return map[bool]string{true: "lost"}[n == 1] }
			dir := contexts(t)
			f.login(t, dir, "prod", f.tls(t, f.overlord2(t)), time.Now())
			conn, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Patience(ages, ages, ages)
			job, names, breaks, err := f.followOver(t, conn, client.Options{})
			f.whole(t, job, names, err)
			if breaks == 0 || len(f.orders) != 2 {
				t.Errorf("broke %d times, %d orders; want more than none, and two", breaks, len(f.orders))
			}
		})
	}
}

// An order that arrives while the overlord is asked for it is found the next time.
func TestReconnectFindsALateOrder(t *testing.T) {
	f := newFragile(t)
	f.order = func(int) string { return "lost" }
	watch := f.watch
	f.watch = func(req *apipb.WatchRequest, send func(*apipb.CallEvent) error) error {
		err := watch(req, send)
		f.mu.Lock()
		f.begun = true // just after it was asked for
		f.mu.Unlock()
		return err
	}
	job, names, _, err := f.follow(t, client.Options{})
	f.whole(t, job, names, err)
	if len(f.orders) != 2 {
		t.Errorf("%d orders; want 2", len(f.orders))
	}
}

func TestReconnectEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		set   func(*fragile)
		opt   client.Options
		code  call.Code
		words string
	}{
		{"it was tried for too long", func(f *fragile) { f.least = 1 }, client.Options{Reconnect: 300 * time.Millisecond}, call.Unavailable, "lost sight of it after 0 of 3 machines, it may go on: gave up after 300ms"},
		{"the order never arrives", func(f *fragile) { f.order = func(int) string { return "lost" } }, client.Options{Reconnect: 300 * time.Millisecond}, call.Unavailable, "gave up"},
		{"it is not wanted", func(f *fragile) { f.least = 3 }, client.Options{Reconnect: -1}, call.Unavailable, "lost sight of it after 1 of 3"},
		{"the overlord refuses", func(f *fragile) { f.least = 3; f.refuses = call.Errorf(call.Denied, "not you") }, client.Options{}, call.Denied, "not you"},
		{"the overlord lost its store", func(f *fragile) { f.least = 3; f.refuses = call.Errorf(call.NotFound, "no such job") }, client.Options{}, call.NotFound, "no such job"},
		{"the overlord goes down for good", func(f *fragile) { f.least = 3; f.refuses = call.Errorf(call.Unavailable, "going down") }, client.Options{Reconnect: 300 * time.Millisecond}, call.Unavailable, "going down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFragile(t)
			tt.set(f)
			_, _, _, err := f.follow(t, tt.opt)
			if call.CodeOf(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.words) {
				t.Fatalf("error %v; want code %v and %q", err, tt.code, tt.words)
			}
			je, ok := errors.AsType[*client.JobError](err)
			if !ok || je.ID.IsZero() {
				t.Errorf("error %v does not name the job", err)
			}
			if tt.code == call.NotFound && len(f.orders) != 1 {
				t.Errorf("%d orders; want 1: it had been taken", len(f.orders))
			}
		})
	}
}

// What the overlord refuses is final, also when it hears of the order late.
func TestRefusedLate(t *testing.T) {
	f := newFragile(t)
	f.events = func(_ *apipb.CallRequest, _ func(*apipb.CallEvent) error) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.orders = append(f.orders, "")
		if len(f.orders) == 1 {
			cut()
		}
		return call.Errorf(call.Unavailable, "the disk is full")
	}
	_, _, _, err := f.follow(t, client.Options{})
	if call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "the disk is full") || len(f.orders) != 2 {
		t.Errorf("error %v after %d orders; want the refusal after 2", err, len(f.orders))
	}
}

// The end of the caller's context ends the trying, and is what the caller sees.
func TestReconnectEndsWithTheCaller(t *testing.T) {
	f := newFragile(t)
	f.least, f.refuses = 3, call.Errorf(call.Unavailable, "going down")
	conn := impatient(t, f.state(t), ages, ages, ages)
	c, err := conn.Target("web*,nosuch", client.Options{Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	job, err := c.Call(ctx, "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	lost := 0
	for e, err := range job.Events() {
		if r, ok := e.(*client.Reconnecting); ok {
			if lost++; !r.OutputLost {
				t.Error("it is not said that live output is lost")
			}
			time.AfterFunc(10*time.Millisecond, func() { end(mine) })
		}
		if err != nil && !errors.Is(err, mine) {
			t.Errorf("error %v; want the cause of the context", err)
		}
	}
	if lost != 1 {
		t.Errorf("lost %d times; want 1", lost)
	}
}

// A job that was cancelled before the overlord had it is not sent again, and
// one that was on its way is withdrawn when it is there.
func TestCancelWhileLost(t *testing.T) {
	for name, arrives := range map[string]bool{"it never arrived": false, "it had arrived": true} {
		t.Run(name, func(t *testing.T) {
			f := newFragile(t)
			f.order = func(int) string { return "lost" }
			asked := 0
			f.cancel = func(string) (*apipb.CancelResponse, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if asked++; asked == 1 {
					cut()
				}
				if !f.begun {
					if asked == 2 {
						f.begun = arrives
						return nil, call.Errorf(call.NotFound, "no such job")
					}
				}
				return &apipb.CancelResponse{Skipped: "web[1,2]"}, nil
			}
			conn := impatient(t, f.state(t), ages, ages, ages)
			c, err := conn.Target("web*,nosuch", client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			job, err := c.Call(t.Context(), "test.ping", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer job.Close()
			if job.Accepted() {
				t.Error("accepted, and the order was lost")
			}
			if _, err := job.Cancel(t.Context()); err != nil {
				t.Errorf("Cancel = %v", err)
			}
			_, err = job.Groups()
			if arrives {
				if err != nil || asked != 3 {
					t.Errorf("Groups: %v, cancelled %d times; want no error, 3", err, asked)
				}
				return
			}
			if call.CodeOf(err) != call.Cancelled || len(f.orders) != 1 {
				t.Errorf("Groups: %v after %d orders; want cancelled after one", err, len(f.orders))
			}
		})
	}
}

func TestWatch(t *testing.T) {
	f := newFragile(t)
	f.begun, f.least = true, 2
	id := call.NewJobID(time.Now())
	f.jobs = func(req *apipb.JobsRequest) ([]*apipb.Job, error) {
		if req.GetJob() != id.String() {
			return nil, nil
		}
		return []*apipb.Job{{Job: id.String(), Method: "test.ping", Names: "web[1,2]", Unknown: "nosuch", Counts: &apipb.Counts{Targeted: 3}}}, nil
	}
	conn := impatient(t, f.state(t), ages, ages, ages)
	if _, err := conn.Watch(t.Context(), call.NewJobID(time.Now()), client.WatchOptions{}); call.CodeOf(err) != call.NotFound {
		t.Errorf("Watch of no job = %v; want not found", err)
	}
	job, err := conn.Watch(t.Context(), id, client.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	groups, err := job.Groups()
	if err != nil || len(groups) != 3 || job.Counts().Done() != 3 || !job.Accepted() {
		t.Errorf("Groups = %v, %v", groups, err)
	}

	// Now alone: it ends with the progress of a job that is open.
	f.watch = func(req *apipb.WatchRequest, send func(*apipb.CallEvent) error) error {
		if !req.GetNow() {
			t.Error("it waits")
		}
		return errors.Join(send(accepted()), send(group("web1", call.OK, "", "{}")), send(progressed(&apipb.Counts{Targeted: 3, Answered: 1})))
	}
	job, err = conn.Watch(t.Context(), id, client.WatchOptions{Now: true})
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	var last client.Event
	for e, err := range job.Events() {
		if err != nil {
			t.Fatal(err)
		}
		last = e
	}
	if _, ok := last.(*client.Progress); !ok || job.Counts().Answered != 1 {
		t.Errorf("ends with %T, counts %+v", last, job.Counts())
	}
}

func TestJobs(t *testing.T) {
	f := newFake(t)
	id := call.NewJobID(time.Now())
	f.jobs = func(req *apipb.JobsRequest) ([]*apipb.Job, error) {
		if req.GetLimit() != 7 || !req.GetOpen() || req.GetOperator() != "alice" || req.GetBefore() != id.String() {
			t.Errorf("asked %v", req)
		}
		return []*apipb.Job{{
			Job: id.String(), Operator: "alice", Method: "test.ping", Target: "web*", Names: "web1", CreatedMs: 1000, ExpiresMs: 2000,
			Counts: &apipb.Counts{Targeted: 1}, TimeoutMs: 1500, Wait: true, Waiting: "web1", Bare: true, Record: 5,
		}}, nil
	}
	conn := impatient(t, f.state(t), ages, ages, ages)
	got, err := conn.Jobs(t.Context(), client.JobFilter{Before: id, Limit: 7, Open: true, Operator: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	want := []client.JobInfo{{
		ID: id, Operator: "alice", Method: "test.ping", Target: "web*", Names: "web1", Created: time.UnixMilli(1000), Expires: time.UnixMilli(2000),
		Counts: call.Counts{Targeted: 1}, Timeout: 1500 * time.Millisecond, Wait: true, Waiting: "web1", Bare: true, Record: 5,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Jobs (-want +got):\n%s", diff)
	}
	if !got[0].Open() {
		t.Error("it is open")
	}
	f.jobs = func(*apipb.JobsRequest) ([]*apipb.Job, error) { return []*apipb.Job{{Job: "x"}}, nil }
	if _, err := conn.Jobs(t.Context(), client.JobFilter{}); call.CodeOf(err) != call.Internal {
		t.Errorf("Jobs of what cannot be read = %v", err)
	}
	if _, err := conn.Jobs(t.Context(), client.JobFilter{Limit: -1}); call.CodeOf(err) != call.Invalid {
		t.Errorf("Jobs(-1) = %v", err)
	}
}

func TestWait(t *testing.T) {
	f := newFake(t, "web1")
	c := newClient(t, f, "web1", client.Options{Wait: 24 * time.Hour})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	o, err := call.ParseOrder(f.calls[0].GetOrder())
	if err != nil {
		t.Fatal(err)
	}
	if life := o.Expiry.Sub(o.IssuedAt); life != 24*time.Hour || !f.calls[0].GetWait() {
		t.Errorf("the order lives %s, waits: %v; want 24h, true", life, f.calls[0].GetWait())
	}
	for _, opt := range []client.Options{{Wait: -1}, {Wait: call.MaxLife + 1}, {Confirmed: -1}} {
		opt.State = f.state(t)
		if _, err := client.New(t.Context(), "web1", opt); call.CodeOf(err) != call.Invalid {
			t.Errorf("New(%+v) = %v; want invalid", opt, err)
		}
	}
}
