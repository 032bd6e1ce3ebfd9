package job

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dominion/call"
)

// Limits of what is kept of a job's output (design, section 6).
const (
	MaxJobOutput = 256 << 20 // bytes per job; the rest is counted
	maxAllOutput = 1 << 30   // bytes held by all open jobs of the process
	maxHeld      = 1 << 20   // bytes of stored output that a job holds for its watchers
)

const (
	retryStore = time.Second // between attempts of a store that refuses results
	tellStore  = time.Minute // between two complaints of one job about it
)

// Budget bounds the output held by all open jobs of a process. The zero value
// is ready.
type Budget struct{ used atomic.Int64 }

func (b *Budget) take(n int) bool {
	if b.used.Add(int64(n)) > maxAllOutput {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// A wire puts calls on machines' sessions. Its methods return at once.
type wire interface {
	// Send writes the CALL of one machine, in two parts. again says that it was
	// sent before and did not arrive. The error's code says why it could not; with
	// an error the machine has not heard of the call.
	Send(machine string, again bool, shared, part []byte) error
	// Cancel tells a machine to stop the call, if it has a session.
	Cancel(machine string)
	// Ask asks a machine how far the call has come, and with cancel withdraws it
	// there first. Unless there is an error the answer goes to Told, with the same
	// number, also when the session ends; only the newest ask of a machine need be
	// answered. The error has code NoSession when the machine has no session.
	Ask(machine string, number uint64, cancel bool) error
	// Stored tells machines that their results need not be kept.
	Stored(machines []string)
	carrier
}

// A keeper makes results durable.
type keeper interface {
	// KeepResults stores groups of results, and with end closes the job, all or
	// nothing; it returns when that is durable.
	KeepResults(ctx context.Context, job call.JobID, groups []Group, end *End) error
	// CloseJob closes a job of which every result is stored; it returns when that
	// is durable. A job that is closed already is left as it is.
	CloseJob(ctx context.Context, job call.JobID, end End) error
}

// End is how a job ended.
type End struct {
	Counts call.Counts
	Reason string // what is to be told of it; empty: nothing
}

// Run is one order being carried out.
type Run struct {
	Plan   *Plan
	budget *Budget
	log    *slog.Logger

	wake    chan struct{} // one: results wait to be folded
	poke    chan struct{} // one: there is news
	told    time.Time     // of the last complaint about the store; owned by Do
	resumed bool          // an overlord before this one had begun it; set before Do
	end     *End          // with which the store closed the job; owned by Do

	newsMu sync.Mutex
	news   map[int]*news // by position in Plan.Machines; what the driver has not heard yet

	// By position in Plan.Machines, call.State. Not under mu: the sender would wait
	// for it once a call, against those who deliver.
	state []atomic.Uint32
	// By the same, the sub-overlord that the call goes through now, as in Plan.ways;
	// nil: none does.
	via      []atomic.Int32
	carrying sync.WaitGroup // batches
	flowing  atomic.Int32   // pieces of live output from sub-overlords that are being passed on
	flowed   atomic.Int64   // when the last one was, in nanoseconds of Unix time

	mu        sync.Mutex
	fold      *folder
	counts    call.Counts // of results known, stored or not
	kept      int64       // bytes of output not cut off
	held      int64       // of which in memory
	cancelled bool
	stop      chan struct{}       // closed by Cancel
	complete  chan struct{}       // closed when every result is known
	over      chan struct{}       // closed when Do has ended
	unknown   map[string]bool     // of Plan.Unknown, those whose result was stored before the run was resumed
	base      int                 // groups that are only in the store: from before the run was resumed, or let go
	groups    []Group             // stored ones, from number base on
	known     call.Counts         // of all stored groups
	tried     map[int32]uint16    // of machines with several ways, those tried
	begun     map[int32]bool      // machines whose call may have begun by another way than the present one
	spared    map[int32]bool      // machines that a sub-overlord before the run was resumed did not take the order for
	foreign   map[string][]string // by sub-overlord: machines that it was not sent and answered for
	problem   string              // why results are not durable; empty when they are
	closed    bool
	why       string        // with closed: what is to be told of the job
	stopped   bool          // Do has ended before the job was closed
	changed   chan struct{} // closed and replaced when groups, problem, closed or stopped change
}

// NewRun prepares a run. budget is shared by all runs of the process.
func NewRun(p *Plan, budget *Budget, log *slog.Logger) *Run {
	targeted := call.Counts{Targeted: len(p.Machines()) + len(p.Unknown)}
	r := &Run{
		Plan: p, budget: budget, log: log, wake: make(chan struct{}, 1), poke: make(chan struct{}, 1), state: make([]atomic.Uint32, len(p.Machines())),
		fold: newFolder(p), counts: targeted, known: targeted, stop: make(chan struct{}), complete: make(chan struct{}), over: make(chan struct{}), changed: make(chan struct{}),
	}
	for i := range r.state {
		r.state[i].Store(uint32(call.Planned))
	}
	if p.ways != nil {
		r.via = make([]atomic.Int32, len(r.state))
		for i, h := range p.ways.best {
			r.via[i].Store(int32(h))
		}
	}
	return r
}

// Deliver takes what one machine answered. Only the first result of a machine
// counts; false says that this one did not. It never blocks. A machine that
// ended the call because its time was over does not say how much that was: it
// had what remained of the time-out, which is named here.
//
// That a machine knows the call already is no result, and nor is, where calls
// wait, that it cannot take it now: it is asked how far the call has come.
func (r *Run) Deliver(res call.Result) bool {
	i, ok := r.Plan.index(res.Machine)
	if !ok {
		return false
	}
	switch res.Code {
	case call.Repeated:
		r.tell(i, func(n *news) { n.look = true })
		return false
	case call.Busy, call.Unavailable:
		if r.Plan.Wait {
			r.tell(i, func(n *news) { n.refused = res.Code.String() + ": " + res.Detail })
			return false
		}
	}
	return r.deliver(i, res)
}

// deliver takes a result.
func (r *Run) deliver(i int, res call.Result) bool {
	if res.Code == call.Timeout && res.Detail == "" && r.Plan.Timeout > 0 {
		res.Detail = "not done within " + r.Plan.Nominal.String()
	}
	return r.finish(i, res)
}

func (r *Run) finish(i int, res call.Result) bool {
	if !r.advance(i, call.Finished) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if neverBegan(res) && r.otherwiseLocked(i) {
		res = honest(res)
	}
	r.addLocked(i, res)
	return true
}

// advance moves a call's state forward; false when it had come that far.
func (r *Run) advance(i int, to call.State) bool {
	for {
		old := r.state[i].Load()
		if old >= uint32(to) {
			return false
		}
		if r.state[i].CompareAndSwap(old, uint32(to)) {
			return true
		}
	}
}

// back takes a call back to call.Planned that was sent and did not arrive;
// false when its result is known.
func (r *Run) back(i int) bool {
	for {
		old := r.state[i].Load()
		if old >= uint32(call.Finished) {
			return false
		}
		if r.state[i].CompareAndSwap(old, uint32(call.Planned)) {
			return true
		}
	}
}

func (r *Run) name(i int) string { return r.Plan.Machines()[i] }

// at is how far a call has come.
func (r *Run) at(i int) call.State { return call.State(r.state[i].Load()) }

func (r *Run) addLocked(place int, res call.Result) {
	r.fold.took[place] = res.Took
	r.addAllLocked([]int32{int32(place)}, res)
}

// addAllLocked takes one result of the machines at several places, whose times are set.
func (r *Run) addAllLocked(at []int32, res call.Result) {
	r.fold.add(at, res, r.keepLocked)
	r.counts.Add(res.Status(), len(at))
	if r.counts.Done() == r.counts.Targeted {
		close(r.complete)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Run) keepLocked(n int) bool {
	if r.kept+int64(n) > MaxJobOutput || !r.budget.take(n) {
		return false
	}
	r.kept += int64(n)
	r.held += int64(n)
	return true
}

// Concerns says whether a machine is one of the job's.
func (r *Run) Concerns(machine string) bool {
	_, ok := r.Plan.index(machine)
	return ok
}

// Progress notes that a machine's call has come as far as s.
func (r *Run) Progress(machine string, s call.State) {
	if i, ok := r.Plan.index(machine); ok && s < call.Finished {
		r.advance(i, s)
	}
}

// Awaits says whether a machine's call was sent and its result is not known.
func (r *Run) Awaits(machine string) bool {
	i, ok := r.Plan.index(machine)
	if !ok {
		return false
	}
	at := r.at(i)
	return at > call.Planned && at < call.Finished
}

// Cancel withdraws the order: calls not sent yet never are, others are told to
// stop. It gives the machines of both kinds, sorted. Do goes on until
// the calls have confirmed.
func (r *Run) Cancel() (running, skipped []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.cancelled { // first: the driver looks for it before it sends a call again
		r.cancelled = true
		close(r.stop)
	}
	for i, name := range r.Plan.Machines() {
		switch {
		case r.state[i].CompareAndSwap(uint32(call.Planned), uint32(call.Finished)): // the sender passes it over
			res := call.Result{Machine: name, Code: call.Cancelled, Detail: detailNeverSent}
			if r.otherwiseLocked(i) {
				res = honest(res)
			}
			r.addLocked(i, res)
			skipped = append(skipped, name)
		case r.at(i) < call.Finished:
			running = append(running, name)
		}
	}
	return running, skipped
}

// Snapshot is what a watcher sees of a run.
type Snapshot struct {
	Groups  []Group     // stored groups from the number asked for, or from Base, on
	Base    int         // groups below this number are in the store alone
	Counts  call.Counts // of all stored groups
	Problem string      // why results are not durable; empty when they are
	Closed  bool
	Reason  string          // with Closed: what is to be told of the job; empty: nothing
	Stopped bool            // the run ended with the overlord; the job goes on when that is back
	Changed <-chan struct{} // closed when there is more to see
}

// Watch gives what is new since the groups before number from. Any number of
// watchers may look, each at its own pace.
func (r *Run) Watch(from int) Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Snapshot{
		Groups: r.groups[min(max(from-r.base, 0), len(r.groups)):], Base: r.base, Counts: r.known, Problem: r.problem, Closed: r.closed,
		Stopped: r.stopped, Changed: r.changed, Reason: r.why,
	}
}

// Cancelled says whether the order was withdrawn.
func (r *Run) Cancelled() bool { return isClosed(r.stop) }

// Closed gives a channel that is closed when the run is over: the job is closed,
// or goes on at the next start.
func (r *Run) Closed() <-chan struct{} { return r.over }

// Waiting gives the machines whose result is not known yet, at most limit.
func (r *Run) Waiting(limit int) []string {
	var out []string
	for i, name := range r.Plan.Machines() {
		if r.at(i) < call.Finished && len(out) < limit {
			out = append(out, name)
		}
	}
	return out
}
