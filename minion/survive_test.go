package minion

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/session"
)

// life is one process of the agent: what it does after its death does not count.
type life struct {
	mu    *sync.Mutex
	dead  bool
	lines map[call.JobID]int // of all lives
}

type lineIn struct{}

type lineOut struct {
	Job string `json:"job" doc:"whose line it is"`
}

func (l *life) module() module.Module {
	return module.Module{Name: "ledger", Doc: "Writes lines.", Methods: []module.Method{
		module.Func("line", "Writes one.", module.Change, func(_ context.Context, env *module.Env, _ lineIn) (lineOut, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.dead {
				l.lines[env.Job]++
			}
			return lineOut{Job: env.Job.String()}, nil
		}, module.MethodOptions{}),
	}}
}

// crashes is a machine that dies at random moments, and an overlord that asks
// before it sends anything again.
type crashes struct {
	t   *testing.T
	f   *fleet
	o   *overlord
	mu  sync.Mutex
	now *life
	dir string

	journal *journal.Journal
	peer    *peer
	open    map[call.JobID]*fleetpb.Call // not known to have ended
	sent    map[call.JobID]*pending      // in this life
	ended   map[call.Code]int
}

func (c *crashes) up() {
	c.now = &life{mu: &c.mu, lines: c.now.lines}
	c.journal = must[*journal.Journal](c.t)(journal.Open(c.dir, journal.Options{}))
	for _, note := range c.journal.Notes() {
		if !strings.Contains(note, "torn") {
			c.t.Fatal(note)
		}
	}
	a := newAgent(c.t, c.f, func(opt *Options) {
		opt.Journal, opt.MaxRunning, opt.Log = c.journal, 4, nil
		opt.Table = must[*module.Table](c.t)(module.NewTable(append(Modules(nil, nil), c.now.module())))
	})
	c.peer = attach(c.t, a, c.o)
	c.sent = make(map[call.JobID]*pending)
}

// die leaves the files as a crash at this moment may, and starts anew on them.
func (c *crashes) die() {
	c.mu.Lock() // no method ends meanwhile
	c.now.dead = true
	durable := c.journal.Durable()
	b := must[[]byte](c.t)(os.ReadFile(filepath.Join(c.dir, "journal")))
	c.mu.Unlock()
	if n := int64(len(b)) - durable; n > 0 {
		b = b[:durable+rand.Int64N(n+1)]
	}
	dir := c.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "journal"), b, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.peer.s.Close(call.Internal, "the machine crashed")
	_ = c.journal.Close() // of a life that is over
	c.dir = dir
	c.up()
}

func (c *crashes) send(job call.JobID) { c.sent[job] = c.peer.start(c.open[job]) }

// settle takes a result.
func (c *crashes) settle(job call.JobID, code call.Code, output []byte) {
	c.t.Helper()
	c.mu.Lock()
	n := c.now.lines[job]
	c.mu.Unlock()
	var out lineOut
	switch {
	case code == call.OK && n == 1 && json.Unmarshal(output, &out) == nil && out.Job == job.String():
	case code == call.Unknown && n <= 1:
	default:
		c.t.Fatalf("job %s ended with %s, %s, and wrote %d lines", job, code, output, n)
	}
	c.ended[code]++
	delete(c.open, job)
}

// ask does what an overlord does for every call that it sent in an earlier life.
func (c *crashes) ask() {
	for job := range maps.Clone(c.open) {
		if c.sent[job] != nil {
			continue
		}
		switch r := askOf(c.t, c.peer, job, false); r.State {
		case session.JobNone:
			c.mu.Lock()
			n := c.now.lines[job]
			c.mu.Unlock()
			if n != 0 {
				c.t.Fatalf("job %s: the journal never heard of it, and it wrote %d lines", job, n)
			}
			c.send(job)
		case session.JobFinished:
			c.settle(job, call.Code(r.Code), r.Output)
		}
	}
}

// take looks for answers that have come.
func (c *crashes) take() {
	for job, p := range c.sent {
		select {
		case r := <-p.result:
			delete(c.sent, job)
			c.settle(job, call.Code(r.Code), r.Output)
		default:
		}
	}
}

func TestRandomCrashes(t *testing.T) { randomCrashes(t, 150) }

