package overlord

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/call"
	"dominion/job"
	"dominion/session"
	"dominion/target"
)

// Limits of one call's output on its way through the overlord.
const (
	maxResult   = 1 << 20 // bytes of one result; a longer one is refused by name
	outputChunk = 32 << 10
)

// running is a job that has calls in the air. It is the wire of its job.Run
// and the session.Waiter of its calls.
type running struct {
	o   *Overlord
	run *job.Run
	id  uint64 // of its calls, on every session

	live     chan<- *apipb.Output // to the one watcher of live output
	gone     chan struct{}        // closed when the watcher left: output is dropped from then on
	forwards sync.WaitGroup       // goroutines that pass output on

	mu      sync.Mutex
	ended   bool                          // no further stream is taken
	streams map[streamKey]*session.Stream // of live output, each taken once; nil when ended
}

// streamKey names a stream of live output within its job.
type streamKey struct{ machine, name string }

// Send implements job's wire.
func (r *running) Send(machine string, shared, part []byte) error {
	s := r.o.fleet.get(machine)
	if s == nil {
		return call.Errorf(call.NoSession, "%s", r.o.fleet.why(machine))
	}
	if err := s.Start(r.id, r, shared, part); err != nil {
		return call.Errorf(call.NoSession, "the connection ended: %v", err)
	}
	return nil
}

// Cancel implements job's wire.
func (r *running) Cancel(machine string) {
	if s := r.o.fleet.get(machine); s != nil {
		if err := s.Cancel(r.id, "withdrawn"); err != nil {
			r.o.log.Debug("cancel not sent", "machine", machine, "error", err)
		}
	}
}

// Result implements session.Waiter.
func (r *running) Result(s *session.Session, _ uint64, body []byte) {
	r.o.metrics.results.Inc()
	machine := s.Peer().Name
	p, err := session.DecodeResult(body)
	if err != nil {
		r.run.Deliver(call.Result{Machine: machine, Code: call.Internal, Detail: "it sent a result that cannot be read"})
		s.Close(call.Invalid, err.Error())
		return
	}
	res := call.Result{
		Machine: machine, Code: call.Code(p.Code), Detail: p.Detail, Output: p.Output, Took: time.Duration(p.TookUs) * time.Microsecond,
	}
	if p.OutputStream == 0 {
		r.run.Deliver(res)
		return
	}
	go r.awaitOutput(s, p.OutputStream, res) // one for each call of the session; ends with it
}

// Lost implements session.Waiter.
func (r *running) Lost(s *session.Session, _ uint64, err error) {
	r.run.Deliver(call.Result{
		Machine: s.Peer().Name, Code: call.SessionLost, Detail: "the connection ended before the answer; whether the call ran is not known",
	})
	r.o.log.Debug("session lost during a call", "machine", s.Peer().Name, "job", r.run.Plan.Order.Job.String(), "error", err)
}

// awaitOutput completes a result whose output came as a stream.
func (r *running) awaitOutput(s *session.Session, id uint64, res call.Result) {
	out, err := r.o.outputs.wait(s, r.id, id)
	if err != nil {
		res.Code, res.Detail = call.SessionLost, "its output did not arrive whole: "+err.Error()
	}
	res.Output = out
	r.run.Deliver(res)
}

// opened takes a stream that a minion opened for this job: of each name one, as
// long as its answer is awaited.
func (r *running) opened(s *session.Session, st *session.Stream) {
	machine := s.Peer().Name
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || !r.run.Awaits(machine) {
		st.CloseWithReason("no answer of this machine is awaited")
		return
	}
	switch key := (streamKey{machine, st.Name()}); key.name {
	case "result":
		r.o.outputs.expect(s, st)
	case "stdout", "stderr":
		if r.streams[key] != nil {
			st.CloseWithReason("a second stream of one name")
			return
		}
		if r.streams == nil {
			r.streams = make(map[streamKey]*session.Stream)
		}
		r.streams[key] = st
		st.Accept()
		r.forwards.Go(func() { r.forward(machine, st) })
	default:
		st.CloseWithReason("no such stream")
	}
}

// forward hands live output to the watcher, at the watcher's pace, and drops
// it when there is none.
func (r *running) forward(machine string, st *session.Stream) {
	for {
		buf := make([]byte, outputChunk)
		n, err := st.Read(buf)
		if n > 0 {
			r.pass(&apipb.Output{Machine: machine, Stream: st.Name(), Data: buf[:n]})
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.o.log.Debug("live output ended", "machine", machine, "error", err)
			}
			return
		}
	}
}

func (r *running) pass(out *apipb.Output) {
	select {
	case r.live <- out:
	case <-r.gone:
	}
}

// leave says that the watcher of live output has left.
func (r *running) leave() { close(r.gone) }

// endStreams takes no further stream and ends those that a machine left open
// when it answered, or that go on because it did not. What has come is passed on.
func (r *running) endStreams() {
	r.mu.Lock()
	streams := r.streams
	r.ended, r.streams = true, nil
	r.mu.Unlock()
	for _, st := range streams {
		st.Abandon("the job is closed")
	}
}

