package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
	"dominion/session"
)

// office grants certificates, as an overlord's API does.
type office struct {
	apipbconnect.UnimplementedEnrolServiceHandler
	f     *fleet
	now   func() time.Time // for the certificates
	token string

	mu      sync.Mutex
	pending int // answers to give before the request is granted
	asked   int
}

func (o *office) Request(_ context.Context, req *connect.Request[apipb.EnrolRequest]) (*connect.Response[apipb.EnrolResponse], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.pending > 0 && req.Msg.Token != o.token {
		o.pending--
		return connect.NewResponse(&apipb.EnrolResponse{State: apipb.EnrolResponse_PENDING, RetryAfterMs: 200, Detail: "waits"}), nil
	}
	r, err := pki.ParseRequest(req.Msg.Csr)
	if err != nil {
		return nil, err
	}
	cert, err := o.f.issuing.Sign(pki.Template{Identity: r.Identity, PublicKey: r.PublicKey}, o.now())
	if err != nil {
		return nil, err
	}
	list, err := pki.SignRevocations(o.f.root, pki.NewRevocations().Add(time.Now()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.EnrolResponse{
		State: apipb.EnrolResponse_GRANTED, Chain: [][]byte{cert.Raw, o.f.issuing.Cert.Raw, o.f.root.Cert.Raw}, Revocations: list,
	}), nil
}

// open makes an overlord that also grants certificates.
func (o *overlord) open(of *office) *overlord {
	o.t.Helper()
	ln := must[net.Listener](o.t)(net.Listen("tcp", "127.0.0.1:0"))
	o.addr = ln.Addr().String()
	opt := o.tls()
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: opt, HTTP: &opt, Serve: func(ctx context.Context, conn *tls.Conn) { o.run(ctx, conn) },
	})
	mux := http.NewServeMux()
	mux.Handle(apipbconnect.NewEnrolServiceHandler(of))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	background(o.t, func(ctx context.Context) {
		go func() { _ = srv.Serve(l.HTTP()) }() // ends with the listener
		_ = l.Run(ctx)
		_ = srv.Close()
	})
	return o
}

func newOffice(f *fleet) *office { return &office{f: f, now: time.Now, token: "secret"} }

