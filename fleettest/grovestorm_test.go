//go:build fleet || soak

package fleettest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
func split(words string) []string                    { return strings.Fields(words) }

// groveStorms are orders by the map, given while overlords on the way and machines
// are killed, stopped and cut off.
type groveStorms struct {
	machines map[string]int // by the overlords that they have: how many
	rounds   int
	seed     uint64
	lasts    time.Duration // each storm
	limit    time.Duration // of a round until everything is accounted for
	drop     float64       // as in storms
	terms    bool          // overlords are ended with SIGTERM, too
}

// kind is a kind of order.
type kind struct {
	name    string
	wait    bool
	stream  bool
	timeout time.Duration // 0: none
	least   time.Duration // that the method runs
	most    time.Duration
	cancels bool
}

// kinds are the orders that are given. Two at a time are under way.
var kinds = []kind{
	{name: "waits", wait: true, least: 100 * time.Millisecond, most: 3 * time.Second},
	{name: "now", timeout: 20 * time.Second, least: 100 * time.Millisecond, most: 3 * time.Second},
	{name: "cancelled, waits", wait: true, least: 6 * time.Second, most: 8 * time.Second, cancels: true},
	{name: "live", stream: true, timeout: 20 * time.Second, least: time.Second, most: 3 * time.Second},
	{name: "waits, timed", wait: true, timeout: 15 * time.Second, least: 100 * time.Millisecond, most: 3 * time.Second},
	{name: "too slow", timeout: 2 * time.Second, least: 5 * time.Second, most: 6 * time.Second},
	{name: "cancelled", timeout: 30 * time.Second, least: 6 * time.Second, most: 8 * time.Second, cancels: true},
	{name: "live, waits", wait: true, stream: true, least: time.Second, most: 3 * time.Second},
}

// passage is one order through the grove.
type passage struct {
	kind
	g     *grove
	rand  *rand.Rand
	dir   string
	runs  time.Duration
	began time.Time

	mu   sync.Mutex
	id   call.JobID
	told map[string][]call.Result

	fates  map[string]*fate
	counts call.Counts
}

// fate is what became of one machine.
type fate struct {
	began, ended int // lines that the method wrote at its begin and at its end
	wrote        time.Time
	stored       []call.Result
	kills        []time.Time
	paused       time.Duration
}

func (w groveStorms) run(t *testing.T, binary string) {
	t.Logf("seed %d: %d rounds (DOMINION_SEED repeats it)", w.seed, w.rounds)
	g := newGrove(t, binary, w.seed, []string{fmt.Sprintf("DOMINION_FAULTS_DROP=%g", w.drop), fmt.Sprintf("DOMINION_FAULTS_DOUBLE=%g", 2*w.drop)}, w.machines)
	var past []*passage
	for n := range w.rounds {
		r := rand.New(rand.NewPCG(w.seed, uint64(n+1)))
		var pair []*passage
		for k := range 2 {
			pair = append(pair, newPassage(g, kinds[(2*n+k+int(w.seed))%len(kinds)], r, fmt.Sprintf("round%d-%d", n+1, k)))
		}
		bad := w.round(t, g, n+1, r, pair)
		past = append(past, pair...)
		if bad {
			break // what comes after would only repeat it
		}
	}
	g.settle(t)
	for _, p := range past {
		for name, f := range p.fates {
			if began, _, _ := p.lines(name); began != f.began {
				t.Errorf("%s: %s ran %d times at the end of its round, and %d by now", p.id, name, f.began, began)
			}
		}
	}
}

func newPassage(g *grove, k kind, r *rand.Rand, dir string) *passage {
	p := &passage{kind: k, g: g, rand: rand.New(rand.NewPCG(r.Uint64(), 1)), dir: filepath.Join(g.dir, dir), told: make(map[string][]call.Result), fates: make(map[string]*fate)}
	p.runs = k.least + time.Duration(p.rand.Int64N(int64(k.most-k.least)))
	return p
}

