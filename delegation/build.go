package delegation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dominion/call"
)

// Defaults and limits of Build.
const (
	DefaultTimeout = time.Minute
	DefaultWidth   = 1024

	maxTimeout = 24 * time.Hour
	maxWidth   = 1 << 16
	// branchTimeouts is how many time-outs a branch has in all: levels of it
	// wait one after the other, and what it invents must end.
	branchTimeouts = 4
	// branchNodes is what a branch can fill of a map, so that one that invents
	// machines leaves room for the others.
	branchNodes = MaxNodes / 2
	// samePlaces is at how many places of a branch the same sub-overlord is
	// asked. Each place is asked for itself, since an overlord on the way could
	// answer in its stead; but layers that all know each other would multiply.
	samePlaces = 4

	maxFingerprint = 128
	maxProblem     = 256
)

// Machine is what an overlord says of one of its direct minions.
type Machine struct {
	Name        string
	Fingerprint string // of its public key; empty: not known
	Alive       bool   // there is a session with it
	Overlord    bool   // it is a sub-overlord, and can be asked
	Problem     string // why there is no session; empty: not known
}

// Answer is what an overlord says of those directly below it, in any order.
// Names must be valid and differ, fingerprints printable and at most 128
// bytes; an answer that breaks this counts as none.
type Answer struct{ Machines []Machine }

// Probe asks the overlord at a path; the empty path is that of the caller
// itself. It is called from many goroutines at once, must return soon after
// ctx ends, and should then return ctx's cause. An error's text is shown.
type Probe func(ctx context.Context, path Path) (Answer, error)

// Options are for Build; every zero value is usable.
type Options struct {
	Name        string        // of the overlord at the top, which is cut where it stands below itself
	Fingerprint string        // of its key
	Timeout     time.Duration // of one probe; zero: DefaultTimeout; at most 24 h. A direct sub-overlord and all behind it have four times that together
	Width       int           // probes at a time; zero: DefaultWidth; at most 65,536. One branch uses at most half of them
	// Observe is told what happens, from the goroutine that called Build, which
	// waits for it. Nil: nobody.
	Observe func(Event)
}

// EventKind says what happened.
type EventKind uint8

// The kinds.
const (
	Probing  EventKind = iota // the overlord at Path is being asked
	Answered                  // it answered, with so many Machines, after Took
	Failed                    // it did not, for Problem; it stays in the map with nobody below it
	CutOff                    // the machine at Path was cut, for Problem
	Merged                    // all behind the direct sub-overlord at Path is in the map, at so many places: Machines
)

// Event is a step of Build.
type Event struct {
	Kind     EventKind
	Path     Path
	Machines int
	Took     time.Duration
	Problem  string
}

// String gives the line that is shown: "dc1/rack1 answered: 50 machines, 12ms".
func (e Event) String() string {
	who := e.Path.String()
	if len(e.Path) == 0 {
		who = "this overlord"
	}
	took := ""
	if e.Took > 0 {
		took = ", " + e.Took.Round(time.Millisecond).String()
	}
	switch e.Kind {
	case Probing:
		return "asking " + who
	case Answered:
		return fmt.Sprintf("%s answered: %d machines%s", who, e.Machines, took)
	case Failed:
		return fmt.Sprintf("%s did not answer: %s%s", who, e.Problem, took)
	case CutOff:
		return e.Problem
	}
	return fmt.Sprintf("merged %s: %d places behind it", who, e.Machines)
}

// Build asks the overlord at the top, and then all sub-overlords below it, in
// parallel, and makes the map of what they say. A sub-overlord that does not
// answer, and one without a session, is in the map with its Problem and nobody
// below it. A machine that stands above itself is cut, and listed in Map.Cuts.
//
// A slow branch costs nothing but its own time-out: the others go on.
// Answers that would exceed a limit of the map count as none.
//
// The only errors are that the overlord at the top did not answer, and that
// ctx ended, whose cause the error wraps. No goroutine is left then.
func Build(ctx context.Context, probe Probe, opts Options) (Map, error) {
	b := &builder{probe: probe, opts: opts}
	if b.opts.Timeout <= 0 {
		b.opts.Timeout = DefaultTimeout
	}
	if b.opts.Width <= 0 {
		b.opts.Width = DefaultWidth
	}
	b.opts.Timeout = min(b.opts.Timeout, maxTimeout)
	b.opts.Width = min(b.opts.Width, maxWidth)
	b.share = max(1, b.opts.Width/2)
	b.results = make(chan result, b.opts.Width) // one for each probe that runs: none ever waits
	defer b.end()
	if err := b.ask(ctx); err != nil {
		return Map{}, fmt.Errorf("build the map: %w", err)
	}
	return Map{Self: b.top.freeze(), Cuts: b.cuts}, nil
}

