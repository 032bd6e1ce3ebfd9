package enrol_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

func TestRequestWaitsForAnOperator(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	d := w.must(enrol.StateWaiting)(w.ask("minion/web1", key, ""))
	if d.Retry != 200*time.Millisecond || d.Fingerprint != pki.Fingerprint(key.Public()) || d.Chain != nil {
		t.Errorf("decision %+v", d)
	}
	writes := w.store.data.writes
	w.must(enrol.StateWaiting)(w.ask("minion/web1", key, ""))
	if w.store.data.writes != writes {
		t.Error("asking again within a minute wrote to the store")
	}
	list, err := w.PendingAll(t.Context())
	if err != nil || len(list) != 1 || list[0].Identity.Name != "web1" || list[0].Source != home || list[0].Conflict != "" {
		t.Fatalf("PendingAll = %+v, %v", list, err)
	}
	out, err := w.Sign(t.Context(), "operator/alice", "web1", "", false)
	if err != nil || len(out.Certs) != 1 || out.Certs[0].GrantedBy != "operator/alice" {
		t.Fatalf("Sign = %+v, %v", out, err)
	}
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", key, ""))
	again := w.must(enrol.StateGranted)(w.ask("minion/web1", key, ""))
	if !bytes.Equal(first.Chain[0], again.Chain[0]) || !bytes.Equal(first.Chain[0], out.Certs[0].DER) {
		t.Error("the same key got two certificates")
	}
	leaf := w.verify(first.Chain, "minion/web1")
	if !slices.Equal(leaf.DNSNames, []string{"web1"}) {
		t.Errorf("DNS names %q", leaf.DNSNames)
	}
	if list, err := w.PendingAll(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("PendingAll = %+v, %v; want none", list, err)
	}
	if got := w.actions(); !slices.Equal(got, []string{"enrolled web1"}) {
		t.Errorf("audit log %q", got)
	}
	// After the end of its life the key is nobody special.
	w.pass(pki.MinionLife + time.Hour)
	w.must(enrol.StateWaiting)(w.ask("minion/web1", key, ""))
}

func TestRequestRefusesMalformed(t *testing.T) {
	w := newWorld(t, nil)
	good := csr(t, "minion/web1", newKey(t))
	for _, tt := range []struct {
		name string
		req  enrol.Request
		code call.Code
		has  string
	}{
		{"no CSR", enrol.Request{Role: "minion"}, call.Invalid, "0 bytes"},
		{"a large CSR", enrol.Request{CSR: make([]byte, 9000), Role: "minion"}, call.Invalid, "9000 bytes"},
		{"noise", enrol.Request{CSR: []byte("noise"), Role: "minion"}, call.Invalid, "bad certificate request"},
		{"no role", enrol.Request{CSR: good}, call.Invalid, "not a role"},
		{"an unknown role", enrol.Request{CSR: good, Role: "king"}, call.Invalid, "not a role"},
		{"an overlord", enrol.Request{CSR: csr(t, "overlord/dc2", newKey(t)), Role: "overlord"}, call.Invalid, "issuing CA and log key too"},
		{"a minion with what overlords ask", enrol.Request{CSR: good, Role: "minion", Overlord: &pki.OverlordRequest{}}, call.Invalid, "nobody else"},
		{"an overlord as minion", enrol.Request{CSR: csr(t, "overlord/dc2", newKey(t)), Role: "minion"}, call.Invalid, "says minion"},
		{"another role than the CSR's", enrol.Request{CSR: good, Role: "operator"}, call.Invalid, "says operator"},
		{"a short token", enrol.Request{CSR: good, Role: "minion", Token: "abc"}, call.Denied, "not known"},
		{"a megabyte of token", enrol.Request{CSR: good, Role: "minion", Token: strings.Repeat("a", 1<<20)}, call.Denied, "not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.Request(t.Context(), tt.req)
			wantCode(t, err, tt.code, tt.has)
		})
	}
	if w.store.data.writes != 0 {
		t.Error("malformed requests wrote to the store")
	}
}

