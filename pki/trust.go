package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrUntrusted is wrapped by every error about a chain that is not believed.
var ErrUntrusted = errors.New("certificate not trusted")

const (
	maxChain = 3   // leaf, issuing CA, root
	cacheGen = 512 // verified leaves in each of two generations
)

// Trust believes certificates under one root. Its methods may be called from
// any goroutine.
type Trust struct {
	pin string // of the root's key

	mu    sync.Mutex
	root  *x509.Certificate // nil until learnt
	young map[[sha256.Size]byte]verdict
	old   map[[sha256.Size]byte]verdict
}

// verdict is a verified chain and the time in which all of it is valid.
type verdict struct {
	Verified
	from, until time.Time
}

// Verified is what is known of a believed chain. Its certificates are shared
// and must not be changed.
type Verified struct {
	Identity Identity
	Leaf     *x509.Certificate
	Issuer   *x509.Certificate // the issuing CA of a minion; otherwise the root
	Root     *x509.Certificate
}

// NewTrust believes what stands under root.
func NewTrust(root *x509.Certificate) (*Trust, error) {
	if err := checkRoot(root); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrUntrusted, err)
	}
	return &Trust{pin: Pin(root), root: root}, nil
}

// TrustPin believes what stands under the root whose key has this pin. The
// root itself is learnt from the first chain that holds.
func TrustPin(pin string) (*Trust, error) {
	if err := CheckPin(pin); err != nil {
		return nil, err
	}
	return &Trust{pin: pin}, nil
}

// Root gives the root; nil while only its pin is known.
func (t *Trust) Root() *x509.Certificate {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.root
}

// Pin gives the pin of the root.
func (t *Trust) Pin() string { return t.pin }

// VerifyRaw is Verify for a chain in DER. A leaf that was verified lately costs
// one hash.
func (t *Trust) VerifyRaw(raw [][]byte, now time.Time) (Verified, error) {
	if len(raw) == 0 || len(raw) > maxChain {
		return Verified{}, fmt.Errorf("%w: a chain of %d certificates", ErrUntrusted, len(raw))
	}
	if v, ok := t.cached(raw[0]); ok {
		return v.at(now)
	}
	certs, err := ParseChain(raw)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %v", ErrUntrusted, err)
	}
	return t.verify(certs, now)
}

// Verify believes a chain (leaf first) when
//
//   - the leaf has exactly one URI SAN, which is an identity,
//   - an operator's or overlord's leaf is signed by the root itself,
//   - a minion's leaf is signed by an issuing CA, the second certificate, that
//     the root signed and constrained to minions,
//   - all of them are valid at now. With the zero time dates are ignored, and
//     nothing else is.
//
// The root may end the chain and needs to only while this Trust knows no more
// than its pin. Revocation is the caller's to check. Errors wrap ErrUntrusted.
func (t *Trust) Verify(certs []*x509.Certificate, now time.Time) (Verified, error) {
	if len(certs) == 0 || len(certs) > maxChain {
		return Verified{}, fmt.Errorf("%w: a chain of %d certificates", ErrUntrusted, len(certs))
	}
	if v, ok := t.cached(certs[0].Raw); ok {
		return v.at(now)
	}
	return t.verify(certs, now)
}

func (t *Trust) verify(certs []*x509.Certificate, now time.Time) (Verified, error) {
	root, certs, err := t.splitRoot(certs)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	v, err := verifyUnder(root, certs)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	t.keep(v)
	return v.at(now)
}

// splitRoot takes the root off the end of a chain.
func (t *Trust) splitRoot(certs []*x509.Certificate) (*x509.Certificate, []*x509.Certificate, error) {
	root := t.Root()
	last := certs[len(certs)-1]
	selfIssued := bytes.Equal(last.RawIssuer, last.RawSubject)
	if len(certs) > 1 && selfIssued && Pin(last) == t.pin {
		if root == nil {
			// The pin covers the key alone; the rest of the root is believed because it signed it.
			if err := checkRoot(last); err != nil {
				return nil, nil, err
			}
			root = last
		}
		certs = certs[:len(certs)-1]
	}
	if root == nil || len(certs) > 1 && selfIssued && Pin(last) != t.pin {
		return nil, nil, fmt.Errorf("the root of %s is not the one that is pinned (%s)", describe(certs[0]), t.pin)
	}
	return root, certs, nil
}

