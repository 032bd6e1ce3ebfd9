package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/client"
	"dominion/module"
	modtest "dominion/module/test"
	"dominion/pki"
	"dominion/target"
)

// fakeOverlord answers the API as an overlord would, but for what a test
// changes; it keeps what it was asked.
type fakeOverlord struct {
	apipbconnect.UnimplementedFleetServiceHandler
	apipbconnect.UnimplementedAdminServiceHandler
	apipbconnect.UnimplementedAuditServiceHandler

	root    *pki.Authority
	methods []module.Module // nil: those of module/test

	// What Resolve says; expr without groups is resolved against known.
	known   []string
	groups  map[string][]string
	resolve func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error)
	// What Call sends after Accepted.
	events func(req *apipb.CallRequest, send func(*apipb.CallEvent) error) error
	watch  func(req *apipb.WatchRequest, send func(*apipb.CallEvent) error) error
	jobs   func(req *apipb.JobsRequest) ([]*apipb.Job, error)
	ping   func(req *apipb.PingRequest, send func(*apipb.PingEvent) error) error
	cancel func(job string) (*apipb.CancelResponse, error)
	list   func(send func(*apipb.AuditRecord) error) error
	verify func(send func(*apipb.AuditVerifyEvent) error) error
	now    time.Time // of renewals
	build  func(req *apipb.BuildMapRequest, send func(*apipb.BuildMapEvent) error) error
	fleet  *apipb.MapResponse // the map; nil: there is none

	cluster apipbconnect.ClusterServiceHandler // nil: it has none

	delegate bool // Status says that it is the default

	mu      sync.Mutex
	calls   []*apipb.CallRequest
	renewed int
}

// mapService is the fake's MapService.
type mapService struct{ f *fakeOverlord }

func (m mapService) Build(_ context.Context, req *connect.Request[apipb.BuildMapRequest], s *connect.ServerStream[apipb.BuildMapEvent]) error {
	return m.f.build(req.Msg, s.Send)
}

func (m mapService) Map(context.Context, *connect.Request[apipb.MapRequest]) (*connect.Response[apipb.MapResponse], error) {
	if m.f.fleet == nil {
		return nil, call.Errorf(call.NotFound, "no map")
	}
	return connect.NewResponse(m.f.fleet), nil
}

func (f *fakeOverlord) Status(context.Context, *connect.Request[apipb.StatusRequest]) (*connect.Response[apipb.StatusResponse], error) {
	return connect.NewResponse(&apipb.StatusResponse{Name: "test", Pin: pki.Pin(f.root.Cert), Delegate: f.delegate}), nil
}

func (f *fakeOverlord) Modules(context.Context, *connect.Request[apipb.ModulesRequest]) (*connect.Response[apipb.ModulesResponse], error) {
	methods := f.methods
	if methods == nil {
		methods = []module.Module{modtest.Module}
	}
	table, err := module.NewTable(methods)
	if err != nil {
		return nil, err
	}
	b, err := module.EncodeSchemas(table.Schemas())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ModulesResponse{Modules: b}), nil
}

func (f *fakeOverlord) Resolve(_ context.Context, req *connect.Request[apipb.ResolveRequest]) (*connect.Response[apipb.ResolveResponse], error) {
	if f.resolve != nil {
		m, err := f.resolve(req.Msg)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(m), nil
	}
	e, err := target.Parse(req.Msg.GetTarget())
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if x := req.Msg.GetExclude(); x != "" {
		ex, err := target.Parse(x)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "%v", err)
		}
		e = e.Without(ex)
	}
	r, err := e.Resolve(target.Env{Known: f.known, Group: func(n string) ([]string, bool) { g, ok := f.groups[n]; return g, ok }})
	if err != nil {
		return nil, call.Errorf(call.NotFound, "%v", err)
	}
	return connect.NewResponse(&apipb.ResolveResponse{
		Names: target.Fold(r.Names), Count: uint64(len(r.Names)), Unknown: target.Fold(r.Unknown), UnknownCount: uint64(len(r.Unknown)),
		UsesGroups: r.UsedGroups, TimeMs: time.Now().UnixMilli(),
	}), nil
}

