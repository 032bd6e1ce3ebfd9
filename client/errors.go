package client

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/call"
	"dominion/pki"
)

// errorMapper turns what Connect reports into errors that keep their meaning.
type errorMapper struct {
	where string // names the overlord, for people
	// alert asks once more why a connection broke: what a server says when it
	// refuses our certificate is lost when we were writing already. Nil: nobody
	// is asked.
	alert func(context.Context) error
	// patience is the connection's, so that a test can shorten it. Required.
	patience *patience
}

var _ connect.Interceptor = errorMapper{}

// WrapUnary implements connect.Interceptor.
func (m errorMapper) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if _, limited := ctx.Deadline(); !limited {
			limit := m.patience.unary(req.Spec().Procedure)
			var stop context.CancelFunc
			ctx, stop = context.WithTimeoutCause(ctx, limit, &brokenError{m.silent(limit)})
			defer stop()
		}
		resp, err := next(ctx, req)
		if err != nil {
			return nil, m.error(ctx, err)
		}
		return resp, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (m errorMapper) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		watched, end := context.WithCancelCause(ctx)
		return &mappedConn{
			StreamingClientConn: next(watched, spec), mapper: m, end: end,
			cause: func(err error) error {
				if e, ok := errors.AsType[*brokenError](context.Cause(watched)); ok && ctx.Err() == nil {
					return e // the overlord fell silent
				}
				return m.error(ctx, err)
			},
		}
	}
}

// WrapStreamingHandler implements connect.Interceptor; clients have none.
func (m errorMapper) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// error gives the *call.Error that the overlord sent, or one that says why it
// could not be asked. The context's own end stays what it is.
func (m errorMapper) error(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e := apierr.FromPeer(err); e != nil {
		return e
	}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return m.local(ctx, ce)
	}
	return err
}

// lostPing is what net/http says when an HTTP/2 ping was not answered; the error
// has no other mark.
const lostPing = "http2: client connection lost"

// brokenError marks an error that says nothing about what was asked: the way to
// the overlord broke, or nobody was there. Asking again may help.
type brokenError struct{ err *call.Error }

// Error gives the error's own text.
func (e *brokenError) Error() string { return e.err.Error() }

// Unwrap gives the error.
func (e *brokenError) Unwrap() error { return e.err }

// isBroken says whether the way to the overlord broke.
func isBroken(err error) bool {
	_, ok := errors.AsType[*brokenError](err)
	return ok
}

// local explains an error that arose on this side: nothing listens, the
// connection broke, the server's certificate is not an overlord's.
func (m errorMapper) local(ctx context.Context, ce *connect.Error) error {
	e := m.explain(ctx, ce)
	if e.Code == call.Denied || e.Code == call.Invalid || errors.Is(ce, pki.ErrUntrusted) {
		return e // it would be the same the next time
	}
	return &brokenError{e}
}

func (m errorMapper) explain(ctx context.Context, ce *connect.Error) *call.Error {
	if e, ok := errors.AsType[*call.Error](ce.Unwrap()); ok {
		return e
	}
	if strings.Contains(ce.Message(), lostPing) {
		return call.Errorf(call.Unavailable, "the overlord at %s says nothing: the connection to it gives no sign of life", m.where)
	}
	alert := tlsAlert(ce)
	if alert == nil && m.alert != nil && ce.Code() != connect.CodeDeadlineExceeded {
		alert = tlsAlert(m.alert(ctx))
	}
	switch {
	case alert != nil:
		return call.Errorf(call.Denied,
			"the overlord at %s refuses this operator's certificate (%v): it may be revoked or expired; dominion operator list shows it there", m.where, alert)
	case ce.Code() == connect.CodeDeadlineExceeded:
		return call.Errorf(call.Timeout, "ask the overlord at %s: %s", m.where, ce.Message())
	case ce.Code() == connect.CodeUnavailable:
		return call.Errorf(call.Unavailable, "no overlord answers at %s: %s", m.where, ce.Message())
	}
	for _, broken := range []error{syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(ce, broken) {
			return call.Errorf(call.Unavailable, "the overlord at %s closed the connection: %s", m.where, broken)
		}
	}
	return call.Errorf(call.Internal, "ask the overlord at %s: %s", m.where, ce.Message())
}

// tlsAlert gives what the other side said when it ended a handshake.
func tlsAlert(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return e.Err
	}
	return nil
}
