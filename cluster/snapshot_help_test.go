package cluster_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/cluster"
	"dominion/pki"
)

// signHeader signs any bytes as an overlord would sign a header.
func signHeader(tb testing.TB, key *ecdsa.PrivateKey, body []byte) []byte {
	tb.Helper()
	sum := sha256.Sum256(append([]byte(cluster.SnapshotPrefix), body...))
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		tb.Fatal(err)
	}
	return sig
}

// leafOf is a certificate of the overlord's name with another key.
func leafOf(tb testing.TB, s *site, now time.Time) *x509.Certificate {
	tb.Helper()
	key, err := pki.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	c, err := s.root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: "main"}, PublicKey: key.Public()}, now)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// manyNames gives sorted names, the longest that there are.
func manyNames(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("n%06d.%s", i, strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 60)+".", 4), "."))
	}
	return out
}