// quiet gives a channel that is closed when all live output has been passed
// on. It is asked for when the job is closed: no stream opens after that.
func (r *running) quiet() <-chan struct{} {
	r.endStreams()
	done := make(chan struct{})
	go func() { // ends when the watcher reads on, or leaves
		r.forwards.Wait()
		close(done)
	}()
	return done
}

// plan checks a request to carry out an order as far as the overlord can:
// identity, revocation, policy, method, arguments. What it refuses goes on the
// audit log; the minions check everything again.
func (o *Overlord) plan(ctx context.Context, req *apipb.CallRequest) (*job.Plan, error) {
	c := callerFrom(ctx)
	names, err := target.Expand(req.Names)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "names: %v", err)
	}
	var unknown []string
	if req.Unknown != "" {
		if unknown, err = target.Expand(req.Unknown); err != nil {
			return nil, call.Errorf(call.Invalid, "unknown: %v", err)
		}
	}
	p, err := job.NewPlan(job.Request{
		Signed: call.Signed{Order: req.Order, Signature: req.Signature, Cert: req.OperatorCert}, Salt: req.Salt, Args: req.Args,
		Names: names, Unknown: unknown, Timeout: time.Duration(req.TimeoutMs) * time.Millisecond, Stream: req.Stream,
		Target: req.Target, Operator: c.Name,
	})
	if err != nil {
		return nil, err
	}
	if err := o.verifySigner(c, p); err != nil {
		o.auditDenied(ctx, c, p.Order.Method, p.Order.Job.String(), err.Error())
		return nil, err
	}
	m, ok := o.table.Lookup(p.Order.Method)
	if !ok {
		return nil, call.Errorf(call.NotFound, "no method %q; dominion modules lists them", p.Order.Method)
	}
	if err := m.Validate(req.Args); err != nil {
		return nil, err
	}
	if c.local {
		return p, nil
	}
	if denied := o.currentPolicy().AllowAll(c.Name, p.Order.Method, p.Tree.All()); len(denied) > 0 {
		o.auditDenied(ctx, c, p.Order.Method, p.Order.Job.String(), "policy, for "+target.Fold(denied))
		return nil, call.Errorf(call.Denied, "operator %q may not call %s on %s", c.Name, p.Order.Method, target.Fold(denied))
	}
	return p, nil
}

// begin makes a planned job durable and starts it. The job outlives the
// request: it ends by itself, or with the overlord.
func (o *Overlord) begin(ctx context.Context, p *job.Plan, live chan<- *apipb.Output) (*running, error) {
	if !o.jobs.reserve(o.cfg.MaxJobs) {
		return nil, call.Errorf(call.Busy, "%d jobs are running; try again later", o.cfg.MaxJobs)
	}
	c := callerFrom(ctx)
	rec := &auditpb.Record{
		Actor: c.actor(), Action: "order", Subject: p.Order.Job.String(), Detail: p.Order.Method,
		Order: &auditpb.Order{
			Order: p.Signed.Order, Signature: p.Signed.Signature, OperatorCert: p.Signed.Cert,
			Names: target.Fold(p.Tree.All()), Unknown: target.Fold(p.Unknown),
		},
	}
	if err := o.keep.begin(ctx, p, rec); err != nil {
		o.jobs.release()
		return nil, err
	}
	r := &running{o: o, run: job.NewRun(p, &o.budget, o.log), id: o.callID.Add(1), live: live, gone: make(chan struct{})}
	o.jobs.add(r)
	o.background.Go(func() {
		defer o.jobs.remove(r)
		o.carryOut(r)
	})
	return r, nil
}

func (o *Overlord) carryOut(r *running) {
	id := r.run.Plan.Order.Job
	defer r.o.outputs.forget(r.id)
	defer r.endStreams()
	if err := r.run.Do(o.life, r, o.keep); err != nil {
		o.log.Warn("job ended early", "job", id.String(), "error", err)
		return
	}
	r.forget()
	if err := o.keep.end(o.life, id, r.run.Watch(0).Counts, ""); err != nil {
		o.log.Error("job not closed in the store", "job", id.String(), "error", err)
	}
}

// forget withdraws the waiter where no answer came.
func (r *running) forget() {
	for _, s := range r.o.fleet.of(r.run.Plan.Tree.All()) {
		s.Forget(r.id)
	}
}

// jobTable holds the jobs that have calls in the air.
type jobTable struct {
	mu       sync.RWMutex
	reserved int
	byCall   map[uint64]*running
	byJob    map[call.JobID]*running
}

func (t *jobTable) reserve(limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved >= limit {
		return false
	}
	t.reserved++
	return true
}

func (t *jobTable) release() {
	t.mu.Lock()
	t.reserved--
	t.mu.Unlock()
}

func (t *jobTable) add(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byCall == nil {
		t.byCall, t.byJob = make(map[uint64]*running), make(map[call.JobID]*running)
	}
	t.byCall[r.id] = r
	t.byJob[r.run.Plan.Order.Job] = r
}

func (t *jobTable) remove(r *running) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byCall, r.id)
	delete(t.byJob, r.run.Plan.Order.Job)
	t.reserved--
}

func (t *jobTable) call(id uint64) *running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byCall[id]
}

func (t *jobTable) job(id call.JobID) *running {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byJob[id]
}

// wait returns when no job is left, or ctx has ended.
func (t *jobTable) wait(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for t.count() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *jobTable) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byJob)
}
