package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func TestCallSignsExactlyWhatWasResolved(t *testing.T) {
	f := newFake(t, "db1", "web1", "web2", "web3")
	c := newClient(t, f, "web*,nosuch", client.Options{Exclude: "web3", Timeout: 3 * time.Second})
	job, err := c.Call(t.Context(), "test.echo", map[string]any{"text": "<&>"})
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	got := map[string]call.Code{}
	for r, err := range job.Results() {
		if err != nil {
			t.Fatal(err)
		}
		got[r.Machine] = r.Code
	}
	if diff := cmp.Diff(map[string]call.Code{"web1": call.OK, "web2": call.OK, "nosuch": call.UnknownName}, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if want := (call.Counts{Targeted: 3, Answered: 2, Unreachable: 1}); job.Counts() != want {
		t.Errorf("Counts = %+v; want %+v", job.Counts(), want)
	}
	checkOrder(t, f.calls[0], job, []string{"web1", "web2"})
	if r := f.calls[0]; r.GetUnknown() != "nosuch" || r.GetTimeoutMs() != 3000 || string(r.GetArgs()) != `{"text":"<&>"}` {
		t.Errorf("sent unknown %q, time-out %d, arguments %s", r.GetUnknown(), r.GetTimeoutMs(), r.GetArgs())
	}
}

// checkOrder does what a minion does.
func checkOrder(t *testing.T, r *apipb.CallRequest, job *client.Job, names []string) {
	t.Helper()
	o, err := call.ParseOrder(r.GetOrder())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(r.GetOperatorCert())
	if err != nil {
		t.Fatal(err)
	}
	if err := call.VerifySignature(cert.PublicKey.(*ecdsa.PublicKey), r.GetOrder(), r.GetSignature()); err != nil {
		t.Error(err)
	}
	tree, err := call.NewNames(names)
	if err != nil {
		t.Fatal(err)
	}
	if o.Job != job.ID || o.Root != tree.Root() || o.Count != len(names) || o.ArgsDigest != call.Digest(r.GetSalt(), r.GetArgs()) {
		t.Errorf("order %+v does not bind job %s, machines %q and the arguments", o, job.ID, names)
	}
	if err := o.CheckTime(time.Now()); err != nil {
		t.Error(err)
	}
	if life := o.Expiry.Sub(o.IssuedAt); life != client.OrderLife {
		t.Errorf("the order lives %s; want %s", life, client.OrderLife)
	}
}

func TestTimeout(t *testing.T) {
	f := newFake(t, "web1")
	for _, tt := range []struct {
		name string
		opt  time.Duration
		want uint64
	}{
		{"the method's own", 0, 60_000}, {"given", 2 * time.Second, 2000}, {"none", -1, 0}, {"never rounded to none", 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, f, "web1", client.Options{Timeout: tt.opt})
			job, err := c.Call(t.Context(), "test.ping", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer job.Close()
			if _, err := job.Groups(); err != nil {
				t.Fatal(err)
			}
			if got := f.calls[len(f.calls)-1].GetTimeoutMs(); got != tt.want {
				t.Errorf("time-out %d ms; want %d", got, tt.want)
			}
		})
	}
}

