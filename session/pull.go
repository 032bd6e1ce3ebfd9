package session

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// handOver gives a stream that the peer opened to who awaits it.
func (s *Session) handOver(w Waiter, st *Stream) {
	switch w := w.(type) {
	case *callWaiter:
		if st.Name() == resultStream {
			w.open(st)
		}
	case *Pulled:
		w.open(st)
	default:
		s.opt.Handler.Open(s, st)
	}
}

// Pulled is what a peer sends in answer to Pull. One goroutine at a time reads; Close
// may come from any, and ends a Read that waits.
type Pulled struct {
	s    *Session
	id   uint64
	name string
	answers
	opened chan *Stream // holds one
	stream *Stream      // that was opened
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	gone bool // no stream is taken any more
}

// Pull makes one call of the session's own methods whose answer is a stream of that
// name, and returns when the peer has opened it; ctx bounds that, and its time does
// not travel along. The caller closes what it gives. A refusal is a *call.Error with
// the peer's code.
func (s *Session) Pull(ctx context.Context, method string, args []byte, name string) (*Pulled, error) {
	body, err := proto.Marshal(&fleetpb.Call{Method: method, Args: args})
	if err != nil {
		return nil, call.Errorf(call.Invalid, "method %q: %v", method, err)
	}
	id := s.ownID()
	p := &Pulled{s: s, id: id, name: name, answers: make(answers, 1), opened: make(chan *Stream, 1), closed: make(chan struct{})}
	if err := s.start(TypeCall, id, p, body); err != nil {
		return nil, err
	}
	select {
	case p.stream = <-p.opened:
		return p, nil
	case a := <-p.answers:
		select { // it came before the answer
		case p.stream = <-p.opened:
			p.answers <- a
			return p, nil
		default:
		}
		p.Close()
		if err := p.failure(a); err != nil {
			return nil, err
		}
		return nil, &call.Error{Code: call.Internal, Node: s.peer.Name, Detail: "it answered without a stream"}
	case <-ctx.Done():
		p.Close()
		return nil, context.Cause(ctx)
	}
}

// open takes the stream; on the reader's goroutine. A second one, or one of another
// name, is not accepted.
func (p *Pulled) open(st *Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || st.Name() != p.name {
		return
	}
	p.gone = true
	p.opened <- st
	st.Accept()
}

// failure gives what an answer refuses; nil: nothing.
func (p *Pulled) failure(a answer) error {
	switch {
	case a.err != nil:
		return a.err
	case a.result.Code != 0:
		return &call.Error{Code: call.Code(a.result.Code), Node: p.s.peer.Name, Detail: a.result.Detail}
	}
	return nil
}

// answerTime is how long the answer may take after the end of its stream.
const answerTime = 10 * time.Second

// Read implements io.Reader: io.EOF when the peer has sent everything and answered
// that all went well, else its *call.Error. After Close it gives ErrStreamClosed.
func (p *Pulled) Read(b []byte) (int, error) {
	n, err := p.stream.Read(b)
	if n > 0 || err == nil || errors.Is(err, ErrStreamClosed) {
		return n, err
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	select {
	case a := <-p.answers:
		p.answers <- a // for the next Read
		if fail := p.failure(a); fail != nil {
			return 0, fail
		}
		if !errors.Is(err, io.EOF) {
			return 0, &call.Error{Code: call.Internal, Node: p.s.peer.Name, Detail: err.Error()}
		}
		return 0, io.EOF
	case <-p.closed:
		return 0, ErrStreamClosed
	case <-late.C:
		return 0, &call.Error{Code: call.NoAnswer, Node: p.s.peer.Name, Detail: "its stream ended, and no answer came"}
	}
}

// Close tells the peer that no more is wanted. It never fails.
func (p *Pulled) Close() error {
	p.once.Do(func() {
		close(p.closed)
		if p.s.Forget(p.id) {
			_ = p.s.Cancel(p.id, notWaiting) // an error: the session is over
		}
		p.mu.Lock()
		p.gone = true
		p.mu.Unlock()
		select {
		case st := <-p.opened:
			st.CloseWithReason(notWaiting)
		default:
		}
		if p.stream != nil {
			p.stream.CloseWithReason(notWaiting)
		}
	})
	return nil
}
