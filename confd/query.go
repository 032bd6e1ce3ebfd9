package confd

import (
	"context"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// What a peer that does not answer is given: the request again after this
// long, then after twice that, and so on up to the last.
const (
	retryFirst = 300 * time.Millisecond
	retryLast  = 2 * time.Second
)

// Result is what a query came to.
type Result struct {
	// Reply is the answer, with the highest serial that came with it. Its status
	// may be StatusError.
	Reply Reply
	// Agreed is how many peers gave this answer, Needed how many had to.
	Agreed, Needed int
	// Peers is all that were asked, in the order of their addresses.
	Peers []PeerReply
}

// PeerReply is what one peer said.
type PeerReply struct {
	Peer netip.Addr
	// Replied: it did. Its answer with the highest serial is the one that counts.
	Replied bool
	Reply   Reply
}

// String shows who said what.
func (p PeerReply) String() string {
	if !p.Replied {
		return p.Peer.String() + ": no answer"
	}
	answer := string(p.Reply.Answer)
	if len(answer) > 80 {
		answer = answer[:77] + "..."
	}
	if p.Reply.Status != StatusOK {
		return fmt.Sprintf("%s: error %s", p.Peer, answer)
	}
	return fmt.Sprintf("%s: %s, serial %d", p.Peer, answer, p.Reply.Serial)
}

// NoQuorumError says that too few peers gave the same answer, and what each of
// them said.
type NoQuorumError struct {
	// Result holds the best answer there was: a good one before an error, then
	// that with the highest serial, then that of most peers. Agreed is 0 when
	// nobody answered.
	Result Result
}

func (e *NoQuorumError) Error() string {
	all := make([]string, len(e.Result.Peers))
	for i, p := range e.Result.Peers {
		all[i] = p.String()
	}
	return fmt.Sprintf("no quorum: %d of %d peers gave the same answer, %d are needed (%s)",
		e.Result.Agreed, len(e.Result.Peers), e.Result.Needed, strings.Join(all, "; "))
}

// Query asks as many peers as the client's coverage says and gives the answer
// that NeededReplies of that number agree on, whatever its status; of several
// such answers the one with the highest serial. Serials of equal answers may
// differ. Peers that are silent are asked again, and others in their place.
//
// It ends when there is a quorum, when there can be none any more, or with ctx,
// after ExpireTimeout at the latest. Then the error is a *NoQuorumError; it wraps
// nothing. The request's Rsalt is not used: each peer gets one of its own, so that
// the reply of one cannot be passed off as another's.
func (c *Client) Query(ctx context.Context, r Request) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ExpireTimeout, context.DeadlineExceeded)
	defer cancel()
	c.mu.Lock()
	peers := slices.Clone(c.peers)
	c.mu.Unlock()
	mrand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	peers = distinct(peers)
	n, err := cover(c.cfg.Coverage, len(peers))
	if err != nil {
		return Result{}, err
	}
	p := poll{
		c: c, request: r, waiting: peers, needed: NeededReplies(n),
		asked: make(map[netip.Addr]*asked), news: make(chan struct{}, 1),
	}
	defer p.end()
	if err := p.ask(n); err != nil {
		return Result{}, err
	}
	return p.run(ctx)
}

// distinct leaves out what stands in the list already.
func distinct(list []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(list))
	return slices.DeleteFunc(list, func(a netip.Addr) bool {
		if seen[a] {
			return true
		}
		seen[a] = true
		return false
	})
}

// poll is one query under way.
type poll struct {
	c       *Client
	request Request
	waiting []netip.Addr // candidates that were not asked yet
	needed  int
	news    chan struct{} // one entry: a reply came

	mu    sync.Mutex
	asked map[netip.Addr]*asked
}

// asked is one peer that was asked.
type asked struct {
	rsalt string
	reply *Reply
	key   string // of the answer: equal for equal answers
}

// ask asks n peers more.
func (p *poll) ask(n int) error {
	n = min(n, len(p.waiting))
	for _, a := range p.waiting[:n] {
		r := p.request
		r.Rsalt = NewRsalt()
		p.mu.Lock()
		p.asked[a] = &asked{rsalt: r.Rsalt}
		p.mu.Unlock()
		take := func(up *Upcall) { p.take(a, up) }
		if err := p.c.enqueue(&outstanding{request: r, callback: take, anywhere: true}, []netip.Addr{a}); err != nil {
			return err
		}
	}
	p.waiting = p.waiting[n:]
	p.flush()
	return nil
}

// flush sends. Whoever cannot be sent to is a peer that does not answer.
func (p *poll) flush() {
	if err := p.c.FlushSendQueue(); err != nil {
		p.c.log.Debug("query not sent to all peers", "error", err)
	}
}

