package overlord

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"dominion/session"
)

// outputs gathers results that are too large for a frame: each comes as a
// stream, before the RESULT that names it.
type outputs struct {
	mu      sync.Mutex
	pending map[outputKey]*output
}

// errTooLong is wrapped by the error of an output that is refused for its size.
var errTooLong = errors.New("it is too long")

type outputKey struct {
	session *session.Session
	call    uint64
}

type output struct {
	stream *session.Stream
	done   chan struct{} // closed when data and err are set
	data   []byte
	err    error
}

// expect begins to read a stream of at most limit bytes, one for each call; it
// returns at once.
func (o *outputs) expect(s *session.Session, st *session.Stream, limit int64) {
	out := &output{stream: st, done: make(chan struct{})}
	key := outputKey{s, st.CallID()}
	o.mu.Lock()
	if o.pending == nil {
		o.pending = make(map[outputKey]*output)
	}
	if o.pending[key] != nil {
		o.mu.Unlock()
		st.CloseWithReason("a second result for one call")
		return
	}
	o.pending[key] = out
	o.mu.Unlock()
	st.Accept()
	go func() { // ends with the stream, at the latest with the session
		out.data, out.err = io.ReadAll(io.LimitReader(st, limit+1))
		if out.err == nil && int64(len(out.data)) > limit {
			out.data, out.err = nil, fmt.Errorf("%w: more than %d bytes", errTooLong, limit)
			st.CloseWithReason("result too long")
		}
		close(out.done)
	}()
}

// wait gives the data of a call's result stream when it is whole.
func (o *outputs) wait(s *session.Session, callID, stream uint64) ([]byte, error) {
	key := outputKey{s, callID}
	o.mu.Lock()
	out := o.pending[key]
	o.mu.Unlock()
	if out == nil || out.stream.ID() != stream {
		return nil, errors.New("it was never sent")
	}
	select {
	case <-out.done:
	case <-s.Done():
		return nil, errors.New("the connection ended")
	}
	o.mu.Lock()
	delete(o.pending, key)
	o.mu.Unlock()
	return out.data, out.err
}

// forget ends and drops what a job left behind that is closed: outputs that came
// too late, or that no RESULT named.
func (o *outputs) forget(callID uint64) {
	var late []*output
	o.mu.Lock()
	for k, out := range o.pending {
		if k.call == callID {
			delete(o.pending, k)
			late = append(late, out)
		}
	}
	o.mu.Unlock()
	for _, out := range late {
		out.stream.CloseWithReason("the job is closed")
	}
}

// drop forgets what a session left behind.
func (o *outputs) drop(s *session.Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range o.pending {
		if k.session == s {
			delete(o.pending, k)
		}
	}
}
