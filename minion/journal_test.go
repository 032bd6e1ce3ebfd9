package minion

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/pki"
	"dominion/session"
)

// ledger has a method that changes its machine: how often each job ran is what
// survives every crash of the agent.
type ledger struct {
	mu    sync.Mutex
	lines map[call.JobID]int
	hold  chan struct{} // not nil: the method waits for it, or for its context
	begun chan call.JobID
}

func newLedger() *ledger {
	return &ledger{lines: make(map[call.JobID]int), begun: make(chan call.JobID, 2048)}
}

func (l *ledger) module() module.Module {
	type in struct {
		Say string `json:"say" doc:"what to answer"`
	}
	type out struct {
		Said string `json:"said" doc:"what was to be said"`
	}
	line := func(ctx context.Context, env *module.Env, in in) (out, error) {
		l.mu.Lock()
		l.lines[env.Job]++
		hold := l.hold
		l.mu.Unlock()
		l.begun <- env.Job
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				return out{}, ctx.Err()
			}
		}
		return out{Said: in.Say}, nil
	}
	return module.Module{Name: "ledger", Doc: "Writes lines.", Methods: []module.Method{
		module.Func("line", "Writes one.", module.Change, line, module.MethodOptions{}),
		module.Func("look", "Reads.", module.Read, line, module.MethodOptions{}),
	}}
}

func (l *ledger) count(job call.JobID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[job]
}

// machine is web1 with its journal, through any number of crashes.
type machine struct {
	t      *testing.T
	f      *fleet
	o      *overlord
	ledger *ledger
	dir    string
	opt    journal.Options

	journal *journal.Journal
	agent   *Agent
	peer    *peer
}

func newMachine(t *testing.T) *machine {
	f := newFleet(t)
	m := &machine{t: t, f: f, o: newOverlord(t, f).listen(), ledger: newLedger(), dir: t.TempDir()}
	m.up()
	return m
}

// up starts the agent on what is in the directory, and opens a session.
func (m *machine) up() {
	m.t.Helper()
	m.journal = must[*journal.Journal](m.t)(journal.Open(m.dir, m.opt))
	m.t.Cleanup(func() { m.journal.Close() })
	j := m.journal
	m.agent = newAgent(m.t, m.f, func(opt *Options) {
		opt.Journal = j
		opt.Table = must[*module.Table](m.t)(module.NewTable(append(Modules(nil, nil), testModule, m.ledger.module())))
	})
	m.connect()
}

func (m *machine) connect() {
	m.t.Helper()
	m.peer = attach(m.t, m.agent, m.o)
}

// crash leaves the agent as it is, running methods included, and starts another
// on a copy of the files as they are at this moment.
func (m *machine) crash() {
	m.t.Helper()
	dir := m.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(m.dir)); err != nil {
		m.t.Fatal(err)
	}
	m.dir = dir
	m.peer.s.Close(call.Internal, "the machine crashed")
	m.up()
}

// order makes a call of ledger.line.
func (m *machine) order() (call.JobID, *fleetpb.Call) {
	c := m.f.call(m.t, draft{method: "ledger.line", args: `{"say":"<hello> & \"you\""}`})
	return must[*call.Order](m.t)(call.ParseOrder(c.Order)).Job, c
}

// ask is the overlord's question how far a job has come.
func (m *machine) ask(job call.JobID, cancel bool) session.JobResult {
	m.t.Helper()
	return askOf(m.t, m.peer, job, cancel)
}

func askOf(t *testing.T, p *peer, job call.JobID, cancel bool) session.JobResult {
	t.Helper()
	args := must[[]byte](t)(json.Marshal(session.JobArgs{Job: job.String(), Cancel: cancel}))
	var r session.JobResult
	if err := json.Unmarshal(must[[]byte](t)(p.own(session.MethodJob, args)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *machine) wantAsk(job call.JobID, state session.JobState, code call.Code) session.JobResult {
	m.t.Helper()
	r := m.ask(job, false)
	if r.State != state || call.Code(r.Code) != code {
		m.t.Fatalf("asked for the job: %+v; want %s with %s", r, state, code)
	}
	return r
}

// told waits until the overlord was told that a job's result waits.
func (p *peer) told(job call.JobID) {
	p.o.t.Helper()
	until(p.o.t, "the overlord is told that the result waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, j := range p.waits {
			if j == job {
				return true
			}
		}
		return false
	})
}

