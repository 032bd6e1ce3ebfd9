package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"dominion/call"
)

// Role says what a certificate may do.
type Role string

// The roles.
const (
	Minion   Role = "minion"   // answers calls
	Operator Role = "operator" // signs orders
	Overlord Role = "overlord" // holds sessions with minions
)

const scheme = "dominion"

// ErrIdentity is wrapped by every error about a malformed identity.
var ErrIdentity = errors.New("not an identity")

// Valid says whether r is one of the roles.
func (r Role) Valid() bool { return r == Minion || r == Operator || r == Overlord }

// Identity is who a certificate belongs to.
type Identity struct {
	Role Role
	Name string // valid by call.ParseName, lower case
}

// String gives "operator/alice".
func (id Identity) String() string { return string(id.Role) + "/" + id.Name }

// URI gives dominion://operator/alice, the only URI SAN of a leaf.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: string(id.Role), Path: "/" + id.Name}
}

// Check refuses an unknown role, and a name that call.ParseName refuses or
// would change. The error wraps ErrIdentity.
func (id Identity) Check() error {
	if !id.Role.Valid() {
		return fmt.Errorf("%w: %.40q is not a role", ErrIdentity, string(id.Role))
	}
	name, err := call.ParseName(id.Name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if name != id.Name {
		return fmt.Errorf("%w: %q is not in lower case", ErrIdentity, id.Name)
	}
	return nil
}

// ParseIdentity reads what String wrote. The error wraps ErrIdentity.
func ParseIdentity(s string) (Identity, error) {
	role, name, ok := strings.Cut(s, "/")
	if !ok {
		return Identity{}, fmt.Errorf("%w: %.300q; write it as role/name", ErrIdentity, s)
	}
	id := Identity{Role: Role(role), Name: name}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// IdentityOf gives the identity a leaf was issued to: its only URI SAN. It
// checks neither signatures nor dates. The error wraps ErrIdentity.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d URIs, not one", ErrIdentity, len(cert.URIs))
	}
	if cert.IsCA {
		return Identity{}, fmt.Errorf("%w: the certificate is an authority's", ErrIdentity)
	}
	return identityOfURI(cert.URIs[0])
}

// identityOfURI accepts exactly what Identity.URI writes.
func identityOfURI(u *url.URL) (Identity, error) {
	id := Identity{Role: Role(u.Host), Name: strings.TrimPrefix(u.Path, "/")}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	if got, want := u.String(), id.URI().String(); got != want {
		return Identity{}, fmt.Errorf("%w: %q is not %q", ErrIdentity, got, want)
	}
	return id, nil
}
