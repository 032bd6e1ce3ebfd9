package minion

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// link is one session with an overlord: the agent's part of it. It implements
// session.Handler.
type link struct {
	agent   *Agent
	ctx     context.Context //nolint:containedctx // of Serve: handlers are given none
	session *session.Session
	peer    string    // the overlord's name, once HELLO was exchanged
	opened  bool      // HELLO was exchanged; read when Serve has returned
	since   time.Time // when the overlord's HELLO came
	birth   time.Time // of this machine's journal, as the overlord told it; zero: it did not
	wg      sync.WaitGroup
	telling sync.Mutex // held while facts are sent, so that none are sent twice

	offering sync.Mutex // held while the overlord is told of an offer
	offered  string     // digest of the offer that the overlord was told of; covered by offering once HELLO was exchanged

	// answers is held by who makes and sends an answer that may be large.
	answers chan struct{}

	// records is of one: the Func face has recorded something.
	records chan struct{}

	gate     sync.Mutex // held while a call is accepted
	doubted  bool       // the birth that was told is not believed; covered by gate once HELLO was exchanged
	replaced bool       // a newer session has taken this one's place; covered by gate

	mu    sync.Mutex
	calls map[uint64]*work // accepted and not answered
	asked int              // bytes of the session's own calls that are being answered
	audit error            // why the overlord's log is not accepted; nil: it is
	skew  skew

	delegations map[uint64]*delegation // by call; of an embedded agent
	delegated   int                    // bytes of them
}

// skew is what HELLO told of the overlord's clock.
type skew struct {
	theirs time.Time // zero: nothing was told
	at     time.Time // when it came; its monotonic part is what counts
}

// of gives this machine's clock less the overlord's as it must show now.
func (k skew) of(now time.Time) time.Duration {
	if k.theirs.IsZero() {
		return 0
	}
	return now.Round(0).Sub(k.theirs.Add(time.Since(k.at)))
}

// hello makes this side's HELLO, and later judges the overlord's.
func (l *link) hello(s *session.Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
	if peer == nil {
		mine := l.agent.hello()
		l.offered = string(mine.Offer)
		return mine, nil
	}
	l.peer, l.since = s.Peer().Name, time.Now()
	// The handshake checked this before; the list may have changed meanwhile.
	if err := l.agent.admit(s.Peer(), s.PeerCert()); err != nil {
		return nil, err
	}
	if peer.TimeMs > 0 {
		l.skew = skew{theirs: time.UnixMilli(peer.TimeMs), at: time.Now()}
		if d := l.skew.of(l.agent.now()); skewed(d) {
			l.agent.log.Warn("clocks differ: orders will be refused", "overlord", l.peer, "ahead", d.Round(time.Second).String())
		}
	}
	if len(peer.Revocations) > 0 {
		if _, err := l.agent.takeRevocations(peer.Revocations); err != nil {
			l.agent.log.Error("revocation list refused", "overlord", l.peer, "err", err)
		} else if err := l.agent.admit(s.Peer(), s.PeerCert()); err != nil {
			return nil, err
		}
	}
	if peer.JournalBirthMs > 0 {
		l.birth = time.UnixMilli(peer.JournalBirthMs)
		l.takeBirth()
	}
	l.agent.takeSharers(l.peer, peer.Sharers)
	_ = l.takeHead(peer.LogHead) // kept for the calls of this session
	return nil, nil
}

// ready is called when the session can be used.
func (l *link) ready(s *session.Session) {
	if err := l.agent.attach(l); err != nil {
		s.Close(call.CodeOf(err), err.Error())
		return
	}
	// A list that came by another session since HELLO has cut the sessions it
	// found; this one was not among them yet.
	if err := l.agent.admit(s.Peer(), s.PeerCert()); err != nil {
		s.Close(call.CodeOf(err), err.Error())
		return
	}
	l.opened = true
	l.agent.log.Info("session opened", "overlord", l.peer, "address", s.RemoteAddr().String(), "dialled", s.Dialled())
	l.wg.Go(func() { l.announce(l.agent.books.finished(l.peer, maxAnnounced)) })
	l.wg.Go(func() { l.sendFacts(l.ctx) })
	if l.agent.forward != nil {
		l.wg.Go(l.forwardRecords)
	}
	l.wg.Go(func() { l.tellOffer(l.ctx) }) // it may have changed since HELLO
	if l.agent.opened != nil {
		l.agent.opened()
	}
	if l.agent.host != nil {
		l.agent.host.Opened()
	}
}

