package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/confd"
	"dominion/pki"
)

// SnapshotPrefix keeps the signature of a header from being taken for another.
const SnapshotPrefix = "dominion-cluster-v1"

// Limits of a snapshot.
const (
	MaxPacked     = 16 << 20          // bytes of a compressed document
	MaxSigned     = 160 << 10         // bytes of a signed header: in base64 it fits into one answer
	MaxCandidates = 512               // names in a header
	MaxKey        = 4 << 10           // bytes of an HMAC key
	MaxSerial     = math.MaxInt64 / 4 // a serial number; Ganeti's have 64 bits, signed
	maxCluster    = 64                // bytes of a cluster's id
	maxChain      = 2                 // leaf, root
	maxSignature  = 72                // bytes, ECDSA on P-256 in ASN.1
)

// ErrSnapshot is wrapped by every error about a header that does not hold, and
// about data that are not those of their header.
var ErrSnapshot = errors.New("bad cluster snapshot")

// Header says which version of the cluster data a snapshot is. It is what an
// overlord signs; the data and the key follow from it by their digests.
type Header struct {
	Cluster    string            // the cluster's uuid; letters, digits, ".", "_" and "-", at most 64
	Serial     uint64            // of the document, from 1 to MaxSerial
	Made       time.Time         // whole milliseconds; by the overlord's clock
	Digest     [sha256.Size]byte // of the compressed document
	Packed     int64             // bytes of the compressed document, at most MaxPacked
	Size       int64             // bytes of the document, at most confd.MaxConfig
	KeyDigest  [sha256.Size]byte // of the HMAC key, see KeyDigest
	Candidates []string          // who serves it: names of machines, sorted, at most MaxCandidates
}

// KeyDigest is how a header names an HMAC key: SHA-256. It gives nothing away
// about a key that was drawn at random.
func KeyDigest(key []byte) [sha256.Size]byte { return sha256.Sum256(key) }

// Candidate says whether a machine serves this version.
func (h *Header) Candidate(name string) bool {
	_, ok := slices.BinarySearch(h.Candidates, name)
	return ok
}

// Same says whether two headers are of the same version: equal but for the time
// at which they were made.
func (h *Header) Same(other *Header) bool {
	return h.Cluster == other.Cluster && h.Serial == other.Serial && h.Digest == other.Digest && h.Packed == other.Packed &&
		h.Size == other.Size && h.KeyDigest == other.KeyDigest && slices.Equal(h.Candidates, other.Candidates)
}

// Signed is a header whose signature holds.
type Signed struct {
	Header
	Signer string            // name of the overlord
	Leaf   *x509.Certificate // the signer's; shared, not to be changed
}

