package pki_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"dominion/pki"
)

// openssl runs OpenSSL in a directory.
func openssl(t *testing.T, dir, input string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: openssl is not installed")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The commands of docs/protocol/enrol.md make a request that is accepted.
func TestDocumentedRequest(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol/enrol.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, ran := t.TempDir(), 0
	for line := range strings.Lines(string(text)) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), " | openssl ") {
			if !strings.HasPrefix(line, "    openssl ") {
				break
			}
			args := strings.Fields(strings.TrimPrefix(part, "openssl "))
			input := ""
			if args[0] == "pkcs8" {
				b, err := os.ReadFile(filepath.Join(dir, "ec.key"))
				if err != nil {
					t.Fatal(err)
				}
				input = string(b)
			}
			out, err := openssl(t, dir, input, args...)
			if err != nil {
				t.Fatalf("%s: %v\n%s", part, err, out)
			}
			if args[0] == "ecparam" {
				if err := os.WriteFile(filepath.Join(dir, "ec.key"), []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ran++
		}
	}
	der, err := os.ReadFile(filepath.Join(dir, "web1.csr"))
	if err != nil {
		t.Fatalf("after %d commands: %v", ran, err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "minion.key"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(der)
	if err != nil || r.Identity.String() != "minion/web1" {
		t.Errorf("ParseRequest = %v, %v", r.Identity, err)
	}
	if k, err := pki.ParseKey(key); err != nil || !k.PublicKey.Equal(r.PublicKey) {
		t.Errorf("ParseKey: %v", err)
	}
}

// OpenSSL, which curl and Python use, believes our chains, and sees the
// constraint of an issuing CA.
func TestOpenSSLAgrees(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	for name, text := range map[string][]byte{
		"root.crt": pki.MarshalCerts(f.root.Cert), "issuing.crt": pki.MarshalCerts(f.issuing.Cert),
		"minion.crt":   pki.MarshalCerts(leaf(t, f.issuing, pki.Minion, "web1")),
		"overlord.crt": pki.MarshalCerts(leaf(t, f.root, pki.Overlord, "dc1")),
		"forged.crt":   pki.MarshalCerts(forge(t, f.issuing, newKey(t).Public(), nil, "dominion://operator/x")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := []string{"verify", "-x509_strict", "-attime", strconv.FormatInt(now.Unix(), 10), "-CAfile", "root.crt", "-untrusted", "issuing.crt"}
	for _, tt := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"-verify_hostname", "web1", "minion.crt"}, true},
		{[]string{"-verify_hostname", "dc1", "-verify_ip", "127.0.0.1", "-purpose", "sslserver", "overlord.crt"}, true},
		{[]string{"-verify_hostname", "other", "overlord.crt"}, false},
		{[]string{"forged.crt"}, false},
	} {
		if out, err := openssl(t, dir, "", append(at[:len(at):len(at)], tt.args...)...); (err == nil) != tt.ok {
			t.Errorf("openssl verify %q: %v\n%s", tt.args, err, out)
		}
	}
}
