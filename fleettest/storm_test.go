//go:build fleet || soak

package fleettest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
)

// storms are orders given while everything breaks.
type storms struct {
	machines int
	rounds   int
	seed     uint64
	lasts    time.Duration // each storm
	limit    time.Duration // of a round until everything is accounted for
	drop     float64       // part of RESULT and ACK frames that get lost; twice as many are doubled
}

// mostTold is how many findings of a round are told.
const mostTold = 20

// run carries the rounds out and checks each.
func (w storms) run(t *testing.T, binary string) {
	t.Logf("seed %d: %d machines, %d rounds (DOMINION_SEED repeats it)", w.seed, w.machines, w.rounds)
	s := newSite(t, binary, w.machines, w.seed, fmt.Sprintf("DOMINION_FAULTS_DROP=%g", w.drop), fmt.Sprintf("DOMINION_FAULTS_DOUBLE=%g", 2*w.drop))
	var past []*round
	for i := range w.rounds {
		r := &round{s: s, storms: w, n: i + 1, rand: rand.New(rand.NewPCG(w.seed, uint64(i+1)))}
		began := time.Now()
		bad := r.run(t.Context(), "")
		ran, c := r.ledger.Counted()
		t.Logf("round %d (%s): %s: ran %d, answered %d, unknown or failed %d, unreachable %d, skipped %d of %d; the last was %s; cuts %d, %s", i+1, time.Since(began).Round(time.Millisecond*100),
			r.job, ran, c.Answered, c.Failed, c.Unreachable, c.Skipped, c.Targeted, r.last, r.cuts, r.story())
		for j, err := range bad {
			if j == mostTold {
				t.Errorf("round %d: %d more", i+1, len(bad)-j)
				break
			}
			t.Errorf("round %d, job %s: %v", i+1, r.job, err)
		}
		if len(bad) > 0 {
			return // what comes after would only repeat it
		}
		past = append(past, r)
	}
	for _, r := range past { // nothing ran later either
		for name, f := range r.ledger.Machines {
			if n, _ := r.lines(name); n != f.Lines {
				t.Errorf("round %d: %s ran %d times at the end of its round, and %d by now", r.n, name, f.Lines, n)
			}
		}
	}
	if out, err := command(t, binary, "audit", "verify", "--state", s.state); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
}

// round is one order in a storm.
type round struct {
	storms
	s    *site
	n    int
	rand *rand.Rand
	calm bool // nothing breaks

	dir    string // a file for each machine that ran
	job    call.JobID
	runs   time.Duration
	cuts   int
	last   string // the machine that was told of last
	ledger fleettest.Ledger

	mu   sync.Mutex
	acts []string
}

func (r *round) did(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acts = append(r.acts, fmt.Sprintf(format, args...))
}

func (r *round) story() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.acts, ", ")
}

// run gives one order, lets the storm pass over it and says what was wrong in
// the end. The script is the method's; empty: the usual one.
func (r *round) run(ctx context.Context, script string) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.limit, fmt.Errorf("the round is not over after %s", r.limit))
	defer cancel()
	r.dir = filepath.Join(r.s.dir, fmt.Sprintf("round%d", r.n))
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return []error{err}
	}
	r.runs = time.Duration(100+r.rand.IntN(3000)) * time.Millisecond
	if script == "" {
		script = `echo ran >>"DIR/$DOMINION_MACHINE"; sleep SECONDS`
	}
	script = strings.NewReplacer("DIR", r.dir, "SECONDS", fmt.Sprintf("%.3f", r.runs.Seconds())).Replace(script)
	began, cuts := time.Now(), r.s.proxy.Cuts()
	told := make(chan error, 1)
	fates := make(map[string]*fleettest.Fate)
	for _, name := range r.s.names {
		fates[name] = &fleettest.Fate{}
	}
	r.ledger = fleettest.Ledger{Machines: fates, Runs: r.runs, Slack: 3 * time.Second}
	ordered := make(chan struct{})
	go func() { told <- r.order(ctx, script, fates, ordered) }()
	if !r.calm {
		r.storm(ordered)
	}
	r.cuts = r.s.proxy.Cuts() - cuts
	if names := r.s.exited(); len(names) > 0 {
		return []error{fmt.Errorf("ended by themselves: %v", names)}
	}
	if err := <-told; err != nil {
		return []error{fmt.Errorf("the client: %w; %s", err, r.awaited())}
	}
	if err := r.read(ctx, began); err != nil {
		return []error{err}
	}
	return r.ledger.Check()
}

// awaited says what the overlord knows of the job that does not end.
func (r *round) awaited() string {
	resp, err := r.s.conn.Fleet.Jobs(r.s.t.Context(), connect.NewRequest(&apipb.JobsRequest{Job: r.job.String()}))
	return fmt.Sprintf("the overlord says %v, %v", resp, err)
}

// order gives the order and reads its results as an operator would.
func (r *round) order(ctx context.Context, script string, fates map[string]*fleettest.Fate, ordered chan<- struct{}) error {
	c, err := r.s.conn.Target("*", options(r.machines))
	if err != nil {
		return err
	}
	j, err := c.Call(ctx, "command.shell", map[string]any{"script": script})
	close(ordered)
	if err != nil {
		return err
	}
	r.job = j.ID
	for res, err := range j.Results() {
		if err != nil {
			return err
		}
		r.last = res.Machine
		fates[res.Machine].Told = append(fates[res.Machine].Told, res)
	}
	return nil
}