func TestCrashWhileAMethodRuns(t *testing.T) {
	m := newMachine(t)
	m.ledger.hold = make(chan struct{})
	defer close(m.ledger.hold)
	job, c := m.order()
	m.peer.start(c)
	<-m.ledger.begun
	m.wantAsk(job, session.JobRunning, 0)
	m.crash()
	m.peer.told(job)
	r := m.wantAsk(job, session.JobFinished, call.Unknown)
	if !strings.Contains(r.Detail, "ledger.line") {
		t.Errorf("detail = %q; want the method", r.Detail)
	}
	wantCode(t, m.peer.do(c), call.Repeated)
	m.crash() // it is as unknown as before
	m.wantAsk(job, session.JobFinished, call.Unknown)
	if n := m.ledger.count(job); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}
}

func TestCrashBeforeTheAnswerArrives(t *testing.T) {
	m := newMachine(t)
	m.ledger.hold = make(chan struct{})
	job, c := m.order()
	m.peer.start(c)
	<-m.ledger.begun
	m.peer.s.Close(call.Internal, "gone")
	until(t, "the agent has noticed", func() bool { return m.agent.Done("dc1") == nil })
	close(m.ledger.hold)
	until(t, "the method has ended", func() bool { s, _, _ := m.journal.Find(job); return s == call.Finished })
	m.connect()
	m.peer.told(job)
	first := m.wantAsk(job, session.JobFinished, call.OK)
	m.crash()
	m.peer.told(job)
	second := m.wantAsk(job, session.JobFinished, call.OK)
	const want = `{"said":"\u003chello\u003e \u0026 \"you\""}`
	if string(first.Output) != want && string(first.Output) != `{"said":"<hello> & \"you\""}` || string(second.Output) != string(first.Output) ||
		first.TookUs == 0 || second.TookUs != first.TookUs {
		t.Errorf("results %+v and, after the crash, %+v; want the same", first, second)
	}
	wantCode(t, m.peer.do(c), call.Repeated)
	// Once it is stored nobody is told of it any more.
	if err := m.peer.s.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_STORED, Jobs: [][]byte{job[:]}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the result is released", func() bool { return len(m.journal.Finished("dc1", 9)) == 0 })
	if n := m.ledger.count(job); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}
}

func TestResultGoesToTheNextSession(t *testing.T) {
	m := newMachine(t)
	for _, method := range []string{"ledger.line", "ledger.look"} {
		m.ledger.hold = make(chan struct{})
		c := m.f.call(t, draft{method: method})
		job := must[*call.Order](t)(call.ParseOrder(c.Order)).Job
		m.peer.start(c)
		<-m.ledger.begun
		m.connect() // replaces the session that brought the call
		m.wantAsk(job, session.JobRunning, 0)
		close(m.ledger.hold)
		m.peer.told(job)
		m.wantAsk(job, session.JobFinished, call.OK)
	}
}

func TestWipedBetweenOrderAndRestart(t *testing.T) {
	m := newMachine(t)
	job, c := m.order()
	wantCode(t, m.peer.do(c), call.OK)
	_, late := m.order()
	before := m.journal.ID()
	<-time.After(2 * time.Millisecond) // births are told in milliseconds
	m.dir = t.TempDir()                // the disk is another
	m.peer.s.Close(call.Internal, "re-installed")
	m.up()
	if string(m.journal.ID()) == string(before) {
		t.Error("the journal has the same id")
	}
	m.wantAsk(job, session.JobNone, 0)
	for _, c := range []*fleetpb.Call{c, late} {
		r := m.peer.do(c)
		wantCode(t, r, call.TooYoung)
		if !strings.Contains(r.Detail, "order it again") {
			t.Errorf("detail = %q; want the next step", r.Detail)
		}
	}
	if n := m.ledger.count(job); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}
	_, again := m.order()
	wantCode(t, m.peer.do(again), call.OK)
	// What only reads is not refused for its age.
	wantCode(t, m.peer.do(m.f.call(t, draft{method: "ledger.look", issued: time.Now().Add(-time.Minute)})), call.OK)
}

func TestBirth(t *testing.T) {
	m := newMachine(t)
	birth := m.journal.Birth()
	if d := time.Since(birth); d < 0 || d > time.Minute {
		t.Fatalf("birth = %s", birth)
	}
	// It is shown, and what a later overlord says does not count.
	m.o.hello = func(theirs, h *fleetpb.Hello) {
		if theirs.JournalBirthMs != birth.UnixMilli() || string(theirs.JournalId) != string(m.journal.ID()) {
			t.Errorf("HELLO tells birth %d of journal %x", theirs.JournalBirthMs, theirs.JournalId)
		}
		h.JournalBirthMs = 1
	}
	m.crash()
	if got := m.journal.Birth(); !got.Equal(birth) {
		t.Errorf("birth = %s; want the first, %s", got, birth)
	}
}

