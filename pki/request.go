package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"dominion/call"
)

// MaxRequest is the size of the largest certificate request in bytes.
const MaxRequest = 8 << 10

// ErrRequest is wrapped by every error about a malformed certificate request.
var ErrRequest = errors.New("bad certificate request")

// Request is what is taken from a certificate request; nothing else of it
// reaches a certificate.
type Request struct {
	Identity  Identity
	PublicKey *ecdsa.PublicKey // on P-256; the request proves that its sender holds the key
	Raw       []byte           // DER
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280, section 4.2.1.6

// NewRequest makes a certificate request (PKCS#10, DER): the name as CN, the
// identity as the only SAN, no other extension.
func NewRequest(id Identity, key crypto.Signer) ([]byte, error) {
	if err := id.Check(); err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	if err := checkKey(key.Public()); err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	t := &x509.CertificateRequest{URIs: []*url.URL{id.URI()}}
	if len(id.Name) <= maxCN {
		t.Subject.CommonName = id.Name
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// ParseRequest reads a certificate request and checks its signature. The name
// is lower-cased. It refuses more than 8 KiB, keys that are not on P-256, any
// extension but one SAN with one URI, and a CN that says something else than
// the URI. Every error wraps ErrRequest.
func ParseRequest(der []byte) (Request, error) {
	if len(der) > MaxRequest {
		return Request{}, fmt.Errorf("%w: %d bytes are more than %d", ErrRequest, len(der), MaxRequest)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	id, err := requestIdentity(csr)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	default:
		return Request{}, fmt.Errorf("%w: it is signed with %v", ErrRequest, csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("%w: its signature does not hold", ErrRequest)
	}
	return Request{Identity: id, PublicKey: csr.PublicKey.(*ecdsa.PublicKey), Raw: csr.Raw}, nil
}

// requestIdentity gives whom the request is for, after checking that it asks
// for nothing more.
func requestIdentity(csr *x509.CertificateRequest) (Identity, error) {
	san, err := onlySAN(csr.Extensions)
	if err != nil {
		return Identity{}, err
	}
	if len(csr.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: the request has %d URIs, not one", ErrIdentity, len(csr.URIs))
	}
	u := csr.URIs[0]
	want, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u.String())}})
	if err != nil || !bytes.Equal(san, want) {
		return Identity{}, errors.New("its subject alternative name holds more than one URI")
	}
	name, err := call.ParseName(strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	lower := *u
	lower.Path = strings.ToLower(u.Path) // no byte of a valid name is ever escaped
	id, err := identityOfURI(&lower)
	if err != nil {
		return Identity{}, err
	}
	if cn := csr.Subject.CommonName; cn != "" && !strings.EqualFold(cn, name) {
		return Identity{}, fmt.Errorf("%w: CN %.300q and URI name %q differ", ErrIdentity, cn, name)
	}
	return id, nil
}

// onlySAN gives the value of the SAN extension, which must be the only one.
func onlySAN(exts []pkix.Extension) ([]byte, error) {
	var san []byte
	for _, e := range exts {
		if !e.Id.Equal(oidSAN) {
			return nil, fmt.Errorf("it asks for the extension %v; only one URI as subject alternative name may be asked for", e.Id)
		}
		if san != nil {
			return nil, errors.New("it has two subject alternative names")
		}
		san = e.Value
	}
	if san == nil {
		return nil, fmt.Errorf("%w: the request has no URI", ErrIdentity)
	}
	return san, nil
}
