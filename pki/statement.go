package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
)

// The prefixes that keep one kind of statement from being taken for another.
const (
	RevokedPrefix  = "dominion-revoked-v1"
	LogKeyPrefix   = "dominion-logkey-v1"
	RecoveryPrefix = "dominion-recovery-v1"
)

// MaxStatement is the size of the largest signed statement in bytes.
const MaxStatement = 1 << 20

// maxSignature is the longest ASN.1 signature of ECDSA on P-256 in bytes.
const maxSignature = 72

// ErrStatement is wrapped by every error about a statement that does not hold.
var ErrStatement = errors.New("bad signed statement")

// SignStatement signs body with the root's key under a prefix, and gives an
// encoded fleetpb.Signed. Only a root may; the error wraps ErrRole.
func SignStatement(root *Authority, prefix string, body []byte) ([]byte, error) {
	if err := checkRoot(root.Cert); err != nil {
		return nil, fmt.Errorf("sign %s: %w: %v", prefix, ErrRole, err)
	}
	sum := statementSum(prefix, body)
	sig, err := root.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", prefix, err)
	}
	signed, err := canonical.Marshal(&fleetpb.Signed{Body: body, Signature: sig})
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", prefix, err)
	}
	if len(signed) > MaxStatement {
		return nil, fmt.Errorf("sign %s: %d bytes are more than %d", prefix, len(signed), MaxStatement)
	}
	return signed, nil
}

// OpenStatement checks what SignStatement wrote, and gives the body, which the
// caller must still decode. Every error wraps ErrStatement.
func OpenStatement(root *x509.Certificate, prefix string, signed []byte) ([]byte, error) {
	if len(signed) > MaxStatement {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrStatement, len(signed), MaxStatement)
	}
	var s fleetpb.Signed
	if err := canonical.Unmarshal(signed, &s); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrStatement, err)
	}
	pub, ok := root.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: the root's key is not ECDSA", ErrStatement)
	}
	sum := statementSum(prefix, s.Body)
	if len(s.Signature) > maxSignature || !ecdsa.VerifyASN1(pub, sum[:], s.Signature) {
		return nil, fmt.Errorf("%w: the signature under %s is not the root's", ErrStatement, prefix)
	}
	return s.Body, nil
}

func statementSum(prefix string, body []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}

// LogKey certifies the key that signs an audit log's checkpoints.
type LogKey struct {
	LogID     string            // of the store; at most 64 bytes
	Overlord  string            // whose key it is
	PublicKey ed25519.PublicKey // 32 bytes
	NotAfter  time.Time         // whole milliseconds
}

const maxLogID = 64

func (k LogKey) check() error {
	if k.LogID == "" || len(k.LogID) > maxLogID {
		return fmt.Errorf("log id %.80q", k.LogID)
	}
	if err := (Identity{Overlord, k.Overlord}).Check(); err != nil {
		return err
	}
	if len(k.PublicKey) != ed25519.PublicKeySize {
		return fmt.Errorf("a log key of %d bytes", len(k.PublicKey))
	}
	return nil
}

// SignLogKey lets the root certify a log key.
func SignLogKey(root *Authority, k LogKey) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("certify log key: %w", err)
	}
	body, err := canonical.Marshal(&fleetpb.LogKey{
		LogId: k.LogID, Overlord: k.Overlord, PublicKey: k.PublicKey, NotAfterMs: k.NotAfter.UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("certify log key: %w", err)
	}
	return SignStatement(root, LogKeyPrefix, body)
}

// OpenLogKey checks what SignLogKey wrote. Whether NotAfter has passed is the
// caller's to judge. Every error wraps ErrStatement.
func OpenLogKey(root *x509.Certificate, signed []byte) (LogKey, error) {
	body, err := OpenStatement(root, LogKeyPrefix, signed)
	if err != nil {
		return LogKey{}, err
	}
	var p fleetpb.LogKey
	if err := canonical.Unmarshal(body, &p); err != nil {
		return LogKey{}, fmt.Errorf("%w: %v", ErrStatement, err)
	}
	k := LogKey{LogID: p.LogId, Overlord: p.Overlord, PublicKey: p.PublicKey, NotAfter: time.UnixMilli(p.NotAfterMs)}
	if err := k.check(); err != nil {
		return LogKey{}, fmt.Errorf("%w: %v", ErrStatement, err)
	}
	return k, nil
}

// SignRecovery lets the root explain an audit log that was restored.
func SignRecovery(root *Authority, r *fleetpb.Recovery) ([]byte, error) {
	body, err := canonical.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("sign recovery: %w", err)
	}
	return SignStatement(root, RecoveryPrefix, body)
}

// OpenRecovery reads what SignRecovery wrote. Every error wraps ErrStatement.
func OpenRecovery(root *x509.Certificate, signed []byte) (*fleetpb.Recovery, error) {
	body, err := OpenStatement(root, RecoveryPrefix, signed)
	if err != nil {
		return nil, err
	}
	r := new(fleetpb.Recovery)
	if err := canonical.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("%w: recovery: %v", ErrStatement, err)
	}
	return r, nil
}