// builder is owned by the goroutine that called Build; probes only send to results.
type builder struct {
	probe    Probe
	opts     Options
	share    int // probes of one branch at a time
	results  chan result
	workers  sync.WaitGroup
	inFlight int
	branches []*branch
	ready    []*branch // those that may begin a probe, whose turn is next first
	top      *site
	cuts     []Cut
	nodes    int
}

// branch is a direct sub-overlord and all behind it.
type branch struct {
	name     string
	ctx      context.Context //nolint:containedctx // the time that the branch has, from its first probe
	cancel   context.CancelFunc
	queue    []*site // to be asked, those nearer to the top first
	inFlight int
	nodes    int
	asked    map[string]int // fingerprint -> places at which it was asked
	waiting  bool           // it is in ready
}

// site is a place of the map that is being made.
type site struct {
	node   Node
	above  *site
	branch *branch
	below  []*site
	depth  int // names on its path
}

type result struct {
	site   *site
	answer Answer
	err    error
	took   time.Duration
}

var (
	errProbeTime  = errors.New("no answer within")
	errBranchTime = errors.New("its branch was not done within")
)

// ask asks everybody.
func (b *builder) ask(ctx context.Context) error {
	self := strings.ToLower(b.opts.Name)
	b.top = &site{node: Node{Name: self, Fingerprint: b.opts.Fingerprint, Life: Alive, Overlord: true}}
	b.observe(Event{Kind: Probing})
	r := b.once(ctx, b.top, nil)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if r.err == nil {
		r.err = b.check(r)
	}
	if r.err != nil {
		return r.err
	}
	b.settle(r, nil)
	for {
		b.start(ctx)
		if b.inFlight == 0 {
			return context.Cause(ctx) // nil, unless it ended all that ran
		}
		select {
		case r := <-b.results:
			b.take(r)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end stops what still runs and waits for it.
func (b *builder) end() {
	for _, br := range b.branches {
		if br.cancel != nil {
			br.cancel()
		}
	}
	b.workers.Wait()
}

func (b *builder) observe(e Event) {
	if b.opts.Observe != nil {
		b.opts.Observe(e)
	}
}

// start begins as many probes as may run, a branch after the other.
func (b *builder) start(ctx context.Context) {
	for b.inFlight < b.opts.Width && len(b.ready) > 0 {
		br := b.ready[0]
		b.ready, br.waiting = b.ready[1:], false
		s := br.queue[0]
		br.queue = br.queue[1:]
		if br.ctx == nil {
			limit := branchTimeouts * b.opts.Timeout
			br.ctx, br.cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w %v", errBranchTime, limit))
		}
		path := s.path()
		if br.ctx.Err() != nil {
			b.fail(s, path, context.Cause(br.ctx), 0) //nolint:contextcheck // the branch's context is made of ctx
		} else {
			br.inFlight++
			b.inFlight++
			b.observe(Event{Kind: Probing, Path: path})
			b.workers.Go(func() { b.results <- b.once(br.ctx, s, path) })
		}
		b.turn(br)
	}
}

// turn puts a branch at the end of those that may begin a probe, if it may, or
// ends it when it is done.
func (b *builder) turn(br *branch) {
	switch {
	case br.waiting:
	case len(br.queue) > 0 && br.inFlight < b.share:
		br.waiting = true
		b.ready = append(b.ready, br)
	case len(br.queue) == 0 && br.inFlight == 0:
		br.cancel()
		b.observe(Event{Kind: Merged, Path: Path{br.name}, Machines: br.nodes})
	}
}

// once asks one overlord.
func (b *builder) once(ctx context.Context, s *site, path Path) result {
	ctx, cancel := context.WithTimeoutCause(ctx, b.opts.Timeout, fmt.Errorf("%w %v", errProbeTime, b.opts.Timeout))
	defer cancel()
	start := time.Now()
	answer, err := b.probe(ctx, slices.Clone(path))
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // whose time it was
	}
	return result{s, answer, err, time.Since(start)}
}

// take puts a result into the map.
func (b *builder) take(r result) {
	br, path := r.site.branch, r.site.path()
	b.inFlight--
	br.inFlight--
	if r.err == nil {
		r.err = b.check(r)
	}
	if r.err != nil {
		b.fail(r.site, path, r.err, r.took)
	} else {
		b.settle(r, path)
	}
	b.turn(br)
}

// fail notes that an overlord did not answer.
func (b *builder) fail(s *site, path Path, err error, took time.Duration) {
	s.node.Problem = clean(err.Error())
	if !answered(err) {
		s.node.Life = Silent
	}
	b.observe(Event{Kind: Failed, Path: path, Problem: s.node.Problem, Took: took})
}

// answered says whether an error is an answer: the overlord is there, and
// refuses.
func answered(err error) bool {
	e, ok := errors.AsType[*call.Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case call.NoSession, call.NoAnswer, call.SessionLost, call.Timeout, call.Unavailable, call.UnknownName, call.Unknown, call.Cancelled:
		return false
	}
	return true
}

// clean makes a text from outside fit for a terminal and short.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxProblem {
		s = strings.ToValidUTF8(s[:maxProblem], "") + "…"
	}
	return s
}

