package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/pki"
)

// Limits of the granting side.
const (
	MaxPending       = 1000               // requests held at a time
	MaxSource        = 50                 // of them from one source: an IPv4 address, or an IPv6 /64
	PendingLife      = 7 * 24 * time.Hour // after a machine last asked
	DefaultRetry     = 10 * time.Second   // after which a machine asks again
	MaxTokens        = 10_000             // tokens that have not expired
	MaxTokenUses     = 100_000
	MaxTokenLife     = 90 * 24 * time.Hour
	DefaultTokenLife = time.Hour

	maxPattern  = 1024        // bytes of a pattern of names
	maxNetworks = 64          // of a token or rule
	maxLive     = 8           // unexpired certificates of one identity
	lastEvery   = time.Minute // between writes of Pending.Last
)

// Rule signs minions at once.
type Rule struct {
	Name     string         // pattern of names
	Networks []netip.Prefix // of the asking address; empty: any
}

// Config is what a Registrar needs.
type Config struct {
	Store    Store             // required
	RootCert *x509.Certificate // required
	Root     *pki.Authority    // nil where the root's key is not: operators and revocation wait
	Issuing  *pki.Authority    // required
	Overlord string            // this overlord's own name; empty: not held against those who ask
	LogID    string            // of this overlord's own store; empty: as above

	// Relay passes the request of an overlord on to the overlord above, where the
	// root's key is not here. Nil: such requests are refused as Unavailable.
	Relay func(ctx context.Context, req Request) (Decision, error)
	// RelayRevoke asks the host of the root's key, through the overlord above, to
	// revoke certificates of this overlord's machines: it signs the request, passes it
	// on, and gives the number of the list that names them. Nil: Unavailable.
	RelayRevoke func(ctx context.Context, req pki.RevokeRequest) (number uint64, err error)
	// RootHost names the overlord that holds the root's key, as far as is known;
	// nil: this one.
	RootHost func() string

	// Glob compiles a pattern of names; required.
	Glob func(pattern string) (match func(name string) bool, err error)
	// OnRevoked is called after certificates were revoked and that is durable:
	// with the signed list, the list, and whose sessions are to be looked at. It
	// must not block. Calls may come in another order than the numbers of their
	// lists. Nil: nobody listens.
	OnRevoked func(signed []byte, list *pki.RevocationList, ids []pki.Identity)

	// OnGranted is called after a certificate was granted and that is durable,
	// and again each time it is fetched. Of overlords only those are told that
	// asked here themselves. Nil: nobody listens.
	OnGranted func(id pki.Identity)

	Retry time.Duration    // zero: DefaultRetry
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: none
}

// Registrar grants certificates. Its methods may be called from any goroutine.
// Their errors are *call.Error, but for faults of the store.
type Registrar struct {
	cfg     Config
	denials *audit.Meter
	issuing atomic.Pointer[pki.Authority]
	storing chan struct{} // holds one for each Request that is with the store

	mu    sync.RWMutex
	rules []rule
}

type rule struct {
	Rule
	match func(string) bool
}

// New makes a registrar.
func New(cfg Config) (*Registrar, error) {
	switch {
	case cfg.Store == nil || cfg.RootCert == nil || cfg.Issuing == nil || cfg.Glob == nil:
		return nil, errors.New("make registrar: store, root, issuing CA and glob are required")
	case cfg.Root != nil && !cfg.Root.Cert.Equal(cfg.RootCert):
		return nil, errors.New("make registrar: the root's key belongs to another root")
	}
	if err := cfg.Issuing.Cert.CheckSignatureFrom(cfg.RootCert); err != nil {
		return nil, fmt.Errorf("make registrar: the issuing CA is not under the root: %w", err)
	}
	if cfg.Retry == 0 {
		cfg.Retry = DefaultRetry
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registrar{cfg: cfg, denials: audit.NewMeter(cfg.Now), storing: make(chan struct{}, maxStoring)}
	r.issuing.Store(cfg.Issuing)
	return r, nil
}

// SetIssuing takes a renewed issuing CA into use. Certificates of the one before
// stay valid.
func (r *Registrar) SetIssuing(a *pki.Authority) { r.issuing.Store(a) }

// SetAutosign replaces the rules; on an error, which is Invalid, they stay as
// they were.
func (r *Registrar) SetAutosign(rules []Rule) error {
	compiled := make([]rule, len(rules))
	for i, x := range rules {
		match, err := r.compile(x.Name, x.Networks)
		if err != nil {
			return fmt.Errorf("autosign rule %d: %w", i+1, err)
		}
		compiled[i] = rule{x, match}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = compiled
	return nil
}

func (r *Registrar) compile(pattern string, networks []netip.Prefix) (func(string) bool, error) {
	if pattern == "" || len(pattern) > maxPattern {
		return nil, call.Errorf(call.Invalid, "a pattern of %d bytes; give 1 to %d", len(pattern), maxPattern)
	}
	if len(networks) > maxNetworks {
		return nil, call.Errorf(call.Invalid, "%d networks are more than %d", len(networks), maxNetworks)
	}
	if !utf8.ValidString(pattern) {
		return nil, call.Errorf(call.Invalid, "pattern %q is not UTF-8", pattern)
	}
	match, err := r.cfg.Glob(pattern)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "pattern %q: %v", pattern, err)
	}
	return match, nil
}