// randomCrashes shows that whenever the machine dies, nothing runs twice and no
// answer is wrong.
func randomCrashes(t *testing.T, points int) {
	f := newFleet(t)
	c := &crashes{
		t: t, f: f, o: newOverlord(t, f).listen(), dir: t.TempDir(), now: &life{lines: make(map[call.JobID]int)},
		open: make(map[call.JobID]*fleetpb.Call), ended: make(map[call.Code]int),
	}
	c.up()
	for range points {
		for range 1 + rand.IntN(4) {
			order := f.call(t, draft{method: "ledger.line"})
			job := must[*call.Order](t)(call.ParseOrder(order.Order)).Job
			c.open[job] = order
			c.send(job)
		}
		<-time.After(time.Duration(rand.Int64N(int64(1500 * time.Microsecond))))
		c.take()
		c.die()
		c.ask()
	}
	until(t, "all jobs have ended", func() bool {
		c.take()
		c.ask()
		return len(c.open) == 0
	})
	for job, n := range c.now.lines {
		if n > 1 {
			t.Errorf("job %s wrote %d lines", job, n)
		}
	}
	t.Logf("%d crashes: %v", points, c.ended)
	if c.ended[call.OK] == 0 || c.ended[call.Unknown] == 0 {
		t.Errorf("ended %v; want both results and jobs that are unknown", c.ended)
	}
}

// A full disk under the journal refuses new work, loses no answer, and passes.
func TestFullDiskUnderTheJournal(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED, full disk under a minion's journal: a tmpfs cannot be mounted here (%v)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := newFleet(t)
	m := &machine{t: t, f: f, o: newOverlord(t, f).listen(), ledger: newLedger(), dir: filepath.Join(dir, "journal")}
	m.ledger.hold = make(chan struct{})
	m.up()
	t.Cleanup(func() { m.journal.Close() }) // before the disk goes
	runs, c := m.order()
	answer := m.peer.start(c)
	<-m.ledger.begun
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<10), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	var refused *fleetpb.Result
	var again *fleetpb.Call
	var job call.JobID
	close(m.ledger.hold)
	for range 100 { // what is left of the file's last page takes some records
		job, again = m.order()
		if refused = m.peer.do(again); call.Code(refused.Code) != call.OK {
			break
		}
	}
	wantCode(t, answer.wait(), call.OK) // what ran is answered
	wantCode(t, refused, call.Unavailable)
	for _, part := range []string{"this machine's journal", "no space left on device"} {
		if !strings.Contains(refused.Detail, part) {
			t.Errorf("detail = %q; want it to say %q", refused.Detail, part)
		}
	}
	if n := m.ledger.count(job); n != 0 {
		t.Errorf("what was refused ran %d times", n)
	}
	m.wantAsk(job, session.JobNone, 0)
	m.wantAsk(runs, session.JobFinished, call.OK)
	wantCode(t, m.peer.do(f.call(t, draft{method: "ledger.look"})), call.OK) // needs no journal
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wantCode(t, m.peer.do(again), call.OK) // the same order: it never ran
	m.crash()
	m.wantAsk(runs, session.JobFinished, call.OK)
	m.wantAsk(job, session.JobFinished, call.OK)
	if n := m.ledger.count(job); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}
}

// An overlord that asks again and again for a large result, and takes none, does
// not fill the machine's memory, and can still withdraw what runs.
func TestAnswersThatNobodyTakesAreFew(t *testing.T) {
	f, g := newFleet(t), newGate()
	o := &stuck{newOverlord(t, f), make(chan *session.Stream, 100)}
	p := attachStuck(t, newAgent(t, f, gated(t, g, nil)), o)
	big := f.call(t, draft{method: "probe.big", args: `{"bytes":900000}`})
	p.start(big)
	(<-o.streams).Close()
	ask := func(c *fleetpb.Call, cancel bool) {
		job := must[*call.Order](t)(call.ParseOrder(c.Order)).Job
		args := must[[]byte](t)(json.Marshal(session.JobArgs{Job: job.String(), Cancel: cancel}))
		p.start(&fleetpb.Call{Method: session.MethodJob, Args: args})
	}
	for range 50 {
		ask(big, false)
	}
	waits := f.call(t, draft{method: "gate.wait"})
	c := p.start(waits)
	<-g.begun
	ask(waits, true)
	wantCode(t, c.wait(), call.Cancelled)
	for range maxAnswers {
		<-o.streams
	}
	for range 20 {
		wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	}
	if n := len(o.streams); n > 0 {
		t.Errorf("%d answers were in memory; want %d", maxAnswers+n, maxAnswers)
	}
}
