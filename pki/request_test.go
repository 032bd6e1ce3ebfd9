package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"dominion/pki"
)

func TestRequest(t *testing.T) {
	key := newKey(t)
	for _, name := range []string{"web1", "a.example.org", strings.Repeat("a.", 60) + "b"} {
		id := pki.Identity{Role: pki.Minion, Name: name}
		der, err := pki.NewRequest(id, key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := pki.ParseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if r.Identity != id || !r.PublicKey.Equal(key.Public()) || !bytes.Equal(r.Raw, der) {
			t.Errorf("ParseRequest = %v", r.Identity)
		}
	}
	r, err := pki.ParseRequest(request(t, key, nil, "dominion://minion/WEB1.Example"))
	if err != nil || r.Identity.Name != "web1.example" {
		t.Errorf("upper case: %v, %v; want web1.example", r.Identity, err)
	}
}

// request makes a request that NewRequest would not.
func request(t testing.TB, key crypto.Signer, change func(*x509.CertificateRequest), uris ...string) []byte {
	t.Helper()
	r := &x509.CertificateRequest{}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		r.URIs = append(r.URIs, u)
	}
	if change != nil {
		change(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseRequestRefuses(t *testing.T) {
	key := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const uri = "dominion://minion/web1"
	ca, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	san := func(names ...asn1.RawValue) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) {
			v, err := asn1.Marshal(names)
			if err != nil {
				t.Fatal(err)
			}
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: v}}
		}
	}
	uriName := func(s string) asn1.RawValue { return asn1.RawValue{Class: 2, Tag: 6, Bytes: []byte(s)} }
	good := request(t, key, nil, uri)
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	swapped := bytes.Replace(good, []byte("/web1"), []byte("/web2"), 1)
	for _, tt := range []struct {
		name string
		der  []byte
	}{
		{"nothing", nil},
		{"noise", []byte("not DER")},
		{"trailing bytes", append(bytes.Clone(good), 0)},
		{"a broken signature", broken},
		{"a changed name", swapped},
		{"CA:TRUE", request(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: ca}}
		}, uri)},
		{"a key usage", request(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 1, 6}}}
		}, uri)},
		{"a DNS name", request(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"overlord.example"} }, uri)},
		{"an address", request(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{10, 0, 0, 1}} }, uri)},
		{"an e-mail address", request(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b.example"} }, uri)},
		{"another kind of name", request(t, key, san(uriName(uri), asn1.RawValue{Class: 2, Tag: 8, Bytes: []byte{42, 3}}))},
		{"two URIs", request(t, key, nil, uri, "dominion://operator/alice")},
		{"no URI", request(t, key, func(r *x509.CertificateRequest) { r.Subject.CommonName = "web1" })},
		{"no URI but a DNS name", request(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"web1"} })},
		{"another CN", request(t, key, func(r *x509.CertificateRequest) { r.Subject.CommonName = "web2" }, uri)},
		{"../ in the name", request(t, key, nil, "dominion://minion/../web1")},
		{"../ escaped", request(t, key, nil, "dominion://minion/..%2Fweb1")},
		{"a slash", request(t, key, nil, "dominion://minion/a/b")},
		{"NUL", request(t, key, nil, "dominion://minion/web1%00.evil")},
		{"a raw NUL", request(t, key, san(uriName(uri+"\x00")))},
		{"an empty fragment", request(t, key, san(uriName(uri+"#")))},
		{"a space", request(t, key, nil, "dominion://minion/web%201")},
		{"an escaped letter", request(t, key, nil, "dominion://minion/%77eb1")},
		{"an empty name", request(t, key, nil, "dominion://minion/")},
		{"a long name", request(t, key, nil, "dominion://minion/"+strings.Repeat("a.", 130)+"a")},
		{"an unknown role", request(t, key, nil, "dominion://root/web1")},
		{"another scheme", request(t, key, nil, "https://minion/web1")},
		{"a port", request(t, key, nil, "dominion://minion:1/web1")},
		{"a user", request(t, key, nil, "dominion://root@minion/web1")},
		{"64 KB of subject", request(t, key, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{strings.Repeat("a", 64<<10)} }, uri)},
		{"an RSA key", request(t, rsaKey, nil, uri)},
		{"a P-384 key", request(t, p384, nil, uri)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := pki.ParseRequest(tt.der); !errors.Is(err, pki.ErrRequest) {
				t.Errorf("ParseRequest = %v, %v; want ErrRequest", r.Identity, err)
			}
		})
	}
	if _, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: "../x"}, key); !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("NewRequest(../x) = %v; want ErrIdentity", err)
	}
	if _, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: "x"}, rsaKey); !errors.Is(err, pki.ErrKey) {
		t.Errorf("NewRequest(RSA) = %v; want ErrKey", err)
	}
}