// autosign gives the rule that covers a minion, if one does.
func (r *Registrar) autosign(id pki.Identity, source netip.Addr) (string, bool) {
	if id.Role != pki.Minion {
		return "", false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, x := range r.rules {
		if x.match(id.Name) && within(x.Networks, source) {
			return "autosign/" + x.Name, true
		}
	}
	return "", false
}

// within says whether an address is in one of the networks, or there are none.
func within(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr.Unmap()) {
			return true
		}
	}
	return len(networks) == 0
}

// authority gives who signs a role.
func (r *Registrar) authority(role pki.Role) (*pki.Authority, error) {
	if role == pki.Minion {
		return r.issuing.Load(), nil
	}
	if r.cfg.Root == nil {
		return nil, r.noRoot("only it can grant a certificate to an " + string(role))
	}
	return r.cfg.Root, nil
}

// noRoot says where to go with what only the root's key can do.
func (r *Registrar) noRoot(why string) error {
	if host := r.rootHost(); host != "" {
		return call.Errorf(call.Unavailable, "the root's key is on overlord/%s, and %s; do it there", host, why)
	}
	return call.Errorf(call.Unavailable, "the root's key is not on this overlord, and %s", why)
}

// rootHost is empty when it is not known.
func (r *Registrar) rootHost() string {
	if r.cfg.RootHost != nil {
		return r.cfg.RootHost()
	}
	return r.cfg.Overlord
}

// chain gives what is served for a leaf: leaf, issuing CA if any, root.
func (r *Registrar) chain(role pki.Role, leaf []byte) [][]byte {
	if role == pki.Minion {
		return [][]byte{leaf, r.issuing.Load().Cert.Raw, r.cfg.RootCert.Raw}
	}
	return [][]byte{leaf, r.cfg.RootCert.Raw}
}

// grant signs a leaf, keeps it and records it.
func (r *Registrar) grant(tx Tx, t pki.Template, by, actor, action string) (Cert, error) {
	a, err := r.authority(t.Identity.Role)
	if err != nil {
		return Cert{}, err
	}
	if t.Identity.Role != pki.Operator && t.DNS == nil {
		t.DNS = []string{t.Identity.Name}
	}
	leaf, err := a.Sign(t, r.cfg.Now())
	if err != nil {
		return Cert{}, err
	}
	c := certRow(t.Identity, leaf, by)
	if err := tx.PutCert(c); err != nil {
		return Cert{}, err
	}
	sum := sha256.Sum256(leaf.Raw)
	return c, r.record(tx, actor, action, t.Identity, sum[:],
		fmt.Sprintf("serial %s, key %s, until %s, by %s", c.Serial, c.Fingerprint, c.NotAfter.UTC().Format(time.RFC3339), by))
}

func certRow(id pki.Identity, leaf *x509.Certificate, by string) Cert {
	return Cert{
		Identity: id, Serial: leaf.SerialNumber.Text(16), Fingerprint: pki.FingerprintOf(leaf), DER: leaf.Raw,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, GrantedBy: by,
	}
}

// record appends to the audit log. Subjects of minions are their bare name.
func (r *Registrar) record(tx Tx, actor, action string, id pki.Identity, digest []byte, detail string) error {
	return tx.Audit(&auditpb.Record{
		TimeMs: r.cfg.Now().UnixMilli(), Actor: actor, Action: action, Subject: subject(id), Digest: digest, Detail: detail,
	})
}

// subject is how the audit log names an identity: a machine by its name alone.
func subject(id pki.Identity) string {
	if id.Role == pki.Minion {
		return id.Name
	}
	return id.String()
}

// Issue signs a leaf for the overlord's own use: its server certificate, its
// local operator. It gives the chain to serve.
func (r *Registrar) Issue(ctx context.Context, actor string, t pki.Template) (chain [][]byte, err error) {
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		c, err := r.grant(tx, t, actor, actor, "enrolled")
		chain = r.chain(t.Identity.Role, c.DER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s: %w", t.Identity, err)
	}
	return chain, nil
}

// Revocations gives the newest signed list; empty: nothing was revoked yet.
func (r *Registrar) Revocations(ctx context.Context) (signed []byte, err error) {
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		signed, err = tx.Revocations()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read revocation list: %w", err)
	}
	return signed, nil
}

// from names where a request came from, in records.
func from(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return a.String()
}

// tell says that an identity has a certificate.
func (r *Registrar) tell(id pki.Identity) {
	if r.cfg.OnGranted != nil {
		r.cfg.OnGranted(id)
	}
}
