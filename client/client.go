package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/module"
	"dominion/target"
)

const (
	// DefaultTimeout is how long a method may run when neither the caller nor
	// the method's schema says.
	DefaultTimeout = time.Minute
	// OrderLife is how long after its making an order may still start.
	OrderLife = time.Hour
	// DefaultPing is how long Ping waits for answers.
	DefaultPing = 5 * time.Second
)

// Options say how a client reaches the overlord and what it asks for.
type Options struct {
	Endpoint // where the overlord is; zero: found as Dial says

	Exclude string        // expression of machines to leave out; empty: none
	Limit   int           // refuse more machines than this, after all that narrows the target; zero: no limit
	Timeout time.Duration // of each call once it runs, and of a ping; zero: the method's own, else DefaultTimeout; negative: none
	Stream  bool          // live output is wanted as events of the job

	// Where is a condition in CEL over facts, groups and name (package where): of
	// the target's machines only those that fit count. Empty: none.
	Where string
	// Narrow makes only machines of Among count: names, in any order, of which
	// one that the target covers, be it by a glob, and that nobody knows is
	// reported.
	Narrow bool
	Among  []string
	// Rerun is a job's id, or enough of its beginning or end: only machines count that
	// did not answer it. The job must be closed. Empty: none.
	Rerun string
	// Sample takes only some of the machines that are left after all of these; its
	// zero value takes all.
	Sample Sample

	// Delegate gives orders by the map: the target names machines below any number
	// of sub-overlords as if they were directly below the overlord, and no other
	// ones. There is no ping by the map.
	Delegate bool
	// MapFile is a map's file of this machine (dominion map build --map FILE) to go
	// by, read for each order; its names travel along. Only with Delegate; empty:
	// the overlord's own map.
	MapFile string
	// OnResolve is told what the target names, before anything is signed. Nil: nobody is.
	OnResolve func(Resolved)

	// Wait makes machines that are away get the call when they are back, until
	// the order expires after that time, at most call.MaxLife. Zero: machines
	// that are away are unreachable at once, and the order expires after OrderLife.
	Wait time.Duration
	// Reconnect is how long a job's broken connection is tried again without
	// news; zero means DefaultReconnect, negative not at all.
	Reconnect time.Duration

	// Confirmed is the number of machines that the user knowingly orders
	// something of. Another number than the target's is an error with the code
	// Unconfirmed, and nothing is sent. Zero: nobody was asked.
	Confirmed int
	// Confirm is asked for that number when the overlord's guard wants it and
	// Confirmed is zero. Nil: the order is refused with the code Unconfirmed.
	Confirm func(context.Context, Guarded) (int, error)
}

// Client gives orders to one target through one overlord. It may be used by
// several goroutines.
type Client struct {
	conn   *Conn
	owned  bool
	target string
	opt    Options
	expr   *target.Expr
	except *target.Expr // nil: nothing is excluded
}

// New connects to an overlord to give orders to target, an expression such as
// "web*" or "web[01-20],db1". Close the client when done. A malformed target is
// a *call.Error with the code Invalid.
func New(ctx context.Context, target string, opt Options) (*Client, error) {
	conn, err := Dial(ctx, opt.Endpoint)
	if err != nil {
		return nil, err
	}
	c, err := conn.Target(target, opt)
	if err != nil {
		_ = conn.Close() // nothing was sent
		return nil, err
	}
	c.owned = true
	return c, nil
}

// Target makes a client on a connection that is already there; the endpoint in
// opt is not looked at, and closing the client leaves the connection open.
func (c *Conn) Target(expr string, opt Options) (*Client, error) {
	cl := &Client{conn: c, target: expr, opt: opt}
	var err error
	if cl.expr, err = target.Parse(expr); err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if opt.Exclude != "" {
		if cl.except, err = target.Parse(opt.Exclude); err != nil {
			return nil, call.Errorf(call.Invalid, "exclude: %v", err)
		}
	}
	if opt.Wait < 0 || opt.Wait > call.MaxLife {
		return nil, call.Errorf(call.Invalid, "an order cannot wait for %s; at most %s", opt.Wait, call.MaxLife)
	}
	if opt.Confirmed < 0 {
		return nil, call.Errorf(call.Invalid, "%d confirmed: give a number of machines", opt.Confirmed)
	}
	if opt.Limit < 0 {
		return nil, call.Errorf(call.Invalid, "limit %d: give a number of machines", opt.Limit)
	}
	if err := cl.settle(); err != nil {
		return nil, err
	}
	if opt.MapFile != "" && !opt.Delegate {
		return nil, call.Errorf(call.Invalid, "map %s: a map is for orders that are delegated", opt.MapFile)
	}
	return cl, nil
}

// Close lets go of the connection if New made it. Jobs being read end.
func (c *Client) Close() error {
	if !c.owned {
		return nil
	}
	return c.conn.Close()
}

