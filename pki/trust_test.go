package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/pki"
)

func TestVerifyAccepts(t *testing.T) {
	f := newFleet(t)
	minion := leaf(t, f.issuing, pki.Minion, "web1")
	operator := leaf(t, f.root, pki.Operator, "alice")
	overlord := leaf(t, f.root, pki.Overlord, "dc1")
	long := leaf(t, f.issuing, pki.Minion, strings.Repeat("a.", 60)+"example") // too long for a CN
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		want  string
	}{
		{"minion as served", []*x509.Certificate{minion, f.issuing.Cert, f.root.Cert}, "minion/web1"},
		{"minion without the root", []*x509.Certificate{minion, f.issuing.Cert}, "minion/web1"},
		{"minion with a long name", []*x509.Certificate{long, f.issuing.Cert}, "minion/" + strings.Repeat("a.", 60) + "example"},
		{"operator alone", []*x509.Certificate{operator}, "operator/alice"},
		{"operator as served", []*x509.Certificate{operator, f.root.Cert}, "operator/alice"},
		{"overlord as served", []*x509.Certificate{overlord, f.root.Cert}, "overlord/dc1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fresh, err := pki.NewTrust(f.root.Cert)
			if err != nil {
				t.Fatal(err)
			}
			for _, when := range []time.Time{now, {}} {
				for range 2 { // the second from the cache
					v, err := fresh.VerifyRaw(raw(tt.chain...), when)
					if err != nil {
						t.Fatal(err)
					}
					if v.Identity.String() != tt.want || !v.Leaf.Equal(tt.chain[0]) || !v.Root.Equal(f.root.Cert) {
						t.Errorf("VerifyRaw = %v; want %s", v.Identity, tt.want)
					}
				}
			}
			// The library's own verification agrees.
			opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
			opts.Roots.AddCert(f.root.Cert)
			opts.Intermediates.AddCert(f.issuing.Cert)
			if _, err := tt.chain[0].Verify(opts); err != nil {
				t.Errorf("x509.Verify: %v", err)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	key := newKey(t).Public()
	minion := leaf(t, f.issuing, pki.Minion, "web1")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := func(constrain bool, pathLen int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLen, c.MaxPathLenZero = true, pathLen, pathLen == 0
			c.KeyUsage = x509.KeyUsageCertSign
			c.Subject.CommonName = "a CA"
			if constrain {
				c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"minion"}, true
			}
		}
	}
	// What the holder of the issuing CA's key can make.
	subKey := newKey(t)
	sub := &pki.Authority{Cert: forge(t, f.issuing, subKey.Public(), ca(true, 0)), Key: subKey}
	// Authorities under the root that lack what binds them.
	loose := &pki.Authority{Cert: forge(t, f.root, subKey.Public(), ca(false, 0)), Key: subKey}
	deep := &pki.Authority{Cert: forge(t, f.root, subKey.Public(), ca(true, 1)), Key: subKey}
	uncritical := &pki.Authority{Cert: forge(t, f.root, subKey.Public(), func(c *x509.Certificate) {
		ca(true, 0)(c)
		c.PermittedDNSDomainsCritical = false
	}), Key: subKey}
	minionKey := newKey(t)
	ownMinion := &pki.Authority{Cert: forge(t, f.issuing, minionKey.Public(), nil, "dominion://minion/web1"), Key: minionKey}
	twin := &pki.Authority{Cert: other.root.Cert, Key: other.root.Key}

	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
	}{
		{"operator by an issuing CA", []*x509.Certificate{forge(t, f.issuing, key, nil, "dominion://operator/x"), f.issuing.Cert, f.root.Cert}},
		{"overlord by an issuing CA", []*x509.Certificate{forge(t, f.issuing, key, nil, "dominion://overlord/x"), f.issuing.Cert, f.root.Cert}},
		{"operator by an issuing CA, without it", []*x509.Certificate{forge(t, f.issuing, key, nil, "dominion://operator/x")}},
		{"no URI", []*x509.Certificate{forge(t, f.issuing, key, func(c *x509.Certificate) { c.DNSNames = []string{"web1"} }), f.issuing.Cert}},
		{"no URI, by the root", []*x509.Certificate{forge(t, f.root, key, func(c *x509.Certificate) { c.Subject.CommonName = "alice" })}},
		{"two URIs", []*x509.Certificate{forge(t, f.issuing, key, nil, "dominion://minion/web1", "dominion://minion/web2"), f.issuing.Cert}},
		{"two URIs, by the root", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/x", "dominion://overlord/x")}},
		{"minion by the root", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://minion/web1")}},
		{"minion without its issuing CA", []*x509.Certificate{minion}},
		{"minion with another fleet's issuing CA", []*x509.Certificate{minion, other.issuing.Cert}},
		{"another fleet's minion", []*x509.Certificate{leaf(t, other.issuing, pki.Minion, "web1"), other.issuing.Cert, other.root.Cert}},
		{"another fleet's operator", []*x509.Certificate{leaf(t, twin, pki.Operator, "alice"), f.root.Cert}},
		{"an issuing CA under an issuing CA", []*x509.Certificate{forge(t, sub, key, nil, "dominion://minion/web1"), sub.Cert, f.issuing.Cert}},
		{"the same, shorter", []*x509.Certificate{forge(t, sub, key, nil, "dominion://minion/web1"), sub.Cert}},
		{"an unconstrained CA under the root", []*x509.Certificate{forge(t, loose, key, nil, "dominion://minion/web1"), loose.Cert}},
		{"a CA of path length one", []*x509.Certificate{forge(t, deep, key, nil, "dominion://minion/web1"), deep.Cert}},
		{"a constraint that is not critical", []*x509.Certificate{forge(t, uncritical, key, nil, "dominion://minion/web1"), uncritical.Cert}},
		{"a leaf that is a CA", []*x509.Certificate{forge(t, f.root, key, ca(false, 0), "dominion://operator/x")}},
		{"the issuing CA itself", []*x509.Certificate{f.issuing.Cert}},
		{"the root itself", []*x509.Certificate{f.root.Cert}},
		{"a minion as authority", []*x509.Certificate{forge(t, ownMinion, key, nil, "dominion://minion/x"), ownMinion.Cert}},
		{"an RSA key", []*x509.Certificate{forge(t, f.root, rsaKey.Public(), nil, "dominion://operator/x")}},
		{"a P-384 key", []*x509.Certificate{forge(t, f.root, p384.Public(), nil, "dominion://operator/x")}},
		{"another scheme", []*x509.Certificate{forge(t, f.root, key, nil, "https://operator/x")}},
		{"an unknown role", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://king/x")}},
		{"a port", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator:1/x")}},
		{"a user", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://u@operator/x")}},
		{"a query", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/x?y=z")}},
		{"an empty query", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/x?")}},
		{"a path", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/../x")}},
		{"an escaped name", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/%78")}},
		{"a name in upper case", []*x509.Certificate{forge(t, f.root, key, nil, "dominion://operator/Alice")}},
		{"no certificate", nil},
		{"four certificates", []*x509.Certificate{minion, f.issuing.Cert, f.root.Cert, f.root.Cert}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, when := range []time.Time{now, {}} {
				if v, err := f.trust.Verify(tt.chain, when); !errors.Is(err, pki.ErrUntrusted) {
					t.Errorf("Verify(%v) = %v, %v; want ErrUntrusted", when, v.Identity, err)
				}
				if _, err := f.trust.VerifyRaw(raw(tt.chain...), when); !errors.Is(err, pki.ErrUntrusted) {
					t.Errorf("VerifyRaw(%v) = %v; want ErrUntrusted", when, err)
				}
			}
		})
	}
}

func TestVerifyRawRefusesBytes(t *testing.T) {
	f := newFleet(t)
	for _, b := range [][]byte{nil, {}, []byte("x"), make([]byte, pki.MaxCert+1)} {
		if _, err := f.trust.VerifyRaw([][]byte{b}, now); !errors.Is(err, pki.ErrUntrusted) {
			t.Errorf("VerifyRaw(%d bytes) = %v; want ErrUntrusted", len(b), err)
		}
	}
}

func TestVerifyDates(t *testing.T) {
	f := newFleet(t)
	chain := []*x509.Certificate{leaf(t, f.issuing, pki.Minion, "web1"), f.issuing.Cert}
	for _, tt := range []struct {
		name string
		at   time.Time
		ok   bool
	}{
		{"now", now, true},
		{"a clock 23 h late", now.Add(-23 * time.Hour), true},
		{"a clock 25 h late", now.Add(-25 * time.Hour), false},
		{"just before the end", now.Add(pki.MinionLife - time.Minute), true},
		{"expired", now.Add(pki.MinionLife + time.Minute), false},
		{"no date", time.Time{}, true},
		{"expired, once more from the cache", now.Add(pki.MinionLife + time.Minute), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.trust.Verify(chain, tt.at)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, pki.ErrUntrusted) {
				t.Errorf("Verify at %v = %v; want ok %t", tt.at, err, tt.ok)
			}
			if err != nil && !strings.Contains(err.Error(), "clock") {
				t.Errorf("%q does not name the clock", err)
			}
		})
	}
}

func TestTrustPin(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	overlord := leaf(t, f.root, pki.Overlord, "dc1")
	trust, err := pki.TrustPin(pki.Pin(f.root.Cert))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify([]*x509.Certificate{overlord}, now); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("without a root Verify = %v; want ErrUntrusted", err)
	}
	if _, err := trust.Verify([]*x509.Certificate{leaf(t, other.root, pki.Overlord, "dc1"), other.root.Cert}, time.Time{}); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("under a self-made root Verify = %v; want ErrUntrusted", err)
	}
	// The pinned key in a certificate that the key did not sign.
	masked := forge(t, other.root, f.root.Key.Public(), func(c *x509.Certificate) {
		c.IsCA, c.MaxPathLen, c.KeyUsage = true, 1, x509.KeyUsageCertSign
	})
	if _, err := trust.Verify([]*x509.Certificate{overlord, masked}, now); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("under a root that did not sign itself Verify = %v; want ErrUntrusted", err)
	}
	if trust.Root() != nil {
		t.Fatal("a root was learnt from a chain that does not hold")
	}
	if _, err := trust.Verify([]*x509.Certificate{overlord, f.root.Cert}, now); err != nil {
		t.Fatal(err)
	}
	if !trust.Root().Equal(f.root.Cert) || trust.Pin() != pki.Pin(f.root.Cert) {
		t.Error("the root was not learnt")
	}
	if _, err := trust.Verify([]*x509.Certificate{leaf(t, f.root, pki.Operator, "alice")}, now); err != nil {
		t.Errorf("with the root learnt: %v", err)
	}
	for _, pin := range []string{"", "sha256:", "sha256:00", strings.ToUpper(trust.Pin()), trust.Pin()[7:], trust.Pin() + "0"} {
		if _, err := pki.TrustPin(pin); !errors.Is(err, pki.ErrPin) {
			t.Errorf("TrustPin(%q) = %v; want ErrPin", pin, err)
		}
	}
	if _, err := pki.NewTrust(f.issuing.Cert); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("NewTrust(issuing CA) = %v; want ErrUntrusted", err)
	}
}

// The cache is bounded and keeps what is used.
func TestVerifyCache(t *testing.T) {
	f := newFleet(t)
	first := leaf(t, f.root, pki.Operator, "first")
	for i := range 1100 {
		cert := leaf(t, f.root, pki.Operator, fmt.Sprintf("o%d", i))
		for _, c := range []*x509.Certificate{cert, first} {
			if v, err := f.trust.Verify([]*x509.Certificate{c}, now); err != nil || v.Leaf != c {
				t.Fatalf("Verify = %v, %v", v.Identity, err)
			}
		}
	}
	if n := f.trust.CacheLen(); n > 1024 {
		t.Errorf("the cache holds %d leaves; want at most 1024", n)
	}
}

// A root is learnt once, whoever comes first.
func TestVerifyFromManyGoroutines(t *testing.T) {
	f := newFleet(t)
	trust, err := pki.TrustPin(pki.Pin(f.root.Cert))
	if err != nil {
		t.Fatal(err)
	}
	chain := raw(leaf(t, f.issuing, pki.Minion, "web1"), f.issuing.Cert, f.root.Cert)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				if v, err := trust.VerifyRaw(chain, now); err != nil || v.Identity.Name != "web1" || !trust.Root().Equal(f.root.Cert) {
					t.Errorf("VerifyRaw = %v, %v", v.Identity, err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkVerifyRaw(b *testing.B) {
	f := newFleet(b)
	chain := raw(leaf(b, f.issuing, pki.Minion, "web1"), f.issuing.Cert, f.root.Cert)
	b.Run("cold", func(b *testing.B) {
		leaves := make([][][]byte, 1100) // more than the cache keeps
		for i := range leaves {
			leaves[i] = raw(leaf(b, f.issuing, pki.Minion, "web1"), f.issuing.Cert, f.root.Cert)
		}
		for i := 0; b.Loop(); i++ {
			if _, err := f.trust.VerifyRaw(leaves[i%len(leaves)], now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.trust.VerifyRaw(chain, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
