package pki_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"reflect"
	"testing"
	"time"

	"dominion/pki"
)

// asking is an overlord with its keys and its request.
type asking struct {
	key, issuing crypto.Signer
	log          ed25519.PublicKey
	req          pki.OverlordRequest
}

func newAsking(t testing.TB, name string) *asking {
	t.Helper()
	log, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &asking{key: newKey(t), issuing: newKey(t), log: log}
	if a.req, err = pki.NewOverlordRequest(name, a.key, a.issuing, log, "0123abcd"); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestOverlordRequest(t *testing.T) {
	good, other, web := newAsking(t, "dc2"), newAsking(t, "dc3"), newKey(t)
	if leaf, issuing, err := good.req.Check(); err != nil || leaf.Identity.String() != "overlord/dc2" || issuing.PublicKey.Equal(leaf.PublicKey) {
		t.Fatalf("Check = %v, %v, %v", leaf.Identity, issuing.Identity, err)
	}
	self, err := pki.NewOverlordRequest("dc2", good.key, good.key, good.log, "0123abcd")
	if err != nil {
		t.Fatal(err)
	}
	minion, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: "web1"}, web)
	if err != nil {
		t.Fatal(err)
	}
	spaced, err := pki.NewOverlordRequest("dc2", good.key, good.issuing, good.log, "log id\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(r *pki.OverlordRequest){
		"another CSR":            func(r *pki.OverlordRequest) { r.CSR = other.req.CSR },
		"a minion's CSR":         func(r *pki.OverlordRequest) { r.CSR = minion },
		"another issuing CA":     func(r *pki.OverlordRequest) { r.IssuingCSR = other.req.IssuingCSR },
		"a minion as issuing CA": func(r *pki.OverlordRequest) { r.IssuingCSR = minion },
		"another log key":        func(r *pki.OverlordRequest) { r.LogKey = other.log },
		"another log":            func(r *pki.OverlordRequest) { r.LogID = "4567" },
		"a short log key":        func(r *pki.OverlordRequest) { r.LogKey = r.LogKey[1:] },
		"no log":                 func(r *pki.OverlordRequest) { r.LogID = "" },
		"a log id that is odd":   func(r *pki.OverlordRequest) { *r = spaced },
		"no signature":           func(r *pki.OverlordRequest) { r.Signature = nil },
		"another's signature":    func(r *pki.OverlordRequest) { r.Signature = other.req.Signature },
		"one key for both":       func(r *pki.OverlordRequest) { *r = self },
	} {
		r := good.req
		change(&r)
		if _, _, err := r.Check(); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("%s: Check = %v; want ErrRequest", name, err)
		}
	}
}

func TestVerifyGrant(t *testing.T) {
	fl, evil := newFleet(t), newFleet(t)
	a, b := newAsking(t, "dc2"), newAsking(t, "dc3")
	sign := func(root *pki.Authority, name string, key crypto.Signer) *x509.Certificate {
		c, err := root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: name}, PublicKey: key.Public()}, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	issue := func(root *pki.Authority, key crypto.Signer) *x509.Certificate {
		c, err := root.NewIssuing("dc2", key.Public(), now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	log := func(root *pki.Authority, id, name string, key ed25519.PublicKey) []byte {
		s, err := pki.SignLogKey(root, pki.LogKey{LogID: id, Overlord: name, PublicKey: key, NotAfter: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	wide := func(change func(*x509.Certificate)) *x509.Certificate {
		return forge(t, fl.root, a.issuing.Public(), func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLenZero, c.KeyUsage = true, true, x509.KeyUsageCertSign
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"minion"}, true
			change(c)
		})
	}
	leaf, ca, stmt := sign(fl.root, "dc2", a.key), issue(fl.root, a.issuing), log(fl.root, "0123abcd", "dc2", a.log)
	if g, err := a.req.VerifyGrant(fl.trust, raw(leaf, fl.root.Cert), ca.Raw, stmt, now); err != nil || !g.Leaf.Equal(leaf) || !g.Issuing.Equal(ca) {
		t.Fatalf("VerifyGrant = %v", err)
	}
	for _, tt := range []struct {
		name  string
		chain [][]byte
		ca    []byte
		log   []byte
	}{
		{"another name", raw(sign(fl.root, "dc3", a.key), fl.root.Cert), ca.Raw, stmt},
		{"another key", raw(sign(fl.root, "dc2", b.key), fl.root.Cert), ca.Raw, stmt},
		{"another root", raw(sign(evil.root, "dc2", a.key), evil.root.Cert), ca.Raw, stmt},
		{"nothing", nil, nil, nil},
		{"an issuing CA for another key", raw(leaf), issue(fl.root, b.issuing).Raw, stmt},
		{"an issuing CA of another root", raw(leaf), issue(evil.root, a.issuing).Raw, stmt},
		{"an issuing CA below an issuing CA", raw(leaf), forge(t, fl.issuing, a.issuing.Public(), func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLenZero, c.KeyUsage = true, true, x509.KeyUsageCertSign
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"minion"}, true
		}).Raw, stmt},
		{"an issuing CA without its constraint", raw(leaf), wide(func(c *x509.Certificate) { c.PermittedURIDomains = nil }).Raw, stmt},
		{"an issuing CA for operators too", raw(leaf), wide(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"minion", "operator"} }).Raw, stmt},
		{"an issuing CA of more depth", raw(leaf), wide(func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, 1 }).Raw, stmt},
		{"the leaf as issuing CA", raw(leaf), leaf.Raw, stmt},
		{"noise as issuing CA", raw(leaf), []byte("noise"), stmt},
		{"the log key of another", raw(leaf), ca.Raw, log(fl.root, "0123abcd", "dc2", b.log)},
		{"the log key of another name", raw(leaf), ca.Raw, log(fl.root, "0123abcd", "dc3", a.log)},
		{"another log", raw(leaf), ca.Raw, log(fl.root, "4567", "dc2", a.log)},
		{"a log key certified by another root", raw(leaf), ca.Raw, log(evil.root, "0123abcd", "dc2", a.log)},
		{"no log key", raw(leaf), ca.Raw, nil},
	} {
		if _, err := a.req.VerifyGrant(fl.trust, tt.chain, tt.ca, tt.log, now); !errors.Is(err, pki.ErrUntrusted) {
			t.Errorf("%s: VerifyGrant = %v; want ErrUntrusted", tt.name, err)
		}
	}
}

