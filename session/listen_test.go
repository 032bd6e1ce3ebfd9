package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/pki"
)

// port is a Listener that serves sessions and HTTP.
type port struct {
	*Listener
	addr  string
	stats *Stats
	stop  context.CancelFunc
	done  chan error
}

func listen(t testing.TB, opt ListenOptions) *port {
	t.Helper()
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := &port{addr: ln.Addr().String(), stats: new(Stats), done: make(chan error, 1)}
	opt.Stats = p.stats
	if opt.Serve == nil {
		opt.Serve = func(ctx context.Context, conn *tls.Conn) {
			s, err := New(conn, &Options{Answer: true, Handler: &handler{call: echo}})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Serve(ctx)
		}
	}
	p.Listener = NewListener(ln, opt)
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	var wg sync.WaitGroup
	wg.Go(func() { p.done <- p.Run(ctx) })
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			id, _ := pki.IdentityOf(r.TLS.PeerCertificates[0])
			who = id.String()
		}
		fmt.Fprintf(w, "%s %s\n", r.Proto, who)
		_, _ = io.Copy(w, r.Body)
	})}
	wg.Go(func() { _ = srv.Serve(p.HTTP()) })
	t.Cleanup(func() {
		cancel()
		_ = srv.Close()
		wg.Wait()
	})
	return p
}

func TestListenerSplitsByALPN(t *testing.T) {
	ca := newAuthority(t)
	o := ca.options(t, "overlord/main", pki.Minion)
	operators := TLSOptions{Certificate: o.Certificate, Verify: ca.verify(pki.Operator)}
	p := listen(t, ListenOptions{Fleet: o, HTTP: &operators})

	conn := must(Dial(t.Context(), p.addr, ClientTLS(ca.options(t, "minion/web1", pki.Overlord))))(t)
	s := must(New(conn, &Options{Handler: &handler{}, Ready: func(s *Session) {
		go func() {
			if got, err := s.Call(t.Context(), "test.echo", []byte("{}")); err != nil || string(got) != "{}" {
				t.Errorf("Call through the listener = %q, %v", got, err)
			}
			s.Close(0, "")
		}()
	}}))(t)
	_ = s.Serve(t.Context())

	operator := ca.issue(t, "operator/alice")
	for name, c := range map[string]struct {
		http2 bool
		cert  *tls.Certificate
		want  string
	}{
		"HTTP/2 with a certificate":      {true, operator, "HTTP/2.0 operator/alice"},
		"HTTP/1.1 with a certificate":    {false, operator, "HTTP/1.1 operator/alice"},
		"HTTP/2 without a certificate":   {true, nil, "HTTP/2.0 nobody"},
		"HTTP/1.1 without a certificate": {false, nil, "HTTP/1.1 nobody"},
		"with a minion's certificate":    {true, ca.issue(t, "minion/web1"), ""},
		"with a foreign certificate":     {true, newAuthority(t).issue(t, "operator/alice"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &tls.Config{RootCAs: ca.pool}
			if c.cert != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
			}
			tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: c.http2}
			defer tr.CloseIdleConnections()
			body := strings.Repeat("x", 6<<20) // more than a session's queue: HTTP writes block
			req := must(http.NewRequestWithContext(t.Context(), "POST", "https://"+p.addr, strings.NewReader(body)))(t)
			res, err := (&http.Client{Transport: tr}).Do(req)
			if c.want == "" {
				if err == nil {
					t.Errorf("the request was answered %s", res.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err != nil || string(got) != c.want+"\n"+body {
				t.Errorf("answer of %d bytes, %v: %.40q; want %q and the body", len(got), err, got, c.want)
			}
		})
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("SKIPPED: curl is not installed")
	}
	ca := newAuthority(t)
	o := ca.options(t, "overlord/main", pki.Minion)
	p := listen(t, ListenOptions{Fleet: o, HTTP: &TLSOptions{Certificate: o.Certificate, Verify: ca.verify(pki.Operator)}})
	dir, cert := t.TempDir(), ca.issue(t, "operator/alice")
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := write("root.crt", "CERTIFICATE", ca.cert.Raw)
	crt := write("op.crt", "CERTIFICATE", cert.Certificate[0])
	key := write("op.key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(cert.PrivateKey))(t))
	for flag, want := range map[string]string{"--http1.1": "HTTP/1.1 operator/alice\n", "--http2": "HTTP/2.0 operator/alice\n", "--no-alpn": "HTTP/1.1 operator/alice\n"} {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", flag, "--cacert", root, "--cert", crt, "--key", key, "https://"+p.addr).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("curl %s = %q, %v; want %q", flag, out, err, want)
		}
	}
}

func TestListenerRefuses(t *testing.T) {
	ca := newAuthority(t)
	p := listen(t, ListenOptions{Fleet: ca.options(t, "overlord/main", pki.Minion)})
	minion := ca.options(t, "minion/web1", pki.Overlord)
	believing := func(o TLSOptions) TLSOptions {
		o.Verify = func(tls.ConnectionState) error { return nil }
		return o
	}
	old := ClientTLS(minion)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	plain := ClientTLS(minion)
	plain.NextProtos = nil
	bare := ClientTLS(minion)
	bare.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2":               old,
		"no fleet/1":            plain,
		"no certificate":        bare,
		"an operator":           ClientTLS(ca.options(t, "operator/alice", pki.Overlord)),
		"a foreign certificate": ClientTLS(believing(newAuthority(t).options(t, "minion/web1", pki.Overlord))),
	} {
		t.Run(name, func(t *testing.T) {
			before := p.stats.Refused.Load()
			conn, err := Dial(t.Context(), p.addr, cfg)
			if err == nil { // TLS 1.3: the client learns it when it reads
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if err == nil {
				t.Error("the connection was served")
			}
			eventually(t, "it is counted", func() bool { return p.stats.Refused.Load() > before })
		})
	}
	if _, err := Dial(t.Context(), p.addr, ClientTLS(TLSOptions{Certificate: minion.Certificate, Verify: ca.verify(pki.Operator)})); err == nil {
		t.Error("a client took a server that its Verify refuses")
	}
}

func TestDialErrors(t *testing.T) {
	ca := newAuthority(t)
	cfg := ClientTLS(ca.options(t, "minion/web1", pki.Overlord))
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	why := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, why)
	defer cancel()
	if _, err := Dial(ctx, ln.Addr().String(), cfg); !errors.Is(err, why) { // accepted by the kernel, never answered
		t.Errorf("Dial of a mute port = %v; want the cause", err)
	}
	_ = ln.Close()
	if _, err := Dial(t.Context(), ln.Addr().String(), cfg); err == nil || !strings.Contains(err.Error(), "connect to "+ln.Addr().String()) {
		t.Errorf("Dial of a closed port = %v", err)
	}
}

