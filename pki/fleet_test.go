package pki_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"dominion/pki"
)

// now is when the certificates of the tests are made.
var now = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

// fleet is a root and the issuing CA of overlord dc1.
type fleet struct {
	root, issuing *pki.Authority
	trust         *pki.Trust
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	root, err := pki.NewRoot(now)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert, err := root.NewIssuing("dc1", key.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := pki.NewTrust(root.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{root: root, issuing: &pki.Authority{Cert: cert, Key: key}, trust: trust}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf signs an identity with an authority, as the fleet does.
func leaf(t testing.TB, a *pki.Authority, role pki.Role, name string) *x509.Certificate {
	t.Helper()
	cert, err := a.Sign(pki.Template{
		Identity: pki.Identity{Role: role, Name: name}, PublicKey: newKey(t).Public(),
		DNS: []string{name}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// forge signs what the fleet would not, with an authority's key.
func forge(t testing.TB, a *pki.Authority, pub crypto.PublicKey, change func(*x509.Certificate), uris ...string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.Cert, pub, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func raw(certs ...*x509.Certificate) [][]byte {
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = c.Raw
	}
	return out
}
