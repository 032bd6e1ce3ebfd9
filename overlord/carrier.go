package overlord

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/pki"
	"dominion/session"
)

// Limits of an order on its way through sub-overlords.
const (
	maxInline = 512 << 10           // bytes of an encoded Delegate; a longer one goes as a stream
	maxOrder  = maxRequest          // bytes of it in all
	maxEvent  = maxRequest          // bytes of one event, whatever the number of machines
	maxPassed = outputChunk + 4<<10 // bytes of one event with live output
	maxCut    = 1 << 50             // bytes that were not kept of one output
	// Names beyond those of the job that a sub-overlord may tell results of, before
	// nothing of what it says is awaited any more.
	maxSurplus = 1000
)

// eventLimit gives the size of an event that tells of so many machines: each has
// a name and a time.
func eventLimit(machines int) uint64 {
	return uint64(min(maxEvent, maxResult+16<<10+machines*(call.MaxName+1+binary.MaxVarintLen64)))
}

// Streams of a delegation.
const (
	streamOrder  = "order"  // down: the Delegate, if it is long
	streamEvents = "events" // up: results
	streamOutput = "output" // up: live output
)

// hopCall is an order that a sub-overlord has been sent. It is the
// session.Waiter of the answer.
type hopCall struct {
	r       *running
	hop     string
	id      uint64
	session *session.Session
	answer  chan hopAnswer       // holds one
	events  chan *session.Stream // holds one

	withdrawn atomic.Bool // it was told that the order is withdrawn

	mu   sync.Mutex
	over bool
	took map[string]bool // names of streams that came
}

// hopAnswer is the end of what a sub-overlord says of an order.
type hopAnswer struct {
	events []byte // results that came with it, in place of a stream
	err    error
}

// Arrival implements job's wire.
func (r *running) Arrival(hop string) <-chan struct{} { return r.o.fleet.arrival(hop) }

// Delegate implements job's wire.
func (r *running) Delegate(ctx context.Context, hop string, d *fleetpb.Delegate, withdraw <-chan struct{}, take func(job.Told)) error {
	s := r.o.fleet.get(hop)
	if s == nil {
		return call.Errorf(call.NoSession, "%s", r.o.fleet.why(hop))
	}
	if s.Peer().Role != pki.Overlord {
		return call.Errorf(call.Denied, "it is no overlord, so nothing is behind it")
	}
	d.Names, d.Via = r.run.Plan.Folded(), append(slices.Clone(r.run.Plan.Via), r.o.cfg.Name)
	c := &hopCall{r: r, hop: hop, id: r.o.callID.Add(1), session: s, answer: make(chan hopAnswer, 1), events: make(chan *session.Stream, 1), took: make(map[string]bool)}
	if d.Cancel { // which says it
		withdraw = nil
		c.withdrawn.Store(true)
	}
	r.o.jobs.passing(c)
	defer c.end()
	long, err := c.start(d)
	if err != nil {
		return err
	}
	if long != nil {
		sending, stop := context.WithCancel(ctx)
		defer stop()
		r.o.background.Go(func() { c.send(sending, long) })
	}
	return c.wait(ctx, withdraw, take)
}

// start sends the CALL; long is what has to follow as a stream.
func (c *hopCall) start(d *fleetpb.Delegate) (long []byte, err error) {
	args, err := proto.Marshal(d)
	if err != nil {
		return nil, call.Errorf(call.Internal, "encode the order: %v", err)
	}
	if len(args) > maxOrder {
		return nil, call.Errorf(call.Invalid, "the order has %d bytes with its machines; at most %d can be passed on", len(args), maxOrder)
	}
	if len(args) > maxInline {
		long = args
		if args, err = proto.Marshal(&fleetpb.Delegate{Streamed: true}); err != nil {
			return nil, call.Errorf(call.Internal, "encode the order: %v", err)
		}
	}
	body, err := proto.Marshal(&fleetpb.Call{Method: session.MethodDelegate, Args: args})
	if err != nil {
		return nil, call.Errorf(call.Internal, "encode the order: %v", err)
	}
	return long, c.session.Start(c.id, c, body)
}

// send sends an order that is too long for a frame. If it cannot be sent, the
// sub-overlord says so, or its session is over.
func (c *hopCall) send(ctx context.Context, long []byte) {
	st, err := c.session.Open(ctx, c.id, streamOrder)
	if err == nil {
		if _, err = st.Write(long); err == nil {
			err = st.Close()
		} else {
			st.CloseWithReason("not sent")
		}
	}
	if err != nil && ctx.Err() == nil {
		c.r.o.log.Debug("order not passed on whole", "hop", c.hop, "job", c.r.run.Plan.ID.String(), "error", err)
	}
}

// opened takes a stream of results or live output; on the reader's goroutine.
func (c *hopCall) opened(s *session.Session, st *session.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || s != c.session || c.took[st.Name()] {
		st.CloseWithReason("no such stream is awaited")
		return
	}
	switch st.Name() {
	case streamEvents:
		c.events <- st
		st.Accept()
	case streamOutput:
		if !c.r.passOn(c, st) {
			return
		}
	default:
		st.CloseWithReason("no such stream")
		return
	}
	c.took[st.Name()] = true
}