// read fills the ledger: files, store, kills.
func (r *round) read(ctx context.Context, began time.Time) error {
	for name, f := range r.ledger.Machines {
		f.Lines, f.Wrote = r.lines(name)
		f.Kills, f.Paused = r.s.agents[name].killsSince(began), r.s.agents[name].pausedSince(began)
	}
	job, err := r.closed(ctx)
	if err != nil {
		return err
	}
	k := job.Counts
	r.ledger.Counts = call.Counts{Targeted: int(k.GetTargeted()), Answered: int(k.GetAnswered()), Failed: int(k.GetFailed()), Unreachable: int(k.GetUnreachable()), Skipped: int(k.GetSkipped())}
	return r.readStored(ctx)
}

// closed waits until the job is closed in the store, which happens a moment
// after its last result was told.
func (r *round) closed(ctx context.Context) (*apipb.Job, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := r.s.conn.Fleet.Jobs(ctx, connect.NewRequest(&apipb.JobsRequest{Job: r.job.String()}))
		if err == nil && len(resp.Msg.Jobs) == 1 && resp.Msg.Jobs[0].ClosedMs > 0 {
			return resp.Msg.Jobs[0], nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: it has all its results and is not closed: %v, %v", context.Cause(ctx), resp, err)
		}
	}
}

// readStored reads every stored result of the job.
func (r *round) readStored(ctx context.Context) error {
	stream, err := r.s.conn.Fleet.Watch(ctx, connect.NewRequest(&apipb.WatchRequest{Job: r.job.String(), Now: true}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		g := stream.Msg().GetResults()
		if g == nil {
			continue
		}
		names, err := expandNames(g.Names)
		if err != nil {
			return err
		}
		for _, n := range names {
			f := r.ledger.Machines[n]
			if f == nil {
				return fmt.Errorf("a result of %q is stored, which was not asked", n)
			}
			f.Stored = append(f.Stored, call.Result{Machine: n, Code: call.Code(g.Code), Detail: g.Detail, Output: g.Output})
		}
	}
	return stream.Err()
}

// lines says how often a machine ran, and when first.
func (r *round) lines(name string) (int, time.Time) {
	path := filepath.Join(r.dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, time.Time{}
	}
	if err != nil {
		r.s.t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		r.s.t.Fatal(err)
	}
	return strings.Count(string(b), "\n"), info.ModTime() // of the last line, which is the first where all is well
}

// storm breaks things at random, and mends them at its end.
func (r *round) storm(ordered <-chan struct{}) {
	r.s.proxy.CutAfter(9, []int{11, 16, 30}[r.rand.IntN(3)]) // a handshake takes 5 or 7 records, HELLO one more
	end := time.Now().Add(r.lasts)
	var mending sync.WaitGroup
	<-time.After(r.upTo(400 * time.Millisecond)) // now and then before the order is taken
	for first := true; first || time.Now().Before(end); first = false {
		r.act(&mending)
		<-time.After(200*time.Millisecond + r.upTo(r.lasts/2))
	}
	mending.Wait()
	r.s.proxy.CutAfter(0, 0)
	r.s.overlord.up()
	for _, a := range r.s.all() {
		a.up()
	}
	<-ordered
}

func (r *round) upTo(d time.Duration) time.Duration { return time.Duration(r.rand.Int64N(int64(d))) }

// act does one of the things that can go wrong; what it breaks for a while is
// mended by goroutines that mending joins.
func (r *round) act(mending *sync.WaitGroup) {
	overlord := func(away time.Duration) {
		r.s.overlord.kill()
		mending.Go(func() { <-time.After(away); r.s.overlord.up() })
	}
	minions := func(part float64) (n int) {
		for _, a := range r.s.all() {
			if r.rand.Float64() >= part {
				continue
			}
			n++
			a.kill()
			away := r.upTo(2 * time.Second)
			mending.Go(func() { <-time.After(away); a.up() })
		}
		return n
	}
	switch r.rand.IntN(6) {
	case 0:
		r.did("overlord killed")
		overlord(r.upTo(2 * time.Second))
	case 1:
		r.did("%d minions killed", minions(0.1))
	case 2:
		overlord(r.upTo(2 * time.Second))
		r.did("overlord and %d minions killed", minions(0.1))
	case 3:
		r.did("overlord stopped")
		mending.Go(func() { r.s.overlord.pause(5 * time.Second) })
	case 4:
		n := 0
		for _, a := range r.s.all() {
			if r.rand.IntN(4) == 0 {
				n++
				mending.Go(func() { a.pause(5 * time.Second) })
			}
		}
		r.did("%d minions stopped", n)
	case 5:
		r.did("all cut")
		r.s.proxy.CutAll()
	}
}

// options of an order that waits for machines that are away.
func options(machines int) client.Options {
	return client.Options{Wait: 10 * time.Minute, Confirmed: machines}
}