// An overlord that lies about what a target names gets no order.
func TestResolutionIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		opt          client.Options
		says         *apipb.ResolveResponse
		want         call.Code
		words        string
	}{
		{"a machine too many", "web*", client.Options{}, &apipb.ResolveResponse{Names: "db1,web1"}, call.Internal, `"db1"`},
		{"a foreign unknown name", "web1", client.Options{}, &apipb.ResolveResponse{Names: "web1", Unknown: "db1"}, call.Internal, `"db1"`},
		{"an excluded machine", "web*", client.Options{Exclude: "web2"}, &apipb.ResolveResponse{Names: "web[1,2]"}, call.Internal, "excludes"},
		{"an excluded machine of a group", "@web", client.Options{Exclude: "web2"}, &apipb.ResolveResponse{Names: "web[1,2]"}, call.Internal, "excludes"},
		{"more than the limit", "web*", client.Options{Limit: 1}, &apipb.ResolveResponse{Names: "web[1,2]"}, call.TooMany, "limit is 1"},
		{"nothing", "rack9-*", client.Options{}, &apipb.ResolveResponse{}, call.NoMatch, `no minion matches "rack9-*"`},
		{"no list", "web*", client.Options{}, &apipb.ResolveResponse{Names: "web[1-"}, call.Internal, "cannot be read"},
		{"claims a group", "web*", client.Options{}, &apipb.ResolveResponse{Names: "db1", UsesGroups: true}, call.Internal, `"db1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.resolve = func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error) { return tt.says, nil }
			c := newClient(t, f, tt.target, tt.opt)
			_, err := c.Call(t.Context(), "test.ping", nil)
			if got := call.CodeOf(err); got != tt.want || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Call = %v; want code %v and %q", err, tt.want, tt.words)
			}
			if len(f.calls) != 0 {
				t.Errorf("%d orders were sent", len(f.calls))
			}
		})
	}
}

func TestGroupsAreTaken(t *testing.T) {
	f := newFake(t, "db1", "web1")
	f.groups = map[string][]string{"all": {"db1", "web1"}}
	c := newClient(t, f, "@all", client.Options{})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	if !job.UsesGroups || job.Targeted() != 2 {
		t.Errorf("UsesGroups %v, targeted %d; want true, 2", job.UsesGroups, job.Targeted())
	}
}

// When nobody knows any of the names nothing is signed, and all are accounted for.
func TestOnlyUnknownNames(t *testing.T) {
	f := newFake(t, "web1")
	c := newClient(t, f, "nosuch1,nosuch2", client.Options{})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := job.Groups()
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 || len(groups[0].Names) != 2 || groups[0].Status != call.Unreachable || client.Failures(groups) != 2 {
		t.Errorf("Groups = %+v; want one of two unreachable names", groups)
	}
	if want := (call.Counts{Targeted: 2, Unreachable: 2}); job.Counts() != want || !job.ID.IsZero() || len(f.calls) != 0 {
		t.Errorf("Counts = %+v, id %s, %d orders; want %+v, none, none", job.Counts(), job.ID, len(f.calls), want)
	}
	if c, err := job.Cancel(t.Context()); err != nil || len(c.Running)+len(c.Skipped) != 0 {
		t.Errorf("Cancel = %v, %v", c, err)
	}
}

func TestArgumentsAreCheckedFirst(t *testing.T) {
	f := newFake(t, "web1")
	c := newClient(t, f, "web1", client.Options{})
	for _, tt := range []struct {
		name, method string
		args         any
		want         call.Code
		words        string
	}{
		{"unknown field", "test.ping", map[string]any{"x": 1}, call.Invalid, "x"},
		{"wrong type", "test.add", map[string]any{"a": "one", "b": 2}, call.Invalid, "a"},
		{"not an object", "test.ping", json.RawMessage(`[1]`), call.Invalid, "object"},
		{"not JSON", "test.ping", json.RawMessage(`{`), call.Invalid, ""},
		{"no JSON form", "test.ping", func() {}, call.Invalid, "arguments"},
		{"too large", "test.echo", map[string]any{"text": strings.Repeat("a", call.MaxArgs)}, call.Invalid, "more than"},
		{"no such method", "test.nosuch", nil, call.NotFound, "test.ping"},
		{"no such module", "nosuch.ping", nil, call.NotFound, "dominion modules"},
		{"not a method", "ping", nil, call.Invalid, "module.method"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Call(t.Context(), tt.method, tt.args)
			if got := call.CodeOf(err); got != tt.want || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Call = %v; want code %v and %q", err, tt.want, tt.words)
			}
		})
	}
	if len(f.calls) != 0 {
		t.Errorf("%d orders were sent", len(f.calls))
	}
}

// Whatever the overlord sends, a job ends with every machine accounted for or
// with an error that names the job.
func TestJobsThatDoNotAddUp(t *testing.T) {
	four := &apipb.Counts{Targeted: 2, Answered: 2}
	for _, tt := range []struct {
		name   string
		events []*apipb.CallEvent
		fail   error
		words  string
	}{
		{"ends without a word", []*apipb.CallEvent{accepted(), group("web1", call.OK, "", "{}")}, nil, "1 of 2 machines"},
		{"ends with an error", []*apipb.CallEvent{accepted()}, call.Errorf(call.Unavailable, "going down"), "going down"},
		{"a machine without a result", []*apipb.CallEvent{accepted(), group("web1", call.OK, "", "{}"), closed(four)}, nil, `"web2"`},
		{"other counts", []*apipb.CallEvent{accepted(), group("web[1,2]", call.OK, "", "{}"), closed(&apipb.Counts{Targeted: 2, Failed: 2})}, nil, "add up"},
		{"a result twice", []*apipb.CallEvent{accepted(), group("web1", call.OK, "", "{}"), group("web1", call.OK, "", "{}")}, nil, "answered before"},
		{"a foreign machine", []*apipb.CallEvent{accepted(), group("db1", call.OK, "", "{}")}, nil, `"db1"`},
		{"names that are none", []*apipb.CallEvent{accepted(), {Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{Names: "web[1-"}}}}, nil, "cannot be read"},
		{"output of a machine that is none", []*apipb.CallEvent{accepted(), live("web1\x1b[2J", "stdout")}, nil, `"web1\x1b[2J"`},
		{"output of a foreign machine", []*apipb.CallEvent{accepted(), live("db1", "stdout")}, nil, `"db1"`},
		{"a foreign stream", []*apipb.CallEvent{accepted(), live("web1", "stdlog")}, nil, `"stdlog"`},
		{"not accepted, foreign", []*apipb.CallEvent{group("db1", call.OK, "", "{}")}, nil, `"db1"`},
		{"nothing at all", nil, nil, "before it accepted"},
		{"refused", nil, call.Errorf(call.Denied, "role web may not"), "role web may not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1", "web2")
			f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
				for _, e := range tt.events {
					if err := send(e); err != nil {
						return err
					}
				}
				return tt.fail
			}
			c := newClient(t, f, "web*", client.Options{Reconnect: -1})
			job, err := c.Call(t.Context(), "test.ping", nil)
			if err == nil {
				defer job.Close()
				_, err = job.Groups()
			}
			o, perr := call.ParseOrder(f.calls[0].GetOrder())
			if perr != nil {
				t.Fatal(perr)
			}
			if err == nil || !strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), o.Job.String()) {
				t.Errorf("error %v; want one with %q and the job's id", err, tt.words)
			}
			if tt.fail != nil && call.CodeOf(err) != call.CodeOf(tt.fail) {
				t.Errorf("code %v; want %v", call.CodeOf(err), call.CodeOf(tt.fail))
			}
		})
	}
}

func live(machine, stream string) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: machine, Stream: stream, Data: []byte("x")}}}
}

func TestEventsOfEveryKind(t *testing.T) {
	f := newFake(t, "web1")
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		return errors.Join(
			send(&apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: "web1", Stream: "stdout", Data: []byte("x"), Dropped: 3}}}), // before accepted
			send(&apipb.CallEvent{}), // of a later version
			send(&apipb.CallEvent{Event: &apipb.CallEvent_Progress{Progress: &apipb.Progress{Counts: &apipb.Counts{Targeted: 1}, Waiting: "web1", Problem: "full disk"}}}),
			send(&apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{Names: "web1", Status: 99, Code: uint32(call.Timeout), TookUs: []uint64{1500}}}}),
			send(closed(&apipb.Counts{Targeted: 1, Failed: 1})),
		)
	}
	c := newClient(t, f, "web1", client.Options{Stream: true})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	var got []client.Event
	for e, err := range job.Events() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []client.Event{
		&client.Output{Machine: "web1", Stream: "stdout", Data: []byte("x"), Dropped: 3},
		&client.Progress{Counts: call.Counts{Targeted: 1}, Waiting: "web1", Problem: "full disk"},
		&client.Group{Names: []string{"web1"}, Status: call.DidFail, Code: call.Timeout, Took: []time.Duration{1500 * time.Microsecond}},
		&client.Closed{Counts: call.Counts{Targeted: 1, Failed: 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if !f.calls[0].GetStream() {
		t.Error("live output was not asked for")
	}
}

func TestCancel(t *testing.T) {
	f := newFake(t, "web1", "web2")
	cancelled := make(chan struct{})
	f.events = func(req *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		if err := send(accepted()); err != nil {
			return err
		}
		<-cancelled
		return errors.Join(send(group("web1", call.OK, "", "{}")), send(group("web2", call.Cancelled, "", "")),
			send(closed(&apipb.Counts{Targeted: 2, Answered: 1, Skipped: 1})))
	}
	f.cancel = func(string) (*apipb.CancelResponse, error) {
		close(cancelled)
		return &apipb.CancelResponse{Running: "web1", Skipped: "web2"}, nil
	}
	c := newClient(t, f, "web*", client.Options{})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	left, err := job.Cancel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(client.Cancelled{Running: []string{"web1"}, Skipped: []string{"web2"}}, left); diff != "" {
		t.Errorf("Cancel (-want +got):\n%s", diff)
	}
	groups, err := job.Groups()
	if err != nil || len(groups) != 2 || groups[1].Status != call.Skipped {
		t.Errorf("Groups = %+v, %v; want one answered, one skipped", groups, err)
	}
}

// The caller's own end is what the caller sees, not what HTTP makes of it.
func TestContextEnds(t *testing.T) {
	f := newFake(t, "web1")
	release := make(chan struct{})
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		if err := send(accepted()); err != nil {
			return err
		}
		<-release
		return nil
	}
	defer close(release)
	c := newClient(t, f, "web1", client.Options{})
	mine := errors.New("mine")
	ctx, cancel := context.WithCancelCause(t.Context())
	job, err := c.Call(ctx, "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	cancel(mine)
	if _, err := job.Groups(); !errors.Is(err, mine) {
		t.Errorf("Groups = %v; want the cause of the context", err)
	}
}

func TestPing(t *testing.T) {
	pong := func(n string, c call.Code) *apipb.Pong {
		return &apipb.Pong{Machine: n, Status: uint32(call.StatusOf(c)), Code: uint32(c), TookUs: 250}
	}
	for _, tt := range []struct {
		name   string
		events []*apipb.PingEvent
		fail   error
		code   call.Code
		want   call.Counts
	}{
		{
			"all",
			[]*apipb.PingEvent{{Pongs: []*apipb.Pong{pong("web1", call.OK)}}, {Pongs: []*apipb.Pong{pong("web2", call.NoAnswer)}, Closed: &apipb.Counts{Targeted: 2, Answered: 1, Unreachable: 1}}},
			nil, call.OK,
			call.Counts{Targeted: 2, Answered: 1, Unreachable: 1},
		},
		{"nobody", []*apipb.PingEvent{{Closed: &apipb.Counts{}}}, nil, call.NoMatch, call.Counts{}},
		{"does not add up", []*apipb.PingEvent{{Pongs: []*apipb.Pong{pong("web1", call.OK)}, Closed: &apipb.Counts{Targeted: 2, Answered: 2}}}, nil, call.Internal, call.Counts{}},
		{"no name", []*apipb.PingEvent{{Pongs: []*apipb.Pong{pong("../x", call.OK)}}}, nil, call.Internal, call.Counts{}},
		{"ends early", nil, nil, call.Internal, call.Counts{}},
		{"refused", nil, call.Errorf(call.TooMany, "3 machines"), call.TooMany, call.Counts{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.ping = func(req *apipb.PingRequest, send func(*apipb.PingEvent) error) error {
				if req.GetTimeoutMs() != 5000 || req.GetTarget() != "web*" {
					t.Errorf("asked %v", req)
				}
				for _, e := range tt.events {
					if err := send(e); err != nil {
						return err
					}
				}
				return tt.fail
			}
			c := newClient(t, f, "web*", client.Options{})
			pings, err := c.Ping(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer pings.Close()
			var last error
			for r, err := range pings.Results() {
				if last = err; err == nil && r.Took != 250*time.Microsecond {
					t.Errorf("took %s; want 250 µs", r.Took)
				}
			}
			if call.CodeOf(last) != tt.code {
				t.Errorf("error %v; want code %v", last, tt.code)
			}
			if tt.code == call.OK && pings.Counts() != tt.want {
				t.Errorf("Counts = %+v; want %+v", pings.Counts(), tt.want)
			}
		})
	}
}

func TestBadTargets(t *testing.T) {
	f := newFake(t)
	state := f.state(t)
	for name, opt := range map[string]client.Options{"web[": {}, "web1": {Exclude: "web["}, "web2": {Limit: -1}} {
		opt.State = state
		if _, err := client.New(t.Context(), name, opt); call.CodeOf(err) != call.Invalid {
			t.Errorf("New(%q) = %v; want invalid", name, err)
		}
	}
}