// round gives the orders, lets the storm pass over them and tells what was wrong.
func (w groveStorms) round(t *testing.T, g *grove, n int, r *rand.Rand, pair []*passage) (bad bool) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), w.limit, fmt.Errorf("the round is not over after %s", w.limit))
	defer cancel()
	began := time.Now()
	errs := make(chan error, len(pair))
	for _, p := range pair {
		go func() { errs <- p.order(ctx) }()
	}
	acts := w.storm(g, r)
	if names := g.fallen(); len(names) > 0 {
		t.Errorf("ended by themselves: %v", names)
	}
	var all []error
	for range pair {
		if err := <-errs; err != nil {
			all = append(all, fmt.Errorf("the client: %w", err))
		}
	}
	for _, p := range pair {
		if err := p.read(ctx); err != nil {
			all = append(all, err)
			continue
		}
		all = append(all, p.check()...)
		t.Logf("round %d, %s, %s, runs %s: %s; %s", n, p.name, p.id, p.runs.Round(time.Millisecond), p.sum(), p.codes())
	}
	t.Logf("round %d took %s: %s", n, time.Since(began).Round(100*time.Millisecond), acts)
	for i, err := range all {
		if i < mostTold {
			t.Errorf("round %d: %v", n, err)
		}
	}
	return len(all) > 0
}

// order gives the order and reads its results as an operator would.
func (p *passage) order(ctx context.Context) error {
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return err
	}
	opt := client.Options{Delegate: true, Confirmed: len(p.g.leaves), Stream: p.stream, Timeout: -1}
	if p.timeout > 0 {
		opt.Timeout = p.timeout
	}
	if p.wait {
		opt.Wait = 10 * time.Minute
	}
	p.began = time.Now()
	script := fmt.Sprintf(`echo ran >>"%[1]s/$DOMINION_MACHINE"; echo out; sleep %.3[2]f; echo end >>"%[1]s/$DOMINION_MACHINE.end"; echo over`, p.dir, p.runs.Seconds())
	var j *client.Job
	for {
		c, err := p.g.top.conn.Target("m*", opt)
		if err != nil {
			return err
		}
		if j, err = c.Call(ctx, "command.shell", map[string]any{"script": script}); err == nil {
			break
		}
		if j != nil || ctx.Err() != nil || call.CodeOf(err) == call.Invalid {
			return err
		}
		<-time.After(100 * time.Millisecond) // the top was away before the order was made
	}
	p.mu.Lock()
	p.id = j.ID
	p.mu.Unlock()
	if p.cancels {
		after := 200*time.Millisecond + time.Duration(p.rand.Int64N(int64(3*time.Second)))
		go p.cancel(ctx, after)
	}
	for e, err := range j.Events() {
		if err != nil {
			return fmt.Errorf("%s (%s): %w", p.id, p.name, err)
		}
		if group, ok := e.(*client.Group); ok {
			for res := range group.Results() {
				p.told[res.Machine] = append(p.told[res.Machine], res)
			}
		}
	}
	return nil
}

// cancel withdraws the order once the top takes that.
func (p *passage) cancel(ctx context.Context, after time.Duration) {
	for wait := after; ; wait = 100 * time.Millisecond {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		_, err := p.g.top.conn.Fleet.Cancel(ctx, connect.NewRequest(&apipb.CancelRequest{Job: p.id.String()}))
		if err == nil {
			return
		}
	}
}

// read learns what became of the order.
func (p *passage) read(ctx context.Context) error {
	for _, l := range p.g.leaves {
		f := &fate{kills: l.killsSince(p.began), paused: l.pausedSince(p.began)}
		f.began, f.ended, f.wrote = p.lines(l.name)
		p.fates[l.name] = f
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		job, results, err := p.g.top.job(ctx, p.id.String())
		if err == nil && job.ClosedMs > 0 {
			k := job.Counts
			p.counts = call.Counts{Targeted: int(k.GetTargeted()), Answered: int(k.GetAnswered()), Failed: int(k.GetFailed()), Unreachable: int(k.GetUnreachable()), Skipped: int(k.GetSkipped())}
			for _, r := range results {
				f := p.fates[r.Machine]
				if f == nil {
					return fmt.Errorf("%s: a result of %s is stored, which was not asked", p.id, r.Machine)
				}
				f.stored = append(f.stored, r)
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s (%s): %w: %v, %v", p.id, p.name, context.Cause(ctx), job, err)
		}
	}
}

// job gives what an overlord has stored of a job.
func (h *hop) job(ctx context.Context, id string) (*apipb.Job, []call.Result, error) {
	resp, err := h.conn.Fleet.Jobs(ctx, connect.NewRequest(&apipb.JobsRequest{Job: id}))
	if err != nil {
		return nil, nil, err
	}
	stream, err := h.conn.Fleet.Watch(ctx, connect.NewRequest(&apipb.WatchRequest{Job: id, Now: true}))
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	var out []call.Result
	for stream.Receive() {
		if g := stream.Msg().GetResults(); g != nil {
			names, err := expandNames(g.Names)
			if err != nil {
				return nil, nil, err
			}
			for _, n := range names {
				out = append(out, call.Result{Machine: n, Code: call.Code(g.Code), Detail: g.Detail, Output: g.Output})
			}
		}
	}
	return resp.Msg.Jobs[0], out, stream.Err()
}

func (p *passage) lines(name string) (began, ended int, first time.Time) {
	count := func(path string) int {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.g.t.Error(err)
		}
		return strings.Count(string(b), "\n")
	}
	path := filepath.Join(p.dir, name)
	if info, err := os.Stat(path); err == nil {
		first = info.ModTime()
	}
	return count(path), count(path + ".end"), first
}

