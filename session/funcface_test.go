package session

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"testing"

	"dominion/pki"
)

// On the port of a machine that serves Func's clients, sessions are as ever, and
// HTTP takes TLS 1.2 and always wants a certificate.
func TestListenerServesFuncClients(t *testing.T) {
	ca := newAuthority(t)
	o := ca.options(t, "minion/web1", pki.Overlord)
	face := TLSOptions{Certificate: o.Certificate, Verify: ca.verify(pki.Operator)}
	p := listen(t, ListenOptions{Fleet: o, HTTP: &face, FuncFace: true})

	conn := must(Dial(t.Context(), p.addr, ClientTLS(ca.options(t, "overlord/main", pki.Minion))))(t)
	conn.Close()
	old := ClientTLS(ca.options(t, "overlord/main", pki.Minion))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if conn, err := Dial(t.Context(), p.addr, old); err == nil {
		t.Errorf("a session was opened over TLS %x", conn.ConnectionState().Version)
	}

	operator := ca.issue(t, "operator/alice")
	for _, test := range []struct {
		name     string
		version  uint16
		suites   []uint16
		cert     *tls.Certificate
		accepted bool
	}{
		{"TLS 1.3", tls.VersionTLS13, nil, operator, true},
		{"TLS 1.2", tls.VersionTLS12, nil, operator, true},
		{"TLS 1.1", tls.VersionTLS11, nil, operator, false},
		{"TLS 1.2 with CBC", tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, operator, false},
		{"TLS 1.3 without a certificate", tls.VersionTLS13, nil, nil, false},
		{"TLS 1.2 without a certificate", tls.VersionTLS12, nil, nil, false},
		{"a role that is not let in", tls.VersionTLS12, nil, ca.issue(t, "minion/web2"), false},
		{"a foreign certificate", tls.VersionTLS12, nil, newAuthority(t).issue(t, "operator/alice"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS10, MaxVersion: test.version, CipherSuites: test.suites, NextProtos: []string{"h2", "http/1.1"}}
			if test.cert != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.cert, nil }
			}
			tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
			defer tr.CloseIdleConnections()
			req := must(http.NewRequestWithContext(t.Context(), "POST", "https://"+p.addr, http.NoBody))(t)
			res, err := (&http.Client{Transport: tr}).Do(req)
			if (err == nil) != test.accepted {
				t.Fatalf("error %v; want an answer: %v", err, test.accepted)
			}
			if err != nil {
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "HTTP/1.1 operator/alice\n" || res.TLS.Version != test.version {
				t.Errorf("answer %q, %v over TLS %x", got, err, res.TLS.Version)
			}
		})
	}
	bare := funcTLS(face).VerifyConnection(tls.ConnectionState{})
	if bare == nil || errors.Is(bare, ErrALPN) {
		t.Errorf("a connection without a certificate gives %v", bare)
	}
}
