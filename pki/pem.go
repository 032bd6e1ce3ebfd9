package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Limits of what is read from files and peers.
const (
	MaxCert  = 16 << 10 // bytes of one certificate, DER
	maxCerts = 16       // certificates in one file
	maxPEM   = 1 << 20  // bytes of a file of certificates
	maxKey   = 4 << 10  // bytes of a key file
)

// Sentinels of the decoders of this file.
var (
	ErrKey   = errors.New("not a usable key")
	ErrCerts = errors.New("not a list of certificates")
	ErrPin   = errors.New("not a pin")
)

const pinPrefix = "sha256:"

// NewKey makes an ECDSA key on P-256.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// MarshalKey gives a key as PKCS#8 PEM.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads an ECDSA P-256 key from PKCS#8 PEM with nothing before or
// after it. The error wraps ErrKey and holds nothing of the key.
func ParseKey(b []byte) (*ecdsa.PrivateKey, error) {
	k, err := parsePKCS8(b)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is not ECDSA on P-256", ErrKey)
	}
	if err := checkKey(key.Public()); err != nil {
		return nil, err
	}
	return key, nil
}

// ParseLogKey reads an Ed25519 key, which signs an audit log's checkpoints,
// from PKCS#8 PEM. The error wraps ErrKey.
func ParseLogKey(b []byte) (ed25519.PrivateKey, error) {
	k, err := parsePKCS8(b)
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is not Ed25519", ErrKey)
	}
	return key, nil
}

func parsePKCS8(b []byte) (any, error) {
	if len(b) > maxKey {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrKey, len(b), maxKey)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: it is not one PKCS#8 PEM block", ErrKey)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: its PKCS#8 is malformed", ErrKey)
	}
	return k, nil
}

// MarshalCerts gives certificates as PEM, in the order given.
func MarshalCerts(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// ParseCerts reads one or more certificates from PEM, at most 16. The error
// wraps ErrCerts.
func ParseCerts(b []byte) ([]*x509.Certificate, error) {
	if len(b) > maxPEM {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrCerts, len(b), maxPEM)
	}
	var out []*x509.Certificate
	for len(bytes.TrimSpace(b)) > 0 {
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: it holds something else than PEM certificates", ErrCerts)
		}
		if len(out) == maxCerts {
			return nil, fmt.Errorf("%w: more than %d", ErrCerts, maxCerts)
		}
		cert, err := parseCert(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrCerts, err)
		}
		out = append(out, cert)
		b = rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrCerts)
	}
	return out, nil
}

// ParseChain reads certificates from DER, at most 16. The error wraps ErrCerts.
func ParseChain(raw [][]byte) ([]*x509.Certificate, error) {
	if len(raw) == 0 || len(raw) > maxCerts {
		return nil, fmt.Errorf("%w: %d certificates", ErrCerts, len(raw))
	}
	out := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		cert, err := parseCert(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrCerts, err)
		}
		out[i] = cert
	}
	return out, nil
}

func parseCert(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCert {
		return nil, fmt.Errorf("a certificate of %d bytes, more than %d", len(der), MaxCert)
	}
	return x509.ParseCertificate(der)
}

// Fingerprint gives "sha256:" and 64 hex digits: the SHA-256 of a key's
// SubjectPublicKeyInfo. It is empty for a key that has none.
func Fingerprint(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	return fingerprint(der)
}

// FingerprintOf gives the fingerprint of a certificate's key.
func FingerprintOf(cert *x509.Certificate) string { return fingerprint(cert.RawSubjectPublicKeyInfo) }

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return pinPrefix + hex.EncodeToString(sum[:])
}

// Pin gives what a client must know of a fleet beforehand: the fingerprint of
// its root's key.
func Pin(root *x509.Certificate) string { return FingerprintOf(root) }

// CheckPin refuses what Pin does not write. The error wraps ErrPin.
func CheckPin(pin string) error {
	digits, ok := strings.CutPrefix(pin, pinPrefix)
	if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != sha256.Size || strings.ToLower(digits) != digits {
		return fmt.Errorf("%w: %.100q; `dominion pin` on the overlord prints it: sha256: and 64 hex digits", ErrPin, pin)
	}
	return nil
}
