package overlord

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/delegation"
	"dominion/enrol"
	"dominion/pki"
	"dominion/session"
)

// Limits of the API.
const (
	maxRequest    = 20 << 20 // bytes of one message: the folded names of a million machines fit
	maxWithMap    = maxRequest + delegation.MaxFile
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// prepareSessions fills what all sessions share.
func (o *Overlord) prepareSessions() {
	o.sess = session.Options{
		Hello: o.answer, Ready: o.ready, Answer: true, Handler: handler{o}, Credit: session.NewPool(0), Heartbeat: session.NewClock(0, 0),
		Stats: &o.metrics.sessions, Log: o.log,
	}
	o.dialer = newDialer(o)
}

// newListener shares the port between minions and the API.
func (o *Overlord) newListener(ln net.Listener) *session.Listener {
	cert := func() (*tls.Certificate, error) { return o.keys.server.Load(), nil }
	return session.NewListener(ln, session.ListenOptions{
		Fleet: session.TLSOptions{Certificate: cert, Verify: o.verifyMinion},
		// Certificates on the API are judged with each request, by guard: it can
		// say why it refuses one, and an alert of TLS reaches the client or not.
		HTTP:  &session.TLSOptions{Certificate: cert, Verify: boundShown},
		Serve: func(_ context.Context, conn *tls.Conn) { o.serve(conn) },
		Stats: &o.metrics.sessions, Log: o.log,
	})
}

// verifyMinion admits minions that this overlord's issuing CA, or a
// predecessor of it, has signed, and the agents of sub-overlords that asked here
// for their certificates. They show their leaf alone.
func (o *Overlord) verifyMinion(cs tls.ConnectionState) error {
	leaf := cs.PeerCertificates[0]
	if id, err := pki.IdentityOf(leaf); err == nil && id.Role == pki.Overlord {
		return o.verifySub(leaf)
	}
	issuer := o.keys.issuerOf(leaf)
	if issuer == nil {
		return call.Errorf(call.Denied, "the certificate was not granted by this overlord (issuer %q)", leaf.Issuer.CommonName)
	}
	v, err := o.verify([]*x509.Certificate{leaf, issuer})
	if err != nil {
		return err
	}
	if v.Identity.Role != pki.Minion {
		return call.Errorf(call.Denied, "%s is not a minion", v.Identity)
	}
	return nil
}

// verifySub admits the agent of a sub-overlord of ours.
func (o *Overlord) verifySub(leaf *x509.Certificate) error {
	v, err := o.verify([]*x509.Certificate{leaf})
	if err != nil {
		return err
	}
	if !o.fleet.isSub(v.Identity.Name) {
		return call.Errorf(call.Denied, "%s did not get its certificate through this overlord", v.Identity)
	}
	return nil
}

// serve runs one minion's session until it ends. Sessions outlive the listener
// by the grace, so they hang on the daemon's life.
func (o *Overlord) serve(conn *tls.Conn) {
	s, err := session.New(conn, &o.sess)
	if err != nil {
		o.log.Warn("connection refused", "from", conn.RemoteAddr().String(), "error", err)
		return
	}
	if err := s.Serve(o.life); err != nil {
		o.log.Debug("session over", "machine", s.Peer().Name, "error", err)
	}
}

// newServer serves the API on the port and on the socket.
func (o *Overlord) newServer() *http.Server {
	opts := []connect.HandlerOption{
		connect.WithInterceptors(apierr.Interceptor{Internal: o.logInternal}), connect.WithReadMaxBytes(maxRequest), connect.WithCompressMinBytes(4096),
	}
	mux := http.NewServeMux()
	mux.Handle(o.registrar.Handler())
	mux.Handle(apipbconnect.NewFleetServiceHandler(fleetAPI{o}, append(opts, connect.WithReadMaxBytes(maxWithMap))...))
	mux.Handle(apipbconnect.NewAdminServiceHandler(adminAPI{o}, opts...))
	mux.Handle(apipbconnect.NewAuditServiceHandler(auditAPI{o}, opts...))
	mux.Handle(apipbconnect.NewMapServiceHandler(&mapAPI{o: o}, opts...))
	mux.Handle(apipbconnect.NewClusterServiceHandler(clusterAPI{o}, opts...))
	mux.Handle(apipbconnect.NewNodeServiceHandler(nodeAPI{o}, opts...))
	mux.Handle("GET /metrics", o.metrics.handler())
	mux.Handle(pathFiles, fileAPI{o}.handler())
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true) // on the socket
	d := newDoor(o)
	if o.prov != nil {
		o.prov.door = d
	}
	return &http.Server{
		Handler: withPatience(o.guard(mux), readerPatience), ConnContext: connContext, ConnState: d.state, Protocols: p,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: strangerWindow, MaxReceiveBufferPerStream: strangerWindow},
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10, ErrorLog: quietLog(o.log),
	}
}

