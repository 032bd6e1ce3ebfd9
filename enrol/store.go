package enrol

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"time"

	"dominion/api/auditpb"
	"dominion/pki"
)

// Cert is a certificate that was granted.
type Cert struct {
	Identity    pki.Identity
	Serial      string // hex, lower case; the key of the row
	Fingerprint string // of its key, pki.Fingerprint
	DER         []byte // the leaf
	NotBefore   time.Time
	NotAfter    time.Time
	GrantedBy   string    // "token/1f0c22ab", "autosign/web*", "operator/alice", "renewal"
	Revoked     time.Time // zero: never
	Reason      string    // of the revocation
}

// Live says whether the certificate counts at now.
func (c *Cert) Live(now time.Time) bool { return c.Revoked.IsZero() && now.Before(c.NotAfter) }

// Token is a join token as it is kept: without its secret.
type Token struct {
	ID        string            // the first 8 hex digits of Hash
	Hash      [sha256.Size]byte // SHA-256 of the token's text
	Name      string            // pattern of the names it enrols
	Role      pki.Role
	Uses      uint64 // at least 1
	Used      uint64
	Created   time.Time
	CreatedBy string // "operator/alice"
	Expires   time.Time
	Replace   bool           // revokes the certificates that the name has under other keys
	Networks  []netip.Prefix // of the asking address; empty: any
}

// Pending is a request that waits for an operator, or was rejected by one. A
// name may be asked for by several keys: identity and fingerprint are the key
// of the row.
type Pending struct {
	Identity    pki.Identity
	Fingerprint string
	CSR         []byte     // DER
	Source      netip.Addr // invalid: not known
	First, Last time.Time  // of asking; Last is exact to a minute
	Conflict    string     // why it needs care; empty: nothing
	Rejected    bool
}

// Store keeps what a Registrar decides.
type Store interface {
	// Update runs fn in one transaction: all of its changes are durable when it
	// returns nil, and none is made when fn returns an error, which it gives back.
	// fn is called at most once.
	Update(ctx context.Context, fn func(tx Tx) error) error
}

// Tx is one transaction of a Store.
type Tx interface {
	CertTx
	TokenTx
	PendingTx
	RecordTx
	OverlordTx
}

// OverlordTx keeps what concerns other overlords.
type OverlordTx interface {
	// LogOwner gives the overlord that an audit log's id was certified for; empty:
	// none yet.
	LogOwner(logID string) (overlord string, err error)
	SetLogOwner(logID, overlord string) error
	// Bound gives what an overlord's key, by its fingerprint, was granted first; not
	// ok: nothing yet.
	Bound(fingerprint string) (b Bound, ok bool, err error)
	PutBound(fingerprint string, b Bound) error
	// Recovered gives the newest statement that the root has signed about a restored
	// audit log; nil: none yet.
	Recovered(logID string) (statement []byte, err error)
	PutRecovered(logID string, statement []byte) error
	// PutSub notes an overlord that asked here itself, and so is a machine of this
	// one. One that is noted already is no error.
	PutSub(name string) error
}

// Bound is what the key of an overlord holds to from its first certificate on: only
// the word that let it in covers more.
type Bound struct {
	LogID string   `json:"log"`
	Via   []string `json:"via"` // who passed its request on, the nearest to it first: where in the fleet it is
}

// CertTx keeps certificates.
type CertTx interface {
	// Certs gives all certificates of an identity, the newest (NotBefore) first. It
	// may leave out those that expired 90 days ago and more.
	Certs(id pki.Identity) ([]Cert, error)
	// PutCert adds a certificate, or replaces the one of that serial.
	PutCert(c Cert) error
}

// TokenTx keeps join tokens.
type TokenTx interface {
	Token(id string) (t Token, ok bool, err error)
	Tokens() ([]Token, error)
	// PutToken adds a token, or replaces the one of that id.
	PutToken(t Token) error
	// DeleteToken removes a token; one that is not there is no error.
	DeleteToken(id string) error
}

// PendingTx keeps requests that wait.
type PendingTx interface {
	Pending(id pki.Identity, fingerprint string) (p Pending, ok bool, err error)
	// PendingAll gives all of them, at most MaxPending, in any order.
	PendingAll() ([]Pending, error)
	// PutPending adds a request, or replaces the one of that identity and fingerprint.
	PutPending(p Pending) error
	// DeletePending removes a request; one that is not there is no error.
	DeletePending(id pki.Identity, fingerprint string) error
}

// RecordTx keeps the audit log and the revocation list.
type RecordTx interface {
	Audit(r *auditpb.Record) error
	// Revocations gives the newest signed list; empty: there was none yet.
	Revocations() ([]byte, error)
	PutRevocations(number uint64, signed []byte) error
}
