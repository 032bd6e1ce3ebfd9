package funcd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"dominion/call"
	"dominion/xmlrpc"
)

// Record is what a call leaves on the machine's own log.
type Record struct {
	ID      call.JobID
	Caller  string // "operator/alice"
	Address string
	Method  string // without async.
	Args    []byte // SHA-256 over the call's id and its arguments; nil: none were given, or one is a secret
	// Whole says that no record of the end follows: the call only tells what there is.
	Whole  bool
	Code   call.Code
	Detail string
	Output []byte // SHA-256 of the encoded answer
}

// A recorder keeps the machine's own log.
type recorder interface {
	// Begin returns when a call that is about to run is on the disk. With an error
	// it must not run.
	Begin(Record) error
	// End records how a call ended that Begin took.
	End(Record)
	// Refused records a call that was not carried out, as far as there is room.
	Refused(Record)
}

// Bounds on the calls that run.
const (
	defaultRunning = 64
	maxParts       = 1000 // calls in one system.multicall
	maxTrace       = 1024 // bytes
)

// outcome is how a call ended: with an encoded answer, or a fault.
type outcome struct {
	value any
	doc   []byte
	fault *xmlrpc.Fault
}

// found is a method that a name on the wire leads to.
type found struct {
	*Method
	own   bool // the server's: it tells what there is, waits for nothing, and may run beside any number
	quiet bool // how a call fares, or several calls that are recorded themselves: not recorded
}

// running is one call on its way.
type running struct {
	s      *Server
	peer   Peer
	name   string // without async.
	method found
	args   []any
	size   int64 // bytes of the request
	record Record
	log    *JobLog
	spared bool // the facts did not match: the method was not run
}

// dispatch judges, records and runs one call, of a request of so many bytes.
func (s *Server) dispatch(peer Peer, wire string, args []any, size int64) outcome {
	name, background := strings.CutPrefix(wire, "async.")
	c := &running{s: s, peer: peer, name: name, args: args, size: size}
	c.record = Record{ID: call.NewJobID(s.opt.now()), Caller: peer.String(), Address: peer.Address, Method: name}
	if err := c.allowed(); err != nil {
		return c.refuse(err)
	}
	m, err := s.find(name)
	if err != nil {
		if background {
			return c.background(err)
		}
		return c.refuse(err)
	}
	c.method = m
	c.record.Whole = m.own
	if !m.Secret {
		c.record.Args = digest(c.record.ID, name, args)
	}
	if background {
		return c.background(nil)
	}
	return c.run()
}

// allowed asks the access lists, and whether the certificate still holds: a call may
// have waited.
func (c *running) allowed() error {
	if c.peer.certs != nil {
		if _, err := c.s.opt.Admit(c.peer.certs); err != nil {
			return call.Errorf(call.Denied, "%v", err)
		}
	}
	if c.s.opt.Override != nil && c.s.opt.Override(c.peer.Identity) || c.s.opt.ACL.Rules().Allow(c.peer, c.name) {
		return nil
	}
	return call.Errorf(call.Denied, "no access list lets %s call %s", c.peer, cut(c.name, call.MaxMethod))
}

// refuse answers a call that does not run. A denial is a fault, as with Func;
// anything else is a value.
func (c *running) refuse(err error) outcome {
	r := c.record
	r.Code, r.Detail = codeOf(err), detailOf(err)
	c.s.opt.Record.Refused(r)
	c.s.log.Info("func call refused", "caller", r.Caller, "address", r.Address, "method", cut(r.Method, call.MaxMethod), "err", err)
	if call.CodeOf(err) == call.Denied {
		return outcome{fault: &xmlrpc.Fault{Code: 1, Text: "<class '" + typeDenied + "'>:"}}
	}
	return seal(c.s.remoteError(c.record.ID, err))
}

// run carries out a call and waits for its end.
func (c *running) run() outcome {
	if c.method.quiet {
		value, _ := c.perform()
		return seal(value)
	}
	if !c.method.own {
		if err := c.s.enter(); err != nil {
			return c.refuse(err)
		}
		defer c.s.leave()
		if err := c.allowed(); err != nil {
			return c.refuse(err)
		}
	}
	if err := c.s.opt.Record.Begin(c.record); err != nil {
		c.s.log.Error("func call not run: it cannot be recorded", "call_id", c.record.ID, "method", c.name, "err", err)
		return seal(c.s.remoteError(c.record.ID, err))
	}
	begun := time.Now()
	value, err := c.perform()
	out := seal(value)
	if c.method.own {
		return out
	}
	r := c.record
	r.Code = codeOf(err)
	switch {
	case err != nil:
		r.Detail = detailOf(err)
	case c.spared:
		r.Detail = "not run: the facts do not match"
	case out.fault != nil:
		r.Code, r.Detail = call.Failed, out.fault.Text
	}
	if out.doc != nil {
		sum := sha256.Sum256(out.doc)
		r.Output = sum[:]
	}
	c.s.opt.Record.End(r)
	c.s.log.Info("func call done", "call_id", r.ID, "caller", r.Caller, "method", c.name, "code", r.Code.String(), "took", time.Since(begun))
	return out
}