func (o *Overlord) logInternal(procedure string, err error) {
	o.log.Error("request failed", "procedure", procedure, "error", err)
}

// serveMetrics answers /metrics on loopback, to anybody there.
func (o *Overlord) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", o.metrics.handler())
	s := &http.Server{Addr: o.cfg.MetricsListen, Handler: mux, ReadHeaderTimeout: headerTimeout, ErrorLog: quietLog(o.log)}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	return ignoreClosed(s.ListenAndServe())
}

// Times of the housekeeping.
const (
	renewEvery = time.Hour
	showEvery  = 10 * time.Minute // checkpoints, to every minion
	lookEvery  = 5 * time.Second  // for sessions whose certificate has expired
)

// housekeeping does what is due now and then, and what SIGHUP asks for.
func (o *Overlord) housekeeping(ctx context.Context) error {
	renew, show, look := time.NewTicker(renewEvery), time.NewTicker(showEvery), time.NewTicker(lookEvery)
	defer renew.Stop()
	defer show.Stop()
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-renew.C:
			if o.keys.root == nil {
				continue // the parent is asked: see renewals
			}
			if err := o.keys.renew(time.Now()); err != nil {
				o.log.Error("own certificates not renewed", "error", err)
			}
			o.registrar.SetIssuing(o.keys.issuing.Load())
		case <-show.C:
			o.showCheckpoints()
			if v := o.clusterNow(); v != nil {
				o.candidates.announce(v) // to those that serve it, too: they say whether they still do
			}
			if o.parent != nil {
				o.storeAgain(ctx)
			}
		case now := <-look.C:
			o.cutExpired(now)
		case <-o.cfg.Reload:
			o.reload()
		}
	}
}

// reload reads again what SIGHUP may change: policy, autosign rules, rules that
// approve nodes, log level.
func (o *Overlord) reload() {
	err := o.loadPolicy()
	if o.parent != nil {
		select {
		case o.parent.reload <- os.Interrupt: // the agent reads its policy again; which signal is all one
		default:
		}
	}
	if o.cfg.Reread != nil {
		c, rerr := o.cfg.Reread()
		if rerr == nil {
			c.Level = o.cfg.Level
			if c, rerr = c.settle(); rerr == nil {
				rerr = errors.Join(o.registrar.SetAutosign(autosignRules(c.Autosign)), o.prov.reapprove(c.Provision))
			}
		}
		err = errors.Join(err, rerr)
	}
	if err != nil {
		o.log.Error("configuration not read again; what was in force stays", "error", err)
		return
	}
	o.log.Info("configuration read again", "keys", "policy, autosign, provision.approve, log_level; other keys need a restart")
}

// autosignRules gives rules that settle has checked the form that enrol wants.
func autosignRules(rules []AutosignRule) []enrol.Rule {
	out := make([]enrol.Rule, len(rules))
	for i, r := range rules {
		out[i].Name = r.Names
		for _, n := range r.Networks {
			out[i].Networks = append(out[i].Networks, netip.MustParsePrefix(n))
		}
	}
	return out
}
