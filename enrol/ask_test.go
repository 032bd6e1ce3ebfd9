package enrol_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// serve runs an HTTPS server with a certificate until the test ends.
func serve(t *testing.T, cert tls.Certificate, h http.Handler) (addr string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// serverCert gives the certificate of an overlord.
func (w *world) serverCert() tls.Certificate {
	w.t.Helper()
	return w.leaf(w.root, "overlord/dc1", w.root.Cert)
}

func (w *world) leaf(a *pki.Authority, id string, above ...*x509.Certificate) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	cert, err := a.Sign(pki.Template{Identity: ident(w.t, id), PublicKey: key.Public()}, w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	out := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	for _, c := range above {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// options asks the server at addr for id, once.
func (w *world) options(addr, id string, key crypto.Signer) enrol.Options {
	return enrol.Options{Address: addr, Pin: pki.Pin(w.root.Cert), Identity: ident(w.t, id), Key: key, Attempts: 1}
}

// api is the registrar's handler on a mux.
func (w *world) api() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(w.Handler())
	return mux
}

func TestAsk(t *testing.T) {
	for _, tt := range []struct {
		name  string
		clock time.Duration // of the overlord, against ours
	}{
		{"equal clocks", 0},
		{"a clock three years ahead of the overlord's", -3 * 365 * 24 * time.Hour},
		{"a clock a year behind the overlord's", 365 * 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldAt(t, time.Now().Add(tt.clock))
			addr := serve(t, w.serverCert(), w.api())
			for _, id := range []string{"minion/web1", "operator/alice"} {
				key := newKey(t)
				o := w.options(addr, id, key)
				if o.Identity.Role == pki.Minion {
					o.Token = w.token(enrol.TokenSpec{Name: "web*"})
				} else {
					var err error
					if o.Token, _, err = w.AddOperator(t.Context(), "operator/root", "alice", 0); err != nil {
						t.Fatal(err)
					}
				}
				g, err := enrol.Ask(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				var der [][]byte
				for _, c := range g.Chain {
					der = append(der, c.Raw)
				}
				if leaf := w.verify(der, id); pki.FingerprintOf(leaf) != pki.Fingerprint(key.Public()) {
					t.Error("granted to another key")
				}
				if !g.Root.Equal(w.root.Cert) || g.Overlord != "dc1" || !g.Chain[len(g.Chain)-1].Equal(g.Root) || len(g.Revocations) != 0 {
					t.Errorf("granted by %q, root %v", g.Overlord, g.Root.Subject)
				}
			}
		})
	}
}

// newWorldAt is a world on another day.
func newWorldAt(t testing.TB, at time.Time) *world {
	t.Helper()
	base := newWorld(t, nil)
	base.time = at.Truncate(time.Second)
	root, err := pki.NewRoot(base.time)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert, err := root.NewIssuing("dc1", key.Public(), base.time)
	if err != nil {
		t.Fatal(err)
	}
	base.root, base.issuing = root, &pki.Authority{Cert: cert, Key: key}
	cfg := base.cfg
	cfg.Root, cfg.RootCert, cfg.Issuing = base.root, root.Cert, base.issuing
	if base.Registrar, err = enrol.New(cfg); err != nil {
		t.Fatal(err)
	}
	return base
}

func TestAskWaits(t *testing.T) {
	w := newWorld(t, nil)
	addr := serve(t, w.serverCert(), w.api())
	key := newKey(t)
	o := w.options(addr, "minion/web1", key)
	steps := 0
	o.Progress = func(p enrol.Progress) {
		if steps++; p.Err != nil || p.Retry != 200*time.Millisecond || p.Fingerprint != pki.Fingerprint(key.Public()) || !strings.Contains(p.Detail, "cert sign web1") {
			t.Errorf("progress %+v", p)
		}
		if steps == 2 { // on its way: revoked elsewhere, then signed
			w.revokeSomebody()
			if _, err := w.Sign(t.Context(), "operator/alice", "web1", "", false); err != nil {
				t.Error(err)
			}
		}
	}
	g, err := enrol.Ask(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := pki.ParseRevocations(g.Root, g.Revocations); err != nil || list.Number() != 1 {
		t.Errorf("the list that came along: %v", err)
	}
	if steps != 2 {
		t.Errorf("%d steps; want 2", steps)
	}
}

func (w *world) revokeSomebody() {
	w.t.Helper()
	if _, err := w.ask("minion/old", newKey(w.t), w.token(enrol.TokenSpec{Name: "old"})); err != nil {
		w.t.Error(err)
	}
	if _, _, err := w.Revoke(w.t.Context(), "operator/alice", ident(w.t, "minion/old"), "", ""); err != nil {
		w.t.Error(err)
	}
}

func TestAskRejected(t *testing.T) {
	w := newWorld(t, nil)
	addr := serve(t, w.serverCert(), w.api())
	o := w.options(addr, "minion/web1", newKey(t))
	o.Progress = func(enrol.Progress) {
		if _, err := w.Reject(t.Context(), "operator/alice", "web1", ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := enrol.Ask(t.Context(), o); !errors.Is(err, enrol.ErrRejected) || !strings.Contains(err.Error(), "an operator rejected") {
		t.Errorf("Ask = %v; want ErrRejected", err)
	}
	o.Token = strings.Repeat("0", 64)
	o.Attempts = 0
	_, err := enrol.Ask(t.Context(), o)
	wantCode(t, err, call.Denied, "not known")
	o = w.options(addr, "overlord/dc2", newKey(t))
	o.Attempts = 0
	_, err = enrol.Ask(t.Context(), o)
	wantCode(t, err, call.Invalid, "issuing CA and log key too")
}

// Nobody but an overlord under the pinned root is told anything.
func TestAskRefusesServers(t *testing.T) {
	w, other := newWorld(t, nil), newWorld(t, nil)
	noURIKey := newKey(t)
	noURI := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: w.now().Add(-time.Hour), NotAfter: w.now().Add(time.Hour), DNSNames: []string{"dc1"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	noURIDER, err := x509.CreateCertificate(rand.Reader, noURI, w.issuing.Cert, noURIKey.Public(), w.issuing.Key)
	if err != nil {
		t.Fatal(err)
	}
	asked := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	for _, tt := range []struct {
		name string
		cert tls.Certificate
	}{
		{"a minion", w.leaf(w.issuing, "minion/dc1", w.issuing.Cert, w.root.Cert)},
		{"an operator", w.leaf(w.root, "operator/dc1", w.root.Cert)},
		{"a leaf of an issuing CA without a URI", tls.Certificate{Certificate: [][]byte{noURIDER, w.issuing.Cert.Raw, w.root.Cert.Raw}, PrivateKey: noURIKey}},
		{"another fleet's overlord", other.serverCert()},
		{"another fleet's overlord with our root", other.leaf(other.root, "overlord/dc1", w.root.Cert)},
		{"an overlord without the root", w.leaf(w.root, "overlord/dc1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := w.options(serve(t, tt.cert, asked), "minion/web1", newKey(t))
			o.Attempts = 0 // it ends all the same
			if _, err := enrol.Ask(t.Context(), o); !errors.Is(err, pki.ErrUntrusted) {
				t.Errorf("Ask = %v; want ErrUntrusted", err)
			}
		})
	}
	for name, o := range map[string]enrol.Options{
		"no pin": {Address: "127.0.0.1:1", Identity: ident(t, "minion/x"), Key: newKey(t)},
		"a name": {Address: "127.0.0.1:1", Pin: pki.Pin(w.root.Cert), Identity: pki.Identity{Role: pki.Minion, Name: "../x"}, Key: newKey(t)},
	} {
		if _, err := enrol.Ask(t.Context(), o); err == nil {
			t.Errorf("Ask with %s succeeded", name)
		}
	}
}

// liar answers as it likes.
type liar func() (*apipb.EnrolResponse, error)

func (l liar) Request(context.Context, *connect.Request[apipb.EnrolRequest]) (*connect.Response[apipb.EnrolResponse], error) {
	r, err := l()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(r), nil
}

// Even a real overlord's answer is checked.
func TestAskChecksWhatIsGranted(t *testing.T) {
	w, other := newWorld(t, nil), newWorld(t, nil)
	key := newKey(t)
	grant := func(w *world, id string, pub crypto.PublicKey) *apipb.EnrolResponse {
		chain, err := w.Issue(t.Context(), "local/root", pki.Template{Identity: ident(t, id), PublicKey: pub})
		if err != nil {
			t.Fatal(err)
		}
		return &apipb.EnrolResponse{State: apipb.EnrolResponse_GRANTED, Chain: chain}
	}
	badList := grant(w, "minion/web1", key.Public())
	badList.Revocations = []byte("noise")
	for _, tt := range []struct {
		name string
		resp *apipb.EnrolResponse
		err  error
		has  string
	}{
		{"another key", grant(w, "minion/web1", newKey(t).Public()), nil, "another key"},
		{"another name", grant(w, "minion/web2", key.Public()), nil, "minion/web2"},
		{"another role", grant(w, "operator/web1", key.Public()), nil, "operator/web1"},
		{"another fleet", grant(other, "minion/web1", key.Public()), nil, "pinned"},
		{"nothing", &apipb.EnrolResponse{State: apipb.EnrolResponse_GRANTED}, nil, "chain of 0"},
		{"noise", &apipb.EnrolResponse{State: apipb.EnrolResponse_GRANTED, Chain: [][]byte{[]byte("noise")}}, nil, "not trusted"},
		{"a bad list", badList, nil, "bad revocation list"},
		{"an unknown state", &apipb.EnrolResponse{State: 99}, nil, "state 99"},
		{"no state", &apipb.EnrolResponse{}, nil, "state 0"},
		{"two megabytes", &apipb.EnrolResponse{State: apipb.EnrolResponse_REJECTED, Detail: strings.Repeat("a", 2<<20)}, nil, "message size"},
		{"an error of the protocol", nil, connect.NewError(connect.CodeUnavailable, errors.New("no")), "unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, h := apipbconnect.NewEnrolServiceHandler(liar(func() (*apipb.EnrolResponse, error) { return tt.resp, tt.err }))
			_, err := enrol.Ask(t.Context(), w.options(serve(t, w.serverCert(), h), "minion/web1", key))
			if err == nil || !strings.Contains(err.Error(), tt.has) {
				t.Errorf("Ask = %v; want %q", err, tt.has)
			}
		})
	}
	t.Run("a redirection", func(t *testing.T) {
		h := http.RedirectHandler("https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		if _, err := enrol.Ask(t.Context(), w.options(serve(t, w.serverCert(), h), "minion/web1", key)); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("Ask = %v; want an error of its own", err)
		}
	})
}

// Nothing of a client's stays behind it.
func TestAskLeavesNoGoroutine(t *testing.T) {
	w := newWorld(t, nil)
	addr := serve(t, w.serverCert(), w.api())
	before := runtime.NumGoroutine()
	for i := range 3 {
		o := w.options(addr, fmt.Sprintf("minion/web%d", i), newKey(t))
		o.Token = w.token(enrol.TokenSpec{Name: "*"})
		if _, err := enrol.Ask(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for runtime.NumGoroutine() > before { // the server's side of the connections goes too
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d goroutines; %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestAskUnreachable(t *testing.T) {
	w := newWorld(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	o := w.options(addr, "minion/web1", newKey(t))
	if _, err := enrol.Ask(t.Context(), o); err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), addr) {
		t.Errorf("Ask = %v; want the address and why", err)
	}
	// Without a limit it goes on until it is told to stop.
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	o.Attempts = 0
	o.Progress = func(p enrol.Progress) {
		if p.Err == nil || p.Retry != enrol.DefaultRetry {
			t.Errorf("progress %+v", p)
		}
		cancel(stop)
	}
	if _, err := enrol.Ask(ctx, o); !errors.Is(err, stop) {
		t.Errorf("Ask = %v; want the reason it was stopped", err)
	}
}

// A busy overlord is asked again.
func TestAskBusy(t *testing.T) {
	w := newWorld(t, nil)
	busy := connect.NewError(connect.CodeResourceExhausted, errors.New("too many ask"))
	busy.Meta().Set(apierr.Header, "10")
	_, h := apipbconnect.NewEnrolServiceHandler(liar(func() (*apipb.EnrolResponse, error) { return nil, busy }))
	o := w.options(serve(t, w.serverCert(), h), "minion/web1", newKey(t))
	_, err := enrol.Ask(t.Context(), o)
	wantCode(t, err, call.Busy, "too many ask")
	ctx, cancel := context.WithCancel(t.Context())
	o.Attempts = 5
	o.Progress = func(p enrol.Progress) {
		wantCode(t, p.Err, call.Busy, "too many ask")
		cancel()
	}
	if _, err := enrol.Ask(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("Ask = %v; want it to have waited for another attempt", err)
	}
}

// What is too large is refused before it is read, and faults stay inside.
func TestHandler(t *testing.T) {
	w := newWorld(t, nil)
	addr := serve(t, w.serverCert(), w.api())
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	client := apipbconnect.NewEnrolServiceClient(hc, "https://"+addr)
	_, err := client.Request(t.Context(), connect.NewRequest(&apipb.EnrolRequest{Csr: make([]byte, 1<<20)}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a megabyte = %v; want it refused", err)
	}
	w.store.fail = errors.New("secret detail")
	_, err = client.Request(t.Context(), connect.NewRequest(&apipb.EnrolRequest{
		Csr: csr(t, "minion/web1", newKey(t)), Role: "minion", Token: strings.Repeat("0", 64),
	}))
	if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a fault of the store = %v", err)
	}
	w.store.fail = nil
	resp, err := hc.Post("https://"+addr+apipbconnect.EnrolServiceRequestProcedure, "application/json", strings.NewReader(`{"role":"king","csr":"AAAA"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || resp.Header.Get(apierr.Header) != "2" || !strings.Contains(string(body), "not a role") {
		t.Errorf("JSON: %s %v %s, %v", resp.Status, resp.Header, body, err)
	}
}