// takeHead judges a head of the overlord's audit log and remembers the answer
// for this session.
func (l *link) takeHead(head *fleetpb.LogHead) error {
	err := l.agent.takeHead(l.peer, head)
	l.mu.Lock()
	before := l.audit
	l.audit = err
	l.mu.Unlock()
	switch {
	case err != nil:
		l.agent.log.Error("audit log of the overlord refused: no order of it runs here", "overlord", l.peer, "err", err)
	case before != nil:
		l.agent.log.Info("audit log of the overlord accepted again", "overlord", l.peer)
	}
	return err
}

// view is what the verification of one call needs of this session.
func (l *link) view(now time.Time) sessionView {
	l.mu.Lock()
	defer l.mu.Unlock()
	return sessionView{audit: l.audit, skew: l.skew.of(now), peer: l.peer}
}

// Call implements session.Handler. Verification costs some 60 µs of the reader's
// time; everything that takes longer runs elsewhere.
func (l *link) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	if c.Method == session.MethodDelegate && l.agent.host != nil {
		l.delegate(s, id, c)
		return
	}
	if strings.HasPrefix(c.Method, "session.") {
		l.ask(s, id, c)
		return
	}
	l.gate.Lock()
	defer l.gate.Unlock()
	if l.replaced {
		return // the overlord asks on the newer session
	}
	a := l.agent
	now := a.now()
	if a.books.Birth().IsZero() {
		l.takeBirth()
	}
	d, err := a.verifier.verify(c, l.view(now), now)
	if err == nil {
		err = l.accept(id, c, d, now)
	}
	if err != nil {
		if call.CodeOf(err) == call.Repeated {
			a.books.came(d.order.Job, l.peer)
		}
		l.refuse(s, id, d, err, now)
	}
}

// accept claims the job and hands it to the crew.
func (l *link) accept(id uint64, c *fleetpb.Call, d verdict, now time.Time) error {
	a := l.agent
	// Asked first, so that a busy machine does not use up the job's only try.
	if err := a.crew.room(); err != nil {
		return err
	}
	b := a.books.of(d.method.Effect())
	if err := b.Receive(d.order.Job, d.order.Expiry, l.peer, d.order.Method, now); err != nil {
		return err
	}
	w := &work{link: l, id: id, verdict: d, book: b, args: c.Args, stream: c.Stream, timeout: millis(c.TimeoutMs)}
	l.mu.Lock()
	if l.calls == nil {
		l.calls = make(map[uint64]*work)
	}
	l.calls[id] = w
	l.mu.Unlock()
	if err := a.crew.add(l.ctx, w); err != nil { // only when several sessions raced for the last place
		l.forget(id)
		b.Withdraw(d.order.Job)
		return err
	}
	return nil
}

// refuse answers a call that does not run, and tells and records it as far as
// the rate allows.
func (l *link) refuse(s *session.Session, id uint64, d verdict, err error, now time.Time) {
	r := failure(err)
	a := l.agent
	before, ok := a.own.wants(now)
	if ok {
		a.log.Info("call refused", "overlord", l.peer, "operator", d.operator, "code", codeText(r), "detail", r.Detail, "not_told_before", before)
	}
	if !ok || a.own.log == nil {
		_ = s.Reply(id, r) // an error: the session is over, and nobody asks
		return
	}
	l.wg.Go(func() { // the record waits for the disk; the reader must not
		if err := a.own.refused(record(now, d, l.peer, r), before); err != nil {
			a.log.Error("refusal not recorded", "err", err)
		}
		_ = s.Reply(id, r)
	})
}

// forget ends the bookkeeping of one call.
func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, id)
	if len(l.calls) == 0 {
		l.calls = nil
	}
}

// Cancel implements session.Handler.
func (l *link) Cancel(_ *session.Session, id uint64) {
	l.mu.Lock()
	w, d := l.calls[id], l.delegations[id]
	l.mu.Unlock()
	if d != nil {
		d.withdraw(ErrWithdrawn)
		return
	}
	if w == nil {
		return // answered already, or one of the session's own
	}
	l.wg.Go(func() { l.agent.cancel(w) }) // its result may wait for the disk
}

// Ack implements session.Handler.
func (l *link) Ack(_ *session.Session, _ uint64, m *fleetpb.Ack) {
	if m.State != fleetpb.Ack_STORED {
		return
	}
	for _, b := range m.Jobs {
		if len(b) != len(call.JobID{}) {
			continue
		}
		if k := l.mine(call.JobID(b)); k != nil {
			k.Release(call.JobID(b))
		}
	}
}

// Open implements session.Handler. No overlord opens a stream towards a minion,
// but for an order to a sub-overlord.
func (l *link) Open(_ *session.Session, st *session.Stream) { l.openedOrder(st) }