// take notes a peer's reply: of several the first with the highest serial. A peer
// with several addresses may send it from another.
func (p *poll) take(peer netip.Addr, up *Upcall) {
	if up.Kind != Replied {
		return
	}
	key := fmt.Sprintf("%d %s", up.Reply.Status, canonical(up.Reply.Answer))
	p.mu.Lock()
	if a := p.asked[peer]; a != nil && (a.reply == nil || up.Reply.Serial > a.reply.Serial) {
		a.reply, a.key = &up.Reply, key
	}
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// run receives until the query is decided.
func (p *poll) run(ctx context.Context) (Result, error) {
	wait := retryFirst
	retry := time.NewTimer(wait)
	defer retry.Stop()
	for {
		res, decided := p.result()
		if decided {
			return verdict(res)
		}
		select {
		case d := <-p.c.in:
			p.c.HandleResponse(d.payload, d.from.Addr(), d.from.Port())
		case <-p.news:
		case <-retry.C:
			if res.Agreed >= res.Needed { // nothing newer has found its quorum meanwhile
				return res, nil
			}
			p.again()
			wait = min(2*wait, retryLast)
			retry.Reset(wait)
		case <-ctx.Done():
			return verdict(res)
		case <-p.c.done:
			return res, ErrClosed
		}
	}
}

func verdict(res Result) (Result, error) {
	if res.Agreed < res.Needed {
		return res, &NoQuorumError{res}
	}
	return res, nil
}

// again asks the silent ones once more, and as many others.
func (p *poll) again() {
	var silent []netip.Addr
	p.mu.Lock()
	for addr, a := range p.asked {
		if a.reply == nil {
			silent = append(silent, addr)
		}
	}
	for _, addr := range silent {
		p.c.resend(p.asked[addr].rsalt)
	}
	p.mu.Unlock()
	more := len(silent)
	if more == 0 { // all have answered, and disagree
		more = len(p.waiting)
	}
	if err := p.ask(more); err != nil {
		p.c.log.Debug("further candidates not asked", "error", err)
	}
}

// resend queues an outstanding request again for all that it was sent to.
func (c *Client) resend(rsalt string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.requests[rsalt]; o != nil {
		_ = c.pack(o, slices.Collect(maps.Keys(o.sent)), c.cfg.Now()) // it was not too big before
	}
}

// end forgets what the query has outstanding.
func (p *poll) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for _, a := range p.asked {
		if p.c.requests[a.rsalt] != nil {
			p.c.drop(a.rsalt)
		}
	}
}

// camp is the peers of one answer.
type camp struct {
	size  int
	reply Reply // the one with the highest serial
}

// result gives what is known now, and whether nothing that may still come can
// change it.
func (p *poll) result() (Result, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	res := Result{Needed: p.needed}
	camps := make(map[string]*camp)
	silent := len(p.waiting)
	for addr, a := range p.asked {
		pr := PeerReply{Peer: addr, Replied: a.reply != nil}
		if a.reply == nil {
			silent++
		} else {
			pr.Reply = *a.reply
			g := camps[a.key]
			if g == nil {
				g = &camp{reply: *a.reply}
				camps[a.key] = g
			}
			if g.size++; a.reply.Serial > g.reply.Serial {
				g.reply = *a.reply
			}
		}
		res.Peers = append(res.Peers, pr)
	}
	slices.SortFunc(res.Peers, func(a, b PeerReply) int { return a.Peer.Compare(b.Peer) })
	best := p.best(camps)
	if best == nil {
		return res, silent == 0
	}
	res.Reply, res.Agreed = best.reply, best.size
	// A camp that is ahead of the best and not full may still become it.
	hope := false
	for _, g := range camps {
		if g != best && g.size < p.needed && g.size+silent >= p.needed && (best.size < p.needed || better(g, best)) {
			hope = true
		}
	}
	if best.size < p.needed {
		hope = hope || silent >= p.needed || best.size+silent >= p.needed
	}
	return res, !hope
}

// best gives the answer of those that have a quorum, or, if none has, of all,
// that counts most.
func (p *poll) best(camps map[string]*camp) *camp {
	var best *camp
	for _, key := range slices.Sorted(maps.Keys(camps)) {
		g := camps[key]
		full, bestFull := g.size >= p.needed, best != nil && best.size >= p.needed
		if best == nil || full && !bestFull || full == bestFull && better(g, best) {
			best = g
		}
	}
	return best
}

// better says whether an answer counts more: a good one more than an error, then
// by serial, then by the number of peers.
func better(a, b *camp) bool {
	if ok := a.reply.Status == StatusOK; ok != (b.reply.Status == StatusOK) {
		return ok
	}
	if a.reply.Serial != b.reply.Serial {
		return a.reply.Serial > b.reply.Serial
	}
	return a.size > b.size
}
