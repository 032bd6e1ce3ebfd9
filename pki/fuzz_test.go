package pki_test

import (
	"bytes"
	"errors"
	"testing"

	"dominion/pki"
)

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{"minion/web1", "operator/Alice", "overlord/../x", "minion/a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := pki.ParseIdentity(s)
		if err != nil {
			if !errors.Is(err, pki.ErrIdentity) {
				t.Fatalf("error %v does not wrap ErrIdentity", err)
			}
			return
		}
		if id.String() != s {
			t.Fatalf("accepted %q but it is %q", s, id)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	key := newKey(f)
	f.Add(request(f, key, nil, "dominion://minion/web1"))
	f.Add(request(f, key, nil, "dominion://operator/../alice"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := pki.ParseRequest(b)
		if err != nil {
			if !errors.Is(err, pki.ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		if !bytes.Equal(r.Raw, b) {
			t.Fatalf("accepted %x but kept %x", b, r.Raw)
		}
		if err := r.Identity.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseRevocations(f *testing.F) {
	fl := newFleet(f)
	list := pki.NewRevocations().Add(now, pki.Revoke(leaf(f, fl.root, pki.Operator, "alice"), "stolen"), pki.RevokeSerial(leaf(f, fl.issuing, pki.Minion, "web1")))
	signed, err := pki.SignRevocations(fl.root, list)
	if err != nil {
		f.Fatal(err)
	}
	body, err := pki.OpenStatement(fl.root.Cert, pki.RevokedPrefix, signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, false)
	f.Add(signed, true)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		if !whole { // as if the root had signed it: else no mutation gets past the signature
			if b, err = pki.SignStatement(fl.root, pki.RevokedPrefix, b); err != nil {
				return
			}
		}
		l, err := pki.ParseRevocations(fl.root.Cert, b)
		if err != nil {
			if !errors.Is(err, pki.ErrRevocations) {
				t.Fatalf("error %v does not wrap ErrRevocations", err)
			}
			return
		}
		again, err := pki.SignRevocations(fl.root, l)
		if err != nil {
			t.Fatal(err)
		}
		want, err1 := pki.OpenStatement(fl.root.Cert, pki.RevokedPrefix, b)
		got, err2 := pki.OpenStatement(fl.root.Cert, pki.RevokedPrefix, again)
		if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Fatalf("accepted %x but encodes back to %x (%v, %v)", want, got, err1, err2)
		}
	})
}

func FuzzOpenStatement(f *testing.F) {
	fl := newFleet(f)
	signed, err := pki.SignStatement(fl.root, "dominion-test-v1", []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte{0x0a, 1, 'x', 0x12, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := pki.OpenStatement(fl.root.Cert, "dominion-test-v1", b)
		if err != nil {
			if !errors.Is(err, pki.ErrStatement) {
				t.Fatalf("error %v does not wrap ErrStatement", err)
			}
			return
		}
		if string(body) != "body" {
			t.Fatalf("a body that nobody signed: %q", body)
		}
	})
}

func FuzzParseCerts(f *testing.F) {
	fl := newFleet(f)
	f.Add(pki.MarshalCerts(fl.root.Cert))
	f.Add(pki.MarshalCerts(leaf(f, fl.issuing, pki.Minion, "web1"), fl.issuing.Cert))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := pki.ParseCerts(b)
		if err != nil {
			if !errors.Is(err, pki.ErrCerts) {
				t.Fatalf("error %v does not wrap ErrCerts", err)
			}
			return
		}
		text := pki.MarshalCerts(certs...)
		again, err := pki.ParseCerts(text)
		if err != nil || !bytes.Equal(pki.MarshalCerts(again...), text) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
		trust, err := pki.NewTrust(fl.root.Cert) // without what earlier runs left in its cache
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Verify(certs, now); err != nil && !errors.Is(err, pki.ErrUntrusted) {
			t.Fatalf("error %v does not wrap ErrUntrusted", err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	text, err := pki.MarshalKey(newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := pki.ParseKey(b)
		if err != nil {
			if !errors.Is(err, pki.ErrKey) {
				t.Fatalf("error %v does not wrap ErrKey", err)
			}
			return
		}
		text, err := pki.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := pki.ParseKey(text); err != nil || !again.Equal(key) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}
