package minion

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"

	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/session"
)

// phoenix has a method whose calls end when the agent has been started again,
// in the way that the test says.
type phoenix struct {
	mu    sync.Mutex
	saved map[string][]byte
	err   error // of Resume
	kept  error // of Env.Keep
	notes []string
}

func (x *phoenix) module() module.Module {
	type in struct {
		Note string `json:"note" doc:"what to note"`
	}
	type out struct {
		Note     string `json:"note" doc:"what was noted"`
		Operator string `json:"operator" doc:"who ordered it"`
	}
	burn := func(_ context.Context, env *module.Env, in in) (out, error) {
		if env.Keep == nil {
			return out{}, errors.New("it cannot be kept")
		}
		if err := env.Keep([]byte(in.Note)); err != nil {
			return out{}, err
		}
		if in.Note == "wet" {
			return out{}, call.Errorf(call.Failed, "it does not burn")
		}
		return out{}, module.ErrLater
	}
	rise := func(_ context.Context, env *module.Env, note []byte) (any, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.notes = append(x.notes, string(note))
		if x.err != nil {
			return nil, x.err
		}
		return out{string(note), env.Operator}, nil
	}
	never := func(context.Context, *module.Env, in) (out, error) { return out{}, module.ErrLater }
	return module.Module{Name: "phoenix", Doc: "Ends and begins.", Methods: []module.Method{
		module.Func("burn", "Burns.", module.Change, burn, module.MethodOptions{Resume: rise}),
		module.Func("look", "Looks.", module.Read, burn, module.MethodOptions{Resume: rise}),
		module.Func("never", "Says that it ends later, and does not.", module.Change, never, module.MethodOptions{}),
	}}
}

// save stands for the agent's state directory.
func (x *phoenix) save(name string, b []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.kept != nil {
		return x.kept
	}
	x.saved[name] = b
	return nil
}

// start starts the agent on what the disk has.
func (x *phoenix) start(m *machine, j *journal.Journal) {
	m.journal = j
	m.agent = newAgent(m.t, m.f, func(opt *Options) {
		opt.Journal, opt.Save, opt.Saved = j, x.save, maps.Clone(x.saved)
		opt.Table = must[*module.Table](m.t)(module.NewTable(append(Modules(nil, nil), x.module())))
	})
	m.connect()
}

// burn orders one call and returns when the agent has given up its part.
func (x *phoenix) burn(m *machine) call.JobID {
	m.t.Helper()
	c := m.f.call(m.t, draft{method: "phoenix.burn", args: `{"note":"ashes"}`})
	job := must[*call.Order](m.t)(call.ParseOrder(c.Order)).Job
	m.peer.start(c)
	until(m.t, "the note is kept and nothing runs", func() bool { return x.count() == 1 && m.agent.crew.find(job) == nil })
	m.wantAsk(job, session.JobRunning, 0)
	return job
}

func (x *phoenix) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Count(string(x.saved[FileLater]), `"note"`)
}

func newPhoenix(t *testing.T) (*phoenix, *machine) {
	x := &phoenix{saved: map[string][]byte{}}
	f := newFleet(t)
	m := &machine{t: t, f: f, o: newOverlord(t, f).listen(), dir: t.TempDir()}
	x.start(m, must[*journal.Journal](t)(journal.Open(m.dir, m.opt)))
	t.Cleanup(func() { m.journal.Close() })
	return x, m
}

// again starts another agent on a copy of the journal as it is.
func (x *phoenix) again(m *machine) {
	m.t.Helper()
	dir := m.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(m.dir)); err != nil {
		m.t.Fatal(err)
	}
	m.dir = dir
	m.peer.s.Close(call.Internal, "the machine went down")
	j := must[*journal.Journal](m.t)(journal.Open(dir, m.opt))
	m.t.Cleanup(func() { j.Close() })
	x.start(m, j)
}

func TestCallEndsAfterRestart(t *testing.T) {
	x, m := newPhoenix(t)
	job := x.burn(m)
	x.err = module.ErrLater
	x.again(m) // the agent alone: the call goes on
	m.wantAsk(job, session.JobRunning, 0)
	if n := x.count(); n != 1 {
		t.Errorf("%d notes; want the one that is needed still", n)
	}
	x.err = nil
	x.again(m)
	m.peer.told(job)
	if r := m.wantAsk(job, session.JobFinished, call.OK); string(r.Output) != `{"note":"ashes","operator":"alice"}` {
		t.Errorf("answer %s", r.Output)
	}
	if n := x.count(); n != 0 {
		t.Errorf("%d notes are left", n)
	}
	x.again(m)
	m.wantAsk(job, session.JobFinished, call.OK)
	if fmt.Sprint(x.notes) != "[ashes ashes]" {
		t.Errorf("asked with the notes %q", x.notes)
	}
}

func TestCallFailsAfterRestart(t *testing.T) {
	x, m := newPhoenix(t)
	job := x.burn(m)
	x.err = call.Errorf(call.Failed, "it did not rise")
	x.again(m)
	if r := m.wantAsk(job, session.JobFinished, call.Failed); r.Detail != "it did not rise" {
		t.Errorf("detail %q", r.Detail)
	}
}

// TestNoteIsLost: without it what became of the call is not known.
func TestNoteIsLost(t *testing.T) {
	x, m := newPhoenix(t)
	job := x.burn(m)
	delete(x.saved, FileLater)
	x.again(m)
	m.wantAsk(job, session.JobFinished, call.Unknown)
}

func TestNotKept(t *testing.T) {
	x, m := newPhoenix(t)
	do := func(method, note string) string {
		t.Helper()
		r := m.peer.do(m.f.call(t, draft{method: method, args: `{"note":"` + note + `"}`}))
		return call.Code(r.Code).String() + ": " + r.Detail
	}
	if got := do("phoenix.look", "x"); got != "failed: it cannot be kept" {
		t.Errorf("a method that reads: %s", got)
	}
	if got := do("phoenix.never", "x"); !strings.HasPrefix(got, "failed: the call ends when") {
		t.Errorf("a method without Resume: %s", got)
	}
	if got := do("phoenix.burn", strings.Repeat("x", module.MaxNote+1)); !strings.HasPrefix(got, "internal: a note of 4097 bytes") {
		t.Errorf("a large note: %s", got)
	}
	x.mu.Lock()
	x.kept = errors.New("no space left")
	x.mu.Unlock()
	if got := do("phoenix.burn", "x"); got != "failed: keep a note for after the restart: no space left" {
		t.Errorf("a full disk: %s", got)
	}
}

// TestFailedCallsLeaveNoNote: a call that noted something and failed all the same takes
// none of the places of those that wait for a restart.
func TestFailedCallsLeaveNoNote(t *testing.T) {
	x, m := newPhoenix(t)
	for range maxNotes + 1 {
		r := m.peer.do(m.f.call(t, draft{method: "phoenix.burn", args: `{"note":"wet"}`}))
		if call.Code(r.Code) != call.Failed || r.Detail != "it does not burn" {
			t.Fatalf("%v: %s", call.Code(r.Code), r.Detail)
		}
	}
	if n := x.count(); n != 0 {
		t.Errorf("%d notes are left", n)
	}
	x.burn(m)
}

func TestDamagedNotes(t *testing.T) {
	for _, b := range []string{"x", `{"a":1}`, "[]"} {
		if err := new(later).restore([]byte(b)); err == nil {
			t.Errorf("%s was taken", b)
		}
	}
}
