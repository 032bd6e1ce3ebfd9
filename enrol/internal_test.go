package enrol

import (
	"errors"
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

func TestConnectCodes(t *testing.T) {
	for code, want := range map[call.Code]connect.Code{
		call.Invalid: connect.CodeInvalidArgument, call.NotFound: connect.CodeNotFound, call.Denied: connect.CodePermissionDenied,
		call.Revoked: connect.CodePermissionDenied, call.Busy: connect.CodeResourceExhausted, call.Conflict: connect.CodeAlreadyExists,
		call.Unavailable: connect.CodeUnavailable, call.Timeout: connect.CodeDeadlineExceeded, call.Cancelled: connect.CodeCanceled,
		call.Failed: connect.CodeInternal,
	} {
		if got := connectCode(code); got != want {
			t.Errorf("connectCode(%v) = %v; want %v", code, got, want)
		}
	}
}

// More requests than can be decided at a time are turned away at once.
func TestHandlerBound(t *testing.T) {
	s := &service{deciding: make(chan struct{}, 1)}
	s.deciding <- struct{}{}
	_, err := s.Request(t.Context(), connect.NewRequest(&apipb.EnrolRequest{}))
	if e, ok := errors.AsType[*connect.Error](err); !ok || e.Code() != connect.CodeResourceExhausted || e.Meta().Get(CodeHeader) != "10" {
		t.Errorf("Request = %v; want busy", err)
	}
}