func TestToken(t *testing.T) {
	w := newWorld(t, nil)
	text, tok, err := w.CreateToken(t.Context(), "operator/alice", enrol.TokenSpec{
		Name: "web*", Uses: 2, Life: time.Hour, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256([]byte(text)); tok.Hash != sum || tok.ID != hex.EncodeToString(sum[:4]) || len(text) != 64 {
		t.Errorf("token %+v", tok)
	}
	if strings.Contains(fmt.Sprintf("%+v %v", w.store.data.tokens, w.store.data.records), text) {
		t.Error("the token's text was stored")
	}
	other, flipped := []byte(text), []byte(text)
	other[0] ^= 1
	flipped[63] ^= 1
	key := newKey(t)
	for _, tt := range []struct {
		name, id, token string
		from            netip.Addr
		has             string
	}{
		{"unknown", "minion/web1", string(other), home, "not known"},
		{"the last digit wrong", "minion/web1", string(flipped), home, "not known"},
		{"another name", "minion/db1", text, home, `"web*", not "db1"`},
		{"another role", "operator/web1", text, home, "not a operator"},
		{"another network", "minion/web1", text, netip.MustParseAddr("198.51.100.1"), "may not be used from"},
		{"no address", "minion/web1", text, netip.Addr{}, "may not be used from"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.askFrom(tt.from, tt.id, key, tt.token)
			wantCode(t, err, call.Denied, tt.has)
		})
	}
	mapped := netip.MustParseAddr("::ffff:192.0.2.9")
	first := w.must(enrol.StateGranted)(w.askFrom(mapped, "minion/web1", key, text))
	for range 3 { // the answer was lost: the token is not used again
		if d := w.must(enrol.StateGranted)(w.ask("minion/web1", key, text)); !bytes.Equal(d.Chain[0], first.Chain[0]) {
			t.Error("the same key got two certificates")
		}
	}
	w.must(enrol.StateGranted)(w.ask("minion/web2", newKey(t), text))
	_, err = w.ask("minion/web3", newKey(t), text)
	wantCode(t, err, call.Denied, "used up (2 of 2)")
	late := w.token(enrol.TokenSpec{Name: "*"})
	w.pass(2 * time.Hour)
	_, err = w.ask("minion/web3", newKey(t), late)
	wantCode(t, err, call.Denied, "expired at")
	denied := 0
	for _, a := range w.actions() {
		if strings.HasPrefix(a, "denied ") {
			denied++
		}
	}
	if denied != 8 {
		t.Errorf("%d denials on the record; want 8: %q", denied, w.actions())
	}
}

// One use is one machine, however many ask at the same time.
func TestTokenRace(t *testing.T) {
	w := newWorld(t, nil)
	text := w.token(enrol.TokenSpec{Name: "*"})
	var wg sync.WaitGroup
	var mu sync.Mutex
	granted := 0
	for i := range 8 {
		wg.Go(func() {
			d, err := w.ask(fmt.Sprintf("minion/web%d", i), newKey(t), text)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && d.State == enrol.StateGranted {
				granted++
			}
		})
	}
	wg.Wait()
	if granted != 1 {
		t.Errorf("a token of one use enrolled %d machines", granted)
	}
}

func TestTokenManagement(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		name string
		spec enrol.TokenSpec
		has  string
	}{
		{"no name", enrol.TokenSpec{}, "pattern of 0 bytes"},
		{"a bad pattern", enrol.TokenSpec{Name: "[a"}, `"[a"`},
		{"a pattern that is no text", enrol.TokenSpec{Name: "\xff"}, "UTF-8"},
		{"a long pattern", enrol.TokenSpec{Name: strings.Repeat("a", 2000)}, "pattern of 2000"},
		{"an operator", enrol.TokenSpec{Name: "bob", Role: pki.Operator}, "operator add"},
		{"overlords by a pattern", enrol.TokenSpec{Name: "dc*", Role: pki.Overlord}, "for one name"},
		{"an overlord twice", enrol.TokenSpec{Name: "dc2", Role: pki.Overlord, Uses: 2}, "one use"},
		{"a king", enrol.TokenSpec{Name: "x", Role: "king"}, "not a role"},
		{"a life too long", enrol.TokenSpec{Name: "x", Life: enrol.MaxTokenLife + 1}, "at most"},
		{"a negative life", enrol.TokenSpec{Name: "x", Life: -1}, "at most"},
		{"too many uses", enrol.TokenSpec{Name: "x", Uses: enrol.MaxTokenUses + 1}, "at most"},
		{"too many networks", enrol.TokenSpec{Name: "x", Networks: make([]netip.Prefix, 65)}, "networks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := w.CreateToken(t.Context(), "operator/alice", tt.spec)
			wantCode(t, err, call.Invalid, tt.has)
		})
	}
	text, tok, err := w.CreateToken(t.Context(), "operator/alice", enrol.TokenSpec{Name: "web*", Life: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.token(enrol.TokenSpec{Name: "short"})
	w.pass(90 * time.Minute)
	if list, err := w.Tokens(t.Context()); err != nil || len(list) != 1 || list[0].ID != tok.ID {
		t.Errorf("Tokens = %+v, %v; want the one that has not expired", list, err)
	}
	w.token(enrol.TokenSpec{Name: "new"})
	if n := len(w.store.data.tokens); n != 2 {
		t.Errorf("%d tokens are kept; the expired one should be gone", n)
	}
	if err := w.RevokeToken(t.Context(), "operator/alice", tok.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.RevokeToken(t.Context(), "operator/alice", tok.ID), call.NotFound, tok.ID)
	_, err = w.ask("minion/web1", newKey(t), text)
	wantCode(t, err, call.Denied, "not known")
	if !slices.Contains(w.actions(), "token.revoke token/"+tok.ID) || !slices.Contains(w.actions(), "token.create token/"+tok.ID) {
		t.Errorf("audit log %q", w.actions())
	}
}

func TestOperators(t *testing.T) {
	w := newWorld(t, nil)
	text, tok, err := w.AddOperator(t.Context(), "operator/root", "Alice", 0)
	if err != nil || tok.Name != "alice" || tok.Uses != 1 {
		t.Fatalf("AddOperator = %+v, %v", tok, err)
	}
	for _, id := range []string{"minion/alice", "operator/bob"} {
		_, err := w.ask(id, newKey(t), text)
		wantCode(t, err, call.Denied, "it enrols")
	}
	w.must(enrol.StateGranted)(w.ask("operator/alice", newKey(t), text))
	// A second computer needs a token of its own, and the first keeps working.
	w.must(enrol.StateWaiting)(w.ask("operator/alice", newKey(t), ""))
	second, _, err := w.AddOperator(t.Context(), "operator/root", "alice", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateGranted)(w.ask("operator/alice", newKey(t), second))
	if len(w.cut) != 0 {
		t.Errorf("cut %q", w.cut)
	}
	_, _, err = w.AddOperator(t.Context(), "operator/root", "../x", 0)
	wantCode(t, err, call.Invalid, "../x")
}

func TestAutosign(t *testing.T) {
	w := newWorld(t, nil)
	net := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	if err := w.SetAutosign([]enrol.Rule{{Name: "web*", Networks: net}, {Name: "db1"}}); err != nil {
		t.Fatal(err)
	}
	far := netip.MustParseAddr("198.51.100.1")
	w.must(enrol.StateGranted)(w.ask("minion/web1", newKey(t), ""))
	w.must(enrol.StateGranted)(w.askFrom(netip.MustParseAddr("2001:db8::1"), "minion/web2", newKey(t), ""))
	w.must(enrol.StateGranted)(w.askFrom(far, "minion/db1", newKey(t), ""))
	w.must(enrol.StateWaiting)(w.askFrom(far, "minion/web3", newKey(t), ""))
	w.must(enrol.StateWaiting)(w.askFrom(netip.Addr{}, "minion/web4", newKey(t), ""))
	w.must(enrol.StateWaiting)(w.ask("minion/app1", newKey(t), ""))
	w.must(enrol.StateWaiting)(w.ask("operator/web1", newKey(t), "")) // minions only
	if c, err := w.certs("minion/web1"); err != nil || c[0].GrantedBy != "autosign/web*" {
		t.Errorf("granted by %q, %v", c[0].GrantedBy, err)
	}
	wantCode(t, w.SetAutosign([]enrol.Rule{{Name: "["}}), call.Invalid, "rule 1")
	w.must(enrol.StateGranted)(w.ask("minion/web9", newKey(t), "")) // the old rules stayed
	if err := w.SetAutosign(nil); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateWaiting)(w.ask("minion/web10", newKey(t), ""))
}

