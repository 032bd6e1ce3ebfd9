package pki_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/pki"
)

func TestSignRefusesRoles(t *testing.T) {
	f := newFleet(t)
	minion := &pki.Authority{Cert: leaf(t, f.issuing, pki.Minion, "web1"), Key: newKey(t)}
	for _, tt := range []struct {
		name string
		a    *pki.Authority
		role pki.Role
	}{
		{"minion by the root", f.root, pki.Minion},
		{"operator by an issuing CA", f.issuing, pki.Operator},
		{"overlord by an issuing CA", f.issuing, pki.Overlord},
		{"minion by a minion", minion, pki.Minion},
		{"operator by a minion", minion, pki.Operator},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.a.Sign(pki.Template{Identity: pki.Identity{Role: tt.role, Name: "x"}, PublicKey: newKey(t).Public()}, now)
			if !errors.Is(err, pki.ErrRole) {
				t.Errorf("Sign = %v; want ErrRole", err)
			}
		})
	}
	for _, a := range []*pki.Authority{f.issuing, minion} {
		if _, err := a.NewIssuing("dc2", newKey(t).Public(), now); !errors.Is(err, pki.ErrRole) {
			t.Errorf("NewIssuing = %v; want ErrRole", err)
		}
		if _, err := pki.SignStatement(a, pki.RevokedPrefix, nil); !errors.Is(err, pki.ErrRole) {
			t.Errorf("SignStatement = %v; want ErrRole", err)
		}
	}
}

func TestSignRefusesTemplates(t *testing.T) {
	f := newFleet(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		tmpl pki.Template
		want error
	}{
		{"RSA", pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: "x"}, PublicKey: rsaKey.Public()}, pki.ErrKey},
		{"no key", pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: "x"}}, pki.ErrKey},
		{"upper case", pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: "X"}, PublicKey: newKey(t).Public()}, pki.ErrIdentity},
		{"path", pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: "../x"}, PublicKey: newKey(t).Public()}, pki.ErrIdentity},
		{"no role", pki.Template{Identity: pki.Identity{Name: "x"}, PublicKey: newKey(t).Public()}, pki.ErrIdentity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := f.root.Sign(tt.tmpl, now); !errors.Is(err, tt.want) {
				t.Errorf("Sign = %v; want %v", err, tt.want)
			}
		})
	}
	if _, err := f.root.NewIssuing("../dc", newKey(t).Public(), now); !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("NewIssuing(../dc) = %v; want ErrIdentity", err)
	}
	if _, err := f.root.NewIssuing("dc", rsaKey.Public(), now); !errors.Is(err, pki.ErrKey) {
		t.Errorf("NewIssuing(RSA) = %v; want ErrKey", err)
	}
}

func TestCertificateFields(t *testing.T) {
	f := newFleet(t)
	for _, tt := range []struct {
		role pki.Role
		a    *pki.Authority
		life time.Duration
	}{{pki.Minion, f.issuing, pki.MinionLife}, {pki.Operator, f.root, pki.OperatorLife}, {pki.Overlord, f.root, pki.OverlordLife}} {
		t.Run(string(tt.role), func(t *testing.T) {
			c := leaf(t, tt.a, tt.role, "x1")
			if !c.NotBefore.Equal(now.Add(-pki.Backdate)) || !c.NotAfter.Equal(now.Add(tt.life)) {
				t.Errorf("valid from %v until %v", c.NotBefore, c.NotAfter)
			}
			if want := now.Add(tt.life * 2 / 3); !pki.RenewAt(c).Equal(want) {
				t.Errorf("RenewAt = %v; want %v", pki.RenewAt(c), want)
			}
			if c.Subject.CommonName != "x1" || !slices.Equal(c.DNSNames, []string{"x1"}) || len(c.URIs) != 1 || len(c.IPAddresses) != 1 {
				t.Errorf("subject %v, DNS %v, URIs %v", c.Subject, c.DNSNames, c.URIs)
			}
			if n := c.SerialNumber.BitLen(); n != 127 {
				t.Errorf("a serial of %d bits", n)
			}
			if server := slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth); server != (tt.role != pki.Operator) {
				t.Errorf("server use: %t", server)
			}
		})
	}
	ca := f.issuing.Cert
	if !ca.MaxPathLenZero || ca.MaxPathLen != 0 || !slices.Equal(ca.PermittedURIDomains, []string{"minion"}) || !ca.PermittedDNSDomainsCritical {
		t.Error("the issuing CA is not bound")
	}
	if f.root.Cert.NotAfter != now.Add(pki.RootLife) {
		t.Errorf("the root lives until %v", f.root.Cert.NotAfter)
	}
	// No leaf outlives its authority.
	late, err := f.issuing.Sign(pki.Template{Identity: pki.Identity{Role: pki.Minion, Name: "x"}, PublicKey: newKey(t).Public()}, now.Add(pki.OverlordLife-time.Hour))
	if err != nil || !late.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("a late leaf ends at %v, %v; want %v", late.NotAfter, err, ca.NotAfter)
	}
}

// Through real TLS: only an overlord under the root itself is talked to.
func TestVerifyOverlord(t *testing.T) {
	root, err := pki.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issuingKey := newKey(t)
	issuingCert, err := root.NewIssuing("dc1", issuingKey.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issuing := &pki.Authority{Cert: issuingCert, Key: issuingKey}
	trust, err := pki.TrustPin(pki.Pin(root.Cert))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(a *pki.Authority, role pki.Role, name string, between ...*x509.Certificate) tls.Certificate {
		key := newKey(t)
		cert, err := a.Sign(pki.Template{Identity: pki.Identity{Role: role, Name: name}, PublicKey: key.Public()}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: raw(append(append([]*x509.Certificate{cert}, between...), root.Cert)...), PrivateKey: key}
	}
	noURIKey := newKey(t)
	noURI := forge(t, issuing, noURIKey.Public(), func(c *x509.Certificate) {
		c.NotAfter, c.DNSNames = time.Now().Add(time.Hour), []string{"dc1"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	for _, tt := range []struct {
		name   string
		server tls.Certificate
		want   string // name asked for
		errHas string
	}{
		{"overlord", sign(root, pki.Overlord, "dc1"), "dc1", ""},
		{"any overlord", sign(root, pki.Overlord, "dc1"), "", ""},
		{"another overlord", sign(root, pki.Overlord, "dc2"), "dc1", `overlord "dc2", not "dc1"`},
		{"a minion", sign(issuing, pki.Minion, "dc1", issuingCert), "", "minion/dc1, which is no overlord"},
		{"an operator", sign(root, pki.Operator, "dc1"), "", "operator/dc1, which is no overlord"},
		{"a leaf without a URI", tls.Certificate{Certificate: raw(noURI, issuingCert, root.Cert), PrivateKey: noURIKey}, "", "not an identity"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{tt.server}, MinVersion: tls.VersionTLS13})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			served := make(chan error, 1)
			go func() {
				c, err := ln.Accept()
				if err == nil {
					err = errors.Join(c.(*tls.Conn).HandshakeContext(t.Context()), c.Close())
				}
				served <- err
			}()
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, VerifyConnection: trust.VerifyOverlord(tt.want), MinVersion: tls.VersionTLS13}, NetDialer: &net.Dialer{}}
			conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
			if err == nil {
				conn.Close()
			}
			<-served
			if tt.errHas == "" && err != nil || tt.errHas != "" && (!errors.Is(err, pki.ErrUntrusted) || !strings.Contains(err.Error(), tt.errHas)) {
				t.Errorf("dial = %v; want %q", err, tt.errHas)
			}
		})
	}
}
