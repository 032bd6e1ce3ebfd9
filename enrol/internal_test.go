package enrol

import (
	"math"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
)

func TestRetry(t *testing.T) {
	for ms, want := range map[uint64]time.Duration{
		0: DefaultRetry, 1: minRetry, 10_000: 10 * time.Second, math.MaxUint64: maxRetry,
	} {
		if got := retry(ms); got != want {
			t.Errorf("retry(%d) = %v; want %v", ms, got, want)
		}
	}
}

// More requests than can be decided at a time are turned away at once.
func TestHandlerBound(t *testing.T) {
	s := &service{deciding: make(chan struct{}, 1)}
	s.deciding <- struct{}{}
	_, err := s.Request(t.Context(), connect.NewRequest(&apipb.EnrolRequest{}))
	if call.CodeOf(err) != call.Busy {
		t.Errorf("Request = %v; want busy", err)
	}
}