func TestBirthThatIsNotBelieved(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			f := newFleet(t)
			o := newOverlord(t, f).listen()
			m := &machine{t: t, f: f, o: o, ledger: newLedger(), dir: t.TempDir()}
			o.hello = func(_, h *fleetpb.Hello) { h.JournalBirthMs = time.Now().Add(off).UnixMilli() }
			m.up()
			_, c := m.order()
			wantCode(t, m.peer.do(c), call.Unavailable)
			wantCode(t, m.peer.do(f.call(t, draft{method: "ledger.look"})), call.OK)
			o.hello = nil
			m.connect()
			_, c = m.order()
			wantCode(t, m.peer.do(c), call.OK)
		})
	}
}

func TestCancelByAsking(t *testing.T) {
	m := newMachine(t)
	m.ledger.hold = make(chan struct{})
	defer close(m.ledger.hold)
	m.agent.crew.running = 1
	runs, c := m.order()
	answer := m.peer.start(c)
	<-m.ledger.begun
	waits, c := m.order()
	m.peer.start(c)
	until(t, "the second call waits", func() bool { return m.agent.crew.find(waits) != nil })
	m.connect() // the machine was away
	if r := m.ask(waits, true); r.State != session.JobFinished || call.Code(r.Code) != call.Cancelled {
		t.Errorf("what waits: %+v; want finished, cancelled", r)
	}
	m.ask(runs, true)
	until(t, "what runs has ended", func() bool { return m.ask(runs, false).State == session.JobFinished })
	m.wantAsk(runs, session.JobFinished, call.Cancelled)
	<-answer.lost
	if m.ledger.count(waits) != 0 || m.ledger.count(runs) != 1 {
		t.Errorf("ran %d and %d times; want once and never", m.ledger.count(runs), m.ledger.count(waits))
	}
	if r := m.ask(call.NewJobID(time.Now()), true); r.State != session.JobNone {
		t.Errorf("a job that nobody sent: %+v; want none", r)
	}
}

func TestOnlyTheSenderMayAsk(t *testing.T) {
	m := newMachine(t)
	job, c := m.order()
	wantCode(t, m.peer.do(c), call.OK)
	other := newOverlord(t, m.f)
	other.cert = m.f.leaf(t, m.f.root, pki.Identity{Role: pki.Overlord, Name: "dc2"}, m.f.root.Cert)
	other.f = m.f
	m.agent.AddOverlord("dc2")
	addr := listenFor(t, m.f, m.agent)
	if err := other.dial(addr); err != nil {
		t.Fatal(err)
	}
	p := other.peer()
	if r := askOf(t, p, job, true); r.State != session.JobNone {
		t.Errorf("another overlord is told %+v; want none", r)
	}
	if err := p.s.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_STORED, Jobs: [][]byte{job[:]}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.own(session.MethodCheckpoint, []byte(`{}`)); err != nil { // the ACK was read before it
		t.Fatal(err)
	}
	if got := m.journal.Finished("dc1", 9); len(got) != 1 {
		t.Errorf("another overlord's ACK released the result: %v", got)
	}
	// Who brings the same order, whole, may ask what became of it; the result stays for the first.
	forged := proto.CloneOf(c)
	forged.Args = []byte(`{"say":"x"}`)
	wantCode(t, p.do(forged), call.BadOrder)
	if r := askOf(t, p, job, false); r.State != session.JobNone {
		t.Errorf("after a forged order another overlord is told %+v; want none", r)
	}
	wantCode(t, p.do(c), call.Repeated)
	if r := askOf(t, p, job, false); r.State != session.JobFinished {
		t.Errorf("who brought the same order is told %+v; want the result", r)
	}
	if err := p.s.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_STORED, Jobs: [][]byte{job[:]}}); err != nil {
		t.Fatal(err)
	}
	if r := askOf(t, p, job, false); r.State != session.JobFinished || len(m.journal.Finished("dc1", 9)) != 1 {
		t.Errorf("the second overlord's ACK released the result: %+v", r)
	}
	if n := m.ledger.count(job); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}
	// One that shares the store is as good as the sender.
	m.o.hello = func(_, h *fleetpb.Hello) { h.Sharers = []*fleetpb.OverlordName{{Name: "dc2"}} }
	m.connect()
	if r := askOf(t, p, job, false); r.State != session.JobFinished {
		t.Errorf("one that shares the store is told %+v; want the result", r)
	}
}

func TestBadJobQuestions(t *testing.T) {
	m := newMachine(t)
	for _, args := range []string{"", "[", `{}`, `{"job":"x"}`, fmt.Sprintf(`{"job":%q}`, strings.Repeat("0", 36))} {
		_, err := m.peer.own(session.MethodJob, []byte(args))
		if c := call.CodeOf(err); c != call.Invalid && err != nil {
			t.Errorf("%s: %v; want invalid", args, err)
		}
	}
}
