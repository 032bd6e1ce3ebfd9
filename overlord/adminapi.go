package overlord

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
	"dominion/target"
)

// adminAPI serves dominion.v1.AdminService. Each action has a method name for
// policy and audit; the registrar writes the audit record with the change.
type adminAPI struct{ o *Overlord }

// Certs implements AdminServiceHandler.
func (a adminAPI) Certs(ctx context.Context, r *connect.Request[apipb.CertsRequest]) (*connect.Response[apipb.CertsResponse], error) {
	match := func(string) bool { return true }
	if r.Msg.Name != "" {
		p, err := target.Glob(r.Msg.Name)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "%v", err)
		}
		match = p.Match
	}
	pending, err := a.o.registrar.PendingAll(ctx)
	if err != nil {
		return nil, err
	}
	out := &apipb.CertsResponse{}
	for _, p := range pending {
		if match(p.Identity.Name) {
			out.Pending = append(out.Pending, &apipb.PendingRequest{
				Name: p.Identity.Name, Role: string(p.Identity.Role), Fingerprint: p.Fingerprint, Source: addrText(p.Source),
				FirstMs: ms(p.First), LastMs: ms(p.Last), Conflict: p.Conflict, Rejected: p.Rejected,
			})
		}
	}
	if r.Msg.PendingOnly {
		return connect.NewResponse(out), nil
	}
	certs, err := a.o.keep.certs(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		if match(c.Identity.Name) {
			out.Certs = append(out.Certs, certPB(c))
		}
	}
	return connect.NewResponse(out), nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func certPB(c enrol.Cert) *apipb.Cert {
	return &apipb.Cert{
		Name: c.Identity.Name, Role: string(c.Identity.Role), Fingerprint: c.Fingerprint, Serial: c.Serial, NotBeforeMs: ms(c.NotBefore),
		NotAfterMs: ms(c.NotAfter), GrantedBy: c.GrantedBy, RevokedMs: ms(c.Revoked), Reason: c.Reason,
	}
}

// addOverlord is what it takes, beside cert.sign or token.create, to let an
// overlord in.
const addOverlord = "overlord.add"

// SignCert implements AdminServiceHandler. To sign an operator is to add one: who
// may sign machines could make himself anybody otherwise. So it is with overlords.
func (a adminAPI) SignCert(ctx context.Context, r *connect.Request[apipb.SignCertRequest]) (*connect.Response[apipb.SignCertResponse], error) {
	action := "cert.sign"
	role, name := enrol.CutRole(r.Msg.Name)
	if role == pki.Operator {
		action = "operator.add"
	}
	c, err := a.o.admit(ctx, action, r.Msg.Name)
	if err != nil {
		return nil, err
	}
	if role == pki.Overlord {
		if _, err := a.o.admit(ctx, addOverlord, r.Msg.Name); err != nil {
			return nil, err
		}
	}
	if role == pki.Operator && strings.EqualFold(name, localOperator) {
		return nil, errLocalOperator
	}
	signed, err := a.o.registrar.Sign(ctx, c.actor(), r.Msg.Name, r.Msg.Fingerprint, r.Msg.Replace)
	if err != nil {
		return nil, err
	}
	out := &apipb.SignCertResponse{}
	for _, s := range signed.Certs {
		out.Signed = append(out.Signed, s.Identity.Name)
	}
	for _, h := range signed.Held {
		out.Held = append(out.Held, h.Identity.Name)
	}
	return connect.NewResponse(out), nil
}

// RejectCert implements AdminServiceHandler.
func (a adminAPI) RejectCert(ctx context.Context, r *connect.Request[apipb.RejectCertRequest]) (*connect.Response[apipb.RejectCertResponse], error) {
	c, err := a.o.admit(ctx, "cert.reject", r.Msg.Name)
	if err != nil {
		return nil, err
	}
	rejected, err := a.o.registrar.Reject(ctx, c.actor(), r.Msg.Name, r.Msg.Fingerprint)
	if err != nil {
		return nil, err
	}
	out := &apipb.RejectCertResponse{}
	for _, p := range rejected {
		out.Rejected = append(out.Rejected, p.Identity.Name)
	}
	return connect.NewResponse(out), nil
}

// RevokeCert implements AdminServiceHandler.
func (a adminAPI) RevokeCert(ctx context.Context, r *connect.Request[apipb.RevokeCertRequest]) (*connect.Response[apipb.RevokeCertResponse], error) {
	role := pki.Role(r.Msg.Role)
	if role == "" {
		role = pki.Minion
	}
	name, err := call.ParseName(r.Msg.Name)
	if err != nil || !role.Valid() {
		return nil, call.Errorf(call.Invalid, "%q of role %q is no identity", r.Msg.Name, role)
	}
	id := pki.Identity{Role: role, Name: name}
	c, err := a.o.admit(ctx, "cert.revoke", id.String())
	if err != nil {
		return nil, err
	}
	serials, number, err := a.o.registrar.Revoke(ctx, c.actor(), id, strings.ToLower(r.Msg.Serial), r.Msg.Reason)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.RevokeCertResponse{Serials: serials, Number: number}), nil
}