// settle puts a checked answer below its site, and into the queue who is to be
// asked.
func (b *builder) settle(r result, path Path) {
	b.observe(Event{Kind: Answered, Path: path, Machines: len(r.answer.Machines), Took: r.took})
	s := r.site
	for _, m := range r.answer.Machines {
		m.Name = strings.ToLower(m.Name)
		if cut, is := s.cycle(m); is {
			b.cuts = append(b.cuts, cut)
			b.observe(Event{Kind: CutOff, Path: cut.Path, Problem: cut.String()})
			continue
		}
		below := &site{node: Node{Name: m.Name, Fingerprint: m.Fingerprint, Overlord: m.Overlord, Life: Alive}, above: s, branch: s.branch, depth: s.depth + 1}
		s.below = append(s.below, below)
		b.nodes++
		if s.branch != nil {
			s.branch.nodes++
		}
		b.consider(below, m)
	}
}

// consider says whether a machine is to be asked, and if not, why.
func (b *builder) consider(s *site, m Machine) {
	switch {
	case !m.Alive:
		s.node.Life, s.node.Problem = Silent, cmp.Or(clean(m.Problem), "no session with the overlord above it")
		if m.Overlord {
			b.observe(Event{Kind: Failed, Path: s.path(), Problem: s.node.Problem})
		}
		return
	case !m.Overlord:
		return
	case s.depth == MaxDepth:
		s.node.Problem = fmt.Sprintf("not asked: a map has at most %d levels", MaxDepth)
		return
	}
	if s.branch == nil {
		s.branch = &branch{name: s.node.Name, asked: make(map[string]int)}
		b.branches = append(b.branches, s.branch)
	}
	if key := m.Fingerprint; key != "" {
		if s.branch.asked[key] == samePlaces {
			s.node.Problem = fmt.Sprintf("not asked here: it is asked at %d other places", samePlaces)
			return
		}
		s.branch.asked[key]++
	}
	s.branch.queue = append(s.branch.queue, s)
	if s.depth == 1 {
		b.turn(s.branch)
	}
}

// check holds an answer against the rules of Answer and the limits.
func (b *builder) check(r result) error {
	list := r.answer.Machines
	if b.nodes+len(list) > MaxNodes || r.site.branch != nil && r.site.branch.nodes+len(list) > branchNodes {
		return call.Errorf(call.TooMany, "its answer of %d machines does not fit into the map", len(list))
	}
	seen := make(map[string]bool, len(list))
	for _, m := range list {
		name, err := call.ParseName(m.Name)
		if err != nil {
			return call.Errorf(call.Invalid, "its answer is malformed: %v", err)
		}
		if seen[name] {
			return call.Errorf(call.Invalid, "its answer is malformed: it names %q twice", name)
		}
		seen[name] = true
		if len(m.Fingerprint) > maxFingerprint || strings.ContainsFunc(m.Fingerprint, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return call.Errorf(call.Invalid, "its answer is malformed: the key fingerprint of %q", name)
		}
	}
	return nil
}

// cycle says whether a machine that is said to be below s stands above it.
func (s *site) cycle(m Machine) (Cut, bool) {
	for a := s; a != nil; a = a.above {
		if (ancestor{a.node.Name, a.node.Fingerprint}).is(m.Name, m.Fingerprint) {
			return Cut{Path: append(s.path(), m.Name), Above: a.depth, Fingerprint: m.Fingerprint}, true
		}
	}
	return Cut{}, false
}

func (s *site) path() Path {
	path := make(Path, s.depth, s.depth+1)
	for a := s; a.above != nil; a = a.above {
		path[a.depth-1] = a.node.Name
	}
	return path
}

// freeze makes the node of a site and of all below it.
func (s *site) freeze() Node {
	n := s.node
	if len(s.below) > 0 {
		n.Below = make([]Node, len(s.below))
		for i, below := range s.below {
			n.Below[i] = below.freeze()
		}
		slices.SortFunc(n.Below, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	}
	return n
}
