package minion

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// steered is a Host whose delegations end when the test says so.
type steered struct {
	begun  chan Delegation
	end    chan struct{}
	causes chan error // of the contexts of those that were ended from outside
	ended  atomic.Int64
}

func newSteered() *steered {
	return &steered{begun: make(chan Delegation, 2*maxDelegations), end: make(chan struct{}), causes: make(chan error, 2*maxDelegations)}
}

func (h *steered) Answer(context.Context, string, []byte) (any, error) { return struct{}{}, nil }

func (h *steered) Delegate(ctx context.Context, d Delegation) *fleetpb.Result {
	defer h.ended.Add(1)
	h.begun <- d
	select {
	case <-h.end:
	case <-ctx.Done():
		h.causes <- context.Cause(ctx)
	}
	return &fleetpb.Result{}
}

// hosted gives an agent that is embedded in h, and its parent's end of the session.
func hosted(t *testing.T, h *steered) (*Agent, *peer) {
	f := newFleet(t)
	a := newAgent(t, f, func(opt *Options) { opt.Host = h })
	return a, attach(t, a, newOverlord(t, f).listen())
}

func (a *Agent) delegations() (n, size int) {
	l := a.allLinks()[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.delegations), l.delegated
}

// Orders that are passed on are few at a time, in number and in bytes, and leave
// nothing behind.
func TestDelegationsAreBounded(t *testing.T) {
	for name, tt := range map[string]struct{ size, fit int }{
		"small": {10, maxDelegations}, "large": {1<<20 - 1000, maxDelegated / (1<<20 - 500)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newSteered()
			a, p := hosted(t, h)
			codes := make(chan call.Code, 2*tt.fit)
			ask := func() {
				codes <- call.Code(p.start(&fleetpb.Call{Method: session.MethodDelegate, Args: make([]byte, tt.size)}).wait().Code)
			}
			for range tt.fit { // one by one: our own queue is bounded too
				go ask()
				<-h.begun
			}
			for range 3 {
				go ask()
				if c := <-codes; c != call.Busy {
					t.Errorf("code %v; want busy", c)
				}
			}
			close(h.end)
			for range tt.fit {
				if c := <-codes; c != call.OK {
					t.Errorf("code %v; want ok", c)
				}
			}
			if n, size := a.delegations(); n != 0 || size != 0 {
				t.Errorf("%d delegations of %d bytes are left", n, size)
			}
		})
	}
}

// A delegation ends with its session, and when it is withdrawn; both are told why.
func TestDelegationEnds(t *testing.T) {
	h := newSteered()
	_, p := hosted(t, h)
	w := p.start(&fleetpb.Call{Method: session.MethodDelegate})
	d := <-h.begun
	if err := p.s.Cancel(d.ID, "withdrawn"); err != nil {
		t.Fatal(err)
	}
	if err := <-h.causes; !errors.Is(err, ErrWithdrawn) {
		t.Errorf("withdrawn: %v", err)
	}
	w.wait()
	p.start(&fleetpb.Call{Method: session.MethodDelegate})
	<-h.begun
	p.s.Close(call.Internal, "the parent goes away")
	if err := <-h.causes; err == nil || errors.Is(err, ErrWithdrawn) || errors.Is(err, context.Canceled) {
		t.Errorf("the session ended: %v; want why", err)
	}
}

// Of the streams for an order one is taken; those that nobody wants are closed.
func TestStreamOfADelegation(t *testing.T) {
	h := newSteered()
	_, p := hosted(t, h)
	w := p.start(&fleetpb.Call{Method: session.MethodDelegate})
	d := <-h.begun
	refused := func(what string, id uint64, name string) {
		t.Helper()
		st, err := p.s.Open(t.Context(), id, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte("x")); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	refused("a stream of another name", d.ID, "events")
	refused("a stream of no call", d.ID+100, "order")
	st, err := p.s.Open(t.Context(), d.ID, "order")
	if err != nil {
		t.Fatal(err)
	}
	refused("a second stream", d.ID, "order")
	if _, err := st.Write([]byte("the order")); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(<-d.Order)
	if err != nil || string(got) != "the order" {
		t.Errorf("the order came as %q, %v", got, err)
	}
	close(h.end)
	w.wait()
	refused("a stream after the answer", d.ID, "order")

	h = newSteered()
	_, p = hosted(t, h)
	w = p.start(&fleetpb.Call{Method: session.MethodDelegate})
	d = <-h.begun
	if st, err = p.s.Open(t.Context(), d.ID, "order"); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write([]byte("x")); err != nil { // it was taken
		t.Fatal(err)
	}
	close(h.end)
	w.wait()
	for err == nil {
		_, err = st.Write(make([]byte, 1<<10))
	}
}
