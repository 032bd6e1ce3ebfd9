package job

import (
	"context"
	"errors"
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
)

const (
	// Results that arrive this close together share groups and a write: at first
	// for a quick sign of life, then longer, as each write costs a transaction, a
	// signed checkpoint and an event (measured at 5,000 machines: 6 µs of CPU a
	// call with 5 ms throughout).
	firstFold   = 5 * time.Millisecond
	lastFold    = 100 * time.Millisecond
	retryStore  = time.Second     // between attempts of a store that refuses results
	tellStore   = time.Minute     // between two complaints of one job about it
	confirmTime = 5 * time.Second // for calls to confirm that they were cancelled
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

// A wire puts calls on machines' sessions. Both methods return at once.
type wire interface {
	// Send writes the CALL of one machine, in two parts. The error's code says why it could not.
	Send(machine string, shared, part []byte) error
	// Cancel tells a machine to stop the call.
	Cancel(machine string)
}

// A keeper makes results durable.
type keeper interface {
	// KeepResults stores groups of results; it returns when they are durable.
	KeepResults(ctx context.Context, job call.JobID, groups []Group) error
}

// Run is one order being carried out.
type Run struct {
	Plan   *Plan
	budget *Budget
	log    *slog.Logger

	wake chan struct{} // one: results wait to be folded
	told time.Time     // of the last complaint about the store; owned by Do

	// By position in Plan.Tree, call.State. Not under mu: the sender would wait
	// for it once a call, against those who deliver.
	state []atomic.Uint32

	mu        sync.Mutex
	fold      *folder
	counts    call.Counts // of results known, stored or not
	kept      int64       // bytes of output held
	cancelled bool
	stop      chan struct{} // closed by Cancel
	complete  chan struct{} // closed when every result is known
	groups    []Group       // stored ones, by number
	known     call.Counts   // of groups
	problem   string        // why results are not durable; empty when they are
	closed    bool
	changed   chan struct{} // closed and replaced when groups, problem or closed change
}

// NewRun prepares a run. budget is shared by all runs of the process.
func NewRun(p *Plan, budget *Budget, log *slog.Logger) *Run {
	targeted := call.Counts{Targeted: p.Tree.Len() + len(p.Unknown)}
	r := &Run{
		Plan: p, budget: budget, log: log, wake: make(chan struct{}, 1), state: make([]atomic.Uint32, p.Tree.Len()),
		fold: newFolder(), counts: targeted, known: targeted, stop: make(chan struct{}), complete: make(chan struct{}), changed: make(chan struct{}),
	}
	for i := range r.state {
		r.state[i].Store(uint32(call.Planned))
	}
	return r
}

// Deliver takes what one machine answered. Only the first result of a machine
// counts; false says that this one did not. It never blocks. A machine that
// ended the call because its time was over does not say how much that was: it
// had what remained of the time-out, which is named here.
func (r *Run) Deliver(res call.Result) bool {
	i, ok := r.Plan.Tree.Index(res.Machine)
	if !ok {
		return false
	}
	if res.Code == call.Timeout && res.Detail == "" && r.Plan.Timeout > 0 {
		res.Detail = "not done within " + r.Plan.Timeout.String()
	}
	return r.finish(i, res)
}

func (r *Run) finish(i int, res call.Result) bool {
	if !r.advance(i, call.Finished) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(res)
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

// at is how far a call has come.
func (r *Run) at(i int) call.State { return call.State(r.state[i].Load()) }

func (r *Run) addLocked(res call.Result) {
	r.fold.add(res, r.keepLocked)
	r.counts.Add(res.Status(), 1)
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
	return true
}

// Progress notes that a machine's call has come as far as s.
func (r *Run) Progress(machine string, s call.State) {
	if i, ok := r.Plan.Tree.Index(machine); ok && s < call.Finished {
		r.advance(i, s)
	}
}

// Awaits says whether a machine's call was sent and its result is not known.
func (r *Run) Awaits(machine string) bool {
	i, ok := r.Plan.Tree.Index(machine)
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
	for i, name := range r.Plan.Tree.All() {
		switch {
		case r.state[i].CompareAndSwap(uint32(call.Planned), uint32(call.Finished)): // the sender passes it over
			r.addLocked(call.Result{Machine: name, Code: call.Cancelled, Detail: "cancelled before it was sent"})
			skipped = append(skipped, name)
		case r.at(i) < call.Finished:
			running = append(running, name)
		}
	}
	if !r.cancelled {
		r.cancelled = true
		close(r.stop)
	}
	return running, skipped
}

// Snapshot is what a watcher sees of a run.
type Snapshot struct {
	Groups  []Group     // stored groups from the number asked for
	Counts  call.Counts // of all stored groups
	Problem string      // why results are not durable; empty when they are
	Closed  bool
	Changed <-chan struct{} // closed when there is more to see
}

// Watch gives what is new since the groups before number from. Any number of
// watchers may look, each at its own pace.
func (r *Run) Watch(from int) Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Snapshot{
		Groups: r.groups[min(from, len(r.groups)):], Counts: r.known, Problem: r.problem, Closed: r.closed, Changed: r.changed,
	}
}

// Waiting gives the machines whose result is not known yet, at most limit.
func (r *Run) Waiting(limit int) []string {
	var out []string
	for i, name := range r.Plan.Tree.All() {
		if r.at(i) < call.Finished && len(out) < limit {
			out = append(out, name)
		}
	}
	return out
}

// Do sends the calls, gathers the results and keeps them, and returns when
// every machine has exactly one stored result. Cancelling ctx ends it early
// with ctx's error: what was not stored by then is lost with the process.
func (r *Run) Do(ctx context.Context, w wire, k keeper) error {
	for _, name := range r.Plan.Unknown {
		r.mu.Lock()
		r.addLocked(call.Result{Machine: name, Code: call.UnknownName, Detail: "no machine of that name has enrolled"})
		r.mu.Unlock()
	}
	var driving sync.WaitGroup
	done := make(chan struct{})
	driving.Go(func() { r.drive(ctx, w, done) })
	err := r.gather(ctx, k)
	close(done)
	driving.Wait()
	r.mu.Lock()
	r.budget.used.Add(-r.kept)
	r.closed = true
	r.tellLocked()
	r.mu.Unlock()
	return err
}

// margin is what a machine's time is shorter than ours, so that it can still
// say itself that it was late.
func margin(timeout time.Duration) time.Duration {
	return min(max(timeout/20, 20*time.Millisecond), time.Second)
}

// drive sends the calls, and then ends those that are late or cancelled, until
// done is closed.
func (r *Run) drive(ctx context.Context, w wire, done <-chan struct{}) {
	start := time.Now()
	r.sendAll(ctx, w, start)
	var late <-chan time.Time // nil: no limit
	if r.Plan.Timeout > 0 {
		t := time.NewTimer(time.Until(start.Add(r.Plan.Timeout)))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-done:
		return
	case <-ctx.Done():
		return
	case <-late:
		r.giveUp(w, "no answer within "+r.Plan.Timeout.String())
		return
	case <-r.stop:
	}
	for _, name := range r.Waiting(call.MaxMachines) {
		w.Cancel(name)
	}
	t := time.NewTimer(confirmTime)
	defer t.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-t.C:
		r.giveUp(w, "cancelled, and it did not confirm within "+confirmTime.String())
	}
}

