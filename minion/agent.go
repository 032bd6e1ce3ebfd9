package minion

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"dominion/call"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/pki"
	"dominion/policy"
	"dominion/session"
)

// cancelTime is longer than command.run needs to kill what does not end by itself.
const cancelTime = 10 * time.Second

// Names of what Options.Save is given.
const (
	FileRevocations = "revoked"     // the root's signed list, as it came
	FileCheckpoints = "checkpoints" // what is remembered of overlords' audit logs
	FileSharers     = "sharers"     // JSON: overlords that share a store with those enrolled with
)

// Options say what an Agent is made of. They may be shared by many agents but
// for Name, Own, Save and what was saved.
type Options struct {
	// Name of the machine, from its certificate. Required.
	Name string
	// Trust believes certificates under the fleet's root; while it knows no more
	// than the pin, nothing may have been saved. Required.
	Trust *pki.Trust
	// Table of methods. Required.
	Table *module.Table
	// Overlords with which the machine is enrolled, by name: these may have a
	// session, and those that they name as sharing their store. See AddOverlord.
	Overlords []string
	// Policy is this machine's own; nil allows everything.
	Policy *policy.Policy
	// Own is this machine's log of what it ran; nil: none is kept.
	Own ownLog
	// Journal keeps on disk which jobs were started and how they ended; nil: that
	// is known only as long as the Agent lives. Jobs of methods that only read are
	// never in it. Whoever opened it closes it, after Wait.
	Journal *journal.Journal
	// Save keeps something on disk and returns when it is durable; nil: nothing
	// is kept. Names are FileRevocations and so on.
	Save func(name string, content []byte) error
	// Saved gives what Save kept earlier, by name; nil: nothing. Content that
	// does not hold is an error of New.
	Saved map[string][]byte
	// OnRevocations is told of each newer list that was taken, after it is in force
	// here: the list and its signed form. It must not block. Nil: nobody is.
	OnRevocations func(signed []byte, list *pki.RevocationList)
	// Host is the overlord in whose process the agent is embedded; nil: none.
	Host Host
	// Replica is this machine's of the cluster data; nil: it can be no candidate.
	Replica replica
	// Forward gives the records of calls on the Func face, which are in Own, to the
	// overlords; nil: none are.
	Forward forwardLog
	// Credit is the process's pool of stream windows; nil: one per session.
	Credit *session.Pool
	// Heartbeat sends the process's pings; nil: none are sent.
	Heartbeat *session.Clock
	// Stats counts for all sessions; nil: nothing is counted.
	Stats *session.Stats
	// Now gives this machine's time; nil: time.Now.
	Now func() time.Time
	// Log; nil: silent.
	Log *slog.Logger
	// Version of the agent; empty: "devel".
	Version string
	// MaxRunning bounds the calls that run at a time; zero: 64.
	MaxRunning int
	// MaxQueued bounds the calls that wait; zero: 1,024.
	MaxQueued int
}

// An Agent carries out orders for one machine. It has no goroutine and no timer
// of its own: those of its sessions are their callers', and each running call
// has one.
type Agent struct {
	name         string
	version      string
	now          func() time.Time
	log          *slog.Logger
	opt          session.Options // without what belongs to one session
	trust        *pki.Trust
	save         func(name string, content []byte) error
	patience     time.Duration // of Drain with calls that were cancelled
	opened       func()        // called when a session has begun; may be nil
	onList       func(signed []byte, list *pki.RevocationList)
	host         Host
	replica      replica       // may be nil
	forward      forwardLog    // may be nil
	forwardEvery time.Duration // between two calls with records

	verifier verifier
	books    books
	crew     crew
	own      recorder
	heads    heads
	saving   sync.Mutex // one writer of the saved files

	mu       sync.Mutex
	enrolled map[string]bool
	sharers  map[string][]Sharer // by the enrolled overlord that named them
	links    map[string]*link    // by overlord: the newest session
	facts    []byte              // JSON; nil: none yet
	digest   []byte
	told     map[string]string // overlord to the digest of the facts it was sent
	offer    []byte            // JSON: what is offered beside the agent's own methods; nil: nothing
	leaving  bool              // Drain was called: no new sessions
}