// background runs a call without waiting; what it gives is asked for by its id. With
// a failure it is over already.
func (c *running) background(failure error) outcome {
	if !c.s.parked.TryAcquire(c.size) {
		return c.refuse(Raise("busy: the arguments of calls in the background have %d bytes already", maxParked))
	}
	j, err := c.s.jobs.add(c.peer.String())
	if err != nil {
		c.s.parked.Release(c.size)
		return c.refuse(err)
	}
	c.log = j.log
	c.s.tasks.Add(1) // Run waits for it: the request that brought the call is counted still
	go func() {
		defer c.s.tasks.Done()
		defer c.s.parked.Release(c.size)
		var out outcome
		if failure != nil {
			out = c.refuse(failure)
		} else {
			out = c.run()
		}
		if out.fault != nil { // a job has no faults
			out = seal(c.s.remoteError(c.record.ID, &Exception{"xmlrpclib.Fault", out.fault.Text}))
		}
		c.s.jobs.end(j, out.value, len(out.doc))
	}()
	return seal(j.id)
}

// perform asks for the facts that guard the call, and runs the method. The error is
// the one that the value tells of.
func (c *running) perform() (value any, err error) {
	args := c.args
	var head map[string]any
	if len(args) > 0 {
		if m, ok := args[0].(map[string]any); ok {
			if q, ok := m[guardKey]; ok {
				holds, answer, err := guard(c.s.facts(), q)
				if err != nil {
					return c.s.remoteError(c.record.ID, err), err
				}
				if head = answer; !holds {
					c.spared = true
					return []any{head}, nil
				}
				args = args[1:]
			}
		}
	}
	if value, err = c.invoke(args); err != nil {
		value = c.s.remoteError(c.record.ID, err)
	}
	if head != nil {
		value = []any{head, value}
	}
	return value, err
}

// invoke runs the method within its time.
func (c *running) invoke(args []any) (value any, err error) {
	if err := c.method.arity(args); err != nil {
		return nil, err
	}
	ctx := c.s.life
	if t := c.method.timeout(); t > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, t, call.Errorf(call.Timeout, "it did not end within %s", t))
		defer stop()
	}
	defer func() {
		if p := recover(); p != nil {
			c.s.log.Error("method broke", "method", c.name, "call_id", c.record.ID, "error", fmt.Sprint(p), "stack", string(debug.Stack()))
			value, err = nil, call.Errorf(call.Internal, "%s broke; the machine's log has the reason under call id %s", c.name, c.record.ID)
		}
	}()
	value, err = c.method.Run(ctx, &Env{Machine: c.s.opt.Machine, Version: c.s.opt.Version, Caller: c.peer, ID: c.record.ID, Log: c.log, size: c.size, log: c.s.log}, args)
	if err != nil && ctx.Err() != nil {
		if e, ok := errors.AsType[*call.Error](context.Cause(ctx)); ok {
			err = e
		}
	}
	return value, err
}

// seal encodes a value; one that cannot be sent becomes a fault, as with Func.
func seal(v any) outcome {
	doc, err := xmlrpc.AppendAnswer(nil, v)
	switch {
	case errors.Is(err, xmlrpc.ErrRange):
		return outcome{fault: &xmlrpc.Fault{Code: 1, Text: faultOverflow}}
	case err != nil:
		return outcome{fault: &xmlrpc.Fault{Code: 1, Text: "<type '" + typeMarshal + "'>:" + err.Error()}}
	}
	return outcome{value: v, doc: doc}
}

// remoteError is Func's form of an error: four texts.
func (s *Server) remoteError(id call.JobID, err error) []any {
	kind, message := typeFor(err)
	trace := fmt.Sprintf("minion %s, call %s: %s", s.opt.Machine, id, cut(err.Error(), maxTrace))
	return []any{"REMOTE_ERROR", kind, xmlrpc.Text(message), xmlrpc.Text(trace)}
}

// typeFor names an error as a Python program would see it.
func typeFor(err error) (kind, message string) {
	if e, ok := errors.AsType[*Exception](err); ok {
		return e.Type, e.Message
	}
	e, ok := errors.AsType[*call.Error](err)
	switch {
	case !ok:
		return typeException, err.Error()
	case e.Code == call.Invalid:
		return typeArguments, e.Detail
	case e.Code == call.Failed:
		return TypeFuncException, e.Detail
	}
	return TypeFuncException, e.Error()
}

// codeOf gives the code for a record: an exception is a failure of the method.
func codeOf(err error) call.Code {
	if e, ok := errors.AsType[*Exception](err); ok {
		if e.Type == typeNoModule || e.Type == typeNoMethod {
			return call.NotFound
		}
		return call.Failed
	}
	return call.CodeOf(err)
}

// detailOf gives what stands beside the code in a record.
func detailOf(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// digest binds arguments to a call. It holds the id, which is no secret, so that
// equal arguments do not show.
func digest(id call.JobID, name string, args []any) []byte {
	if len(args) == 0 {
		return nil
	}
	doc, err := xmlrpc.Call{Method: name, Params: args}.Append(slices.Clone(id[:]))
	if err != nil { // what came over the wire can be written again, but for its size
		return nil
	}
	sum := sha256.Sum256(doc)
	return sum[:]
}

// cut shortens what a peer sent.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// enter waits for a place to run in.
func (s *Server) enter() error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-s.life.Done():
		return call.Errorf(call.Unavailable, "this machine's agent shuts down")
	}
}

func (s *Server) leave() { <-s.slots }