func (w *world) certs(id string) (out []enrol.Cert, err error) {
	err = w.store.Update(w.t.Context(), func(tx enrol.Tx) error {
		out, err = tx.Certs(ident(w.t, id))
		return err
	})
	return out, err
}

// A second key for a known name is held, whatever would have signed it.
func TestConflict(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	old, thief := newKey(t), newKey(t)
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", old, ""))
	text := w.token(enrol.TokenSpec{Name: "*", Uses: 5})
	for _, token := range []string{"", text, ""} {
		d := w.must(enrol.StateWaiting)(w.ask("minion/web1", thief, token))
		if !strings.Contains(d.Detail, "in use") || d.Chain != nil {
			t.Errorf("decision %+v", d)
		}
	}
	list, err := w.PendingAll(t.Context())
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Conflict, pki.Fingerprint(old.Public())) {
		t.Fatalf("PendingAll = %+v, %v", list, err)
	}
	if n := strings.Count(strings.Join(w.actions(), "\n"), "conflict web1"); n != 1 {
		t.Errorf("%d conflicts on the record; want 1: %q", n, w.actions())
	}
	if d := w.must(enrol.StateGranted)(w.ask("minion/web1", old, "")); !bytes.Equal(d.Chain[0], first.Chain[0]) {
		t.Error("the first machine's certificate changed")
	}
	if len(w.cut) != 0 || w.store.data.revoked != nil {
		t.Errorf("something was revoked: %q", w.cut)
	}
	if tokens, err := w.Tokens(t.Context()); err != nil || tokens[0].Used != 0 {
		t.Errorf("the token was used: %+v, %v", tokens, err)
	}
	_, err = w.Sign(t.Context(), "operator/alice", "web1", "", false)
	wantCode(t, err, call.Conflict, "--replace")
	if out, err := w.Sign(t.Context(), "operator/alice", "*", "", false); err != nil || len(out.Certs) != 0 || len(out.Held) != 1 {
		t.Errorf("Sign(*) = %+v, %v; want it held", out, err)
	}
	if _, err := w.Sign(t.Context(), "operator/alice", "web1", "", true); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateGranted)(w.ask("minion/web1", thief, ""))
	w.checkReplaced(first)
	// The old machine is now the one with another key.
	w.must(enrol.StateWaiting)(w.ask("minion/web1", old, ""))
}