func TestRevokeRequest(t *testing.T) {
	key, other := newKey(t), newKey(t)
	good := pki.RevokeRequest{Overlord: "dc2", Leaves: [][]byte{{1}, {2}}, Reason: "sold", Actor: "operator/alice"}
	if err := good.Sign(key); err != nil {
		t.Fatal(err)
	}
	if err := good.Check(key.Public()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(r *pki.RevokeRequest){
		"another overlord":    func(r *pki.RevokeRequest) { r.Overlord = "dc3" },
		"another certificate": func(r *pki.RevokeRequest) { r.Leaves = [][]byte{{1}, {3}} },
		"joined certificates": func(r *pki.RevokeRequest) { r.Leaves = [][]byte{{1, 2}} },
		"no certificate":      func(r *pki.RevokeRequest) { r.Leaves = nil },
		"nine certificates":   func(r *pki.RevokeRequest) { r.Leaves = make([][]byte, 9) },
		"another reason":      func(r *pki.RevokeRequest) { r.Reason = "" },
		"a long reason":       func(r *pki.RevokeRequest) { r.Reason = string(make([]byte, 300)) },
		"another actor":       func(r *pki.RevokeRequest) { r.Actor = "operator/bob" },
		"no signature":        func(r *pki.RevokeRequest) { r.Signature = nil },
	} {
		r := good
		change(&r)
		if err := r.Check(key.Public()); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("%s: Check = %v; want ErrRequest", name, err)
		}
	}
	if err := good.Check(other.Public()); !errors.Is(err, pki.ErrRequest) {
		t.Errorf("another key: Check = %v; want ErrRequest", err)
	}
}

// One field of a good request is replaced at a time.
func FuzzOverlordRequest(f *testing.F) {
	a := newAsking(f, "dc2")
	for i, b := range [][]byte{a.req.CSR, a.req.IssuingCSR, a.req.LogKey, []byte(a.req.LogID), a.req.Signature} {
		f.Add(byte(i), b)
		f.Add(byte(i), b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, field byte, b []byte) {
		r := a.req
		switch field % 5 {
		case 0:
			r.CSR = b
		case 1:
			r.IssuingCSR = b
		case 2:
			r.LogKey = b
		case 3:
			r.LogID = string(b)
		case 4:
			r.Signature = b
		}
		leaf, ca, err := r.Check()
		if err != nil {
			if !errors.Is(err, pki.ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		if leaf.Identity != ca.Identity || leaf.Identity.Role != pki.Overlord {
			t.Fatalf("accepted %v with an issuing CA of %v", leaf.Identity, ca.Identity)
		}
		if field%5 < 4 && !reflect.DeepEqual(r, a.req) {
			t.Fatalf("accepted %x as field %d", b, field%5)
		}
	})
}
