package overlord

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/call"
	"dominion/job"
	"dominion/module"
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
	copied   *copied              // files that its machines may read; nil: none
	gone     chan struct{}        // closed when the watcher left: output is dropped from then on
	forwards sync.WaitGroup       // goroutines that pass output on

	mu      sync.Mutex
	again   map[string]uint64             // of machines that were sent the call once more, its newest id
	asks    map[string]*asking            // of machines that were asked, the newest
	ended   bool                          // no further stream is taken
	streams map[streamKey]*session.Stream // of live output, each taken once; nil when ended
}

// streamKey names a stream of live output within its job.
type streamKey struct{ machine, name string }

// Send implements job's wire.
func (r *running) Send(machine string, again bool, shared, part []byte) error {
	s := r.o.fleet.get(machine)
	if s == nil {
		return call.Errorf(call.NoSession, "%s", r.o.fleet.why(machine))
	}
	id := r.id
	if again { // an id is used once on a session
		id = r.anew(s, machine)
	}
	err := s.Start(id, r, shared, part)
	if call.CodeOf(err) == call.NoSession {
		return call.Errorf(call.NoSession, "the connection ended: %v", err)
	}
	return err
}

// Cancel implements job's wire.
func (r *running) Cancel(machine string) {
	if s := r.o.fleet.get(machine); s != nil {
		if err := s.Cancel(r.idOf(machine), "withdrawn"); err != nil {
			r.o.log.Debug("cancel not sent", "machine", machine, "error", err)
		}
	}
}

// Result implements session.Waiter.
func (r *running) Result(s *session.Session, id uint64, body []byte) {
	r.o.metrics.results.Inc()
	machine := s.Peer().Name
	p, err := session.DecodeResult(body)
	if err != nil {
		r.run.Deliver(call.Result{Machine: machine, Code: call.Internal, Detail: "it sent a result that cannot be read"})
		s.Close(call.Invalid, err.Error())
		return
	}
	res := call.Result{
		Machine: machine, Code: call.Code(p.Code), Detail: p.Detail, Output: p.Output, Took: job.Micros(p.TookUs),
	}
	if p.OutputStream == 0 {
		r.run.Deliver(res)
		return
	}
	go r.awaitOutput(s, id, p.OutputStream, res) // one for each call of the session; ends with it
}

// Lost implements session.Waiter.
func (r *running) Lost(s *session.Session, _ uint64, err error) {
	r.run.Lost(s.Peer().Name)
	r.o.log.Debug("session lost during a call", "machine", s.Peer().Name, "job", r.run.Plan.ID.String(), "error", err)
}

