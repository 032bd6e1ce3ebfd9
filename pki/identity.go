// Package pki holds identities, certificates and what verifies them.
package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"dominion/call"
)

// Role is what a certificate's holder may be.
type Role string

// The roles.
const (
	Minion   Role = "minion"
	Operator Role = "operator"
	Overlord Role = "overlord"
)

// Identity is who holds a certificate.
type Identity struct {
	Role Role
	Name string
}

// String gives "operator/alice".
func (id Identity) String() string { return string(id.Role) + "/" + id.Name }

// URI gives dominion://operator/alice.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "dominion", Host: string(id.Role), Path: "/" + id.Name}
}

// IdentityOf reads the identity of a certificate: exactly one URI SAN with a valid role and name.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 {
		return Identity{}, fmt.Errorf("certificate has %d URIs, not one", len(c.URIs))
	}
	u := c.URIs[0]
	id := Identity{Role: Role(u.Host), Name: strings.TrimPrefix(u.Path, "/")}
	if id.Role != Minion && id.Role != Operator && id.Role != Overlord {
		return Identity{}, fmt.Errorf("certificate has the unknown role %q", u.Host)
	}
	name, err := call.ParseName(id.Name)
	if err != nil || name != id.Name || u.String() != id.URI().String() {
		return Identity{}, fmt.Errorf("certificate has the malformed identity %q", u)
	}
	return id, nil
}
