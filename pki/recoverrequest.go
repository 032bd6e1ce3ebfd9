package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
)

// RecoverPrefix keeps the signature of a RecoverRequest from being taken for another.
const RecoverPrefix = "dominion-recover-request-v1"

// maxRecovery is the size of the largest encoded fleetpb.Recovery in bytes.
const maxRecovery = 1 << 10

// RecoverRequest asks the root to explain the audit log of a sub-overlord that was
// restored from a back-up. The overlord's key signs it, the token too, so that
// whoever passes it on can change nothing.
type RecoverRequest struct {
	Overlord  string // whose log it is
	Recovery  []byte // an encoded fleetpb.Recovery, without time: what is to be signed
	Actor     string // who asks, as the overlord says
	Token     string // of role overlord for that name
	Signature []byte // ECDSA, ASN.1, over SHA-256 of RecoverPrefix and Overlord, Recovery, Actor and Token, each after its length (32 bits, big endian)
}

// NewRecoverRequest asks for r to be signed.
func NewRecoverRequest(overlord string, r *fleetpb.Recovery, actor, token string, key crypto.Signer) (RecoverRequest, error) {
	body, err := canonical.Marshal(&fleetpb.Recovery{
		LogId: r.LogId, Epoch: r.Epoch, AbandonedSize: r.AbandonedSize, AbandonedRoot: r.AbandonedRoot, RestoredSize: r.RestoredSize, RestoredRoot: r.RestoredRoot,
	})
	if err != nil {
		return RecoverRequest{}, fmt.Errorf("ask for a recovery: %w", err)
	}
	req := RecoverRequest{Overlord: overlord, Recovery: body, Actor: cut(actor, MaxReason), Token: token}
	return req, req.Sign(key)
}

// Sign signs the request with the overlord's key.
func (r *RecoverRequest) Sign(key crypto.Signer) (err error) {
	sum := r.sum()
	if r.Signature, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return fmt.Errorf("sign the request to recover: %w", err)
	}
	return nil
}

func (r *RecoverRequest) sum() [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(RecoverPrefix))
	for _, b := range [][]byte{[]byte(r.Overlord), r.Recovery, []byte(r.Actor), []byte(r.Token)} {
		writeSized(h, b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Check says whether the request is within its limits and signed by that key, and
// gives what is to be signed, whose time is zero. Errors wrap ErrRequest.
func (r *RecoverRequest) Check(key crypto.PublicKey) (*fleetpb.Recovery, error) {
	sum := r.sum()
	pub, ok := key.(*ecdsa.PublicKey)
	switch {
	case len(r.Recovery) > maxRecovery || len(r.Actor) > MaxReason:
		return nil, fmt.Errorf("%w: a recovery of %d bytes, by an actor of %d", ErrRequest, len(r.Recovery), len(r.Actor))
	case !ok || len(r.Signature) > maxSignature || !ecdsa.VerifyASN1(pub, sum[:], r.Signature):
		return nil, fmt.Errorf("%w: the overlord's signature over it does not hold", ErrRequest)
	}
	out := new(fleetpb.Recovery)
	if err := canonical.Unmarshal(r.Recovery, out); err != nil {
		return nil, fmt.Errorf("%w: recovery: %v", ErrRequest, err)
	}
	const most = 1 << 62
	if out.LogId == "" || len(out.LogId) > maxLogID || out.Epoch == 0 || out.Epoch > most || out.AbandonedSize > most || out.RestoredSize > most ||
		len(out.AbandonedRoot) != sha256.Size || len(out.RestoredRoot) != sha256.Size || out.TimeMs != 0 {
		return nil, fmt.Errorf("%w: a malformed recovery", ErrRequest)
	}
	return out, nil
}
