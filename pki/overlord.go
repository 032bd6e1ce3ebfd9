package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"
)

// Issuing is the role under which an overlord's issuing CA is listed beside its
// leaf. No leaf has it: it is not Valid.
const Issuing Role = "issuing"

// OverlordPrefix keeps the signature of an overlord's request from being taken
// for another.
const OverlordPrefix = "dominion-overlord-request-v1"

// OverlordRequest is what a new overlord asks the root for: its certificate, its
// issuing CA, and the root's word for its log key. The key of CSR signs all of
// it, so that whoever passes it on can change nothing.
type OverlordRequest struct {
	CSR        []byte            // PKCS#10, DER, of overlord/NAME
	IssuingCSR []byte            // PKCS#10, DER, of overlord/NAME with the issuing CA's key
	LogKey     ed25519.PublicKey // 32 bytes
	LogID      string            // of its store; at most 64 bytes
	Signature  []byte            // ECDSA, ASN.1, over SHA-256 of OverlordPrefix and each field after its length (32 bits, big endian)
}

// NewOverlordRequest makes and signs a request.
func NewOverlordRequest(name string, key, issuing crypto.Signer, log ed25519.PublicKey, logID string) (OverlordRequest, error) {
	id := Identity{Overlord, name}
	var err error
	r := OverlordRequest{LogKey: log, LogID: logID}
	if r.CSR, err = NewRequest(id, key); err != nil {
		return OverlordRequest{}, err
	}
	if r.IssuingCSR, err = NewRequest(id, issuing); err != nil {
		return OverlordRequest{}, err
	}
	sum := r.sum()
	if r.Signature, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return OverlordRequest{}, fmt.Errorf("sign the request of %s: %w", id, err)
	}
	return r, nil
}

func (r *OverlordRequest) sum() [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(OverlordPrefix))
	for _, b := range [][]byte{r.CSR, r.IssuingCSR, r.LogKey, []byte(r.LogID)} {
		writeSized(h, b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// writeSized hashes a field after its length, so that no two requests read alike.
func writeSized(h hash.Hash, b []byte) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	h.Write(n[:])
	h.Write(b)
}

// Check reads a request that came from elsewhere: both certificate requests are
// of one overlord, with two keys, and the first of them signed all of it. Errors
// wrap ErrRequest.
func (r *OverlordRequest) Check() (leaf, issuing Request, err error) {
	if leaf, err = ParseRequest(r.CSR); err != nil {
		return leaf, issuing, err
	}
	if issuing, err = ParseRequest(r.IssuingCSR); err != nil {
		return leaf, issuing, fmt.Errorf("issuing CA: %w", err)
	}
	sum := r.sum()
	k := LogKey{LogID: r.LogID, Overlord: leaf.Identity.Name, PublicKey: r.LogKey}
	switch {
	case leaf.Identity.Role != Overlord:
		err = fmt.Errorf("%w: it is of %s, which is no overlord", ErrRequest, leaf.Identity)
	case leaf.Identity != issuing.Identity:
		err = fmt.Errorf("%w: it is of %s, and the one for its issuing CA of %s", ErrRequest, leaf.Identity, issuing.Identity)
	case leaf.PublicKey.Equal(issuing.PublicKey):
		err = fmt.Errorf("%w: the issuing CA has the overlord's own key", ErrRequest)
	case len(r.Signature) > maxSignature || !ecdsa.VerifyASN1(leaf.PublicKey, sum[:], r.Signature):
		err = fmt.Errorf("%w: the overlord's signature over it does not hold", ErrRequest)
	case strings.Trim(r.LogID, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "":
		err = fmt.Errorf("%w: log id %.80q", ErrRequest, r.LogID)
	default:
		if kerr := k.check(); kerr != nil {
			err = fmt.Errorf("%w: log key: %v", ErrRequest, kerr)
		}
	}
	return leaf, issuing, err
}

// OverlordGrant is the answer to an OverlordRequest, verified.
type OverlordGrant struct {
	Leaf, Issuing, Root *x509.Certificate
	LogKey              []byte // the root's statement, as it came
}

// VerifyGrant checks that an answer gives what r asks for and nothing wider: a
// leaf of the same name and key that the root signed, an issuing CA for r's other
// key that can sign minions alone, and the root's statement about r's log key.
// At the zero time dates are not looked at. Errors wrap ErrUntrusted.
func (r *OverlordRequest) VerifyGrant(t *Trust, chain [][]byte, issuing, logKey []byte, now time.Time) (g OverlordGrant, err error) {
	leaf, ca, err := r.Check()
	if err != nil {
		return g, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	v, err := t.VerifyRaw(chain, now)
	if err != nil {
		return g, err
	}
	if v.Identity != leaf.Identity {
		return g, fmt.Errorf("%w: it was granted to %s, not to %s", ErrUntrusted, v.Identity, leaf.Identity)
	}
	if !leaf.PublicKey.Equal(v.Leaf.PublicKey) {
		return g, fmt.Errorf("%w: it was granted to another key", ErrUntrusted)
	}
	cert, err := parseCert(issuing)
	if err != nil {
		return g, fmt.Errorf("%w: issuing CA: %v", ErrUntrusted, err)
	}
	if err := VerifyIssuing(v.Root, cert); err != nil {
		return g, err
	}
	if !ca.PublicKey.Equal(cert.PublicKey) {
		return g, fmt.Errorf("%w: the issuing CA is for another key", ErrUntrusted)
	}
	k, err := OpenLogKey(v.Root, logKey)
	if err != nil {
		return g, fmt.Errorf("%w: log key: %w", ErrUntrusted, err)
	}
	if k.LogID != r.LogID || k.Overlord != leaf.Identity.Name || !r.LogKey.Equal(k.PublicKey) {
		return g, fmt.Errorf("%w: the statement about the log key is about overlord/%s and log %s", ErrUntrusted, k.Overlord, k.LogID)
	}
	return OverlordGrant{Leaf: v.Leaf, Issuing: cert, Root: v.Root, LogKey: slices.Clone(logKey)}, nil
}

// VerifyIssuing checks that root itself signed an issuing CA that can sign
// minions and nothing else. Dates are not looked at. Errors wrap ErrUntrusted.
func VerifyIssuing(root, cert *x509.Certificate) error {
	if err := checkIssuing(cert); err != nil {
		return fmt.Errorf("%w: %v", ErrUntrusted, err)
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("%w: the issuing CA has an unknown critical extension", ErrUntrusted)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("%w: the issuing CA is not signed by the root: %v", ErrUntrusted, err)
	}
	return nil
}
