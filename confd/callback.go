package confd

import (
	"bytes"
	"log/slog"
	"net/netip"
	"sync"
)

// UpcallKind says what a callback is told.
type UpcallKind int

// The kinds of upcalls.
const (
	Replied UpcallKind = 1 + iota // a peer replied
	Expired                       // a request was outstanding for too long; there is no reply
)

// Upcall is what a callback is told. It must not be changed.
type Upcall struct {
	Salt       string // the rsalt of the request
	Kind       UpcallKind
	Request    Request
	Reply      Reply      // of Replied
	ServerIP   netip.Addr // of Replied
	ServerPort uint16     // of Replied
	Args       any        // those of SendRequest
	Client     *Client
}

// Callback is told of replies and of requests that expired.
type Callback func(*Upcall)

// Filter passes on what a callback needs to know: the first answer to a
// request, an answer that differs and has a higher serial, and that it expired.
// Its method Upcall is the callback. It is safe for concurrent use.
type Filter struct {
	next Callback
	log  *slog.Logger

	mu      sync.Mutex
	replies map[string]Reply
	agree   map[string]bool
}

// NewFilter makes a filter before next, which is required. log may be nil.
func NewFilter(next Callback, log *slog.Logger) (*Filter, error) {
	if next == nil {
		return nil, ErrCallback
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Filter{next: next, log: log, replies: make(map[string]Reply), agree: make(map[string]bool)}, nil
}

// Consistent says whether all answers to a request that had the same serial
// were the same so far; known is false for a request without any answer.
func (f *Filter) Consistent(rsalt string) (consistent, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	consistent, known = f.agree[rsalt]
	return consistent, known
}

// Upcall takes an upcall and passes it on, or not.
func (f *Filter) Upcall(up *Upcall) {
	if f.take(up) {
		f.next(up)
	}
}

func (f *Filter) take(up *Upcall) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if up.Kind == Expired {
		delete(f.replies, up.Salt)
		delete(f.agree, up.Salt)
		return true
	}
	old, known := f.replies[up.Salt]
	same := bytes.Equal(old.Answer, up.Reply.Answer) || canonical(old.Answer) == canonical(up.Reply.Answer)
	switch {
	case !known:
		f.replies[up.Salt], f.agree[up.Salt] = up.Reply, true
		return true
	case up.Reply.Serial > old.Serial:
		f.replies[up.Salt] = up.Reply
		if same {
			f.log.Debug("filtering confirming answer with newer serial", "rsalt", up.Salt, "serial", up.Reply.Serial)
		}
		return !same
	case up.Reply.Serial < old.Serial:
		f.log.Debug("filtering outdated answer", "rsalt", up.Salt, "serial", up.Reply.Serial, "newer", old.Serial)
	case !same:
		f.agree[up.Salt] = false
		f.log.Warn("incoherent answers with the same serial", "rsalt", up.Salt, "serial", up.Reply.Serial)
	default:
		f.log.Debug("filtering confirming answer with same serial", "rsalt", up.Salt, "serial", up.Reply.Serial)
	}
	return false
}

// Counter counts the answers to requests that it was told of. Its method Upcall
// is the callback; it passes everything on. It is safe for concurrent use.
type Counter struct {
	next Callback

	mu     sync.Mutex
	counts map[string]int
}

// NewCounter makes a counter before next, which is required.
func NewCounter(next Callback) (*Counter, error) {
	if next == nil {
		return nil, ErrCallback
	}
	return &Counter{next: next, counts: make(map[string]int)}, nil
}

// Register begins to count the answers to a request; ErrDuplicateRsalt when
// that is so already.
func (n *Counter) Register(rsalt string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.counts[rsalt]; ok {
		return ErrDuplicateRsalt
	}
	n.counts[rsalt] = 0
	return nil
}

// AllAnswered says whether each registered request has an answer. One that
// expired is not registered any more; with none registered it is true.
func (n *Counter) AllAnswered() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, count := range n.counts {
		if count == 0 {
			return false
		}
	}
	return true
}

// Upcall counts, and passes on.
func (n *Counter) Upcall(up *Upcall) {
	n.mu.Lock()
	switch count, ok := n.counts[up.Salt]; {
	case !ok:
	case up.Kind == Expired:
		delete(n.counts, up.Salt)
	default:
		n.counts[up.Salt] = count + 1
	}
	n.mu.Unlock()
	n.next(up)
}

// Store keeps the last answer to each request, whatever its serial, until
// Forget. Its method Upcall is the callback. The zero value is ready; it is safe for
// concurrent use.
type Store struct {
	mu   sync.Mutex
	last map[string]*Upcall
}

// Response gives the last answer to a request; false when there is none.
func (s *Store) Response(rsalt string) (*Upcall, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	up, ok := s.last[rsalt]
	return up, ok
}

// Forget drops the answer to a request: nothing else does.
func (s *Store) Forget(rsalt string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, rsalt)
}

// Upcall keeps an answer.
func (s *Store) Upcall(up *Upcall) {
	if up.Kind != Replied {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[string]*Upcall)
	}
	s.last[up.Salt] = up
}
