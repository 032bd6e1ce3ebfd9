package pki

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
)

// Limits of a revocation list. A full one fits, in base64, into the arguments
// of one call, which are at most 512 KiB.
const (
	MaxRevocations = 380 << 10 // bytes of a signed list
	MaxReason      = 256       // bytes of the reason of one entry
	maxSerial      = 20        // bytes (RFC 5280, section 4.1.2.2)

	// RevokedKept is how long an entry is kept after the end of its certificate:
	// whose clock is late takes the certificate for valid until then.
	RevokedKept = day
)

// Replaced is the reason given for an entry that has none: another certificate
// took its place.
const Replaced = "replaced"

var (
	// ErrRevocations is wrapped by every error about a malformed revocation list.
	ErrRevocations = errors.New("bad revocation list")
	// ErrOlder is wrapped when a list is older than the one at hand.
	ErrOlder = errors.New("an older revocation list")
	// ErrFull is wrapped when a list would be larger than MaxRevocations.
	ErrFull = errors.New("the revocation list is full")
)

// Revoked is one entry of a revocation list.
type Revoked struct {
	Serial   []byte            // big endian, at most 20 bytes
	Identity string            // "minion/web1"; empty in the short form
	Key      [sha256.Size]byte // of the SubjectPublicKeyInfo: refuses every certificate of that key; zero: only the serial counts
	NotAfter time.Time         // the entry is dropped RevokedKept after it
	Reason   string            // at most 256 bytes; empty means Replaced
}

// Revoke gives the entry that refuses a certificate and every other of its key.
func Revoke(cert *x509.Certificate, reason string) Revoked {
	r := RevokeSerial(cert)
	r.Key = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	r.Reason = cut(reason, MaxReason)
	if id, err := IdentityOf(cert); err == nil {
		r.Identity = id.String()
	}
	return r
}

// RevokeSerial gives the short entry, of some 30 bytes, that refuses one
// certificate because another took its place.
func RevokeSerial(cert *x509.Certificate) Revoked {
	return Revoked{Serial: cert.SerialNumber.Bytes(), NotAfter: cert.NotAfter}
}

// RevocationList says which certificates count no more. It is not changed
// after it is made, so it may be shared. A nil list is empty.
type RevocationList struct {
	number  uint64
	issued  time.Time
	entries []Revoked // sorted by serial
	serials map[string]int
	keys    map[[sha256.Size]byte]int
}

// NewRevocations gives the empty list, number zero.
func NewRevocations() *RevocationList { return &RevocationList{} }

// Number grows by one with each change; zero is the list that was never changed.
func (l *RevocationList) Number() uint64 {
	if l == nil {
		return 0
	}
	return l.number
}

// Issued is when the list was made.
func (l *RevocationList) Issued() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.issued
}

// Entries gives all entries, sorted by serial; the caller must not change them.
func (l *RevocationList) Entries() []Revoked {
	if l == nil {
		return nil
	}
	return l.entries
}

// Add gives the next list: entries added, a serial that was there replaced,
// the expired dropped, the number one higher.
func (l *RevocationList) Add(now time.Time, entries ...Revoked) *RevocationList {
	all := slices.Concat(entries, l.Entries())
	slices.SortStableFunc(all, func(a, b Revoked) int { return bytes.Compare(a.Serial, b.Serial) })
	all = slices.CompactFunc(all, func(a, b Revoked) bool { return bytes.Equal(a.Serial, b.Serial) })
	all = slices.DeleteFunc(all, func(r Revoked) bool { return r.over(now) })
	next := &RevocationList{number: l.Number() + 1, issued: now, entries: all}
	next.index()
	return next
}

// Prune is Add with nothing to add; it gives l itself when nothing has expired.
func (l *RevocationList) Prune(now time.Time) *RevocationList {
	if !slices.ContainsFunc(l.Entries(), func(r Revoked) bool { return r.over(now) }) {
		return l
	}
	return l.Add(now)
}

// over says that nobody takes the certificate for valid any more.
func (r *Revoked) over(now time.Time) bool { return r.NotAfter.Add(RevokedKept).Before(now) }

func (l *RevocationList) index() {
	l.serials = make(map[string]int, len(l.entries))
	l.keys = make(map[[sha256.Size]byte]int)
	for i, r := range l.entries {
		l.serials[string(r.Serial)] = i
		if r.Key != [sha256.Size]byte{} {
			l.keys[r.Key] = i
		}
	}
}

