package pki_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/pki"
)

func TestRevocations(t *testing.T) {
	f := newFleet(t)
	key := newKey(t)
	sign := func(name string) pki.Template {
		return pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: name}, PublicKey: key.Public()}
	}
	alice, err := f.root.Sign(sign("alice"), now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.root.Sign(sign("alice"), now) // same key, another serial
	if err != nil {
		t.Fatal(err)
	}
	bob, web1 := leaf(t, f.root, pki.Operator, "bob"), leaf(t, f.issuing, pki.Minion, "web1")

	list := pki.NewRevocations()
	if _, bad := list.Revoked(alice); bad || list.Number() != 0 {
		t.Error("the empty list revokes")
	}
	var none *pki.RevocationList
	if _, bad := none.Revoked(alice); bad || none.Number() != 0 {
		t.Error("no list revokes")
	}
	next := list.Add(now, pki.Revoke(alice, "stolen"), pki.RevokeSerial(web1))
	signed, err := pki.SignRevocations(f.root, next)
	if err != nil {
		t.Fatal(err)
	}
	got, err := list.Accept(f.root.Cert, signed)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(next.Entries(), got.Entries(), cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); d != "" || got.Number() != 1 || !got.Issued().Equal(now) {
		t.Errorf("number %d, issued %v, %s", got.Number(), got.Issued(), d)
	}
	if reason, bad := got.Revoked(alice); !bad || reason != "stolen" {
		t.Errorf("alice: %q, %t", reason, bad)
	}
	if reason, bad := got.Revoked(again); !bad || reason != "stolen" {
		t.Errorf("alice's key: %q, %t", reason, bad)
	}
	if reason, bad := got.Revoked(web1); !bad || reason != pki.Replaced {
		t.Errorf("web1: %q, %t", reason, bad)
	}
	if _, bad := got.Revoked(bob); bad {
		t.Error("bob is revoked")
	}
	third := got.Add(now, pki.Revoke(f.issuing.Cert, "overlord stolen"))
	if _, bad := third.Revoked(leaf(t, f.issuing, pki.Minion, "web2"), f.issuing.Cert); !bad {
		t.Error("a minion of a revoked issuing CA is not")
	}

	// Numbers only grow.
	if same, err := got.Accept(f.root.Cert, signed); err != nil || same != got {
		t.Errorf("the same list again: %v", err)
	}
	if _, err := third.Accept(f.root.Cert, signed); !errors.Is(err, pki.ErrOlder) {
		t.Errorf("an older list: %v; want ErrOlder", err)
	}

	// What has expired goes, and its number stays used.
	if p := third.Prune(now.Add(time.Hour)); p != third {
		t.Error("Prune changed a list with nothing to drop")
	}
	// A machine whose clock is late by less than a day still refuses.
	if p := third.Prune(now.Add(pki.OperatorLife + pki.RevokedKept - time.Hour)); p != third {
		t.Error("Prune dropped what a late clock takes for valid")
	}
	late := third.Prune(now.Add(pki.OperatorLife + pki.RevokedKept + time.Hour))
	if len(late.Entries()) != 2 || late.Number() != third.Number()+1 {
		t.Errorf("Prune leaves %d entries, number %d", len(late.Entries()), late.Number())
	}
	if twice := got.Add(now, pki.Revoke(alice, "again")); len(twice.Entries()) != 2 {
		t.Errorf("one serial twice: %d entries", len(twice.Entries()))
	}
	if r := pki.Revoke(bob, strings.Repeat("é", 300)); len(r.Reason) > pki.MaxReason {
		t.Errorf("a reason of %d bytes", len(r.Reason))
	}
}

func TestRevocationsBound(t *testing.T) {
	f := newFleet(t)
	entries := make([]pki.Revoked, 12_000)
	for i := range entries {
		entries[i] = pki.Revoked{Serial: fmt.Appendf(nil, "%016d", i), NotAfter: now.Add(time.Hour)}
	}
	l := pki.NewRevocations().Add(now, entries...)
	signed, err := pki.SignRevocations(f.root, l)
	if err != nil {
		t.Fatalf("12,000 short entries: %v", err)
	}
	t.Logf("12,000 short entries are %d bytes", len(signed))
	full := slices.Clone(entries[:3000])
	for i := range full {
		full[i].Identity, full[i].Key, full[i].Reason = "minion/web1234", [32]byte{1}, "a reason of some thirty bytes."
	}
	if signed, err = pki.SignRevocations(f.root, pki.NewRevocations().Add(now, full...)); err != nil {
		t.Fatalf("3,000 full entries: %v", err)
	}
	t.Logf("3,000 full entries are %d bytes", len(signed))
	for i := range entries {
		entries[i].Reason = "a reason of twenty-nine bytes"
	}
	if _, err := pki.SignRevocations(f.root, l.Add(now, entries...)); err == nil {
		t.Error("a list over the bound was signed")
	}
}

