package job

import (
	"slices"
	"strings"
	"time"

	"dominion/call"
)

// State is how far a machine says that a call has come.
type State int

// The states of a call at its machine.
const (
	None     State = iota // it never heard of it, or its journal is another now
	Running               // it waits to start, or runs
	Finished              // with its result
)

// Answer is what a machine says when it is asked about its call.
type Answer struct {
	Number uint64 // of the ask
	State  State
	Result call.Result // with Finished
	Birth  time.Time   // with None: when the machine's journal began, by the overlord's clock
	Err    error       // it gave no answer: SessionLost, NotFound (an agent that cannot be asked), or another code
}

// news is what has happened to one call since the driver looked.
type news struct {
	arrived  bool   // its machine has a new session
	lost     bool   // the session ended that brought the call
	look     bool   // the machine knows more than we do
	rerouted bool   // its sub-overlord failed, and the call is for us to send
	refused  string // the machine cannot take the call now: why
	answer   Answer // Number 0: none
}

// tell leaves news for the driver. However often a machine speaks, there is
// one entry for each call.
func (r *Run) tell(i int, set func(n *news)) {
	r.newsMu.Lock()
	n := r.news[i]
	if n == nil {
		if r.news == nil {
			r.news = make(map[int]*news)
		}
		n = new(news)
		r.news[i] = n
	}
	set(n)
	r.newsMu.Unlock()
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

func (r *Run) takeNews() map[int]*news {
	r.newsMu.Lock()
	defer r.newsMu.Unlock()
	n := r.news
	r.news = nil
	return n
}

// tellOpen is tell for a machine by name, unless its result is known.
func (r *Run) tellOpen(machine string, set func(n *news)) {
	if i, ok := r.Plan.index(machine); ok && r.at(i) < call.Finished && !r.carried(i) {
		r.tell(i, set)
	}
}

// Arrived notes that a machine has a new session: a call that waits for it is
// sent, and one that was sent is asked about. It never blocks.
func (r *Run) Arrived(machine string) { r.tellOpen(machine, func(n *news) { n.arrived = true }) }

// Lost notes that the session ended that brought a machine its call. It never blocks.
func (r *Run) Lost(machine string) { r.tellOpen(machine, func(n *news) { n.lost = true }) }

// Finishing notes that a machine says it has finished the call: it is asked
// for the result. It never blocks.
func (r *Run) Finishing(machine string) { r.tellOpen(machine, func(n *news) { n.look = true }) }

// Told takes what a machine answered when it was asked about its call. It never blocks.
func (r *Run) Told(machine string, a Answer) {
	i, ok := r.Plan.index(machine)
	if !ok {
		return
	}
	if a.Err == nil && a.State == Finished {
		a.Result.Machine = machine
		r.deliver(i, a.Result)
		return
	}
	r.tell(i, func(n *news) {
		if a.Number > n.answer.Number {
			n.answer = a
		}
	})
}

// Kept says whether the result of a machine is stored.
func (r *Run) Kept(machine string) bool {
	i, ok := r.Plan.index(machine)
	if !ok {
		return false
	}
	if at := r.at(i); at != call.Finished {
		return at == call.Stored
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.groups {
		if _, ok := slices.BinarySearch(g.Names, machine); ok {
			r.state[i].Store(uint32(call.Stored)) // a machine may ask for ever
			return true
		}
	}
	return false
}

// Busy says whether there is something to be waited for before the process
// ends: a call that a connected machine has, or a result that is not stored.
// What else a job waits for is found again when it is resumed.
func (r *Run) Busy(connected func(machine string) bool) bool {
	r.mu.Lock()
	unstored := r.known.Done() < r.counts.Done()
	r.mu.Unlock()
	if unstored {
		return true
	}
	for i, name := range r.Plan.Machines() {
		if hop := r.hopOf(i); hop != "" {
			name = hop
		}
		if at := r.at(i); at > call.Planned && at < call.Finished && connected(name) {
			return true
		}
	}
	return false
}

// Restore takes over a group of results that was stored before this run. It is
// called for every one, in their order, before Resume.
func (r *Run) Restore(g Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.base = g.Number + 1
	r.counts.Add(g.Status, len(g.Names))
	r.known.Add(g.Status, len(g.Names))
	for _, name := range g.Names {
		if i, ok := r.Plan.index(name); ok {
			r.state[i].Store(uint32(call.Stored))
			if r.refusedLocked(g) {
				r.spared[int32(i)] = true
			}
			continue
		}
		if r.unknown == nil {
			r.unknown = make(map[string]bool)
		}
		r.unknown[name] = true
	}
}

// refusedLocked says whether a stored result tells that a sub-overlord did not have
// the order, so that it must not begin with it now.
func (r *Run) refusedLocked(g Group) bool {
	if r.Plan.ways == nil || !neverBegan(call.Result{Code: g.Code, Detail: g.Detail}) {
		return false
	}
	by := strings.TrimPrefix(g.Detail, unreachable)
	if !slices.ContainsFunc(r.Plan.ways.hops, func(h hop) bool { return strings.HasPrefix(by, h.name+": ") }) {
		return false
	}
	if r.spared == nil {
		r.spared = make(map[int32]bool)
	}
	return true
}

// Resume says, before Do, that an overlord before this one had begun the job:
// the machines without a result may have been sent their call, and are asked.
// cancelled says that the job was withdrawn.
func (r *Run) Resume(cancelled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resumed = true
	for i := range r.state {
		r.advance(i, call.Sent)
	}
	if cancelled && !r.cancelled {
		r.cancelled = true
		close(r.stop)
	}
}
