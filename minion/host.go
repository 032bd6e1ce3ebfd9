package minion

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// Host is the overlord in whose process an agent is embedded: what its parent
// asks of it.
type Host interface {
	// Answer carries out session.map or session.groups. An error is answered with
	// its code.
	Answer(ctx context.Context, method string, args []byte) (result any, err error)
	// Delegate carries out an order that the parent passes on, and gives the answer
	// when every machine that it concerns has a stored result. ctx ends with the
	// session, or with cause ErrWithdrawn when the parent withdraws the order; the
	// answer is awaited then, too.
	Delegate(ctx context.Context, d Delegation) *fleetpb.Result
}

// ErrWithdrawn is why the context of a delegation ends when the order is withdrawn.
var ErrWithdrawn = errors.New("the order was withdrawn")

// Delegation is an order on its way down, as it came.
type Delegation struct {
	Parent  string
	Session *session.Session
	ID      uint64                 // of the call: the host's streams belong to it
	Args    []byte                 // an encoded fleetpb.Delegate
	Order   <-chan *session.Stream // gives the stream "order" if the parent opens one
}

// hostTime is how long a host may take to answer when the parent does not say.
const hostTime = time.Minute

// Limits of the orders that one session's overlord has under way here. One is up to
// 1 MiB, and in memory until it is answered.
const (
	maxDelegations = 512
	maxDelegated   = 64 << 20 // bytes of them
)

// delegation is what a link keeps of one.
type delegation struct {
	size     int // bytes of the call
	withdraw context.CancelCauseFunc
	order    chan *session.Stream // holds one
}

// delegate hands an order to the host.
func (l *link) delegate(s *session.Session, id uint64, c *fleetpb.Call) {
	ctx, withdraw := context.WithCancelCause(l.ctx)
	d := &delegation{size: proto.Size(c), withdraw: withdraw, order: make(chan *session.Stream, 1)}
	l.mu.Lock()
	full := len(l.delegations) >= maxDelegations || l.delegated+d.size > maxDelegated
	if !full {
		l.delegated += d.size
		if l.delegations == nil {
			l.delegations = make(map[uint64]*delegation)
		}
		l.delegations[id] = d
	}
	l.mu.Unlock()
	if full {
		withdraw(nil)
		_ = s.Reply(id, failure(call.Errorf(call.Busy, "%d orders of this overlord, or %d bytes of them, are under way here", maxDelegations, maxDelegated))) // an error: the session is over
		return
	}
	l.wg.Go(func() {
		defer withdraw(nil)
		over := make(chan struct{})
		defer close(over)
		go func() { // ends with the delegation
			select {
			case <-s.Done():
				withdraw(s.Err())
			case <-over:
			}
		}()
		r := l.agent.host.Delegate(ctx, Delegation{Parent: l.peer, Session: s, ID: id, Args: c.Args, Order: d.order})
		l.mu.Lock()
		delete(l.delegations, id)
		l.delegated -= d.size
		l.mu.Unlock()
		select {
		case st := <-d.order: // nobody took it
			st.CloseWithReason("not wanted")
		default:
		}
		_ = s.Reply(id, r) // an error: the session is over, and the order is asked for again
	})
}

// openedOrder takes the stream "order" of a delegation; on the reader's goroutine.
func (l *link) openedOrder(st *session.Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.delegations[st.CallID()]
	if d == nil || st.Name() != "order" {
		return
	}
	select {
	case d.order <- st:
		st.Accept()
	default:
	}
}