// Resolved is what a target names now.
type Resolved struct {
	Names      []string // machines that are known, sorted
	Unknown    []string // names written out in the target that nobody knows, sorted
	UsesGroups bool     // a group was named, or there is a condition: nobody but the overlord can check Names
	Guard      int      // a change on more machines than this must be confirmed, as every destroy must

	// With Options.Delegate alone, both sorted: machines that the target names and
	// that are not routed, because others with another key bear their names; and
	// sub-overlords that did not say who is in the groups that the target names.
	Conflicts, Silent []string

	// Unjudged are the machines that the target names and of which nobody could say
	// whether they fit Options.Where, mostly for want of facts; sorted. They are left out.
	Unjudged []string
	// Drawn is how many machines Options.Sample was drawn from; zero: there was none.
	Drawn int

	plan plan
}

// Resolve asks the overlord which machines the target names and checks the
// answer as far as the expression alone allows. It is an error with the code
// NoMatch when there is neither a machine nor an unknown name.
func (c *Client) Resolve(ctx context.Context) (Resolved, error) {
	p, err := c.plan()
	if err != nil {
		return Resolved{}, err
	}
	n, err := c.narrowed(ctx)
	if err != nil {
		return Resolved{}, err
	}
	resp, err := c.conn.Fleet.Resolve(ctx, connect.NewRequest(&apipb.ResolveRequest{
		Target: c.target, Exclude: c.opt.Exclude, Limit: c.askLimit(), Delegate: c.opt.Delegate, Map: p.text,
		Where: c.opt.Where, Narrow: n.on, Among: n.folded,
	}))
	if err != nil {
		return Resolved{}, fmt.Errorf("resolve %q: %w", c.target, err)
	}
	r := Resolved{UsesGroups: c.usesGroups(), Guard: guardOf(resp.Msg), plan: p}
	for _, list := range []struct {
		folded string
		to     *[]string
	}{
		{resp.Msg.GetNames(), &r.Names},
		{resp.Msg.GetUnknown(), &r.Unknown},
		{resp.Msg.GetConflicts(), &r.Conflicts},
		{resp.Msg.GetSilent(), &r.Silent},
		{resp.Msg.GetUnjudged(), &r.Unjudged},
	} {
		if *list.to, err = expand(list.folded); err != nil {
			return Resolved{}, err
		}
	}
	for _, names := range [][]string{r.Names, r.Unknown, r.Conflicts} {
		if err := c.check(names, n); err != nil {
			return Resolved{}, err
		}
	}
	if err := c.checkMapped(r); err != nil {
		return Resolved{}, err
	}
	if c.opt.Sample.on() {
		r.Drawn = len(r.Names)
		r.Names = c.opt.Sample.Of(r.Names)
	}
	if len(r.Names)+len(r.Unknown)+len(r.Conflicts) == 0 {
		return Resolved{}, call.Errorf(call.NoMatch, "no %s matches %s%s", c.kind(), c.asked(), unjudgedWords(r))
	}
	if n := len(r.Names); c.opt.Limit > 0 && n > c.opt.Limit {
		return Resolved{}, call.Errorf(call.TooMany, "%s names %d minions and the limit is %d", c.asked(), n, c.opt.Limit)
	}
	if c.opt.OnResolve != nil {
		c.opt.OnResolve(r)
	}
	return r, nil
}

// check holds the overlord's answer against the expression: no machine is
// signed for that the operator did not name. Only the parts without groups can
// be checked here.
func (c *Client) check(names []string, n narrowing) error {
	if n.on {
		if extra := without(names, n.names); len(extra) > 0 {
			return call.Errorf(call.Internal, "the overlord names %q, which is not among those that were asked about; nothing was sent", target.Fold(extra))
		}
	}
	if !c.expr.UsesGroups() {
		matched, err := c.expr.Resolve(target.Env{Known: names})
		if err != nil {
			return fmt.Errorf("check what %q names: %w", c.target, err)
		}
		if extra := without(names, matched.Names); len(extra) > 0 {
			return call.Errorf(call.Internal, "the overlord says that %q names %q, which it does not; nothing was sent", c.target, target.Fold(extra))
		}
	}
	if c.except != nil && !c.except.UsesGroups() {
		matched, err := c.except.Resolve(target.Env{Known: names})
		if err != nil {
			return fmt.Errorf("check what %q names: %w", c.opt.Exclude, err)
		}
		if len(matched.Names) > 0 {
			return call.Errorf(call.Internal, "the overlord names %q, which %q excludes; nothing was sent", target.Fold(matched.Names), c.opt.Exclude)
		}
	}
	return nil
}

// without gives the sorted names that are not in the sorted some.
func without(names, some []string) []string {
	var out []string
	for _, n := range names {
		if _, ok := slices.BinarySearch(some, n); !ok {
			out = append(out, n)
		}
	}
	return out
}