// Closed implements session.Handler.
func (l *link) Closed(_ *session.Session, err error) {
	l.agent.detach(l)
	l.agent.log.Info("session closed", "overlord", l.peer, "reason", err.Error())
}

// checkpoint judges a head that came after HELLO; without one it only tells
// what is remembered.
func (l *link) checkpoint(b []byte) (any, error) {
	if len(b) > 0 {
		head := new(fleetpb.LogHead)
		if err := proto.Unmarshal(b, head); err != nil {
			return nil, call.Errorf(call.Invalid, "head: %v", err)
		}
		if err := l.takeHead(head); err != nil {
			return nil, err
		}
	}
	return session.CheckpointResult{Checkpoints: l.agent.notes()}, nil
}

// maxAsked bounds the bytes of the session's own calls that are being answered:
// a thousand may be unanswered, each brings up to 1 MiB, and no operator signed
// it. Thirty of the largest revocation lists fit.
const maxAsked = 16 << 20

// maxAnswers bounds how many large answers to the session's own calls are in memory
// at a time, some 3 MiB each until the overlord has taken it.
const maxAnswers = 8

// ask answers one of the session's own calls elsewhere than on the reader.
func (l *link) ask(s *session.Session, id uint64, c *fleetpb.Call) {
	size := proto.Size(c) // all of it: what is not looked at is kept, too
	l.mu.Lock()
	full := l.asked+size > maxAsked
	if !full {
		l.asked += size
	}
	l.mu.Unlock()
	if full {
		_ = s.Reply(id, failure(call.Errorf(call.Busy, "calls of this session with %d bytes are being answered", maxAsked))) // an error: the session is over
		return
	}
	l.wg.Go(func() { l.own(id, c, size) })
}

// own answers one of the session's own methods, a call of that many bytes.
func (l *link) own(id uint64, c *fleetpb.Call, size int) {
	if c.Method == session.MethodJob {
		l.withdraw(c.Args) // waits for no answer
	}
	if c.Method == session.MethodJob || c.Method == session.MethodFacts || c.Method == session.MethodOffer {
		l.answers <- struct{}{} // Reply ends with the session at the latest
		defer func() { <-l.answers }()
	}
	out, err := l.answer(c)
	l.mu.Lock()
	l.asked -= size
	l.mu.Unlock()
	r := &fleetpb.Result{}
	if err == nil {
		r.Output, err = encodeAnswer(out)
	}
	if err != nil {
		r = failure(err)
	}
	_ = l.session.Reply(id, r) // an error: the session is over
}

func (l *link) answer(c *fleetpb.Call) (any, error) {
	a := l.agent
	switch c.Method {
	case session.MethodFacts:
		doc, _ := a.currentFacts()
		if doc == nil {
			return nil, call.Errorf(call.Unavailable, "no facts have been gathered yet")
		}
		return json.RawMessage(doc), nil
	case session.MethodOffer:
		return session.OfferResult{Offer: a.currentOffer()}, nil
	case session.MethodRevocations:
		var in session.RevocationsArgs
		if err := decodeArgs(c.Args, &in); err != nil {
			return nil, err
		}
		n, err := a.takeRevocations(in.List)
		return session.RevocationsResult{Number: n}, err
	case session.MethodJob:
		var in session.JobArgs
		if err := decodeArgs(c.Args, &in); err != nil {
			return nil, err
		}
		return l.job(in)
	case session.MethodCheckpoint:
		var in session.CheckpointArgs
		if err := decodeArgs(c.Args, &in); err != nil {
			return nil, err
		}
		return l.checkpoint(in.Head)
	case session.MethodCluster:
		if a.replica == nil {
			break
		}
		var in session.ClusterArgs
		if err := decodeArgs(c.Args, &in); err != nil {
			return nil, err
		}
		return l.cluster(in, millis(c.TimeoutMs)), nil
	case session.MethodMap, session.MethodGroups:
		if a.host == nil {
			break
		}
		ctx, cancel := context.WithTimeout(l.ctx, cmp.Or(millis(c.TimeoutMs), hostTime))
		defer cancel()
		return a.host.Answer(ctx, c.Method, c.Args)
	}
	return nil, call.Errorf(call.NotFound, "a minion has no method %q", cut(c.Method, call.MaxMethod))
}

func decodeArgs(b []byte, to any) error {
	if err := json.Unmarshal(b, to); err != nil {
		return call.Errorf(call.Invalid, "%v", err)
	}
	return nil
}

// millis reads a duration that a peer sent.
func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(call.MaxLife/time.Millisecond))) * time.Millisecond
}