// verifyUnder checks a chain without its root, but for dates.
func verifyUnder(root *x509.Certificate, certs []*x509.Certificate) (verdict, error) {
	leaf := certs[0]
	id, err := IdentityOf(leaf)
	if err != nil {
		return verdict{}, err
	}
	if err := checkKey(leaf.PublicKey); err != nil {
		return verdict{}, fmt.Errorf("%s: %w", id, err)
	}
	v := verdict{Verified: Verified{Identity: id, Leaf: leaf, Issuer: root, Root: root}}
	chain := []*x509.Certificate{leaf, root}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	opts.Roots.AddCert(root)
	switch {
	case id.Role != Minion && len(certs) != 1:
		return verdict{}, fmt.Errorf("%s is not signed by the root itself", id)
	case id.Role == Minion && len(certs) != 2:
		return verdict{}, fmt.Errorf("%s comes without its issuing CA", id)
	case id.Role == Minion:
		if err := checkIssuing(certs[1]); err != nil {
			return verdict{}, fmt.Errorf("%s: %w", id, err)
		}
		v.Issuer = certs[1]
		chain = []*x509.Certificate{leaf, certs[1], root}
		opts.Intermediates = x509.NewCertPool()
		opts.Intermediates.AddCert(certs[1])
	}
	v.from, v.until = validity(chain)
	// The latest beginning in the chain lies within all of it: an authority signs
	// nothing that begins after its own end or ends after it.
	opts.CurrentTime = v.from
	found, err := leaf.Verify(opts)
	if err != nil {
		return verdict{}, fmt.Errorf("%s: %w", id, err)
	}
	for _, c := range found {
		if len(c) == len(chain) {
			return v, nil
		}
	}
	return verdict{}, fmt.Errorf("%s has a chain of another depth", id)
}

func validity(chain []*x509.Certificate) (from, until time.Time) {
	from, until = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		until = earlier(until, c.NotAfter)
	}
	return from, until
}

// at checks the dates, unless now is zero.
func (v verdict) at(now time.Time) (Verified, error) {
	switch {
	case now.IsZero():
	case now.Before(v.from):
		return Verified{}, fmt.Errorf("%w: %s is valid from %s and this clock shows %s", ErrUntrusted, v.Identity, stamp(v.from), stamp(now))
	case now.After(v.until):
		return Verified{}, fmt.Errorf("%w: %s expired at %s and this clock shows %s", ErrUntrusted, v.Identity, stamp(v.until), stamp(now))
	}
	return v.Verified, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (t *Trust) cached(leaf []byte) (verdict, bool) {
	key := sha256.Sum256(leaf)
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.young[key]; ok {
		return v, true
	}
	v, ok := t.old[key]
	if ok {
		t.put(key, v)
	}
	return v, ok
}

// keep remembers a verified chain, and the root if it was not known.
func (t *Trust) keep(v verdict) {
	key := sha256.Sum256(v.Leaf.Raw)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.root == nil {
		t.root = v.Root
	}
	t.put(key, v)
}

// put needs the lock. What was not asked for during a whole generation goes.
func (t *Trust) put(key [sha256.Size]byte, v verdict) {
	if len(t.young) >= cacheGen {
		t.young, t.old = nil, t.young
	}
	if t.young == nil {
		t.young = make(map[[sha256.Size]byte]verdict)
	}
	t.young[key] = v
}

// VerifyOverlord gives a tls.Config.VerifyConnection for clients: the server
// must be the overlord of this name, or any when name is empty, with a leaf
// that the root signed itself and that is valid now. Use it together with
// InsecureSkipVerify, which turns off the checks of host names only.
func (t *Trust) VerifyOverlord(name string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		_, err := t.verifyOverlord(cs, name, time.Now())
		return err
	}
}

func (t *Trust) verifyOverlord(cs tls.ConnectionState, name string, now time.Time) (Verified, error) {
	v, err := t.Verify(cs.PeerCertificates, now)
	if err != nil {
		return Verified{}, fmt.Errorf("the server is no overlord of this fleet: %w", err)
	}
	if v.Identity.Role != Overlord {
		return Verified{}, fmt.Errorf("%w: the server shows the certificate of %s, which is no overlord", ErrUntrusted, v.Identity)
	}
	if name != "" && v.Identity.Name != name {
		return Verified{}, fmt.Errorf("%w: the server is overlord %q, not %q", ErrUntrusted, v.Identity.Name, name)
	}
	return v, nil
}

// describe names a certificate that is not believed, for an error.
func describe(cert *x509.Certificate) string {
	if id, err := IdentityOf(cert); err == nil {
		return id.String()
	}
	return fmt.Sprintf("%.80q", cert.Subject.CommonName)
}