// Call orders method with args of every machine the target names now, and
// returns when the overlord has taken the job over. args is a value that
// encoding/json makes an object of; nil is the object without fields, and
// json.RawMessage is sent as it is, at most 512 KiB. The arguments are checked
// against the method's schema before anything is sent; then the error has the
// code Invalid, or NotFound when there is no such method.
//
// When the guard wants a confirmed number of machines, Options.Confirm gives it.
//
// When ctx ends the job's events end, and the job goes on; Job.Cancel stops it.
// When the connection breaks before the overlord has taken the order, the job is
// returned all the same: its events send the very same order again.
func (c *Client) Call(ctx context.Context, method string, args any) (*Job, error) {
	raw, err := encodeArgs(args)
	if err != nil {
		return nil, err
	}
	schema, err := c.conn.Schema(ctx, method)
	if err != nil {
		return nil, err
	}
	if err := c.conn.Validate(ctx, method, raw); err != nil {
		return nil, err // it names the method
	}
	r, err := c.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	job := newJob(c.conn, r.Names, r.unreached())
	job.UsesGroups, job.live, job.Conflicts, job.Silent = r.UsesGroups, c.opt.Stream, r.Conflicts, r.Silent
	if len(r.Names) == 0 {
		job.first = c.nobody(r)
		job.counts.Unreachable = len(job.Unknown)
		clear(job.awaited)
		return job, nil
	}
	confirmed, err := c.confirm(ctx, schema, r)
	if err != nil {
		return nil, err
	}
	req, id, err := c.order(method, raw, r, confirmed)
	if err != nil {
		return nil, err
	}
	req.TimeoutMs = uint64(c.timeout(schema).Milliseconds())
	job.ID = id
	job.line = c.conn.newLine(ctx, id, c.opt.Reconnect, false)
	job.line.order = func() (eventStream, error) { return c.conn.Fleet.Call(ctx, connect.NewRequest(req)) }
	if err := job.start(job.line.order); err != nil {
		return nil, &JobError{ID: id, What: Ordering, Err: err}
	}
	return job, nil
}

// newJob makes a job that awaits these machines.
func newJob(conn *Conn, names, unknown []string) *Job {
	j := &Job{Names: names, Unknown: unknown, conn: conn, awaited: make(map[string]struct{}, len(names)+len(unknown))}
	for _, list := range [][]string{names, unknown} {
		for _, n := range list {
			j.awaited[n] = struct{}{}
		}
	}
	j.counts.Targeted = j.Targeted()
	return j
}

// order signs for exactly the resolved machines.
func (c *Client) order(method string, args []byte, r Resolved, confirmed int) (*apipb.CallRequest, call.JobID, error) {
	key, cert, err := c.conn.signer()
	if err != nil {
		return nil, call.JobID{}, err
	}
	tree, err := call.NewNames(r.Names)
	if err != nil {
		return nil, call.JobID{}, fmt.Errorf("make the order: %w", err)
	}
	salt := make([]byte, call.SaltSize)
	rand.Read(salt) // never fails (crypto/rand since Go 1.24)
	now := time.Now().Truncate(time.Millisecond)
	life := OrderLife
	if c.opt.Wait > 0 {
		life = max(c.opt.Wait, time.Millisecond)
	}
	o := &call.Order{
		Job: call.NewJobID(now), Method: method, ArgsDigest: call.Digest(salt, args),
		IssuedAt: now, NotBefore: now, Expiry: now.Add(life), Count: tree.Len(), Root: tree.Root(),
		Confirmed: confirmed,
	}
	signed, err := call.Sign(o, key, cert)
	if err != nil {
		return nil, call.JobID{}, fmt.Errorf("make the order: %w", err)
	}
	return &apipb.CallRequest{
		Order: signed.Order, Signature: signed.Signature, OperatorCert: signed.Cert, Salt: salt, Args: args,
		Names: target.Fold(r.Names), Unknown: target.Fold(r.unreached()), Stream: c.opt.Stream, Target: c.described(),
		Wait: c.opt.Wait > 0, Delegate: c.opt.Delegate, Map: r.plan.text,
	}, o.Job, nil
}

// timeout is how long each call may run; zero: without limit.
func (c *Client) timeout(s module.Schema) time.Duration {
	switch {
	case c.opt.Timeout < 0:
		return 0
	case c.opt.Timeout > 0:
		return max(c.opt.Timeout, time.Millisecond)
	}
	if d, err := time.ParseDuration(s.Timeout); err == nil && d >= 0 {
		return d
	}
	return DefaultTimeout
}

// encodeArgs gives the JSON object to be sent.
func encodeArgs(args any) ([]byte, error) {
	var raw []byte
	switch args := args.(type) {
	case nil:
		return []byte("{}"), nil
	case json.RawMessage:
		raw = args
	default:
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(args); err != nil {
			return nil, call.Errorf(call.Invalid, "arguments: %v", err)
		}
		raw = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	}
	if len(raw) > call.MaxArgs {
		return nil, call.Errorf(call.Invalid, "arguments of %d bytes are more than %d", len(raw), call.MaxArgs)
	}
	return raw, nil
}
