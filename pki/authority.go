package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"
)

// How long certificates live, and how far their beginning lies in the past, so
// that a machine whose clock is late can use them.
const (
	RootLife     = 10 * 365 * day
	OverlordLife = 2 * 365 * day // of overlords and issuing CAs
	MinionLife   = 90 * day
	OperatorLife = 30 * day
	Backdate     = day

	day = 24 * time.Hour
)

// maxCN is the longest common name in bytes (RFC 5280, appendix A.1,
// ub-common-name). A longer machine name stands in the URI alone.
const maxCN = 64

// ErrRole is wrapped by the error of an authority that is asked to sign what
// it may not.
var ErrRole = errors.New("the authority may not sign this")

// Authority is a certificate authority with its key: the root, or the issuing
// CA of an overlord.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Template is what a leaf is made of.
type Template struct {
	Identity  Identity
	PublicKey crypto.PublicKey // *ecdsa.PublicKey on P-256
	DNS       []string         // SANs, decided by the overlord and never taken from a request
	IPs       []net.IP
}

// NewRoot makes the root of a new fleet with a key of its own.
func NewRoot(now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "dominion root"},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(RootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // root, issuing CA, leaf
	}
	cert, err := create(t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return &Authority{Cert: cert, Key: key}, nil
}

// NewIssuing certifies pub as the issuing CA of an overlord: it can sign
// minions, and nothing else. Only a root may; the error wraps ErrRole.
func (a *Authority) NewIssuing(overlord string, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	if err := checkRoot(a.Cert); err != nil {
		return nil, fmt.Errorf("make issuing CA of %q: %w: %v", overlord, ErrRole, err)
	}
	if err := (Identity{Overlord, overlord}).Check(); err != nil {
		return nil, fmt.Errorf("make issuing CA: %w", err)
	}
	if err := checkKey(pub); err != nil {
		return nil, fmt.Errorf("make issuing CA of %q: %w", overlord, err)
	}
	name := pkix.Name{CommonName: "dominion issuing " + overlord}
	if len(name.CommonName) > maxCN {
		name.CommonName = "dominion issuing"
	}
	cert, err := create(&x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     name,
		NotBefore:                   now.Add(-Backdate),
		NotAfter:                    earlier(now.Add(OverlordLife), a.Cert.NotAfter),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedURIDomains:         []string{string(Minion)},
		PermittedDNSDomainsCritical: true, // of the name constraints as a whole
	}, a.Cert, pub, a.Key)
	if err != nil {
		return nil, fmt.Errorf("make issuing CA of %q: %w", overlord, err)
	}
	return cert, nil
}

// Sign issues a leaf. A root signs operators and overlords, an issuing CA
// minions; anything else is refused with an error that wraps ErrRole.
func (a *Authority) Sign(t Template, now time.Time) (*x509.Certificate, error) {
	if err := t.Identity.Check(); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	if err := checkKey(t.PublicKey); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Identity, err)
	}
	if err := a.maySign(t.Identity.Role); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Identity, err)
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	life := OperatorLife
	switch t.Identity.Role {
	case Minion:
		life = MinionLife
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	case Overlord:
		life = OverlordLife
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	leaf := &x509.Certificate{
		SerialNumber:          newSerial(),
		NotBefore:             now.Add(-Backdate),
		NotAfter:              earlier(now.Add(life), a.Cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{t.Identity.URI()},
		DNSNames:              slices.Clone(t.DNS),
		IPAddresses:           slices.Clone(t.IPs),
	}
	if len(t.Identity.Name) <= maxCN {
		leaf.Subject.CommonName = t.Identity.Name
	}
	cert, err := create(leaf, a.Cert, t.PublicKey, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Identity, err)
	}
	return cert, nil
}

func (a *Authority) maySign(role Role) error {
	if role == Minion {
		if err := checkIssuing(a.Cert); err != nil {
			return fmt.Errorf("%w: %v", ErrRole, err)
		}
		return nil
	}
	if err := checkRoot(a.Cert); err != nil {
		return fmt.Errorf("%w: %v", ErrRole, err)
	}
	return nil
}

// RenewAt gives the moment at which a certificate should be renewed: two
// thirds of its life, counted without the backdating.
func RenewAt(cert *x509.Certificate) time.Time {
	from := cert.NotBefore.Add(Backdate)
	return from.Add(cert.NotAfter.Sub(from) * 2 / 3)
}

// create signs a certificate and reads it back.
func create(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// checkRoot says why cert cannot be the root of a fleet.
func checkRoot(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.MaxPathLen != 1 {
		return errors.New("the certificate is not a root's")
	}
	if err := checkKey(cert.PublicKey); err != nil {
		return err
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return errors.New("the root has an unknown critical extension")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return fmt.Errorf("the root is not signed by itself: %v", err)
	}
	return nil
}

// checkIssuing says why cert cannot be an issuing CA. It does not check who
// signed it.
func checkIssuing(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero:
		return errors.New("the certificate is not an issuing CA's")
	case !slices.Equal(cert.PermittedURIDomains, []string{string(Minion)}) || !cert.PermittedDNSDomainsCritical:
		return errors.New("the issuing CA is not constrained to minions")
	case len(cert.URIs) != 0:
		return errors.New("the issuing CA has a URI")
	}
	return checkKey(cert.PublicKey)
}

// checkKey accepts public keys on P-256.
func checkKey(pub crypto.PublicKey) error {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return fmt.Errorf("%w: it is not ECDSA on P-256", ErrKey)
	}
	return nil
}

// newSerial gives 128 random bits.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])         // never fails (crypto/rand since Go 1.24)
	b[0] = b[0]&0x7f | 0x40 // positive, never zero, and always of 16 bytes
	return new(big.Int).SetBytes(b[:])
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
