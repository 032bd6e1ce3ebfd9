package minion

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/pki"
	"dominion/session"
)

func testBooks(disk *journal.Journal) *books {
	return &books{memory: journal.InMemory(journal.Options{}), disk: disk}
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j := must[*journal.Journal](t)(journal.Open(dir, journal.Options{}))
	t.Cleanup(func() { _ = j.Close() }) // a second Close says that it is closed
	return j
}

// One id runs once, though two orders carry it.
func TestBooksKnowEachJobOnce(t *testing.T) {
	now := time.Now()
	b := testBooks(openJournal(t, t.TempDir()))
	if err := b.disk.SetBirth(now); err != nil {
		t.Fatal(err)
	}
	order := func() *call.Order {
		return &call.Order{Job: call.NewJobID(now), IssuedAt: now.Add(time.Second), Expiry: now.Add(time.Hour)}
	}
	for _, x := range []struct{ first, second module.Effect }{
		{module.Read, module.Change}, {module.Change, module.Read}, {module.Destroy, module.Destroy}, {module.Read, module.Read},
	} {
		o := order()
		if err := b.Receive(o, x.first, "dc1", now); err != nil {
			t.Fatal(err)
		}
		if err := b.Receive(o, x.second, "dc1", now); call.CodeOf(err) != call.Repeated {
			t.Errorf("%s after %s: %v; want repeated", x.second, x.first, err)
		}
		if its := b.holding(o.Job); (its == b.memory) != (x.first == module.Read) {
			t.Errorf("%s: in the wrong journal", x.first)
		}
	}
	old := order()
	old.IssuedAt = now.Add(-time.Second)
	if err := b.Check(old, module.Change, now); call.CodeOf(err) != call.TooYoung {
		t.Errorf("ordered before the journal began: %v; want too young", err)
	}
	if err := b.Check(old, module.Read, now); err != nil {
		t.Errorf("what only reads may run again: %v", err)
	}
	if err := testBooks(openJournal(t, t.TempDir())).Check(old, module.Change, now); call.CodeOf(err) != call.Unavailable {
		t.Errorf("a journal without a birth: %v; want unavailable", err)
	}
}

// told asks for a job over a session, as an overlord does.
func (p *peer) told(t *testing.T, c *fleetpb.Call, cancel bool) session.JobResult {
	t.Helper()
	o := must[*call.Order](t)(call.ParseOrder(c.Order))
	args := must[[]byte](t)(json.Marshal(session.JobArgs{Job: o.Job.String(), Cancel: cancel}))
	var out session.JobResult
	if err := json.Unmarshal(must[[]byte](t)(p.own(session.MethodJob, args)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// journalled makes an agent with a journal in a directory.
func journalled(t *testing.T, f *fleet, g *gate, dir string) *Agent {
	return newAgent(t, f, gated(t, g, func(opt *Options) { opt.Journal = openJournal(t, dir) }))
}

// Over restarts a job is what it was: what ended is answered again, what ran is
// unknown, what waited may be ordered again, and nothing runs twice.
func TestRestart(t *testing.T) {
	f, g := newFleet(t), newGate()
	dir := t.TempDir()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.Journal, opt.MaxRunning = openJournal(t, dir), 2 }))
	o := newOverlord(t, f).listen()
	p := attach(t, a, o)
	ended, runs, waits := f.call(t, draft{method: "gate.alter"}), f.call(t, draft{method: "gate.alter"}), f.call(t, draft{method: "gate.alter"})
	if s := p.told(t, ended, false); s.State != session.JobNone {
		t.Errorf("before it was sent: %+v", s)
	}
	c := p.start(ended)
	<-g.begun
	g.open <- struct{}{}
	wantCode(t, c.wait(), call.OK)
	p.start(runs)
	<-g.begun
	p.start(f.call(t, draft{method: "gate.alter"}))
	<-g.begun
	p.start(waits)
	until(t, "the last call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	for _, c := range []*fleetpb.Call{runs, waits} {
		if s := p.told(t, c, false); s.State != session.JobRunning {
			t.Errorf("while it runs or waits: %+v", s)
		}
		wantCode(t, p.do(c), call.Repeated)
	}

	// The machine goes down: what is on its disk is all that is left.
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	o2 := newOverlord(t, f)
	finished := make(chan [][]byte, 1)
	o2.acked = func(m *fleetpb.Ack) { finished <- m.Jobs }
	g2 := newGate()
	p = attach(t, journalled(t, f, g2, copied), o2.listen())
	if jobs := <-finished; len(jobs) != 3 {
		t.Errorf("it says that %d jobs have finished; want 3", len(jobs))
	}
	if s := p.told(t, ended, false); s.State != session.JobFinished || s.Code != 0 || string(s.Output) != `{"done":true}` || s.TookUs == 0 {
		t.Errorf("what had ended: %+v", s)
	}
	if s := p.told(t, runs, false); s.State != session.JobFinished || call.Code(s.Code) != call.Unknown || s.Detail == "" {
		t.Errorf("what ran: %+v", s)
	}
	if s := p.told(t, waits, false); s.State != session.JobNone {
		t.Errorf("what waited: %+v", s)
	}
	wantCode(t, p.do(ended), call.Repeated)
	wantCode(t, p.do(runs), call.Repeated)
	close(g2.open)
	wantCode(t, p.do(waits), call.OK)
	if n := len(g2.begun); n != 1 {
		t.Errorf("%d calls ran after the restart; want the one that had waited", n)
	}

	// Stored by the overlord: nobody is told again.
	for _, c := range []*fleetpb.Call{ended, runs, waits} {
		job := must[*call.Order](t)(call.ParseOrder(c.Order)).Job
		if err := p.s.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_STORED, Jobs: [][]byte{job[:]}}); err != nil {
			t.Fatal(err)
		}
	}
}

