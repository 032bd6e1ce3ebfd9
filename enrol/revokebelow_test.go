package enrol_test

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// mint signs a machine's certificate as whoever holds an issuing CA can.
func mint(t testing.TB, a *pki.Authority, serial int64) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1<<40 + serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24),
		URIs: []*url.URL{{Scheme: "dominion", Host: "minion", Path: "/" + strings.Repeat("a", 60)}},
	}, a.Cert, newKey(t).Public(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A sub-overlord that fills the list keeps nobody from revoking it.
func TestRevokeBelowLeavesRoom(t *testing.T) {
	top, mid := topAndMid(t)
	var err error
	for n := int64(0); err == nil; n += pki.MaxRevokeCerts {
		if n > 2000 {
			t.Fatal("the list takes all that a sub-overlord adds")
		}
		r := pki.RevokeRequest{Overlord: "mid", Reason: strings.Repeat("r", pki.MaxReason)}
		for i := range int64(pki.MaxRevokeCerts) {
			r.Leaves = append(r.Leaves, mint(t, mid.issuing, n+i))
		}
		_, err = mid.cfg.RelayRevoke(t.Context(), r)
	}
	wantCode(t, err, call.Busy, "list is full")
	if _, _, err := top.Revoke(t.Context(), "operator/alice", ident(t, "overlord/mid"), "", "stolen"); err != nil {
		t.Errorf("revoke the one that filled it: %v", err)
	}
	old := top.must(enrol.StateGranted)(top.ask("minion/web1", newKey(t), top.token(enrol.TokenSpec{Name: "*"})))
	top.must(enrol.StateGranted)(top.ask("minion/web1", newKey(t), top.token(enrol.TokenSpec{Name: "*", Replace: true})))
	if _, ok := top.list.Revoked(top.verify(old.Chain, "minion/web1")); !ok {
		t.Error("replacing at the top does not work any more")
	}
}

// What was only replaced can be revoked with its key afterwards.
func TestRevokeBelowAfterReplacing(t *testing.T) {
	top, mid := topAndMid(t)
	d := mid.must(enrol.StateGranted)(mid.ask("minion/web1", newKey(t), mid.token(enrol.TokenSpec{Name: "*"})))
	for _, reason := range []string{pki.Replaced, "stolen", "stolen", pki.Replaced} {
		if _, err := mid.cfg.RelayRevoke(t.Context(), pki.RevokeRequest{Overlord: "mid", Leaves: d.Chain[:1], Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
	if why, ok := top.list.Revoked(top.verify(d.Chain, "minion/web1")); !ok || why != "stolen" || top.list.Number() != 2 {
		t.Errorf("on the list: %v, %q, number %d; want it stolen, on list 2", ok, why, top.list.Number())
	}
	if e := top.list.Entries(); len(e) != 1 || e[0].Key == [32]byte{} {
		t.Errorf("%d entries; want one that refuses the key", len(e))
	}
}