func (f *fakeOverlord) Call(_ context.Context, req *connect.Request[apipb.CallRequest], s *connect.ServerStream[apipb.CallEvent]) error {
	f.mu.Lock()
	f.calls = append(f.calls, req.Msg)
	f.mu.Unlock()
	if f.events != nil {
		return f.events(req.Msg, s.Send)
	}
	if err := s.Send(accepted()); err != nil {
		return err
	}
	if err := s.Send(group(req.Msg.GetNames(), call.OK, "", `{"ok":true}`)); err != nil {
		return err
	}
	n := count(req.Msg.GetNames())
	c := &apipb.Counts{Targeted: n, Answered: n}
	if u := count(req.Msg.GetUnknown()); u > 0 {
		c.Targeted, c.Unreachable = n+u, u
		if err := s.Send(group(req.Msg.GetUnknown(), call.UnknownName, "", "")); err != nil {
			return err
		}
	}
	return s.Send(closed(c))
}

func accepted() *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Accepted{Accepted: &apipb.Accepted{}}}
}

func group(names string, code call.Code, detail, output string) *apipb.CallEvent {
	g := &apipb.ResultGroup{Names: names, Status: uint32(call.StatusOf(code)), Code: uint32(code), Detail: detail, Count: count(names)}
	if output != "" {
		g.Output = []byte(output)
	}
	return &apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: g}}
}

func closed(c *apipb.Counts) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: c}}}
}

func count(folded string) uint64 {
	if folded == "" {
		return 0
	}
	names, err := target.Expand(folded)
	if err != nil {
		panic(err) // a test's own text
	}
	return uint64(len(names))
}

func (f *fakeOverlord) Ping(_ context.Context, req *connect.Request[apipb.PingRequest], s *connect.ServerStream[apipb.PingEvent]) error {
	return f.ping(req.Msg, s.Send)
}

func (f *fakeOverlord) Watch(_ context.Context, req *connect.Request[apipb.WatchRequest], s *connect.ServerStream[apipb.CallEvent]) error {
	return f.watch(req.Msg, s.Send)
}

func (f *fakeOverlord) Jobs(_ context.Context, req *connect.Request[apipb.JobsRequest]) (*connect.Response[apipb.JobsResponse], error) {
	jobs, err := f.jobs(req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.JobsResponse{Jobs: jobs}), nil
}

func (f *fakeOverlord) Cancel(_ context.Context, req *connect.Request[apipb.CancelRequest]) (*connect.Response[apipb.CancelResponse], error) {
	m, err := f.cancel(req.Msg.GetJob())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

func (f *fakeOverlord) List(_ context.Context, _ *connect.Request[apipb.AuditListRequest], s *connect.ServerStream[apipb.AuditRecord]) error {
	return f.list(s.Send)
}

func (f *fakeOverlord) Verify(_ context.Context, _ *connect.Request[apipb.AuditVerifyRequest], s *connect.ServerStream[apipb.AuditVerifyEvent]) error {
	return f.verify(s.Send)
}

func (f *fakeOverlord) RenewOperator(_ context.Context, req *connect.Request[apipb.RenewOperatorRequest]) (*connect.Response[apipb.RenewOperatorResponse], error) {
	if f.now.IsZero() {
		return nil, call.Errorf(call.Unavailable, "the root key is away")
	}
	r, err := pki.ParseRequest(req.Msg.GetCsr())
	if err != nil {
		return nil, err
	}
	cert, err := f.root.Sign(pki.Template{Identity: r.Identity, PublicKey: r.PublicKey}, f.now)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.renewed++
	f.mu.Unlock()
	return connect.NewResponse(&apipb.RenewOperatorResponse{Chain: [][]byte{cert.Raw, f.root.Cert.Raw}}), nil
}

func (f *fakeOverlord) handler() http.Handler {
	mux := http.NewServeMux()
	opt := connect.WithInterceptors(&errorsOut{})
	mux.Handle(apipbconnect.NewFleetServiceHandler(f, opt))
	mux.Handle(apipbconnect.NewAdminServiceHandler(f, opt))
	mux.Handle(apipbconnect.NewAuditServiceHandler(f, opt))
	mux.Handle(apipbconnect.NewMapServiceHandler(mapService{f}, opt))
	if f.cluster != nil {
		mux.Handle(apipbconnect.NewClusterServiceHandler(f.cluster, opt))
	}
	return mux
}

// errorsOut sends our error codes as the overlord does.
type errorsOut struct{}

func (errorsOut) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, r)
		if err != nil {
			out, _ := apierr.ToPeer(err)
			return nil, out
		}
		return resp, nil
	}
}

