package overlord

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"dominion/api/apierr"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/pki"
	"dominion/provision"
)

// caller is who asks, as the channel proves it.
type caller struct {
	pki.Identity      // an operator
	local        bool // on the socket, as root or as the daemon's own user
	cert         *x509.Certificate
}

// actor is how the audit log names the caller.
func (c caller) actor() string {
	if c.local {
		return "local/" + c.Name
	}
	return c.Identity.String()
}

type callerKey struct{}

type connKey struct{}

// netConnKey is of the connection that a request came by; the socket's is not kept.
type netConnKey struct{}

// localConn marks requests that came over the socket.
type localConn struct{ uid uint32 }

// connContext notes the connection, and of the socket what its peer is; it is
// http.Server.ConnContext.
func connContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return context.WithValue(ctx, netConnKey{}, c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || credErr != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, localConn{uid: cred.Uid})
}

// callerOf gives the operator behind a request, or an error for everybody else.
func (o *Overlord) callerOf(r *http.Request) (caller, error) {
	if l, ok := r.Context().Value(connKey{}).(localConn); ok {
		if l.uid != 0 && l.uid != o.uid {
			return caller{}, call.Errorf(call.Denied, "the socket is for root")
		}
		id := pki.Identity{Role: pki.Operator, Name: localOperator}
		return caller{Identity: id, local: true, cert: o.keys.opCert.Load()}, nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller{}, call.Errorf(call.Denied, "an operator's certificate is needed; dominion login gives one")
	}
	v, err := o.verify(r.TLS.PeerCertificates)
	if err != nil {
		return caller{}, err
	}
	id := v.Identity
	if id.Role != pki.Operator {
		return caller{}, call.Errorf(call.Denied, "%s is not an operator", id)
	}
	return caller{Identity: id, cert: v.Leaf}, nil
}

// guard lets only operators through to h, but for enrolment, which answers
// anybody, and provisioning, which knows its nodes itself.
func (o *Overlord) guard(h http.Handler) http.Handler {
	refuse := connect.NewErrorWriter()
	stranger := hurried(h, strangerBody)
	node := hurried(o.prov.handler(), strangerBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/"+apipbconnect.EnrolServiceName+"/"):
			stranger.ServeHTTP(w, r)
			return
		case strings.HasPrefix(r.URL.Path, provision.Path):
			node.ServeHTTP(w, r)
			return
		}
		c, err := o.callerOf(r)
		if err != nil {
			o.metrics.denied.Inc()
			if more, ok := o.refusals.Take(); ok { // anybody can be refused, as often as he likes
				o.log.Info("request refused", "from", r.RemoteAddr, "path", cutText(r.URL.Path, 200), "error", err, "not_told_before", more)
			}
			if refuse.IsSupported(r) {
				out, _ := apierr.ToPeer(err)
				_ = refuse.Write(w, r, out)
				return
			}
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// callerFrom gives the operator that guard let through.
func callerFrom(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit says whether the caller may do an administrative action, and puts a
// refusal on the audit log. Root on the overlord's host could edit the policy,
// so it is not asked.
func (o *Overlord) admit(ctx context.Context, action, subject string) (caller, error) {
	c := callerFrom(ctx)
	if c.local || o.currentPolicy().Allow(c.Name, action, "") {
		return c, nil
	}
	o.auditDenied(ctx, c, action, subject, "policy")
	return c, call.Errorf(call.Denied, "operator %q may not call %s here", c.Name, action)
}