func (h *Header) check() error {
	switch {
	case h.Cluster == "" || len(h.Cluster) > maxCluster || strings.Trim(h.Cluster, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "":
		return fmt.Errorf("cluster %.80q", h.Cluster)
	case h.Serial == 0 || h.Serial > MaxSerial:
		return fmt.Errorf("serial %d is not from 1 to %d", h.Serial, uint64(MaxSerial))
	case h.Made.UnixMilli() <= 0:
		return errors.New("it does not say when it was made")
	case h.Packed <= 0 || h.Packed > MaxPacked:
		return fmt.Errorf("%d bytes compressed are not from 1 to %d", h.Packed, MaxPacked)
	case h.Size <= 0 || h.Size > confd.MaxConfig:
		return fmt.Errorf("%d bytes are not from 1 to %d", h.Size, confd.MaxConfig)
	case len(h.Candidates) > MaxCandidates:
		return fmt.Errorf("%d candidates are more than %d", len(h.Candidates), MaxCandidates)
	}
	for i, n := range h.Candidates {
		if name, err := call.ParseName(n); err != nil {
			return fmt.Errorf("candidate %d: %w", i, err)
		} else if name != n {
			return fmt.Errorf("candidate %q is not in lower case", n)
		}
		if i > 0 && h.Candidates[i-1] >= n {
			return fmt.Errorf("candidate %q is out of order", n)
		}
	}
	return nil
}

func (h *Header) marshal() ([]byte, error) {
	return canonical.Marshal(&fleetpb.ClusterHeader{
		Cluster: h.Cluster, Serial: h.Serial, MadeMs: h.Made.UnixMilli(), Digest: h.Digest[:], Packed: h.Packed, Size: h.Size,
		KeyDigest: h.KeyDigest[:], Candidates: h.Candidates,
	})
}

func parseHeader(b []byte) (Header, error) {
	var p fleetpb.ClusterHeader
	if err := canonical.Unmarshal(b, &p); err != nil {
		return Header{}, err
	}
	if len(p.Digest) != sha256.Size || len(p.KeyDigest) != sha256.Size {
		return Header{}, fmt.Errorf("digests of %d and %d bytes", len(p.Digest), len(p.KeyDigest))
	}
	h := Header{
		Cluster: p.Cluster, Serial: p.Serial, Made: time.UnixMilli(p.MadeMs), Digest: [sha256.Size]byte(p.Digest), Packed: p.Packed,
		Size: p.Size, KeyDigest: [sha256.Size]byte(p.KeyDigest), Candidates: p.Candidates,
	}
	return h, h.check()
}

// Sign signs a header with the key of an overlord, whose certificate goes along:
// the root signed it itself, so who holds the root needs no other. It gives an
// encoded fleetpb.ClusterSigned. Candidates are sorted first, and need not be
// unique. Whether the certificate is an overlord's is for Verify to say.
func Sign(h Header, key crypto.Signer, leaf *x509.Certificate) ([]byte, error) {
	h.Candidates = slices.Compact(slices.Sorted(slices.Values(h.Candidates)))
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("sign cluster snapshot: %w: %w", ErrSnapshot, err)
	}
	body, err := h.marshal()
	if err != nil {
		return nil, fmt.Errorf("sign cluster snapshot: %w", err)
	}
	sum := headerSum(body)
	p := &fleetpb.ClusterSigned{Header: body, Cert: leaf.Raw}
	if p.Signature, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign cluster snapshot: %w", err)
	}
	b, err := canonical.Marshal(p)
	if err == nil && len(b) > MaxSigned {
		err = fmt.Errorf("%w: %d bytes are more than %d", ErrSnapshot, len(b), MaxSigned)
	}
	if err != nil {
		return nil, fmt.Errorf("sign cluster snapshot: %w", err)
	}
	return b, nil
}

// Verify checks what Sign wrote: an overlord of the fleet, with a certificate that
// the root itself signed and that is valid at now, signed it. With the zero time
// dates are not looked at, for what was judged when it came. Revocation, and
// whether this overlord may, is the caller's to check. Errors wrap ErrSnapshot.
func Verify(t *pki.Trust, signed []byte, now time.Time) (*Signed, error) {
	if len(signed) > MaxSigned {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrSnapshot, len(signed), MaxSigned)
	}
	var p fleetpb.ClusterSigned
	if err := canonical.Unmarshal(signed, &p); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSnapshot, err)
	}
	v, err := t.VerifyRaw([][]byte{p.Cert}, now)
	if err != nil {
		return nil, fmt.Errorf("%w: the signer: %w", ErrSnapshot, err)
	}
	if v.Identity.Role != pki.Overlord {
		return nil, fmt.Errorf("%w: it is signed by %s, which is no overlord", ErrSnapshot, v.Identity)
	}
	pub, ok := v.Leaf.PublicKey.(*ecdsa.PublicKey)
	sum := headerSum(p.Header)
	if !ok || len(p.Signature) > maxSignature || !ecdsa.VerifyASN1(pub, sum[:], p.Signature) {
		return nil, fmt.Errorf("%w: the signature is not that of %s", ErrSnapshot, v.Identity)
	}
	h, err := parseHeader(p.Header)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return &Signed{Header: h, Signer: v.Identity.Name, Leaf: v.Leaf}, nil
}

func headerSum(body []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(SnapshotPrefix))
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}
