package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"math/big"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/pki"
)

// authority is a throwaway CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key))(t)
	a := &authority{cert: must(x509.ParseCertificate(der))(t), key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(a.cert)
	return a
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// issue makes a certificate for "minion/web1".
func (a *authority) issue(t testing.TB, identity string) *tls.Certificate {
	t.Helper()
	role, name, _ := strings.Cut(identity, "/")
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		URIs: []*url.URL{{Scheme: "dominion", Host: role, Path: "/" + name}}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key))(t)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))(t)}
}

// options are those of identity, who believes every peer of a role.
func (a *authority) options(t testing.TB, identity string, peers pki.Role) TLSOptions {
	cert := a.issue(t, identity)
	return TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Verify:      a.verify(peers),
	}
}

func (a *authority) verify(peers pki.Role) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		leaf := cs.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		id, err := pki.IdentityOf(leaf)
		if err == nil && id.Role != peers {
			err = errors.New("not a certificate of an " + string(peers))
		}
		return err
	}
}

// handler is a Handler made of functions; nil ones do nothing.
type handler struct {
	call   func(s *Session, id uint64, c *fleetpb.Call)
	cancel func(s *Session, id uint64)
	ack    func(s *Session, id uint64, a *fleetpb.Ack)
	open   func(s *Session, st *Stream)
	closed func(s *Session, err error)
}

func (h *handler) Call(s *Session, id uint64, c *fleetpb.Call) {
	if h.call != nil {
		h.call(s, id, c)
	}
}

func (h *handler) Cancel(s *Session, id uint64) {
	if h.cancel != nil {
		h.cancel(s, id)
	}
}

func (h *handler) Ack(s *Session, id uint64, a *fleetpb.Ack) {
	if h.ack != nil {
		h.ack(s, id, a)
	}
}

func (h *handler) Open(s *Session, st *Stream) {
	if h.open != nil {
		h.open(s, st)
	}
}

func (h *handler) Closed(s *Session, err error) {
	if h.closed != nil {
		h.closed(s, err)
	}
}

// echo answers every call with its arguments.
func echo(s *Session, id uint64, c *fleetpb.Call) {
	go func() { _ = s.Reply(id, &fleetpb.Result{Output: c.Args}) }()
}

// waiter is a Waiter with a channel.
type waiter struct {
	body chan []byte
	lost chan error
}

func newWaiter() *waiter { return &waiter{make(chan []byte, 1), make(chan error, 1)} }

func (w *waiter) Result(_ *Session, _ uint64, body []byte) { w.body <- append([]byte{}, body...) }
func (w *waiter) Lost(_ *Session, _ uint64, err error)     { w.lost <- err }

// fleet is two ends of a session over TCP on loopback.
type fleet struct {
	overlord, minion *Session
	overErr, minErr  chan error
	stop             context.CancelFunc
}

// connect makes a TLS connection over real TCP. The first result is the side that dialled.
func connect(t testing.TB, dials, listens TLSOptions) (dialled, accepted *tls.Conn) {
	t.Helper()
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer ln.Close()
	got := make(chan *tls.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- nil
			return
		}
		conn := tls.Server(Wrap(c, false), ServerTLS(listens))
		if err := conn.HandshakeContext(context.Background()); err != nil {
			t.Errorf("handshake: %v", err)
		}
		got <- conn
	}()
	dialled = must(Dial(t.Context(), ln.Addr().String(), ClientTLS(dials)))(t)
	return dialled, <-got
}

// pair makes a session and serves both ends. reverse: the overlord dials.
func pair(t testing.TB, overlord, minion *Options, reverse bool) *fleet {
	t.Helper()
	ca := newAuthority(t)
	o, m := ca.options(t, "overlord/main", pki.Minion), ca.options(t, "minion/web1", pki.Overlord)
	var oc, mc *tls.Conn
	if reverse {
		oc, mc = connect(t, o, m)
	} else {
		mc, oc = connect(t, m, o)
	}
	overlord.Answer = true
	f := &fleet{overErr: make(chan error, 1), minErr: make(chan error, 1)}
	ready := make(chan struct{}, 2)
	for _, opt := range []*Options{overlord, minion} {
		then := opt.Ready
		opt.Ready = func(s *Session) {
			if then != nil {
				then(s)
			}
			ready <- struct{}{}
		}
		if opt.Handler == nil {
			opt.Handler = &handler{}
		}
	}
	f.overlord, f.minion = must(New(oc, overlord))(t), must(New(mc, minion))(t)
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	var wg sync.WaitGroup
	wg.Go(func() { f.overErr <- f.overlord.Serve(ctx) })
	wg.Go(func() { f.minErr <- f.minion.Serve(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	for range 2 {
		receive(t, ready, "HELLO")
	}
	return f
}

const patience = 20 * time.Second

func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("no %s within %s\n%s", what, patience, buf[:runtime.Stack(buf, true)])
	}
	panic("unreachable")
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
}

// TestMain runs as a crowd of minions when the benchmark starts it so, and else
// checks that no test leaves a goroutine behind.
func TestMain(m *testing.M) {
	if addr := os.Getenv("SESSION_CROWD"); addr != "" {
		crowd(addr)
		return
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // the fuzzer's own goroutines go on
	}
	for i := 0; runtime.NumGoroutine() > before && i < 2000; i++ {
		<-time.After(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before && code == 0 {
		buf := make([]byte, 1<<20)
		println(n-before, "goroutines left over\n"+string(buf[:runtime.Stack(buf, true)]))
		code = 1
	}
	os.Exit(code)
}