// CreateToken implements AdminServiceHandler.
func (a adminAPI) CreateToken(ctx context.Context, r *connect.Request[apipb.CreateTokenRequest]) (*connect.Response[apipb.CreateTokenResponse], error) {
	c, err := a.o.admit(ctx, "token.create", r.Msg.Name)
	if err != nil {
		return nil, err
	}
	if pki.Role(r.Msg.Role) == pki.Overlord {
		if _, err := a.o.admit(ctx, addOverlord, r.Msg.Name); err != nil {
			return nil, err
		}
	}
	spec := enrol.TokenSpec{
		Name: r.Msg.Name, Role: pki.Role(r.Msg.Role), Uses: r.Msg.Uses, Life: time.Duration(r.Msg.LifeMs) * time.Millisecond, Replace: r.Msg.Replace,
	}
	for _, n := range r.Msg.Networks {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "%q is not a network such as 10.0.0.0/8", n)
		}
		spec.Networks = append(spec.Networks, p)
	}
	text, t, err := a.o.registrar.CreateToken(ctx, c.actor(), spec)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.CreateTokenResponse{Token: text, Info: tokenPB(t)}), nil
}

func tokenPB(t enrol.Token) *apipb.Token {
	out := &apipb.Token{
		Id: t.ID, Name: t.Name, Role: string(t.Role), Uses: t.Uses, Used: t.Used, ExpiresMs: ms(t.Expires), Replace: t.Replace, CreatedBy: t.CreatedBy,
	}
	for _, n := range t.Networks {
		out.Networks = append(out.Networks, n.String())
	}
	return out
}

// Tokens implements AdminServiceHandler.
func (a adminAPI) Tokens(ctx context.Context, _ *connect.Request[apipb.TokensRequest]) (*connect.Response[apipb.TokensResponse], error) {
	tokens, err := a.o.registrar.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	out := &apipb.TokensResponse{}
	for _, t := range tokens {
		out.Tokens = append(out.Tokens, tokenPB(t))
	}
	return connect.NewResponse(out), nil
}

// RevokeToken implements AdminServiceHandler.
func (a adminAPI) RevokeToken(ctx context.Context, r *connect.Request[apipb.RevokeTokenRequest]) (*connect.Response[apipb.RevokeTokenResponse], error) {
	c, err := a.o.admit(ctx, "token.revoke", r.Msg.Id)
	if err != nil {
		return nil, err
	}
	if err := a.o.registrar.RevokeToken(ctx, c.actor(), r.Msg.Id); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.RevokeTokenResponse{}), nil
}

// errLocalOperator keeps apart whom policy and log could not tell apart.
var errLocalOperator = call.Errorf(call.Conflict, "operator %q is root on the overlord's host; choose another name", localOperator)

// AddOperator implements AdminServiceHandler.
func (a adminAPI) AddOperator(ctx context.Context, r *connect.Request[apipb.AddOperatorRequest]) (*connect.Response[apipb.AddOperatorResponse], error) {
	c, err := a.o.admit(ctx, "operator.add", r.Msg.Name)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(r.Msg.Name, localOperator) {
		return nil, errLocalOperator
	}
	text, t, err := a.o.registrar.AddOperator(ctx, c.actor(), r.Msg.Name, time.Duration(r.Msg.LifeMs)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.AddOperatorResponse{Token: text, Info: tokenPB(t)}), nil
}

// Operators implements AdminServiceHandler.
func (a adminAPI) Operators(ctx context.Context, _ *connect.Request[apipb.OperatorsRequest]) (*connect.Response[apipb.OperatorsResponse], error) {
	certs, err := a.o.keep.certs(ctx)
	if err != nil {
		return nil, err
	}
	out := &apipb.OperatorsResponse{}
	for _, c := range certs {
		if c.Identity.Role == pki.Operator {
			out.Operators = append(out.Operators, certPB(c))
		}
	}
	return connect.NewResponse(out), nil
}

// RenewOperator implements AdminServiceHandler.
func (a adminAPI) RenewOperator(ctx context.Context, r *connect.Request[apipb.RenewOperatorRequest]) (*connect.Response[apipb.RenewOperatorResponse], error) {
	c := callerFrom(ctx)
	if c.local {
		return nil, call.Errorf(call.Invalid, "root's own certificate renews itself")
	}
	chain, err := a.o.registrar.Renew(ctx, enrol.Peer{Identity: c.Identity, Cert: c.cert}, r.Msg.Csr)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.RenewOperatorResponse{Chain: chain}), nil
}