// Revoked says whether one of the certificates is on the list, and why. Give
// it the issuing CA too: a revoked one takes its minions along.
func (l *RevocationList) Revoked(certs ...*x509.Certificate) (reason string, revoked bool) {
	if l == nil || len(l.entries) == 0 {
		return "", false
	}
	for _, cert := range certs {
		i, ok := l.serials[string(cert.SerialNumber.Bytes())]
		if !ok && len(l.keys) > 0 {
			i, ok = l.keys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]
		}
		if ok {
			return cmp.Or(l.entries[i].Reason, Replaced), true
		}
	}
	return "", false
}

// Accept reads a newer list in place of l. It gives l itself for a list of the
// same number, and an error that wraps ErrOlder for an older one.
func (l *RevocationList) Accept(root *x509.Certificate, signed []byte) (*RevocationList, error) {
	got, err := ParseRevocations(root, signed)
	if err != nil {
		return nil, err
	}
	switch {
	case got.number < l.Number():
		return nil, fmt.Errorf("%w: number %d came, and %d is at hand", ErrOlder, got.number, l.Number())
	case got.number == l.Number():
		return l, nil
	}
	return got, nil
}

// SignRevocations signs a list for minions and clients. The error wraps ErrFull
// when it is too large.
func SignRevocations(root *Authority, l *RevocationList) ([]byte, error) {
	body, err := l.marshal()
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	signed, err := SignStatement(root, RevokedPrefix, body)
	if err != nil {
		return nil, err
	}
	if len(signed) > MaxRevocations {
		return nil, fmt.Errorf("sign revocation list: %w: its %d entries are %d bytes, more than %d", ErrFull, len(l.Entries()), len(signed), MaxRevocations)
	}
	return signed, nil
}

func (l *RevocationList) marshal() ([]byte, error) {
	p := &fleetpb.RevocationList{Number: l.Number(), Entries: make([]*fleetpb.Revoked, len(l.Entries()))}
	if !l.Issued().IsZero() {
		p.IssuedAtMs = l.Issued().UnixMilli()
	}
	for i, r := range l.Entries() {
		p.Entries[i] = &fleetpb.Revoked{Serial: r.Serial, Identity: r.Identity, NotAfterMs: r.NotAfter.UnixMilli(), Reason: r.Reason}
		if r.Key != [sha256.Size]byte{} {
			p.Entries[i].KeySha256 = r.Key[:]
		}
	}
	return canonical.Marshal(p)
}

// ParseRevocations checks and reads what SignRevocations wrote. Every error
// wraps ErrRevocations.
func ParseRevocations(root *x509.Certificate, signed []byte) (*RevocationList, error) {
	if len(signed) > MaxRevocations {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrRevocations, len(signed), MaxRevocations)
	}
	body, err := OpenStatement(root, RevokedPrefix, signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	l, err := parseList(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	return l, nil
}

func parseList(body []byte) (*RevocationList, error) {
	var p fleetpb.RevocationList
	if err := canonical.Unmarshal(body, &p); err != nil {
		return nil, err
	}
	if p.IssuedAtMs < 0 {
		return nil, fmt.Errorf("issued at %d ms", p.IssuedAtMs)
	}
	l := &RevocationList{number: p.Number, entries: make([]Revoked, len(p.Entries))}
	if p.IssuedAtMs != 0 {
		l.issued = time.UnixMilli(p.IssuedAtMs)
	}
	for i, e := range p.Entries {
		r := Revoked{Serial: e.Serial, Identity: e.Identity, NotAfter: time.UnixMilli(e.NotAfterMs), Reason: e.Reason}
		if n := len(r.Serial); n == 0 || n > maxSerial || r.Serial[0] == 0 {
			return nil, fmt.Errorf("entry %d: serial %.50x", i, r.Serial)
		}
		if i > 0 && bytes.Compare(l.entries[i-1].Serial, r.Serial) >= 0 {
			return nil, fmt.Errorf("entry %d is out of order", i)
		}
		if r.Identity != "" {
			if _, err := ParseIdentity(r.Identity); err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
		}
		if len(r.Reason) > MaxReason {
			return nil, fmt.Errorf("entry %d: a reason of %d bytes", i, len(r.Reason))
		}
		switch len(e.KeySha256) {
		case 0:
		case sha256.Size:
			copy(r.Key[:], e.KeySha256)
			if r.Key == [sha256.Size]byte{} {
				return nil, fmt.Errorf("entry %d: a key of zeros", i)
			}
		default:
			return nil, fmt.Errorf("entry %d: a key digest of %d bytes", i, len(e.KeySha256))
		}
		l.entries[i] = r
	}
	l.index()
	return l, nil
}

// cut shortens s to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