// New makes an agent. The error names what is missing or does not hold.
func New(opt Options) (*Agent, error) {
	name, err := call.ParseName(opt.Name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("make agent: %w", err)
	case opt.Trust == nil:
		return nil, errors.New("make agent: the root is not known")
	case opt.Table == nil:
		return nil, errors.New("make agent: there is no table of methods")
	}
	a := &Agent{
		name: name, version: opt.Version, now: opt.Now, log: opt.Log, trust: opt.Trust, save: opt.Save,
		opt:          session.Options{Credit: opt.Credit, Heartbeat: opt.Heartbeat, Stats: opt.Stats, Log: opt.Log},
		own:          recorder{log: opt.Own},
		onList:       opt.OnRevocations,
		host:         opt.Host,
		replica:      opt.Replica,
		forward:      opt.Forward,
		forwardEvery: forwardEvery,
		patience:     cancelTime,
	}
	if a.books.disk = opt.Journal; opt.Journal != nil {
		a.books.id = opt.Journal.ID()
	} else {
		a.books.id = make([]byte, 16)
		rand.Read(a.books.id) // never fails (crypto/rand since Go 1.24)
	}
	if a.version == "" {
		a.version = "devel"
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.own.tell = a.log
	a.crew = crew{running: opt.MaxRunning, queued: opt.MaxQueued, do: a.work}
	if a.crew.running == 0 {
		a.crew.running = defaultRunning
	}
	if a.crew.queued == 0 {
		a.crew.queued = defaultQueued
	}
	a.verifier.name, a.verifier.trust, a.verifier.methods, a.verifier.jobs = name, opt.Trust, opt.Table, &a.books
	a.verifier.policy = opt.Policy
	for _, o := range opt.Overlords {
		a.AddOverlord(o)
	}
	if err := a.restore(opt.Saved); err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	a.recordLost()
	return a, nil
}

// Name is the machine's.
func (a *Agent) Name() string { return a.name }

// SetPolicy takes another policy into use; nil allows everything.
func (a *Agent) SetPolicy(p *policy.Policy) { a.verifier.setPolicy(p) }

// SetTable takes another table of methods into use. Calls that were accepted go on
// with the method that they had.
func (a *Agent) SetTable(t *module.Table) { a.verifier.setTable(t) }

// AddOverlord lets an overlord, with which the machine has enrolled, have a
// session from now on.
func (a *Agent) AddOverlord(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.enrolled == nil {
		a.enrolled = make(map[string]bool)
	}
	a.enrolled[name] = true
}

// VerifyPeer decides at the end of a handshake whether a peer may have a
// session: an overlord's certificate, valid now, not revoked, of a name that
// this machine accepts. It fits session.TLSOptions.
func (a *Agent) VerifyPeer(cs tls.ConnectionState) error {
	v, err := a.trust.Verify(cs.PeerCertificates, a.now())
	if err != nil {
		return err
	}
	return a.admit(v.Identity, v.Leaf)
}

// admit says why an overlord may not have a session. The error is a *call.Error.
func (a *Agent) admit(id pki.Identity, leaf *x509.Certificate) error {
	if id.Role != pki.Overlord {
		return call.Errorf(call.Denied, "%s is no overlord", id)
	}
	if l := a.verifier.revocations(); l != nil {
		if reason, revoked := l.Revoked(leaf); revoked {
			return call.Errorf(call.Revoked, "the certificate of %s was revoked: %s", id, reason)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known(id.Name) {
		return nil
	}
	return call.Errorf(call.Denied, "this machine is not enrolled with %s", id)
}

// known says whether an overlord is one that the machine enrolled with, or that
// such a one named; a.mu is held.
func (a *Agent) known(overlord string) bool {
	if a.enrolled[overlord] {
		return true
	}
	for _, named := range a.sharers {
		for _, s := range named {
			if s.Name == overlord {
				return true
			}
		}
	}
	return false
}

// Serve runs one session on a connection whose handshake is complete, no matter
// which side dialled. It returns when the session is over; the error is never
// nil. Calls that still run go on: see Drain.
func (a *Agent) Serve(ctx context.Context, conn *tls.Conn) error {
	_, err := a.serve(ctx, conn)
	return err
}

// serve says also whether HELLO had been exchanged.
func (a *Agent) serve(ctx context.Context, conn *tls.Conn) (opened bool, err error) {
	l := &link{agent: a, ctx: ctx, answers: make(chan struct{}, maxAnswers), records: make(chan struct{}, 1)}
	opt := a.opt
	opt.Hello, opt.Ready, opt.Handler = l.hello, l.ready, l
	s, err := session.New(conn, &opt)
	if err != nil {
		conn.Close()
		return false, err
	}
	l.session = s
	err = s.Serve(ctx)
	l.wg.Wait()
	return l.opened, err
}

// Connected says whether there is a session with an overlord.
func (a *Agent) Connected(overlord string) bool { return a.Done(overlord) != nil }

// Done gives a channel that is closed when the newest session with an overlord
// is over; nil when there is none.
func (a *Agent) Done(overlord string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.links[overlord]; l != nil {
		return l.session.Done()
	}
	return nil
}

// link gives the newest session with an overlord; nil when there is none.
func (a *Agent) link(overlord string) *link {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.links[overlord]
}

// allLinks gives every session.
func (a *Agent) allLinks() []*link {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*link, 0, len(a.links))
	for _, l := range a.links {
		out = append(out, l)
	}
	return out
}

// attach makes l the session with its overlord. An older one gets GOAWAY, and
// no call of it is accepted any more: what the overlord is told on l of its jobs
// stays true.
func (a *Agent) attach(l *link) error {
	a.mu.Lock()
	if a.leaving {
		a.mu.Unlock()
		return call.Errorf(call.Unavailable, "this machine's agent shuts down")
	}
	old := a.links[l.peer]
	if a.links == nil {
		a.links = make(map[string]*link)
	}
	a.links[l.peer] = l
	a.mu.Unlock()
	if old != nil {
		old.session.Close(call.Conflict, "replaced by a newer session")
		old.replace()
	}
	return nil
}

func (a *Agent) detach(l *link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.links[l.peer] == l {
		delete(a.links, l.peer)
	}
}

// Drain takes no more calls and no more sessions, tells the overlords so, and
// waits for what runs and waits to run. When ctx ends, what still runs is
// cancelled, and Drain waits 10 s more for it to end and for the results to be
// taken. The sessions stay for their callers to end; after that Wait says when
// the last call has ended.
func (a *Agent) Drain(ctx context.Context) {
	a.crew.stop(call.Errorf(call.Unavailable, "this machine's agent shuts down"))
	a.mu.Lock()
	a.leaving = true
	a.mu.Unlock()
	for _, l := range a.allLinks() {
		_ = l.session.Goaway(call.Unavailable, "this machine's agent shuts down", 0) // an error: it is over already
	}
	if a.crew.wait(ctx) == nil {
		return
	}
	gone := call.Errorf(call.Cancelled, "this machine's agent shuts down")
	for _, w := range a.crew.cancelAll(gone) {
		a.turnAway(w, call.Errorf(call.Unavailable, "this machine's agent shuts down"))
	}
	_ = a.Wait(context.WithoutCancel(ctx), a.patience) // an overlord that takes no results does not keep us
}

// Wait returns when no call runs any more, or with the cause when that takes
// longer than limit or than ctx. It is for after Drain.
func (a *Agent) Wait(ctx context.Context, limit time.Duration) error {
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("calls still run after %s", limit))
	defer stop()
	return a.crew.wait(ctx)
}