// Half-open connections neither take the places nor the slots of the others.
func TestHalfOpenConnectionsAreBounded(t *testing.T) {
	const pending = 64
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	flood := int(min(9000, files.Cur/2))
	ca := newAuthority(t)
	p := listen(t, ListenOptions{Fleet: ca.options(t, "overlord/main", pki.Minion), Pending: pending, Slots: 2})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	most := int64(0)
	for i := range flood {
		c := must(net.Dial("tcp", p.addr))(t)
		conns = append(conns, c)
		if i%2 == 0 { // the beginning of a hello
			_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1})
		}
		most = max(most, p.stats.Pending.Load())
	}
	cfg := ClientTLS(ca.options(t, "minion/web1", pki.Overlord))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			conn, err := Dial(t.Context(), p.addr, cfg)
			if err != nil {
				t.Errorf("a minion beside the flood: %v", err)
				return
			}
			s := must(New(conn, &Options{Handler: &handler{}, Ready: func(s *Session) { go s.Close(0, "") }}))(t)
			_ = s.Serve(t.Context())
		})
	}
	wg.Wait()
	eventually(t, "the flood was dropped", func() bool { return p.stats.Dropped.Load() >= uint64(flood-pending-8) })
	if most > pending {
		t.Errorf("%d handshakes were pending; want at most %d", most, pending)
	}
	t.Logf("%d half-open connections: %d dropped, at most %d pending", flood, p.stats.Dropped.Load(), most)
}

func TestHandshakeTimeout(t *testing.T) {
	ca := newAuthority(t)
	p := listen(t, ListenOptions{Fleet: ca.options(t, "overlord/main", pki.Minion), Timeout: 20 * time.Millisecond})
	c := must(net.Dial("tcp", p.addr))(t)
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a mute connection got %v; want to be closed", err)
	}
	eventually(t, "its place is free", func() bool { return p.stats.Pending.Load() == 0 })
}

func TestListenerStops(t *testing.T) {
	ca := newAuthority(t)
	o := ca.options(t, "overlord/main", pki.Minion)
	p := listen(t, ListenOptions{Fleet: o})
	mute := must(net.Dial("tcp", p.addr))(t)
	defer mute.Close()
	conn := must(Dial(t.Context(), p.addr, ClientTLS(ca.options(t, "minion/web1", pki.Overlord))))(t)
	ready, errs := make(chan struct{}), make(chan error, 1)
	s := must(New(conn, &Options{Handler: &handler{}, Ready: func(*Session) { close(ready) }}))(t)
	go func() { errs <- s.Serve(t.Context()) }()
	receive(t, ready, "HELLO")
	p.stop()
	if err := receive(t, p.done, "end of Run"); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want canceled", err)
	}
	if g, ok := errors.AsType[*Goaway](receive(t, errs, "end of the session")); !ok {
		t.Errorf("the session ended with %v; want GOAWAY", g)
	}
	if _, err := p.HTTP().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the end = %v; want closed", err)
	}
}

// A pause after an error of accept(2), then it goes on.
func TestAcceptErrors(t *testing.T) {
	ca := newAuthority(t)
	ln := &failing{Listener: must(net.Listen("tcp", "127.0.0.1:0"))(t), errs: 3}
	l := NewListener(ln, ListenOptions{Fleet: ca.options(t, "overlord/main", pki.Minion), Serve: func(context.Context, *tls.Conn) {}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	conn, err := Dial(t.Context(), ln.Addr().String(), ClientTLS(ca.options(t, "minion/web1", pki.Overlord)))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	cancel()
	receive(t, done, "end of Run")
}

type failing struct {
	net.Listener
	errs int // only Run's goroutine uses it
}

func (f *failing) Accept() (net.Conn, error) {
	if f.errs--; f.errs >= 0 {
		return nil, errors.New("accept: too many open files")
	}
	return f.Listener.Accept()
}
