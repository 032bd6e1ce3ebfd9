//go:build fleet || soak

package fleettest_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
)

// check gives everything that must not be.
func (p *passage) check() (bad []error) {
	say := func(name, format string, args ...any) {
		f := p.fates[name]
		bad = append(bad, fmt.Errorf("%s (%s): %s: %s (it began %d times and ended %d times, %s; kills %s, stopped for %s; stored %s)", p.id, p.name, name,
			fmt.Sprintf(format, args...), f.began, f.ended, clock(f.wrote), clock(f.kills...), f.paused, brief(f.stored)))
	}
	var sum call.Counts
	for _, name := range slices.Sorted(maps.Keys(p.fates)) {
		f := p.fates[name]
		if f.began > 1 || f.ended > 1 {
			say(name, "it ran more than once")
		}
		if len(f.stored) != 1 {
			say(name, "%d results are stored", len(f.stored))
			continue
		}
		r := f.stored[0]
		sum.Add(r.Status(), 1)
		if told := p.told[name]; len(told) != 1 || told[0].Code != r.Code || string(told[0].Output) != string(r.Output) {
			say(name, "the client was told %s", brief(told))
		}
		if why := p.wrong(f, r); why != "" {
			say(name, "%s", why)
		}
	}
	sum.Targeted = len(p.fates)
	if p.counts != sum || sum.Done() != sum.Targeted {
		bad = append(bad, fmt.Errorf("%s: the top counts %+v; its results are %+v", p.id, p.counts, sum))
	}
	return bad
}

// slack is how late a busy machine may be with anything.
const slack = 3 * time.Second

// wrong says why a result cannot be; empty: it can.
func (p *passage) wrong(f *fate, r call.Result) string {
	killed := slices.ContainsFunc(f.kills, func(k time.Time) bool {
		return f.wrote.IsZero() || k.After(f.wrote.Add(-slack)) && k.Before(f.wrote.Add(p.runs+f.paused+slack))
	})
	never := r.Code == call.NoSession || r.Code == call.Expired || r.Code == call.Busy || r.Code == call.Cancelled && strings.HasPrefix(r.Detail, "cancelled before")
	patient := p.wait && !p.cancels
	switch {
	case r.Code == call.OK && f.ended == 0:
		return "it answered, and did not run to its end"
	case r.Code == call.OK:
	case r.Code == call.Unknown && killed:
	case r.Code == call.Unknown:
		return "unknown, and its agent was not killed while the method ran"
	case never && f.began > 0:
		return "it is told never to have begun"
	case patient:
		return "an order that waits is answered"
	case r.Code == call.Cancelled && !p.cancels:
		return "nobody cancelled it"
	case r.Code == call.Timeout && p.timeout == 0:
		return "it had no time-out"
	case slices.Contains([]call.Code{call.NoSession, call.SessionLost, call.NoAnswer, call.Cancelled, call.Timeout, call.Unavailable}, r.Code):
	default:
		return "there is no reason for that"
	}
	return ""
}

// settle looks, when all is back, whether anything is left over.
func (g *grove) settle(t *testing.T) {
	t.Helper()
	for _, l := range g.leaves {
		for _, h := range l.above {
			h.holds(t, l.name)
		}
	}
	var left string
	late := time.After(50 * time.Second)
	for left = g.left(t); left != ""; left = g.left(t) {
		select {
		case <-late:
			t.Errorf("left over: %s", left)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
	for _, h := range g.overlords() {
		g.accounts(t, h)
		if out, err := command(t, g.binary, "audit", "verify", "--state", h.state); err != nil {
			t.Errorf("%s: audit verify: %v\n%s", h.name, err, out)
		}
	}
	g.goroutines(t)
}

// left names jobs that are open and processes of commands; empty: there are none.
func (g *grove) left(t *testing.T) string {
	var out []string
	for _, h := range g.overlords() {
		resp, err := h.conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Open: true}))
		if err != nil {
			out = append(out, fmt.Sprintf("%s: %v", h.name, err))
			continue
		}
		for _, j := range resp.Msg.Jobs {
			out = append(out, fmt.Sprintf("%s: job %s is open, cancelled %v, for %s, waiting for %s", h.name, j.Job, j.CancelledMs > 0, j.Names, j.Waiting))
		}
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), filepath.Join(g.dir, "round")) {
			out = append(out, fmt.Sprintf("a process: %q", b))
		}
	}
	return strings.Join(out, "; ")
}

// accounts holds every job of an overlord against its results.
func (g *grove) accounts(t *testing.T, h *hop) {
	t.Helper()
	resp, err := h.conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Limit: 1000}))
	if err != nil {
		t.Error(err)
		return
	}
	for _, j := range resp.Msg.Jobs {
		j, results, err := h.job(t.Context(), j.Job)
		if err != nil {
			t.Errorf("%s: %v", h.name, err)
			continue
		}
		want, err := expandNames(j.Names)
		if err != nil {
			t.Error(err)
			continue
		}
		var sum call.Counts
		var got []string
		for _, r := range results {
			sum.Add(r.Status(), 1)
			got = append(got, r.Machine)
		}
		slices.Sort(got)
		k := j.Counts
		counts := call.Counts{Answered: int(k.GetAnswered()), Failed: int(k.GetFailed()), Unreachable: int(k.GetUnreachable()), Skipped: int(k.GetSkipped())}
		if !slices.Equal(got, want) || sum != counts || int(k.GetTargeted()) != len(want) {
			t.Errorf("%s: job %s is for %v, has results of %v, and counts %+v; they add up to %+v", h.name, j.Job, want, got, k, sum)
		}
	}
}