// passOn takes a sub-overlord's live output, for the watcher.
func (r *running) passOn(c *hopCall, st *session.Stream) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := streamKey{c.hop, fmt.Sprintf("%s %d", streamOutput, c.id)}
	if r.ended || r.live == nil || !r.run.Plan.Stream {
		st.CloseWithReason("nobody watches")
		return false
	}
	if r.streams == nil {
		r.streams = make(map[streamKey]*session.Stream)
	}
	r.streams[key] = st
	st.Accept()
	r.forwards.Go(func() { r.forwardBelow(c.hop, st) })
	return true
}

// forwardBelow hands live output of machines below a sub-overlord to the watcher.
func (r *running) forwardBelow(hop string, st *session.Stream) {
	in := bufio.NewReader(st)
	for {
		ev, err := readEvent(in, maxPassed)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.o.log.Debug("live output ended", "hop", hop, "error", err)
				st.CloseWithReason("it cannot be read")
			}
			return
		}
		out := ev.GetOutput()
		if out == nil || len(out.Data) > outputChunk || out.Stream != "stdout" && out.Stream != "stderr" {
			r.o.log.Debug("live output ended", "hop", hop, "error", "an event that is none of live output")
			st.CloseWithReason("it is no live output")
			return
		}
		switch {
		case r.run.Through(out.Machine, hop):
			passed := r.run.Flow()
			r.pass(out)
			passed()
		case !r.run.Leads(out.Machine, hop):
			r.run.Foreign(hop, out.Machine)
			st.CloseWithReason("it is of a machine that you were not sent the order for")
			return
		default: // another sub-overlord was sent the order for it meanwhile
		}
	}
}

// Result implements session.Waiter.
func (c *hopCall) Result(s *session.Session, _ uint64, body []byte) {
	p, err := session.DecodeResult(body)
	switch {
	case err != nil:
		s.Close(call.Invalid, err.Error())
		c.answer <- hopAnswer{err: call.Errorf(call.SessionLost, "%v", err)}
	default:
		c.answer <- hopAnswer{p.Output, c.refusal(call.Code(p.Code), p.Detail)}
	}
}

// refusal gives what a sub-overlord answered instead of results; nil: nothing.
// What only we can know it does not decide.
func (c *hopCall) refusal(code call.Code, detail string) error {
	switch code {
	case call.OK:
		return nil
	case call.Cancelled:
		if c.withdrawn.Load() {
			break
		}
		fallthrough
	case call.NoSession, call.SessionLost, call.NoAnswer, call.Repeated: // of the order here: not of its machines
		return call.Errorf(call.NoAnswer, "it answered %s: %s", code, detail)
	case call.NotFound:
		detail = "its program is too old to pass orders on: " + detail
	}
	return &call.Error{Code: code, Node: c.hop, Detail: detail}
}

// Lost implements session.Waiter.
func (c *hopCall) Lost(_ *session.Session, _ uint64, err error) {
	c.answer <- hopAnswer{err: call.Errorf(call.SessionLost, "%v", err)}
}

// end takes nothing more.
func (c *hopCall) end() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.session.Forget(c.id)
	c.r.o.jobs.passed(c)
	select {
	case st := <-c.events:
		st.CloseWithReason("not awaited any more")
	default:
	}
}

// wait takes results until the sub-overlord has answered.
func (c *hopCall) wait(ctx context.Context, withdraw <-chan struct{}, take func(job.Told)) error {
	var reading *eventReader
	var groups chan job.Told
	answered, answer := false, hopAnswer{}
	defer func() {
		if reading != nil {
			reading.stop()
		}
	}()
	for {
		switch {
		case answered && answer.err != nil:
			return answer.err
		case answered && reading == nil:
			return c.takeInline(answer.events, take)
		case answered && groups == nil:
			return broken(reading.err)
		}
		select {
		case st := <-c.events:
			reading = c.readEvents(st)
			groups = reading.groups
		case g, ok := <-groups:
			if !ok {
				groups = nil
				if err := broken(reading.err); call.CodeOf(err) == call.NoAnswer {
					_ = c.session.Cancel(c.id, err.Error()) // an error: the session is over
					return err
				}
				continue
			}
			take(g)
		case answer = <-c.answer:
			answered = true
			if groups == nil {
				select { // it came before the answer
				case st := <-c.events:
					reading = c.readEvents(st)
					groups = reading.groups
				default:
				}
			}
		case <-withdraw:
			withdraw = nil
			c.withdrawn.Store(true)
			_ = c.session.Cancel(c.id, "withdrawn") // an error: the session is over, and Lost comes
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), job.ErrGivenUp) {
				_ = c.session.Cancel(c.id, context.Cause(ctx).Error())
			}
			return context.Cause(ctx)
		}
	}
}

// takeInline takes results that came with the answer.
func (c *hopCall) takeInline(events []byte, take func(job.Told)) error {
	in, told := bufio.NewReaderSize(bytes.NewReader(events), 16), telling{scope: c.r.run.Plan.Scope}
	for {
		g, err := told.next(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return call.Errorf(call.NoAnswer, "its answer cannot be read: %v", err)
		}
		take(g)
	}
}