func TestParseRevocationsRefuses(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	sign := func(a *pki.Authority, prefix string, l *fleetpb.RevocationList) []byte {
		body, err := proto.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := pki.SignStatement(a, prefix, body)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	one := func(r ...*fleetpb.Revoked) *fleetpb.RevocationList {
		return &fleetpb.RevocationList{Number: 1, Entries: r}
	}
	good := sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}}))
	if _, err := pki.ParseRevocations(f.root.Cert, good); err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(good)
	broken[3] ^= 1
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"noise", []byte("noise")},
		{"a changed byte", broken},
		{"trailing bytes", append(bytes.Clone(good), 0)},
		{"another root", sign(other.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}}))},
		{"another kind of statement", sign(f.root, pki.LogKeyPrefix, one(&fleetpb.Revoked{Serial: []byte{1}}))},
		{"no serial", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{}))},
		{"a long serial", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: bytes.Repeat([]byte{1}, 21)}))},
		{"a leading zero", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{0, 1}}))},
		{"out of order", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{2}}, &fleetpb.Revoked{Serial: []byte{1}}))},
		{"one serial twice", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}}, &fleetpb.Revoked{Serial: []byte{1}}))},
		{"a bad identity", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}, Identity: "../x"}))},
		{"a short key", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}, KeySha256: []byte{1}}))},
		{"a key of zeros", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}, KeySha256: make([]byte, 32)}))},
		{"a long reason", sign(f.root, pki.RevokedPrefix, one(&fleetpb.Revoked{Serial: []byte{1}, Reason: strings.Repeat("a", 257)}))},
		{"too large", make([]byte, pki.MaxRevocations+1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := pki.ParseRevocations(f.root.Cert, tt.b); !errors.Is(err, pki.ErrRevocations) {
				t.Errorf("ParseRevocations = %v; want ErrRevocations", err)
			}
		})
	}
	if _, err := pki.NewRevocations().Accept(other.root.Cert, good); !errors.Is(err, pki.ErrRevocations) {
		t.Errorf("Accept = %v; want ErrRevocations", err)
	}
}

func TestLogKey(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want := pki.LogKey{LogID: "log-1", Overlord: "dc1", PublicKey: pub, NotAfter: now.Add(pki.OverlordLife)}
	signed, err := pki.SignLogKey(f.root, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.OpenLogKey(f.root.Cert, signed)
	if err != nil || got.LogID != want.LogID || got.Overlord != "dc1" || !got.PublicKey.Equal(pub) || !got.NotAfter.Equal(want.NotAfter) {
		t.Errorf("OpenLogKey = %+v, %v", got, err)
	}
	if _, err := pki.OpenLogKey(other.root.Cert, signed); !errors.Is(err, pki.ErrStatement) {
		t.Errorf("under another root: %v; want ErrStatement", err)
	}
	if _, err := pki.SignLogKey(f.issuing, want); !errors.Is(err, pki.ErrRole) {
		t.Errorf("by an issuing CA: %v; want ErrRole", err)
	}
	for name, k := range map[string]pki.LogKey{
		"no id": {Overlord: "dc1", PublicKey: pub}, "long id": {LogID: strings.Repeat("a", 65), Overlord: "dc1", PublicKey: pub},
		"no overlord": {LogID: "a", PublicKey: pub}, "short key": {LogID: "a", Overlord: "dc1", PublicKey: pub[:31]},
	} {
		if _, err := pki.SignLogKey(f.root, k); err == nil {
			t.Errorf("%s: signed", name)
		}
		body, err := proto.Marshal(&fleetpb.LogKey{LogId: k.LogID, Overlord: k.Overlord, PublicKey: k.PublicKey})
		if err != nil {
			t.Fatal(err)
		}
		s, err := pki.SignStatement(f.root, pki.LogKeyPrefix, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.OpenLogKey(f.root.Cert, s); !errors.Is(err, pki.ErrStatement) {
			t.Errorf("%s: OpenLogKey = %v; want ErrStatement", name, err)
		}
	}
	if _, err := pki.SignStatement(f.root, "x", make([]byte, pki.MaxStatement)); err == nil {
		t.Error("a statement over the bound was signed")
	}
	if _, err := pki.OpenStatement(f.root.Cert, "x", make([]byte, pki.MaxStatement+1)); !errors.Is(err, pki.ErrStatement) {
		t.Errorf("OpenStatement(large) = %v", err)
	}
}
