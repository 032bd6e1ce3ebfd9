package enrol_test

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// The root explains the restored log of an overlord for a token, once each; what was
// explained is told again.
func TestRecoverBelow(t *testing.T) {
	top, _ := topAndMid(t)
	n := newNewcomer(t, "low", "0123")
	d, err := top.Request(t.Context(), n.asks(top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})))
	n.got(top, d, err)
	what := func(epoch, abandoned uint64) *fleetpb.Recovery {
		return &fleetpb.Recovery{
			LogId: "0123", Epoch: epoch, AbandonedSize: abandoned, AbandonedRoot: bytes.Repeat([]byte{1}, 32), RestoredSize: 4, RestoredRoot: bytes.Repeat([]byte{2}, 32),
		}
	}
	ask := func(name string, r *fleetpb.Recovery, token string, key crypto.Signer) ([]byte, error) {
		t.Helper()
		req, err := pki.NewRecoverRequest(name, r, "local/root", token, key)
		if err != nil {
			t.Fatal(err)
		}
		return top.RecoverBelow(t.Context(), req, home)
	}
	foreign := what(1, 9)
	foreign.LogId = "eeee"
	good := top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})
	for _, tt := range []struct {
		name string
		who  string
		what *fleetpb.Recovery
		by   string
		key  crypto.Signer
		code call.Code
		why  string
	}{
		{"without a token", "low", what(1, 9), "", n.key, call.Denied, "dominion token create --role overlord --name low"},
		{"an unknown token", "low", what(1, 9), strings.Repeat("0", 64), n.key, call.Denied, "not known"},
		{"a machine's token", "low", what(1, 9), top.token(enrol.TokenSpec{Name: "*"}), n.key, call.Denied, "it enrols a minion"},
		{"another's token", "low", what(1, 9), top.token(enrol.TokenSpec{Name: "mid", Role: pki.Overlord}), n.key, call.Denied, `it enrols "mid"`},
		{"another's log", "low", foreign, good, n.key, call.Denied, "not that of overlord/low"},
		{"another key", "low", what(1, 9), good, newKey(t), call.Denied, "signature"},
		{"another name", "mid", what(1, 9), good, n.key, call.Denied, "signature"},
		{"nobody", "no", what(1, 9), good, n.key, call.Denied, "no certificate that counts"},
		{"no name", "../x", what(1, 9), good, n.key, call.Invalid, ""},
	} {
		_, err := ask(tt.who, tt.what, tt.by, tt.key)
		if call.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v; want %v, %q", tt.name, err, tt.code, tt.why)
		}
	}
	first, err := ask("low", what(1, 9), good, n.key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.OpenRecovery(top.root.Cert, first)
	if err != nil || r.Epoch != 1 || r.AbandonedSize != 9 || r.TimeMs != top.now().UnixMilli() {
		t.Errorf("the statement says %v, %v", r, err)
	}
	if got := strings.Join(top.actions(), "; "); !strings.Contains(got, "recovery 0123") || strings.Count(got, "denied overlord/low") != 3 {
		t.Errorf("the log holds %s", got)
	}
	again, err := ask("low", what(1, 9), "", n.key) // the answer was lost
	if err != nil || !bytes.Equal(again, first) {
		t.Errorf("asked again: %v; want the same statement", err)
	}
	_, err = ask("low", what(1, 10), good, n.key)
	wantCode(t, err, call.Denied, "used up")
	// A machine has come that remembers more; and the log is restored once more.
	for _, next := range []*fleetpb.Recovery{what(1, 10), what(2, 12)} {
		if _, err = ask("low", next, top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord}), n.key); err != nil {
			t.Error(err)
		}
	}
	_, err = ask("low", what(1, 10), top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord}), n.key)
	wantCode(t, err, call.Conflict, "has come to epoch 2")
	if _, _, err := top.Revoke(t.Context(), "local/root", ident(t, "overlord/low"), "", "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err = ask("low", what(2, 12), "", n.key)
	wantCode(t, err, call.Denied, "no certificate that counts")
}

func TestRecoverBelowWithoutTheRoot(t *testing.T) {
	_, mid := topAndMid(t)
	_, err := mid.RecoverBelow(t.Context(), pki.RecoverRequest{Overlord: "low"}, home)
	wantCode(t, err, call.Unavailable, "overlord/top")
}
