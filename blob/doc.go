// Package blob keeps files by their SHA-256, for as long as there is room: what an
// overlord was given to pass on, and what it got from the one above.
//
// A file comes from a source that can be asked again from any offset. It is fetched
// once, however many want it, and they read it while it grows. It counts as whole
// when its bytes have the digest that it is called by: until then its last byte is
// not given to anybody, and when they have another one it is removed, and who reads
// it is told. What was fetched before the source, or this process, went away is not
// fetched again.
//
// In the directory:
//
//	HEX       a whole file, by the SHA-256 of its bytes in hexadecimal
//	HEX.part  the beginning of one
//	HEX.up    what somebody sends, by a number of his choice until its digest is known
package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Digest is the SHA-256 of a file's bytes.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// ErrDigest is wrapped by the error of a text that is no digest.
var ErrDigest = errors.New("not a digest")

// ParseDigest reads "sha256:" and 64 hexadecimal digits in lower case. Errors wrap
// ErrDigest.
func ParseDigest(text string) (d Digest, err error) {
	digits, ok := strings.CutPrefix(text, digestPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(d)) || strings.ToLower(digits) != digits {
		return d, fmt.Errorf("%w: %.80q; one is sha256: and %d hexadecimal digits", ErrDigest, text, hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("%w: %.80q: %v", ErrDigest, text, err)
	}
	return d, nil
}

// String is what ParseDigest reads.
func (d Digest) String() string { return digestPrefix + d.hex() }

func (d Digest) hex() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}
