package enrol

import (
	"context"
	"net/http"
	"net/netip"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/pki"
)

const (
	maxRequestBody = 48 << 10 // bytes: two requests of 8 KiB in base64, a token, and room
	// maxDeciding bounds the requests that are being decided; callers need no
	// certificate, and each costs a signature check and a transaction.
	maxDeciding = 64
	// maxStoring bounds those of them that are with the store. One costs up to 13 ms
	// there when 1,000 wait (measured), and whatever the fleet writes waits as long
	// as all that were there before it.
	maxStoring = 8
)

// Handler gives the path and the HTTP handler of EnrolService. It needs no
// certificate of its callers.
func (r *Registrar) Handler() (path string, h http.Handler) {
	return apipbconnect.NewEnrolServiceHandler(
		&service{r, make(chan struct{}, maxDeciding)}, connect.WithReadMaxBytes(maxRequestBody),
		connect.WithInterceptors(apierr.Interceptor{Internal: func(_ string, err error) {
			r.cfg.Log.Error("enrolment request failed", "error", err)
		}}))
}

type service struct {
	r        *Registrar
	deciding chan struct{}
}

// Request implements apipbconnect.EnrolServiceHandler.
func (s *service) Request(ctx context.Context, req *connect.Request[apipb.EnrolRequest]) (*connect.Response[apipb.EnrolResponse], error) {
	select {
	case s.deciding <- struct{}{}:
		defer func() { <-s.deciding }()
	default:
		return nil, call.Errorf(call.Busy, "too many ask at this moment")
	}
	var source netip.Addr // invalid when the caller came by a socket without addresses
	if ap, err := netip.ParseAddrPort(req.Peer().Addr); err == nil {
		source = ap.Addr().Unmap().WithZone("")
	}
	ask := Request{CSR: req.Msg.Csr, Role: req.Msg.Role, Token: req.Msg.Token, Source: source}
	if o := req.Msg.Overlord; o != nil {
		ask.Overlord = &pki.OverlordRequest{IssuingCSR: o.IssuingCsr, LogKey: o.LogKey, LogID: o.LogId, Signature: o.Signature}
	}
	d, err := s.r.Request(ctx, ask)
	if err != nil {
		return nil, err
	}
	states := map[State]apipb.EnrolResponse_State{
		StateWaiting: apipb.EnrolResponse_PENDING, StateGranted: apipb.EnrolResponse_GRANTED, StateRejected: apipb.EnrolResponse_REJECTED,
	}
	return connect.NewResponse(&apipb.EnrolResponse{
		State: states[d.State], Chain: d.Chain, Detail: d.Detail, RetryAfterMs: uint64(d.Retry.Milliseconds()),
		Revocations: d.Revocations, Fingerprint: d.Fingerprint, Issuing: d.Issuing, LogKey: d.LogKey, RootHost: d.RootHost,
	}), nil
}