// broken gives what it means that results did not arrive whole; nil: they did.
func broken(err error) error {
	_, closed := errors.AsType[*session.StreamError](err)
	switch {
	case err == nil:
		return nil
	case closed:
		return call.Errorf(call.Unavailable, "its answer broke off: %v", err)
	case errors.Is(err, errEvent) && call.CodeOf(err) != call.SessionLost:
		return call.Errorf(call.NoAnswer, "its answer cannot be read: %v", err)
	}
	return call.Errorf(call.SessionLost, "what it answered did not arrive whole: %v", err)
}

// telling reads groups of results, and bounds the names that they tell of.
type telling struct {
	scope *job.Scope
	names int // so far
}

// next gives the next group; io.EOF is an orderly end.
func (t *telling) next(in *bufio.Reader) (job.Told, error) {
	most := len(t.scope.Machines())
	for limit := eventLimit(most); ; {
		ev, err := readEvent(in, limit)
		if err != nil {
			return job.Told{}, err
		}
		g := job.Told{}
		if ev.GetResults() != nil {
			if g, err = toldOfPB(t.scope, ev.GetResults()); err != nil {
				return g, err
			}
		}
		if t.names += max(len(g.At)+len(g.Others), 1); t.names > most+maxSurplus {
			return g, fmt.Errorf("%w: it tells of more machines than the order is for", errEvent)
		}
		if ev.GetResults() != nil {
			return g, nil
		}
	}
}

// eventReader reads groups of results from a stream.
type eventReader struct {
	st     *session.Stream
	told   telling
	groups chan job.Told // closed at the end; err is set then
	done   chan struct{}
	err    error // nil: it ended in order
}

func (c *hopCall) readEvents(st *session.Stream) *eventReader {
	er := &eventReader{st: st, told: telling{scope: c.r.run.Plan.Scope}, groups: make(chan job.Told), done: make(chan struct{})}
	go er.read() // ends with the stream, at the latest with the session
	return er
}

func (er *eventReader) stop() {
	close(er.done)
	er.st.CloseWithReason("not awaited any more")
}

func (er *eventReader) read() {
	defer close(er.groups)
	for in := bufio.NewReader(er.st); ; {
		g, err := er.told.next(in)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			er.err = err
			er.st.CloseWithReason("it cannot be read")
			return
		}
		select {
		case er.groups <- g:
		case <-er.done:
			return
		}
	}
}

// errEvent is wrapped by errors about what a sub-overlord sends.
var errEvent = errors.New("malformed event")

// readEvent reads an event behind its length. io.EOF is an orderly end.
func readEvent(in *bufio.Reader, limit uint64) (*apipb.CallEvent, error) {
	n, err := binary.ReadUvarint(in)
	if errors.Is(err, io.EOF) { // only before the first byte
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEvent, err)
	}
	if n > limit {
		return nil, fmt.Errorf("%w: of %d bytes; at most %d are allowed", errEvent, n, limit)
	}
	var b []byte
	for len(b) < int(n) { // no more memory than has come
		part := make([]byte, min(int(n)-len(b), max(64<<10, len(b))))
		if _, err := io.ReadFull(in, part); err != nil {
			return nil, fmt.Errorf("%w: %w", errEvent, noEOF(err))
		}
		if b == nil {
			b = part
		} else {
			b = append(b, part...)
		}
	}
	ev := new(apipb.CallEvent)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, ev); err != nil {
		return nil, fmt.Errorf("%w: %v", errEvent, err)
	}
	return ev, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeEvent writes an event behind its length.
func writeEvent(to io.Writer, ev *apipb.CallEvent) error {
	b, err := appendEvent(nil, ev)
	if err == nil {
		_, err = to.Write(b)
	}
	return err
}

// appendEvent appends an event behind its length.
func appendEvent(b []byte, ev *apipb.CallEvent) ([]byte, error) {
	n := proto.Size(ev)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(binary.AppendUvarint(slices.Grow(b, n+binary.MaxVarintLen32), uint64(n)), ev)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return b, nil
}

// toldOfPB reads a group of results that a sub-overlord sent.
func toldOfPB(scope *job.Scope, p *apipb.ResultGroup) (job.Told, error) {
	at, others, err := scope.Find(p.Names)
	if err != nil {
		return job.Told{}, fmt.Errorf("%w: %v", errEvent, err)
	}
	names := len(at) + len(others)
	if names == 0 || len(p.Output) > maxResult || p.Cut > maxCut {
		return job.Told{}, fmt.Errorf("%w: %d machines with %d bytes of output, and %d that were not kept", errEvent, names, len(p.Output), p.Cut)
	}
	g := job.Told{At: at, Others: others, Code: call.Code(p.Code), Detail: cutText(p.Detail, session.MaxDetail), Output: p.Output, Cut: p.Cut}
	if len(p.TookUs) == len(at) && len(others) == 0 {
		g.Took = p.TookUs
	}
	return g, nil
}