// A journal that was wiped between order and restart: the id is another, and
// what was ordered before does not run.
func TestWipedJournal(t *testing.T) {
	f, g := newFleet(t), newGate()
	dir := t.TempDir()
	o := newOverlord(t, f)
	var ids []string
	birth := time.Now().Add(-time.Minute)
	o.hello = func(theirs, h *fleetpb.Hello) {
		if ids = append(ids, string(theirs.JournalId)); theirs.JournalBirthMs != 0 {
			t.Errorf("session %d: a birth of %d was told before anybody gave it", len(ids), theirs.JournalBirthMs)
		}
		h.JournalBirthMs = birth.UnixMilli()
	}
	p := attach(t, journalled(t, f, g, dir), o.listen())
	c := f.call(t, draft{method: "gate.alter"})
	p.start(c)
	<-g.begun
	if err := os.RemoveAll(filepath.Join(dir, "journal")); err != nil {
		t.Fatal(err)
	}
	birth = time.Now().Add(time.Second)
	g2 := newGate()
	close(g2.open)
	p = attach(t, journalled(t, f, g2, dir), o)
	if len(ids) != 2 || ids[0] == ids[1] || len(ids[1]) != 16 {
		t.Errorf("journal ids %x; want two", ids)
	}
	if s := p.told(t, c, false); s.State != session.JobNone {
		t.Errorf("what the lost journal knew: %+v", s)
	}
	r := p.do(c)
	wantCode(t, r, call.TooYoung)
	if !strings.Contains(r.Detail, "order it again") {
		t.Errorf("detail = %q", r.Detail)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK) // reading is always allowed
	if len(g2.begun) > 0 {
		t.Error("it ran")
	}
}