func (errorsOut) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (errorsOut) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := next(ctx, c); err != nil {
			out, _ := apierr.ToPeer(err)
			return out
		}
		return nil
	}
}

// newFake gives an overlord without a server.
func newFake(t testing.TB, known ...string) *fakeOverlord {
	t.Helper()
	root, err := pki.NewRoot(time.Now().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return &fakeOverlord{root: root, known: known}
}

// state serves f on a socket in a state directory with a local operator.
func (f *fakeOverlord) state(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	key, cert := f.operator(t, "local", time.Now())
	writeKey(t, filepath.Join(dir, "operator.key"), key)
	write(t, filepath.Join(dir, "operator.crt"), pki.MarshalCerts(cert))
	ln, err := net.Listen("unix", filepath.Join(dir, client.Socket))
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, ln)
	return dir
}

func (f *fakeOverlord) serve(t testing.TB, ln net.Listener) {
	t.Helper()
	srv := &http.Server{Handler: f.handler(), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// served is what a server presents.
type served struct {
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
}

// tls serves f with the certificate of an identity and gives the address.
func (f *fakeOverlord) tls(t testing.TB, s served) string {
	t.Helper()
	cert := tls.Certificate{PrivateKey: s.key}
	for _, c := range s.chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, ln)
	return ln.Addr().String()
}

func (f *fakeOverlord) overlord(t testing.TB) ([]*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	cert, err := f.root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: "test"}, PublicKey: key.Public()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{cert, f.root.Cert}, key
}

func (f *fakeOverlord) overlord2(t testing.TB) served {
	t.Helper()
	chain, key := f.overlord(t)
	return served{chain, key}
}

func (f *fakeOverlord) operator(t testing.TB, name string, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key := newKey(t)
	return key, f.sign(t, key, name, now)
}

func (f *fakeOverlord) sign(t testing.TB, key *ecdsa.PrivateKey, name string, now time.Time) *x509.Certificate {
	t.Helper()
	cert, err := f.root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: name}, PublicKey: key.Public()}, now)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// login makes a context whose certificate was signed at now.
func (f *fakeOverlord) login(t testing.TB, dir, name, addr string, now time.Time) {
	t.Helper()
	key, err := client.PrepareLogin(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{f.sign(t, key, "alice", now), f.root.Cert}
	oc := &client.Context{Name: name, Overlord: addr, Pin: pki.Pin(f.root.Cert), Operator: "alice"}
	if err := client.FinishLogin(dir, oc, chain); err != nil {
		t.Fatal(err)
	}
}

// contexts gives an empty directory that only we may open.
func contexts(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "dominion")
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writeKey(t testing.TB, name string, key *ecdsa.PrivateKey) {
	t.Helper()
	b, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, b)
}

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newClient(t testing.TB, f *fakeOverlord, expr string, opt client.Options) *client.Client {
	t.Helper()
	opt.State = f.state(t)
	c, err := client.New(t.Context(), expr, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
