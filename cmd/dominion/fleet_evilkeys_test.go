//go:build fleet

package main_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// minted makes a certificate with the bare key of a CA: nothing is checked.
func minted(t *testing.T, ca *x509.Certificate, key any, uri string, chain ...*x509.Certificate) tls.Certificate {
	t.Helper()
	own, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "minted"}, URIs: []*url.URL{u},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, ca, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// admitted says whether an overlord lets the holder of cert begin a session.
func admitted(t *testing.T, address string, cert tls.Certificate) bool {
	t.Helper()
	conn, err := session.Dial(t.Context(), address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: anybody,
	}))
	if err != nil {
		return false
	}
	defer conn.Close()
	// With TLS 1.3 the refusal comes after the handshake; who is let in is awaited.
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err != nil && !strings.Contains(err.Error(), "bad certificate")
}

// What a sub-overlord's issuing CA signs is a machine of that sub-overlord, or nothing.
func testEvilCertificates(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	good, evil := top.sub(top, "good"), top.sub(top, "evil")
	top.minion("top-1")
	good.minion("good-1")
	evil.minion("evil-1")
	good.await(1)
	evil.await(1)
	top.await(3)
	top.root.run("map", "build").exits(0)
	hop := evil.possessHop(top, "evil")
	ca, key, root := evil.certs("ca/issuing.crt")[0], evil.key("ca/issuing.key"), hop.root
	tlsKey := evil.key("tls.key")

	for _, uri := range []string{
		"dominion://operator/root", "dominion://operator/mallory", "dominion://overlord/other", "dominion://overlord/top", "dominion://overlord/good", "dominion://overlord/evil",
		"dominion://minion/top-1", "dominion://minion/good-1", "dominion://minion/evil-1",
	} {
		for how, cert := range map[string]tls.Certificate{
			"issuing":      minted(t, ca, key, uri, ca, root),
			"issuing bare": minted(t, ca, key, uri),
			"leaf":         minted(t, hop.cert.Leaf, tlsKey, uri, hop.cert.Leaf, root),
			"issued CA":    minted(t, ca, key, uri, root),
		} {
			for where, address := range map[string]string{"the top": top.address, "another hop": good.address} {
				if admitted(t, address, cert) {
					t.Errorf("%s lets %s in, signed by the %s", where, uri, how)
				}
				client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}}
				resp, err := client.Post("https://"+address+"/dominion.v1.FleetService/Minions", "application/json", strings.NewReader("{}"))
				if err == nil {
					resp.Body.Close()
					if resp.StatusCode == http.StatusOK {
						t.Errorf("the API of %s answers %s, signed by the %s", where, uri, how)
					}
				}
				client.CloseIdleConnections()
			}
			if strings.Contains(uri, "operator") { // an order by it, at a machine of the hop's own
				path, lines := top.marks("minted")
				now := time.Now()
				d := top.ordered("command.shell", `{"script":"echo ran >> `+path+`"}`, "evil-1", now, now.Add(time.Hour))
				c := callOf(t, d, "command.shell", "evil-1")
				o, err := call.ParseOrder(c.Order)
				if err != nil {
					t.Fatal(err)
				}
				own, _ := cert.PrivateKey.(*ecdsa.PrivateKey)
				signed, err := call.Sign(o, own, cert.Certificate[0])
				if err != nil {
					t.Fatal(err)
				}
				c.Order, c.Signature, c.OperatorCert = signed.Order, signed.Signature, signed.Cert
				if v := hop.send("evil-1", c).wait(t); v.code != call.BadOrder || lines() != 0 {
					t.Errorf("evil-1 answers %v to %s, signed by the %s; want a bad order", v, uri, how)
				}
			}
		}
	}
	// An order that the hop's own key signed, and its own certificate.
	now := time.Now()
	c := callOf(t, top.ordered("test.ping", "{}", "evil-1", now, now.Add(time.Hour)), "test.ping", "evil-1")
	c.OperatorCert = hop.cert.Leaf.Raw
	if v := hop.send("evil-1", c).wait(t); v.code != call.BadOrder {
		t.Errorf("with the hop's certificate: %v", v)
	}
	// Its machines believe no other overlord for it: one that it mints serves a fresh machine.
	fake := &impostor{t: t, name: "evil", state: evil.state, root: root, peers: map[string]*session.Session{}, db: hop.db, log: hop.log}
	fake.cert = minted(t, ca, key, "dominion://overlord/evil", ca, root)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(session.Wrap(conn, false), session.ServerTLS(session.TLSOptions{
				Certificate: func() (*tls.Certificate, error) { return &fake.cert, nil }, Verify: anybody,
			})).Handshake()
			conn.Close()
		}
	}()
	m := evil.daemon("fresh", "minion", "--state", evil.dir+"/fresh", "--name", "evil-9", "--config", evil.config, "--pin", evil.pin, "--overlord", ln.Addr().String())
	m.awaitSaid("overlord not reached")
	if strings.Contains(m.said(), "session opened") {
		t.Error("a machine believes an overlord that a hop minted")
	}

	// A machine of the top, in the wrong hands: it answers no delegation, and nothing is behind it.
	stolen := minted(t, top.certs("ca/issuing.crt")[0], top.key("ca/issuing.key"), "dominion://minion/top-2")
	s := dialAs(t, top.address, stolen, upward{hop})
	file := top.write("plain.map", "top-2:\n    x-1: {}\n")
	top.root.run("map", "show", "--map", file).exits(0)
	run := top.root.run("call", "--map", file, "x-1", "test.ping", "--timeout", "5s").exits(3)
	run.tells("it is no overlord, so nothing is behind it")
	hop.does(func(o evilOrder) {
		for _, name := range []string{"events", "output"} {
			st, err := s.Open(t.Context(), o.id, name)
			if err != nil {
				t.Error(err)
				continue
			}
			if tell(st, fine("evil-1")) == nil { // without credit it waits for the refusal
				t.Errorf("the top takes %s of a delegation from a machine", name)
			}
		}
		_ = s.Reply(o.id, &fleetpb.Result{})
		o.reply(call.Denied, "no")
	})
	top.root.run("call", "--delegate", "evil-1", "test.ping", "--timeout", "5s").exits(3).tells("evil: no")
}
