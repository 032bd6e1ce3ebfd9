package pki_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dominion/pki"
)

// OpenSSL computes the same hash, whatever is in a name.
func TestNameHashIsOpenSSLs(t *testing.T) {
	f := newFleet(t)
	compare := func(t *testing.T, der []byte) {
		t.Helper()
		dir := t.TempDir()
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, "c.pem"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := openssl(t, dir, "", "x509", "-in", "c.pem", "-noout", "-subject_hash")
		if err != nil {
			t.Fatal(err, out)
		}
		got, err := pki.NameHash(cert.RawSubject)
		if want := strings.TrimSpace(out); err != nil || fmt.Sprintf("%08x", got) != want {
			t.Errorf("NameHash(%s) = %08x, %v; openssl says %s", cert.Subject, got, err, want)
		}
	}
	t.Run("ours", func(t *testing.T) {
		compare(t, leaf(t, f.issuing, pki.Minion, "web1.example.org").Raw)
		compare(t, leaf(t, f.root, pki.Operator, "alice").Raw)
		compare(t, f.root.Cert.Raw)
		compare(t, f.issuing.Cert.Raw)
	})
	for i, test := range []struct{ mask, subject string }{
		{"utf8only", "/CN=web1"},
		{"utf8only", "/C=UN/ST=FC/L=Certmaster-town/O=certmaster/OU=slave-key/CN=master.example.org-CA-KEY/emailAddress=root@master.example.org-CA-KEY"},
		{"utf8only", "/CN=  Two   Blanks \t and a tab "},
		{"utf8only", "/CN=Größe ÄÖÜ \u0130 \U0001F600"},
		{"utf8only", "/O=A/O=B/CN=web1"},
		{"utf8only", "/O=Z+CN=a+OU=long unit/CN=b"},
		{"utf8only", "/CN= "},
		{"utf8only", "/"},
		{"utf8only", "/serialNumber=12 34/x500UniqueIdentifier=0a/CN=" + strings.Repeat("a", 64)},
		{"utf8only", "/2.999.1=" + strings.Repeat("Long ", 60)},
		{"MASK:0x1000", "/CN=T61 caf\u00e9? no"},
		{"MASK:0x4", "/CN=Tele  tex \u00e9"},
		{"MASK:0x800", "/CN=B  M P \u20ac"},
		{"MASK:0x100", "/CN=Universal  \U0001F600"},
		{"MASK:0x2", "/CN=Printable  Name"},
	} {
		t.Run(fmt.Sprint(i, test.mask), func(t *testing.T) {
			dir := t.TempDir()
			config := "[req]\ndistinguished_name=dn\nprompt=no\nstring_mask=" + test.mask + "\nutf8=yes\n[dn]\n"
			if err := os.WriteFile(filepath.Join(dir, "c"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := openssl(t, dir, "", "req", "-x509", "-config", "c", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
				"-keyout", "k", "-utf8", "-multivalue-rdn", "-subj", test.subject, "-outform", "DER", "-out", "c.der")
			if err != nil {
				t.Fatalf("openssl: %v\n%s", err, out)
			}
			der, err := os.ReadFile(filepath.Join(dir, "c.der"))
			if err != nil {
				t.Fatal(err)
			}
			compare(t, der)
		})
	}
}

func TestNameHashRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		raw  []byte
	}{
		{"nothing", nil},
		{"a set", []byte{0x31, 0}},
		{"something behind", []byte{0x30, 0, 0}},
		{"no set within", []byte{0x30, 2, 0x30, 0}},
		{"no sequence within", []byte{0x30, 4, 0x31, 2, 0x31, 0}},
		{"an empty attribute", []byte{0x30, 4, 0x31, 2, 0x30, 0}},
		{"cut off", []byte{0x30, 4, 0x31}},
		{"half a character", []byte{0x30, 12, 0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 30, 1, 0}},
		{"too long", make([]byte, 17<<10)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if h, err := pki.NameHash(test.raw); !errors.Is(err, pki.ErrName) {
				t.Errorf("NameHash = %x, %v; want ErrName", h, err)
			}
		})
	}
}

func FuzzNameHash(f *testing.F) {
	f.Add([]byte{0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 12, 2, 'a', 'B'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := pki.NameHash(raw); err != nil && !errors.Is(err, pki.ErrName) {
			t.Fatalf("error %v does not wrap ErrName", err)
		}
	})
}