func (p *passage) sum() string {
	ran := 0
	for _, f := range p.fates {
		ran += f.began
	}
	return fmt.Sprintf("ran %d, answered %d, failed %d, unreachable %d, skipped %d of %d", ran, p.counts.Answered, p.counts.Failed, p.counts.Unreachable, p.counts.Skipped, p.counts.Targeted)
}

// codes tells which results there are that are no answers.
func (p *passage) codes() string {
	by := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(p.fates)) {
		for _, r := range p.fates[name].stored {
			if r.Code != call.OK {
				by[fmt.Sprintf("%s: %.90s", r.Code, r.Detail)] = append(by[fmt.Sprintf("%s: %.90s", r.Code, r.Detail)], name)
			}
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, strings.Join(by[k], ",")+" "+k)
	}
	return strings.Join(out, " | ")
}

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

// storm breaks things at random, mends them at its end and tells what they were.
func (w groveStorms) storm(g *grove, r *rand.Rand) string {
	var acts []string
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	for _, h := range g.overlords() {
		h.door.CutAfter(9, []int{12, 20, 60}[r.IntN(3)])
	}
	var mending sync.WaitGroup
	end := time.Now().Add(w.lasts)
	<-time.After(upTo(400 * time.Millisecond))
	for first := true; first || time.Now().Before(end); first = false {
		acts = append(acts, w.act(g, r, &mending))
		<-time.After(200*time.Millisecond + upTo(w.lasts/2))
	}
	mending.Wait()
	for _, h := range g.overlords() {
		h.door.CutAfter(0, 0)
		h.up()
	}
	for _, l := range g.leaves {
		l.up()
	}
	return strings.Join(acts, ", ")
}

// act does one of the things that can go wrong.
func (w groveStorms) act(g *grove, r *rand.Rand, mending *sync.WaitGroup) string {
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	kill := func(a *agent) string {
		away := upTo(2 * time.Second)
		a.kill()
		mending.Go(func() { <-time.After(away); a.up() })
		return a.name
	}
	some := func(part float64) (names []string) {
		for _, l := range g.leaves {
			if r.Float64() < part {
				names = append(names, kill(l.agent))
			}
		}
		return names
	}
	hops := func(part float64) (names []string) {
		for _, h := range g.hops {
			if r.Float64() < part {
				names = append(names, kill(h.agent))
			}
		}
		return names
	}
	any := g.hops[r.IntN(len(g.hops))]
	switch r.IntN(9) {
	case 0:
		return "killed " + kill(g.top.agent)
	case 1:
		return "killed " + kill(any.agent)
	case 2:
		return "killed " + strings.Join(hops(0.6), " ")
	case 3:
		return "killed " + kill(g.top.agent) + " " + strings.Join(hops(0.4), " ")
	case 4:
		return "killed " + strings.Join(some(0.2), " ")
	case 5:
		mending.Go(func() { any.pause(5 * time.Second) })
		return "stopped " + any.name
	case 6:
		var names []string
		for _, l := range g.leaves {
			if r.IntN(5) == 0 {
				names = append(names, l.name)
				mending.Go(func() { l.pause(5 * time.Second) })
			}
		}
		return "stopped " + strings.Join(names, " ")
	case 7:
		any.door.CutAll()
		g.top.door.CutAll()
		return "cut off " + any.name + " and the top"
	}
	if !w.terms {
		return "killed " + kill(any.agent) + " " + strings.Join(some(0.1), " ")
	}
	mending.Go(func() { any.end(45 * time.Second); any.up() })
	return "ended " + any.name
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