// awaitOutput completes a result whose output came as a stream. One that did
// not arrive whole is asked for.
func (r *running) awaitOutput(s *session.Session, id, stream uint64, res call.Result) {
	out, err := r.o.outputs.wait(s, id, stream)
	switch {
	case errors.Is(err, errTooLong):
		res.Code, res.Detail = call.Internal, "its output was not taken: "+err.Error()
	case err != nil:
		r.o.log.Debug("output did not arrive whole", "machine", res.Machine, "error", err)
		r.run.Lost(res.Machine)
		return
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
		r.o.outputs.expect(s, st, maxResult)
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
	unknown, err := expand(req.Unknown)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "unknown: %v", err)
	}
	if req.TimeoutMs > uint64(math.MaxInt64/time.Millisecond) {
		return nil, call.Errorf(call.Invalid, "a time-out of %d ms is longer than can be counted", req.TimeoutMs)
	}
	whom, scope, err := o.scopeOf(req)
	if err != nil {
		return nil, err
	}
	p, err := job.NewPlan(job.Request{
		Whom: whom, Scope: scope, Clashing: o.clashing(req, unknown), Signed: call.Signed{Order: req.Order, Signature: req.Signature, Cert: req.OperatorCert}, Salt: req.Salt, Args: req.Args,
		Unknown: unknown, Timeout: time.Duration(req.TimeoutMs) * time.Millisecond, Stream: req.Stream,
		Target: req.Target, Operator: c.Name, Wait: req.Wait,
	})
	if err != nil {
		return nil, err
	}
	if err := o.verifySigner(c, p); err != nil {
		o.auditDenied(ctx, c, p.Order.Method, p.Order.Job.String(), err.Error())
		return nil, err
	}
	m, ok := o.method(p.Order.Method)
	if !ok {
		return nil, call.Errorf(call.NotFound, "no method %q; dominion modules lists them", p.Order.Method)
	}
	p.Read = m.Effect() == module.Read
	if err := o.confirmed(m.Effect(), p.Order); err != nil {
		o.auditDenied(ctx, c, p.Order.Method, p.Order.Job.String(), err.Detail)
		return nil, err
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

// confirmed says whether an order that destroys, or changes many machines, was
// given in the knowledge of how many they are.
func (o *Overlord) confirmed(e module.Effect, order *call.Order) *call.Error {
	grave := e == module.Destroy || e == module.Change && order.Count > o.cfg.Guard
	if !grave || order.Confirmed == order.Count {
		return nil
	}
	return call.Errorf(call.Unconfirmed, "%s (its effect: %s) on %d machines needs their number confirmed", order.Method, e, order.Count)
}

// begin makes a planned job durable and starts it. The job outlives the
// request: it ends by itself, or with the overlord.
func (o *Overlord) begin(ctx context.Context, p *job.Plan, live chan<- *apipb.Output) (*running, error) {
	return o.start(ctx, p, live, &auditpb.Record{
		Actor: callerFrom(ctx).actor(), Action: "order", Subject: p.ID.String(), Detail: p.Order.Method,
		Order: &auditpb.Order{
			Order: p.Signed.Order, Signature: p.Signed.Signature, OperatorCert: p.Signed.Cert,
			Names: p.Folded(), Unknown: target.Fold(p.Unknown),
		},
	})
}

// start makes a planned job and its record durable, and starts it.
func (o *Overlord) start(ctx context.Context, p *job.Plan, live chan<- *apipb.Output, rec *auditpb.Record) (*running, error) {
	// One order of the parent can come for ever other machines, each time as a job of its own.
	switch cost := partCost(p); {
	case o.jobs.reserve(o.cfg.MaxJobs, max(o.cfg.MaxJobs/2, 1), cost):
	case cost > 0:
		return nil, call.Errorf(call.Busy, "the jobs that the overlord above began here are too many, or too large; try again later")
	default:
		return nil, call.Errorf(call.Busy, "%d jobs are running; try again later", o.cfg.MaxJobs)
	}
	if err := o.keep.begin(ctx, p, rec); err != nil {
		o.jobs.release(partCost(p))
		return nil, err
	}
	r := o.newRunning(p, live)
	o.jobs.add(r)
	o.background.Go(func() { o.carryOut(r) })
	return r, nil
}

func (o *Overlord) newRunning(p *job.Plan, live chan<- *apipb.Output) *running {
	return &running{o: o, run: job.NewRun(p, &o.budget, o.log), id: o.callID.Add(1), live: live, copied: o.blobs.begin(p), gone: make(chan struct{})}
}

// carryOut does a job and takes it off the table when it is closed. One that the
// overlord's end cuts off stays there: of a job that is not on the table machines
// are told that they need not keep its results.
func (o *Overlord) carryOut(r *running) {
	id := r.run.Plan.ID
	defer r.copied.end()
	defer r.forgetIDs()
	defer r.endStreams()
	if err := r.run.Do(o.life, r, o.keep); err != nil {
		o.log.Info("job goes on at the next start", "job", id.String(), "why", err)
		return
	}
	r.forget()
	o.jobs.remove(r)
}

// forget withdraws the waiter where no answer came.
func (r *running) forget() {
	for _, s := range r.o.fleet.of(r.run.Plan.Own()) {
		s.Forget(r.id)
	}
}

// busy says whether the process should wait for the job before it ends.
func (r *running) busy() bool {
	return r.run.Busy(func(machine string) bool { return r.o.fleet.get(machine) != nil })
}