func (r *Run) sendAll(ctx context.Context, w wire, start time.Time) {
	end := start.Add(r.Plan.Timeout - margin(r.Plan.Timeout))
	part := make([]byte, 0, 1024)
	for i, name := range r.Plan.Tree.All() {
		select {
		case <-ctx.Done():
			return
		case <-r.stop:
			return
		default:
		}
		var remaining time.Duration
		if r.Plan.Timeout > 0 {
			remaining = max(time.Until(end), time.Millisecond)
		}
		r.sendOne(i, name, remaining, part, w)
	}
}

func (r *Run) sendOne(i int, name string, remaining time.Duration, part []byte, w wire) {
	shared, part := r.Plan.Call(i, remaining, part)
	if !r.advance(i, call.Sent) { // before it leaves: the answer may be here first
		return // cancelled
	}
	err := w.Send(name, shared, part)
	if err == nil {
		return
	}
	detail := err.Error()
	if e, ok := errors.AsType[*call.Error](err); ok {
		detail = e.Detail
	}
	r.finish(i, call.Result{Machine: name, Code: call.CodeOf(err), Detail: detail})
}

// gather folds and stores results until all are stored.
func (r *Run) gather(ctx context.Context, k keeper) error {
	for fold := firstFold; ; fold = min(2*fold, lastFold) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
		pause(ctx, fold, r.complete)
		if err := r.store(ctx, k); err != nil {
			return err
		}
		if r.allStored() {
			return nil
		}
	}
}

// pause waits for d, or until early is closed (nil: never).
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}

func (r *Run) allStored() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known.Done() == r.known.Targeted
}

// giveUp ends every call that has no result, and tells its machine to stop.
func (r *Run) giveUp(w wire, detail string) {
	for i, name := range r.Plan.Tree.All() {
		if r.finish(i, call.Result{Machine: name, Code: call.NoAnswer, Detail: detail}) {
			w.Cancel(name)
		}
	}
}

// store writes what has been folded. A store that refuses is asked again until
// ctx ends: results wait in memory, and watchers see why. The log is told at
// most once a minute.
func (r *Run) store(ctx context.Context, k keeper) error {
	r.mu.Lock()
	groups := r.fold.fold(len(r.groups))
	r.mu.Unlock()
	if len(groups) == 0 {
		return nil
	}
	log, told := r.log.With("job", r.Plan.Order.Job.String(), "groups", len(groups)), false
	for {
		err := k.KeepResults(ctx, r.Plan.Order.Job, groups)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); r.told.IsZero() || now.Sub(r.told) >= tellStore {
			log.Error("results not stored, trying again", "error", err)
			r.told, told = now, true
		}
		r.mu.Lock()
		if r.problem == "" {
			r.problem = err.Error()
			r.tellLocked()
		}
		r.mu.Unlock()
		pause(ctx, retryStore, nil)
	}
	if told {
		log.Info("results stored after all")
	}
	r.mu.Lock()
	r.problem = ""
	r.groups = append(r.groups, groups...)
	for _, g := range groups {
		r.known.Add(g.Status, len(g.Names))
	}
	r.tellLocked()
	r.mu.Unlock()
	return nil
}

func (r *Run) tellLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}
