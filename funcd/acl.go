package funcd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"dominion/pki"
)

// Limits of access lists.
const (
	MaxACL   = 1 << 20 // bytes of one file
	maxLines = 10_000  // entries of one file
)

// ErrACL is wrapped by every error about a line of an access list.
var ErrACL = errors.New("bad line in an access list")

// Entry is one line of an access list: who may call what.
type Entry struct {
	Identity string   // a pattern, in lower case
	Methods  []string // patterns of names on the wire, without async.
}

// String gives the line again.
func (e Entry) String() string { return e.Identity + " = " + strings.Join(e.Methods, ", ") }

// ParseACL reads an access list in Func's format: lines IDENTITY = METHOD[, METHOD…],
// methods apart by commas or blanks; lines that begin with # and blank ones are
// skipped. A line that cannot be read grants nothing, and the others count: they
// are given beside the error, which joins one for each such line, all of which wrap
// ErrACL.
func ParseACL(text []byte) ([]Entry, error) {
	if len(text) > MaxACL {
		return nil, fmt.Errorf("%w: the file has %d bytes, more than %d", ErrACL, len(text), MaxACL)
	}
	var entries []Entry
	var problems []error
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line[0] == '#' || strings.TrimSpace(line) == "" {
			continue
		}
		e, why := parseEntry(line)
		if why == "" && len(entries) == maxLines {
			why = fmt.Sprintf("there are more than %d", maxLines)
		}
		if why != "" {
			if problems = append(problems, fmt.Errorf("%w: line %d: %s", ErrACL, n, why)); len(problems) > 20 {
				break // whoever mends twenty lines looks again
			}
			continue
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(problems...)
}

func parseEntry(line string) (e Entry, why string) {
	who, what, ok := strings.Cut(line, "=")
	if !ok || strings.Contains(what, "=") {
		return e, "it is not IDENTITY = METHOD, METHOD, with one equals sign"
	}
	for _, c := range []byte(strings.TrimSpace(line)) {
		if (c < ' ' && c != '\t') || c > '~' {
			return e, "it has characters that are not plain ASCII"
		}
	}
	e.Identity = strings.ToLower(strings.TrimSpace(who))
	if e.Identity == "" || strings.ContainsAny(e.Identity, " \t,") {
		return e, fmt.Sprintf("%.60q is no identity", who)
	}
	e.Methods = strings.FieldsFunc(what, func(r rune) bool { return r == ',' || r == ' ' || r >= '\t' && r <= '\r' })
	if len(e.Methods) == 0 {
		return e, "it names no method"
	}
	return e, ""
}

// Peer is who is at the other end of a connection, from its certificate.
type Peer struct {
	Identity pki.Identity
	Address  string // where the connection came from; for records

	hash  string              // CN-HASH, in lower case; empty for an operator
	certs []*x509.Certificate // as they came over the connection; nil: it was verified elsewhere
}

// NewPeer takes the identity out of a verified certificate. A machine (a minion or
// an overlord) is also known as CN-HASH, as Func writes identities, if its CN is
// the name in its identity: CN and hash alone are whatever the CA that signed it
// wrote there. An operator is not: a CA of minions could give a machine the
// operator's name.
func NewPeer(v pki.Verified, address string) Peer {
	p := Peer{Identity: v.Identity, Address: address}
	if v.Identity.Role != pki.Operator {
		if h, err := CertHash(v.Leaf); err == nil && v.Leaf.Subject.CommonName == v.Identity.Name {
			p.hash = strings.ToLower(h)
		}
	}
	return p
}

// CertHash gives CN-HASH of a certificate, the hash in decimal.
func CertHash(cert *x509.Certificate) (string, error) {
	h, err := pki.NameHash(cert.RawSubject)
	if err != nil {
		return "", err
	}
	return cert.Subject.CommonName + "-" + strconv.FormatUint(uint64(h), 10), nil
}

// String gives the identity: "minion/web2".
func (p Peer) String() string { return p.Identity.String() }

// is says whether a pattern of an access list names the peer: * everybody, one
// with a slash ROLE/NAME, any other CN-HASH.
func (p Peer) is(pattern string) bool {
	switch {
	case pattern == "*":
		return true
	case strings.Contains(pattern, "/"):
		return match(pattern, p.Identity.String())
	}
	return p.hash != "" && match(pattern, p.hash)
}

// Rules are access lists that were read. They do not change.
type Rules struct{ entries []Entry }

// NewRules makes rules of entries.
func NewRules(entries ...Entry) *Rules { return &Rules{entries} }

// Allow says whether any line that names the peer names the method, by its whole
// name without async. Nothing is allowed that no line allows.
func (r *Rules) Allow(p Peer, method string) bool {
	for _, e := range r.entries {
		if !p.is(e.Identity) {
			continue
		}
		for _, m := range e.Methods {
			if match(m, method) {
				return true
			}
		}
	}
	return false
}

// Names says whether any line names the peer.
func (r *Rules) Names(p Peer) bool {
	for _, e := range r.entries {
		if p.is(e.Identity) {
			return true
		}
	}
	return false
}