// An order withdrawn through session.job: what waits never starts, what runs ends.
func TestWithdrawnByJob(t *testing.T) {
	f, g := newFleet(t), newGate()
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.Journal, opt.MaxRunning = openJournal(t, t.TempDir()), 1 }))
	p := attach(t, a, newOverlord(t, f).listen())
	runs, waits := f.call(t, draft{method: "gate.alter"}), f.call(t, draft{method: "gate.alter"})
	running := p.start(runs)
	<-g.begun
	waiting := p.start(waits)
	until(t, "the second call waits", func() bool { a.crew.mu.Lock(); defer a.crew.mu.Unlock(); return len(a.crew.waiting) == 1 })
	if s := p.told(t, waits, true); s.State != session.JobFinished || call.Code(s.Code) != call.Cancelled {
		t.Errorf("what waited: %+v", s)
	}
	wantCode(t, waiting.wait(), call.Cancelled)
	if s := p.told(t, runs, true); s.State != session.JobRunning {
		t.Errorf("what runs: %+v", s)
	}
	wantCode(t, running.wait(), call.Cancelled)
	if s := p.told(t, runs, true); s.State != session.JobFinished || call.Code(s.Code) != call.Cancelled {
		t.Errorf("what ran: %+v", s)
	}
}

// Only the overlord that sent a job, or one of its store, hears of it.
func TestJobIsToldToItsOverlord(t *testing.T) {
	f, g := newFleet(t), newGate()
	close(g.open)
	shared := false
	a := newAgent(t, f, gated(t, g, func(opt *Options) {
		opt.Journal = openJournal(t, t.TempDir())
		opt.Overlords = append(opt.Overlords, "dc2")
	}))
	o := newOverlord(t, f)
	o.hello = func(_, h *fleetpb.Hello) {
		if shared {
			h.Sharers = []*fleetpb.OverlordName{{Name: "dc2"}}
		}
	}
	p := attach(t, a, o.listen())
	c := f.call(t, draft{method: "gate.alter"})
	wantCode(t, p.do(c), call.OK)
	dc2 := newOverlord(t, f)
	dc2.cert = f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "dc2"}, f.root.Cert)
	addr := listenFor(t, f, a)
	ask := func() session.JobResult {
		if err := dc2.dial(addr); err != nil {
			t.Fatal(err)
		}
		return dc2.peer().told(t, c, false)
	}
	if s := ask(); s.State != session.JobNone {
		t.Errorf("a stranger is told %+v", s)
	}
	shared = true
	attach(t, a, o)
	if s := ask(); s.State != session.JobFinished {
		t.Errorf("a sharer is told %+v", s)
	}
}

// On a full disk nothing new begins; what runs ends and is answered, and when
// there is room it is written and calls run again.
func TestJournalOnFullDisk(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("SKIPPED JournalOnFullDisk: it needs root, to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	f, g := newFleet(t), newGate()
	dir := filepath.Join(small, "journal")
	a := journalled(t, f, g, dir)
	p := attach(t, a, newOverlord(t, f).listen())
	running := f.call(t, draft{method: "gate.alter"})
	c := p.start(running)
	<-g.begun
	fill := filepath.Join(small, "fill")
	file := must[*os.File](t)(os.Create(fill))
	for n := 32 << 10; n > 0; {
		if _, err := file.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 2
		}
	}
	file.Close()
	// The last page of the file may have room for some records.
	var r *fleetpb.Result
	var ran []*fleetpb.Call
	for {
		next := f.call(t, draft{method: "command.run", args: `{"argv":["true"]}`})
		if r = p.do(next); r.Code != 0 {
			break
		}
		ran = append(ran, next)
	}
	wantCode(t, r, call.Unavailable)
	if !strings.Contains(r.Detail, "journal") || !strings.Contains(r.Detail, "no space") {
		t.Errorf("detail = %q", r.Detail)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	g.open <- struct{}{}
	wantCode(t, c.wait(), call.OK) // not written, and answered all the same
	if s := p.told(t, running, false); s.State != session.JobFinished || s.Code != 0 {
		t.Errorf("what ran: %+v", s)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	last := f.call(t, draft{method: "gate.alter"})
	c = p.start(last)
	<-g.begun
	g.open <- struct{}{}
	wantCode(t, c.wait(), call.OK)
	again := openJournal(t, dir)
	for i, c := range append(ran, running, last) {
		job := must[*call.Order](t)(call.ParseOrder(c.Order)).Job
		if r, err := again.Result(job); err != nil || r.Code != 0 {
			t.Errorf("call %d after a restart: %v, %v", i, r, err)
		}
	}
}
