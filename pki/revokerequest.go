package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// RevokePrefix keeps the signature of a RevokeRequest from being taken for another.
const RevokePrefix = "dominion-revoke-request-v1"

// MaxRevokeCerts is how many certificates one RevokeRequest may name.
const MaxRevokeCerts = 8

// RevokeRequest asks the root to revoke certificates that the issuing CA of a
// sub-overlord has signed. Its overlord's key signs it, so that it does not matter
// who passes it on.
type RevokeRequest struct {
	Overlord  string   // whose issuing CA it was
	Leaves    [][]byte // DER, of machines; 1 to 8
	Reason    string   // at most 256 bytes
	Actor     string   // who revokes, as the overlord says
	Signature []byte   // ECDSA, ASN.1, over SHA-256 of RevokePrefix and Overlord, Reason, Actor and each of Leaves after its length (32 bits, big endian)
}

func (r *RevokeRequest) sum() [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(RevokePrefix))
	for _, b := range append([][]byte{[]byte(r.Overlord), []byte(r.Reason), []byte(r.Actor)}, r.Leaves...) {
		writeSized(h, b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Sign signs the request with the overlord's key.
func (r *RevokeRequest) Sign(key crypto.Signer) (err error) {
	sum := r.sum()
	if r.Signature, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return fmt.Errorf("sign the request to revoke: %w", err)
	}
	return nil
}

// Check says whether the request is within its limits and signed by that key.
// Errors wrap ErrRequest.
func (r *RevokeRequest) Check(key crypto.PublicKey) error {
	sum := r.sum()
	pub, ok := key.(*ecdsa.PublicKey)
	switch {
	case len(r.Leaves) == 0 || len(r.Leaves) > MaxRevokeCerts:
		return fmt.Errorf("%w: %d certificates to revoke, not 1 to %d", ErrRequest, len(r.Leaves), MaxRevokeCerts)
	case len(r.Reason) > MaxReason || len(r.Actor) > MaxReason:
		return fmt.Errorf("%w: a reason or actor of more than %d bytes", ErrRequest, MaxReason)
	case !ok || len(r.Signature) > maxSignature || !ecdsa.VerifyASN1(pub, sum[:], r.Signature):
		return fmt.Errorf("%w: the overlord's signature over it does not hold", ErrRequest)
	}
	return nil
}
