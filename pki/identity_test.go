package pki_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"dominion/pki"
)

func TestParseIdentity(t *testing.T) {
	for _, s := range []string{"minion/web1", "operator/alice", "overlord/dc1.example.org"} {
		id, err := pki.ParseIdentity(s)
		if err != nil || id.String() != s {
			t.Errorf("ParseIdentity(%q) = %v, %v", s, id, err)
		}
		if want := "dominion://" + s; id.URI().String() != want {
			t.Errorf("URI = %s; want %s", id.URI(), want)
		}
	}
	for _, s := range []string{"", "/", "web1", "minion/", "/web1", "king/web1", "Minion/web1", "minion/Web1", "minion/../x", "minion/a/b", "minion/a\x00b", "minion/-a", "minion/" + strings.Repeat("a", 300)} {
		if id, err := pki.ParseIdentity(s); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("ParseIdentity(%q) = %v, %v; want ErrIdentity", s, id, err)
		}
	}
}

func TestKeys(t *testing.T) {
	key := newKey(t)
	text, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.ParseKey(text)
	if err != nil || !got.Equal(key) {
		t.Fatalf("ParseKey: %v", err)
	}
	_, logKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	logText, err := pki.MarshalKey(logKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.ParseLogKey(logText); err != nil || !got.Equal(logKey) {
		t.Errorf("ParseLogKey: %v", err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaText, err := pki.MarshalKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "noise": []byte("x"), "two": append(bytes.Clone(text), text...), "Ed25519": logText, "RSA": rsaText,
		"other block": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}),
		"malformed":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"large":       bytes.Repeat([]byte{'\n'}, 5000),
	} {
		if _, err := pki.ParseKey(b); !errors.Is(err, pki.ErrKey) {
			t.Errorf("ParseKey(%s) = %v; want ErrKey", name, err)
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "ECDSA": text} {
		if _, err := pki.ParseLogKey(b); !errors.Is(err, pki.ErrKey) {
			t.Errorf("ParseLogKey(%s) = %v; want ErrKey", name, err)
		}
	}
	if _, err := pki.MarshalKey(nil); err == nil {
		t.Error("MarshalKey(nil) succeeded")
	}
	if f := pki.Fingerprint("no key"); f != "" {
		t.Errorf("Fingerprint of no key = %q", f)
	}
}

func TestCerts(t *testing.T) {
	f := newFleet(t)
	cert := leaf(t, f.issuing, pki.Minion, "web1")
	text := pki.MarshalCerts(cert, f.issuing.Cert, f.root.Cert)
	got, err := pki.ParseCerts(text)
	if err != nil || len(got) != 3 || !got[0].Equal(cert) || !got[2].Equal(f.root.Cert) {
		t.Fatalf("ParseCerts = %d, %v", len(got), err)
	}
	many := pki.MarshalCerts(cert)
	many = bytes.Repeat(many, 17)
	key, err := pki.MarshalKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "space": []byte(" \n"), "noise": []byte("noise"), "17": many, "a key": append(bytes.Clone(text), key...),
		"large": make([]byte, 2<<20), "trailing": append(bytes.Clone(text), "noise"...),
		"malformed": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
	} {
		if _, err := pki.ParseCerts(b); !errors.Is(err, pki.ErrCerts) {
			t.Errorf("ParseCerts(%s) = %v; want ErrCerts", name, err)
		}
	}
	for name, c := range map[string][][]byte{"none": nil, "17": raw(slices.Repeat([]*x509.Certificate{cert}, 17)...), "noise": {[]byte("x")}} {
		if _, err := pki.ParseChain(c); !errors.Is(err, pki.ErrCerts) {
			t.Errorf("ParseChain(%s) = %v; want ErrCerts", name, err)
		}
	}
	if pin := pki.Pin(f.root.Cert); pin != pki.Fingerprint(f.root.Cert.PublicKey) || pki.CheckPin(pin) != nil {
		t.Errorf("Pin = %q", pin)
	}
}
