package job_test

import (
	"context"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
)

// machines is a wire to machines that can be told what happens to them.
type machines struct {
	noHops
	run *job.Run

	mu     *sync.Mutex // shared by those that share machines
	of     map[string]*machine
	stored []string
}

type machine struct {
	away     bool
	busy     bool          // refuses calls for now
	deaf     bool          // takes calls and says nothing
	runs     time.Duration // of the method; 0: at once
	drop     int           // results that get lost
	lose     int           // calls that get lost
	birth    time.Time     // of its journal
	askErr   error         // how it answers when it is asked
	mum      bool          // does not answer when it is asked
	stubborn bool          // does not end when it is cancelled

	sent, asked, cancels int
	started              int
	done                 bool
	running              bool
	cancelled            bool
}

func world(names ...string) *machines {
	w := &machines{of: make(map[string]*machine), mu: new(sync.Mutex)}
	for _, n := range names {
		w.of[n] = new(machine)
	}
	return w
}

// with changes a machine.
func (w *machines) with(name string, set func(m *machine)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set(w.of[name])
}

// Send implements the run's wire.
func (w *machines) Send(name string, _ bool, _, _ []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.of[name]
	if m.away {
		return call.Errorf(call.NoSession, "%s is off", name)
	}
	m.sent++
	switch {
	case m.lose > 0:
		m.lose--
	case m.busy:
		go w.run.Deliver(call.Result{Machine: name, Code: call.Busy, Detail: "the journal is full"})
	case m.started > 0:
		go w.run.Deliver(call.Result{Machine: name, Code: call.Repeated})
	case !m.deaf:
		m.started++
		m.running = true
		go w.work(name, m)
	}
	return nil
}

// work is the method on a machine.
func (w *machines) work(name string, m *machine) {
	time.Sleep(m.runs)
	w.mu.Lock()
	m.running, m.done = false, true
	lost := m.away || m.drop > 0
	m.drop = max(0, m.drop-1)
	res := m.result(name)
	w.mu.Unlock()
	if !lost {
		w.run.Deliver(res)
	}
}

func (m *machine) result(name string) call.Result {
	if m.cancelled && !m.stubborn {
		return call.Result{Machine: name, Code: call.Cancelled}
	}
	return call.Result{Machine: name, Output: []byte(`{"ok":true}`)}
}

// Cancel implements the run's wire.
func (w *machines) Cancel(name string) {
	w.mu.Lock()
	m := w.of[name]
	m.cancels++
	m.cancelled = true
	confirms := !m.away && m.running && !m.stubborn
	w.mu.Unlock()
	if confirms {
		w.run.Deliver(call.Result{Machine: name, Code: call.Cancelled})
	}
}

// Ask implements the run's wire.
func (w *machines) Ask(name string, number uint64, cancel bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.of[name]
	if m.away {
		return call.Errorf(call.NoSession, "%s is off", name)
	}
	m.asked++
	m.cancelled = m.cancelled || cancel
	a := job.Answer{Number: number, State: job.Running, Birth: m.birth, Err: m.askErr}
	switch {
	case m.mum:
		return nil
	case m.done || m.running && m.cancelled && !m.stubborn:
		a.State, a.Result = job.Finished, m.result(name)
	case !m.running && !m.deaf:
		a.State = job.None
	}
	go w.run.Told(name, a)
	return nil
}

// Stored implements the run's wire.
func (w *machines) Stored(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stored = append(w.stored, names...)
}

// cut ends a machine's session.
func (w *machines) cut(name string) {
	w.with(name, func(m *machine) { m.away = true })
	w.run.Lost(name)
}

// back gives a machine a session.
func (w *machines) back(name string) {
	w.with(name, func(m *machine) { m.away = false })
	w.run.Arrived(name)
}

// ordered is a job about machine m, and what it began with.
type ordered struct {
	*machines
	began time.Time
	shelf *shelf
}

// noHops is a wire without sub-overlords.
type noHops struct{}

func (noHops) Arrival(string) <-chan struct{} { return nil }

func (noHops) Delegate(_ context.Context, hop string, _ *fleetpb.Delegate, _ <-chan struct{}, _ func(job.Told)) error {
	return call.Errorf(call.NoSession, "there is no %s", hop)
}