// start runs the agent of a machine; stop ends it and gives what Run gave.
func start(t *testing.T, cfg Config) (listening net.Addr, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	if cfg.ModulesDir == "" {
		cfg.ModulesDir = filepath.Join(cfg.State, "modules.d") // and not this machine's
	}
	ready, result := make(chan net.Addr, 1), make(chan error, 1)
	cfg.Ready = func(a net.Addr) { ready <- a }
	go func() { result <- Run(ctx, cfg, testLogger(t)) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	t.Cleanup(func() { _ = stop() })
	select {
	case a := <-ready:
		return a, stop
	case err := <-result:
		result <- err
		t.Fatalf("Run = %v", err)
	}
	return nil, nil
}

func TestRunEnrolsAndServes(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	of.pending = 2
	o := newOverlord(t, f).open(of)
	dir := filepath.Join(t.TempDir(), "state")
	cfg := Config{Name: "Web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), Version: "1.2"}
	_, stop := start(t, cfg)
	p := o.peer()
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	until(t, "the facts have come", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.facts) == 1 })
	if !strings.Contains(string(o.facts[0]), `"kernel"`) {
		t.Errorf("facts = %s", o.facts[0])
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.ended(); err == nil {
		t.Error("the session outlives the agent")
	}
	for _, name := range []string{"minion.key", "root.crt", "certs/dc1.crt", "revoked", "checkpoints", "overlords", "log"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o; others may open it", name, info.Mode().Perm())
		}
	}
	certs := must[[]*x509.Certificate](t)(pki.ParseCerts(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "certs/dc1.crt")))))
	if len(certs) != 3 {
		t.Errorf("certs/dc1.crt holds %d certificates; want leaf, issuing CA and root", len(certs))
	}

	// A second start asks nobody, needs no pin, and knows what it ran and saw.
	asked := of.asked
	cfg.Pin = ""
	_, stop = start(t, cfg)
	p = o.peer()
	if n := len(p.s.PeerHello().Checkpoints); n != 1 || p.s.PeerHello().RevocationNumber != 1 {
		t.Errorf("HELLO = %v", p.s.PeerHello())
	}
	r := p.do(f.call(t, draft{method: "agent.log"}))
	wantCode(t, r, call.OK)
	if records := checkLog(t, r.Output, p.s.PeerCert().PublicKey.(*ecdsa.PublicKey)); len(records) != 1 {
		t.Errorf("the log holds %d records; want the ping", len(records))
	}
	if of.asked != asked {
		t.Errorf("asked for a certificate again")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRunWithToken(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	of.pending = 1 << 30 // nobody else is let in
	o := newOverlord(t, f).open(of)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Name: "web1", State: filepath.Join(t.TempDir(), "s"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), TokenFile: token})
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestRunListens(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	o := newOverlord(t, f).open(of)
	dir := filepath.Join(t.TempDir(), "s")
	cfg := Config{Name: "web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), Listen: "127.0.0.1:0"}
	at, stop := start(t, cfg)
	first := o.peer()
	wantCode(t, first.do(f.call(t, draft{method: "test.ping"})), call.OK) // the minion's side is open, too
	// The overlord dials, too: the newer session stays, and the minion does not dial against it.
	if err := o.dial(at.String()); err != nil {
		t.Fatal(err)
	}
	second := o.peer()
	_ = first.ended()
	wantCode(t, second.do(f.call(t, draft{method: "test.ping"})), call.OK)
	select {
	case <-o.opened:
		t.Error("the minion dials although it has a session")
	case <-time.After(2500 * time.Millisecond): // longer than the first wait of Backoff
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// With a certificate it can live without an address to dial.
	cfg.Overlords = nil
	at, _ = start(t, cfg)
	if err := o.dial(at.String()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestRunConnectsAgain(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	start(t, Config{Name: "web1", State: filepath.Join(t.TempDir(), "s"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)})
	p := o.peer()
	for range 2 {
		p.s.Close(call.Unavailable, "restart")
		_ = p.ended()
		p = o.peer()
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestRunFinishesCallsAtTheEnd(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	_, stop := start(t, Config{Name: "web1", State: filepath.Join(t.TempDir(), "s"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)})
	p := o.peer()
	c := p.start(f.call(t, draft{method: "command.shell", args: `{"script":"echo begun >&2; sleep 1; echo done"}`, stream: true}))
	until(t, "the command runs", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.streams[c.id]["stderr"] != nil })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r := c.wait()
	wantCode(t, r, call.OK)
	if !strings.Contains(string(r.Output), "done") {
		t.Errorf("output = %s", r.Output)
	}
}

func TestRunRefusesBadState(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	good := filepath.Join(t.TempDir(), "good")
	cfg := Config{Name: "web1", State: good, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)}
	_, stop := start(t, cfg)
	o.peer()
	run := func(change func(*Config)) error {
		c := cfg
		change(&c)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return Run(ctx, c, nil)
	}
	if err := run(func(*Config) {}); !errors.Is(err, pki.ErrLocked) {
		t.Errorf("a second agent on one state directory: %v; want ErrLocked", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write(policy, "- {operator: x}\n")
	for _, tt := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"no pin and no root", func(c *Config) { c.State, c.Pin = filepath.Join(t.TempDir(), "new"), "" }, "pin"},
		{"another pin", func(c *Config) { c.Pin = pki.Pin(newFleet(t).root.Cert) }, "another state directory"},
		{"no overlord", func(c *Config) { c.Overlords = nil }, "overlords"},
		{"a policy that is not there", func(c *Config) { c.Policy = filepath.Join(t.TempDir(), "none.yaml") }, "none.yaml"},
		{"a policy that does not hold", func(c *Config) { c.Policy = policy }, "policy"},
		{"a port in use", func(c *Config) { c.Listen = o.addr }, "listen"},
		{"checkpoints that do not hold", func(*Config) { write(filepath.Join(good, FileCheckpoints), "x") }, FileCheckpoints},
		{"a root that does not hold", func(*Config) { write(filepath.Join(good, fileRoot), "x") }, fileRoot},
		{"a key that does not hold", func(*Config) { write(filepath.Join(good, "minion.key"), "x") }, "minion.key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := run(tt.change); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Run = %v; want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestRunReadsPolicyAgain(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	dir := filepath.Join(t.TempDir(), "s")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "policy.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("- {operators: alice, methods: test.ping, targets: '*'}\n")
	reload := make(chan os.Signal)
	start(t, Config{Name: "web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), Reload: reload})
	p := o.peer()
	ping := func() call.Code { return call.Code(p.do(f.call(t, draft{method: "test.ping"})).Code) }
	if c := ping(); c != call.OK {
		t.Fatalf("ping = %s", c)
	}
	write("- {operators: bob, methods: test.ping, targets: '*'}\n")
	reload <- nil
	until(t, "the new policy counts", func() bool { return ping() == call.Denied })
	write("nonsense: [")
	reload <- nil
	reload <- nil // the first has been read
	if c := ping(); c != call.Denied {
		t.Errorf("with a policy that cannot be read: ping = %s; want the older policy", c)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	reload <- nil
	reload <- nil
	if c := ping(); c != call.Denied {
		t.Errorf("with a policy that is gone: ping = %s; want the older policy", c)
	}
}

func TestDamagedCertificateIsAskedForAgain(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	o := newOverlord(t, f).open(of)
	cfg := Config{Name: "web1", State: filepath.Join(t.TempDir(), "s"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)}
	_, stop := start(t, cfg)
	o.peer()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.State, "certs", "dc1.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stop = start(t, cfg)
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.asked != 2 {
		t.Errorf("asked %d times; want twice", of.asked)
	}
	_ = stop()
}

func TestExpiredCertificateIsAskedForAgain(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	of.now = func() time.Time { return time.Now().Add(-pki.MinionLife - time.Hour) }
	o := newOverlord(t, f).open(of)
	dir := filepath.Join(t.TempDir(), "s")
	d := openDaemon(t, f, o, dir)
	err := d.enrol(t.Context(), o.addr)
	if err == nil || !strings.Contains(err.Error(), "is this clock right?") {
		t.Errorf("a certificate that has ended is taken with %v", err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	of.mu.Lock()
	of.now = time.Now
	of.mu.Unlock()
	start(t, Config{Name: "web1", State: dir, Overlords: []string{o.addr}})
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func openDaemon(t *testing.T, f *fleet, o *overlord, dir string) *daemon {
	t.Helper()
	cfg := Config{Name: "web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)}
	d := newDaemon(must[settings](t)(cfg.check()), testLogger(t))
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEnrolmentFaultsAreTriedAgain(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	d := openDaemon(t, f, o, filepath.Join(t.TempDir(), "s"))
	t.Cleanup(func() { _ = d.close() })
	var tries int
	d.ask = func(ctx context.Context, opt enrol.Options) (*enrol.Granted, error) {
		if tries++; tries == 1 {
			opt.Progress(enrol.Progress{Err: errors.New("refused")})
			return nil, enrol.ErrRejected
		}
		return enrol.Ask(ctx, opt)
	}
	background(t, func(ctx context.Context) { d.keep(ctx, ctx, o.addr) })
	wantCode(t, o.peer().do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	d := &daemon{cfg: settings{tokenFile: path}}
	for text, want := range map[string]string{"abc\n": "abc", " abc ": "abc", "": "!", "a b": "!", "a\nb": "!", strings.Repeat("x", maxToken+1): "!"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := d.token()
		if (err != nil) != (want == "!") || err == nil && got != want {
			t.Errorf("token of %.20q = %q, %v", text, got, err)
		}
	}
	d.cfg.tokenFile = path + "x"
	if _, err := d.token(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing token file: %v", err)
	}
	d.cfg.token = "given"
	if got, _ := d.token(); got != "given" {
		t.Errorf("token = %q; want the one that was given", got)
	}
}