// goroutines ends the overlords and looks in what they tell then for work on orders.
func (g *grove) goroutines(t *testing.T) {
	t.Helper()
	for _, h := range g.overlords() {
		h.mu.Lock()
		before, err := os.ReadFile(h.log)
		if err != nil {
			t.Error(err)
		}
		h.signal(syscall.SIGQUIT)
		<-h.ended
		h.cmd = nil
		h.mu.Unlock()
		b, err := os.ReadFile(h.log)
		if err != nil {
			t.Error(err)
		}
		dump := string(b[len(before):])
		if !strings.Contains(dump, "goroutine ") {
			t.Errorf("%s tells no goroutines: %.300q", h.name, dump)
		}
		for _, one := range strings.Split(dump, "\n\n") {
			for _, word := range []string{"dominion/job.", "(*hopCall)", "(*eventReader)", "(*running)", "answerParent", "serveDelegation", "sendOutput"} {
				if strings.Contains(one, word) {
					t.Errorf("%s: a goroutine is left of an order: %.1500s", h.name, one)
					break
				}
			}
		}
	}
}

func brief(results []call.Result) string {
	var out []string
	for _, r := range results {
		out = append(out, fmt.Sprintf("%s (%.200q %.60s)", r.Code, r.Detail, r.Output))
	}
	return fmt.Sprint(out)
}

func clock(times ...time.Time) string {
	var out []string
	for _, t := range times {
		out = append(out, t.Format("15:04:05.000"))
	}
	return fmt.Sprint(out)
}

// TestFleetTreeLedger: what must not be is found.
func TestFleetTreeLedger(t *testing.T) {
	now := time.Now()
	ran := func(r call.Result) *fate { return &fate{began: 1, ended: 1, wrote: now, stored: []call.Result{r}} }
	for _, test := range []struct {
		name string
		kind kind
		fate *fate
		want string // empty: nothing
	}{
		{"answered", kind{wait: true}, ran(call.Result{}), ""},
		{"twice", kind{}, &fate{began: 2, ended: 1, stored: []call.Result{{}}}, "it ran more than once"},
		{"never", kind{}, &fate{stored: []call.Result{{}}}, "did not run to its end"},
		{"no result", kind{}, &fate{began: 1}, "0 results are stored"},
		{"two results", kind{}, &fate{began: 1, ended: 1, stored: []call.Result{{}, {}}}, "2 results are stored"},
		{"lost, and it waits", kind{wait: true}, ran(call.Result{Code: call.SessionLost}), "an order that waits is answered"},
		{"lost", kind{}, ran(call.Result{Code: call.SessionLost}), ""},
		{"no session, and it ran", kind{}, ran(call.Result{Code: call.NoSession}), "told never to have begun"},
		{"cancelled before, and it ran", kind{cancels: true}, ran(call.Result{Code: call.Cancelled, Detail: "cancelled before it was sent"}), "told never to have begun"},
		{"cancelled", kind{cancels: true}, ran(call.Result{Code: call.Cancelled, Detail: "withdrawn"}), ""},
		{"cancelled by nobody", kind{}, ran(call.Result{Code: call.Cancelled, Detail: "withdrawn"}), "nobody cancelled it"},
		{"late without a time-out", kind{}, ran(call.Result{Code: call.Timeout}), "it had no time-out"},
		{"unknown", kind{}, ran(call.Result{Code: call.Unknown}), "was not killed while"},
		{"unknown, killed", kind{wait: true}, &fate{began: 1, wrote: now, kills: []time.Time{now.Add(time.Second)}, stored: []call.Result{{Code: call.Unknown}}}, ""},
		{"internal", kind{cancels: true}, ran(call.Result{Code: call.Internal}), "there is no reason for that"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &passage{kind: test.kind, told: map[string][]call.Result{"m1": test.fate.stored}, fates: map[string]*fate{"m1": test.fate}, counts: call.Counts{Targeted: 1}}
			for _, r := range test.fate.stored {
				p.counts.Add(r.Status(), 1)
			}
			bad := p.check()
			if test.want == "" && len(bad) > 0 || test.want != "" && (len(bad) == 0 || !strings.Contains(bad[0].Error(), test.want)) {
				t.Errorf("found %v; want %q", bad, test.want)
			}
		})
	}
	p := &passage{told: map[string][]call.Result{"m1": {{Code: call.Failed}}}, fates: map[string]*fate{"m1": ran(call.Result{})}, counts: call.Counts{Targeted: 1, Failed: 1}}
	if bad := p.check(); len(bad) != 2 {
		t.Errorf("a client and counts that tell something else: %v; want two errors", bad)
	}
}
