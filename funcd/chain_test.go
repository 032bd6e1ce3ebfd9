package funcd

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
)

func chainOf(t testing.TB, c *tls.Certificate) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for _, der := range c.Certificate {
		out = append(out, must(x509.ParseCertificate(der))(t))
	}
	return out
}

func readFile(path string) ([]byte, error) { return os.ReadFile(path) }
