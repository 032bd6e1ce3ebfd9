package provisiond

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// digest is a SHA-256.
type digest [sha256.Size]byte

// errDigest is wrapped by every error about a digest header.
var errDigest = errors.New("no usable digest")

// String gives "sha-256=BASE64".
func (d digest) String() string { return "sha-256=" + base64.StdEncoding.EncodeToString(d[:]) }

// parseDigest reads the header Digest: a list of ALGORITHM=BASE64, of which
// sha-256 counts and must be there once (RFC 3230 section 4.3.2, RFC 5843).
func parseDigest(s string) (digest, error) {
	var d digest
	found := false
	if len(s) > 4096 {
		return d, fmt.Errorf("%w: a header of %d bytes", errDigest, len(s))
	}
	for part := range strings.SplitSeq(s, ",") {
		name, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		if !strings.EqualFold(name, "sha-256") {
			continue
		}
		b, err := base64.StdEncoding.Strict().DecodeString(v)
		if err != nil || len(b) != len(d) || found {
			return digest{}, fmt.Errorf("%w: %.100q", errDigest, s)
		}
		found = true
		copy(d[:], b)
	}
	if !found {
		return d, fmt.Errorf("%w: no sha-256 in %.100q", errDigest, s)
	}
	return d, nil
}
