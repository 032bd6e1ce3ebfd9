package apierr

import (
	"context"

	"connectrpc.com/connect"
)

// Interceptor turns handlers' errors into what travels. Internal, if not nil,
// gets those whose text is not told.
type Interceptor struct {
	Internal func(procedure string, err error)
}

// WrapUnary implements connect.Interceptor.
func (i Interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, r)
		if err != nil {
			return nil, i.mapped(r.Spec().Procedure, err)
		}
		return res, nil
	}
}

// WrapStreamingClient implements connect.Interceptor; a server has none.
func (i Interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (i Interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := next(ctx, c); err != nil {
			return i.mapped(c.Spec().Procedure, err)
		}
		return nil
	}
}

func (i Interceptor) mapped(procedure string, err error) error {
	out, internal := ToPeer(err)
	if internal && i.Internal != nil {
		i.Internal(procedure, err)
	}
	return out
}
