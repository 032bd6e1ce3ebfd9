// Package apierr carries our error codes through Connect: its own are fewer,
// so each error has ours beside it, as metadata.
package apierr

import (
	"context"
	"errors"
	"strconv"

	"connectrpc.com/connect"

	"dominion/call"
)

// Header is the metadata that holds the call.Code, in decimal.
const Header = "dominion-code"

// ToPeer gives an error the form that travels. What is no *call.Error is
// internal: its text is not told, and internal says so, for the caller's log.
func ToPeer(err error) (out *connect.Error, internal bool) {
	e, ok := errors.AsType[*call.Error](err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled), connect.CodeOf(err) == connect.CodeCanceled: // the latter when a write finds nobody
		e = call.Errorf(call.Cancelled, "the caller left")
	case errors.Is(err, context.DeadlineExceeded):
		e = call.Errorf(call.Timeout, "the overlord did not finish in time")
	default:
		e = call.Errorf(call.Internal, "the overlord's log says more")
	}
	out = connect.NewError(toConnect(e.Code), errors.New(e.Detail))
	out.Meta().Set(Header, strconv.FormatUint(uint64(e.Code), 10))
	return out, e.Code == call.Internal
}

// FromPeer gives the *call.Error that a peer sent, or nil when err is none of
// a peer's.
func FromPeer(err error) *call.Error {
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil
	}
	if n, perr := strconv.ParseUint(ce.Meta().Get(Header), 10, 32); perr == nil && n != 0 {
		return &call.Error{Code: call.Code(n), Detail: ce.Message()}
	}
	if !connect.IsWireError(err) {
		return nil
	}
	return &call.Error{Code: fromConnect(ce.Code()), Detail: ce.Message()} // from a proxy, or the library itself
}

func toConnect(c call.Code) connect.Code {
	switch c {
	case call.Invalid, call.BadOrder, call.TooMany:
		return connect.CodeInvalidArgument
	case call.NotFound, call.NoMatch:
		return connect.CodeNotFound
	case call.Denied, call.Revoked:
		return connect.CodePermissionDenied
	case call.Conflict, call.Repeated:
		return connect.CodeAlreadyExists
	case call.Busy:
		return connect.CodeResourceExhausted
	case call.Unavailable, call.AuditRefused:
		return connect.CodeUnavailable
	case call.Expired, call.ClockSkew:
		return connect.CodeFailedPrecondition
	case call.Timeout:
		return connect.CodeDeadlineExceeded
	case call.Cancelled:
		return connect.CodeCanceled
	default:
		return connect.CodeInternal
	}
}

func fromConnect(c connect.Code) call.Code {
	switch c {
	case connect.CodeCanceled:
		return call.Cancelled
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return call.Invalid
	case connect.CodeDeadlineExceeded:
		return call.Timeout
	case connect.CodeNotFound:
		return call.NotFound
	case connect.CodeAlreadyExists, connect.CodeAborted, connect.CodeFailedPrecondition:
		return call.Conflict
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return call.Denied
	case connect.CodeResourceExhausted:
		return call.Busy
	case connect.CodeUnavailable:
		return call.Unavailable
	default:
		return call.Internal
	}
}