func (w *world) checkReplaced(first enrol.Decision) {
	w.t.Helper()
	leaf := w.verify(first.Chain, first.Identity.String())
	if !slices.Equal(w.cut, []string{first.Identity.String()}) || w.list.Number() != 1 {
		w.t.Errorf("cut %q", w.cut)
	}
	if _, bad := w.list.Revoked(leaf); !bad {
		w.t.Error("the old certificate is not on the list")
	}
}

func TestTokenReplaces(t *testing.T) {
	w := newWorld(t, nil)
	text := w.token(enrol.TokenSpec{Name: "node*", Uses: 3, Replace: true})
	first := w.must(enrol.StateGranted)(w.ask("minion/node1", newKey(t), text))
	d := w.must(enrol.StateGranted)(w.ask("minion/node1", newKey(t), text))
	w.checkReplaced(first)
	if list, err := pki.ParseRevocations(w.root.Cert, d.Revocations); err != nil || list.Number() != 1 {
		t.Errorf("the answer's list: %v", err)
	}
	// The new certificate's key is not touched by the short entry.
	if _, bad := w.list.Revoked(w.verify(d.Chain, "minion/node1")); bad {
		t.Error("the new certificate is revoked")
	}
	// A machine that was taken into use anew is autosigned no worse than before.
	if c, err := w.certs("minion/node1"); err != nil || c[0].GrantedBy == "" || len(c) != 2 {
		t.Errorf("certificates %+v, %v", c, err)
	}
}

func TestStoreFails(t *testing.T) {
	w := newWorld(t, nil)
	text := w.token(enrol.TokenSpec{Name: "*"})
	before := w.store.data.writes
	w.store.fail = errors.New("disk full")
	key := newKey(t)
	if _, err := w.ask("minion/web1", key, text); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Request = %v; want the store's error", err)
	}
	_, _, err := w.CreateToken(t.Context(), "operator/alice", enrol.TokenSpec{Name: "x"})
	if err == nil {
		t.Error("CreateToken succeeded")
	}
	w.store.fail = nil
	if w.store.data.writes != before {
		t.Error("half of a transaction stayed")
	}
	w.must(enrol.StateGranted)(w.ask("minion/web1", key, text)) // the token was not used
}

// slowStore lets a transaction wait, and counts those that do.
type slowStore struct {
	enrol.Store
	in   chan struct{} // gets one for each transaction that begins
	free chan struct{} // closed: they go on
}

func (s slowStore) Update(ctx context.Context, fn func(enrol.Tx) error) error {
	s.in <- struct{}{}
	<-s.free
	return s.Store.Update(ctx, fn)
}

// Strangers' requests are few at a time with the store, for which everything
// else waits, and those that leave do not wait on.
func TestRequestsAtTheStoreAreBounded(t *testing.T) {
	slow := slowStore{in: make(chan struct{}, 100), free: make(chan struct{})}
	w := newWorld(t, func(c *enrol.Config) {
		slow.Store = c.Store
		c.Store = slow
	})
	const n, most = 40, 8
	ctx, leave := context.WithCancel(t.Context())
	errs := make(chan error, n+1)
	ask := func(ctx context.Context, i int) {
		_, err := w.Request(ctx, enrol.Request{CSR: csr(t, fmt.Sprintf("minion/web%d", i), newKey(t)), Role: "minion", Source: home})
		errs <- err
	}
	for i := range n {
		go ask(t.Context(), i)
	}
	for range most {
		<-slow.in
	}
	go ask(ctx, n)
	leave()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("who left waits for %v", err)
	}
	if more := len(slow.in); more != 0 {
		t.Errorf("%d more are with the store; want %d at a time", more, most)
	}
	close(slow.free)
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
