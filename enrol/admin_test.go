package enrol_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

func TestRevoke(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", key, ""))
	leaf := w.verify(first.Chain, "minion/web1")
	_, _, err := w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web2"), "", "")
	wantCode(t, err, call.NotFound, "minion/web2 has no valid certificate")
	_, _, err = w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "123", "")
	wantCode(t, err, call.NotFound, `serial "123"`)
	_, _, err = w.Revoke(t.Context(), "operator/alice", pki.Identity{Role: "king", Name: "x"}, "", "")
	wantCode(t, err, call.Invalid, "king")
	_, _, err = w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", strings.Repeat("x", 300))
	wantCode(t, err, call.Invalid, "300 bytes")
	_, _, err = w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", "\xff")
	wantCode(t, err, call.Invalid, "UTF-8")

	serials, number, err := w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", "stolen")
	if err != nil || number != 1 || !slices.Equal(serials, []string{leaf.SerialNumber.Text(16)}) {
		t.Fatalf("Revoke = %q, %d, %v", serials, number, err)
	}
	if !slices.Equal(w.cut, []string{"minion/web1"}) {
		t.Errorf("cut %q", w.cut)
	}
	if reason, bad := w.list.Revoked(leaf); !bad || reason != "stolen" {
		t.Errorf("on the list: %q, %t", reason, bad)
	}
	// Neither the key nor, without an operator's word, the name comes back.
	if d := w.must(enrol.StateRejected)(w.ask("minion/web1", key, "")); !strings.Contains(d.Detail, "stolen") {
		t.Errorf("detail %q", d.Detail)
	}
	if d := w.must(enrol.StateRejected)(w.ask("minion/web1", key, w.token(enrol.TokenSpec{Name: "*"}))); d.Chain != nil {
		t.Error("a token revived a revoked key")
	}
	fresh := newKey(t)
	w.must(enrol.StateWaiting)(w.ask("minion/web1", fresh, ""))
	_, err = w.Sign(t.Context(), "operator/alice", "web1", "", false)
	wantCode(t, err, call.Conflict, "was revoked")
	if _, err := w.Sign(t.Context(), "operator/alice", "web1", "", true); err != nil {
		t.Error(err)
	}
	w.must(enrol.StateGranted)(w.ask("minion/web1", fresh, ""))
	rec := w.store.data.records[1]
	if rec.Action != "revoked" || rec.Actor != "operator/alice" || rec.Subject != "web1" || !bytes.Equal(rec.Statement, w.store.data.revoked) {
		t.Errorf("record %v", rec)
	}
	if signed, err := w.Revocations(t.Context()); err != nil || !bytes.Equal(signed, w.store.data.revoked) {
		t.Errorf("Revocations: %v", err)
	}
}

// Who holds a token that replaces can fill a part of the list, and no operator is
// kept from revoking by it.
func TestFullRevocationList(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.SetAutosign([]enrol.Rule{{Name: "web*"}}); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateGranted)(w.ask("minion/web1", newKey(t), ""))
	fill := func(n int) {
		t.Helper()
		entries := make([]pki.Revoked, n)
		for i := range entries {
			entries[i] = pki.Revoked{Serial: fmt.Appendf(nil, "%016d", i), NotAfter: w.now().Add(time.Hour)}
		}
		list := pki.NewRevocations()
		for list.Number() < w.store.data.number {
			list = list.Add(w.now())
		}
		signed, err := pki.SignRevocations(w.root, list.Add(w.now(), entries...))
		if err != nil {
			t.Fatal(err)
		}
		w.store.data.revoked, w.store.data.number = signed, list.Number()+1
	}
	token := w.token(enrol.TokenSpec{Name: "*", Uses: 9, Replace: true})
	fill(10_850)
	_, err := w.ask("minion/web1", newKey(t), token)
	wantCode(t, err, call.Busy, "10851 entries")
	if _, _, err := w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", "stolen"); err != nil {
		t.Errorf("an operator revokes: %v", err)
	}
	w.must(enrol.StateGranted)(w.ask("minion/web2", newKey(t), ""))
	fill(14_400)
	_, _, err = w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web2"), "", strings.Repeat("x", pki.MaxReason))
	wantCode(t, err, call.Busy, "full (14401 entries)")
	if !slices.Equal(w.cut, []string{"minion/web1"}) {
		t.Errorf("cut %q; want web1 alone", w.cut)
	}
}

// A damaged list stops revocation rather than starting again at one.
func TestRevokeWithDamagedList(t *testing.T) {
	w := newWorld(t, nil)
	w.must(enrol.StateGranted)(w.ask("minion/web1", newKey(t), w.token(enrol.TokenSpec{Name: "*"})))
	w.store.data.revoked = []byte("damaged")
	if _, _, err := w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", ""); err == nil || !strings.Contains(err.Error(), "stored list") {
		t.Errorf("Revoke = %v; want an error about the stored list", err)
	}
	if len(w.cut) != 0 {
		t.Errorf("announced %q", w.cut)
	}
}

func TestReject(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.SetAutosign(nil); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	w.must(enrol.StateWaiting)(w.ask("minion/web1", key, ""))
	out, err := w.Reject(t.Context(), "operator/alice", "web1", "")
	if err != nil || len(out) != 1 || out[0].Fingerprint != pki.Fingerprint(key.Public()) {
		t.Fatalf("Reject = %+v, %v", out, err)
	}
	_, err = w.Reject(t.Context(), "operator/alice", "web1", "")
	wantCode(t, err, call.NotFound, `no request for "web1" waits; list those that do with: dominion cert pending`)
	_, err = w.Reject(t.Context(), "operator/alice", "[", "")
	wantCode(t, err, call.Invalid, "pattern")
	w.must(enrol.StateRejected)(w.ask("minion/web1", key, ""))
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateRejected)(w.ask("minion/web1", key, "")) // a rule is no word
	if out, err := w.Sign(t.Context(), "operator/alice", "*", "", false); err != nil || len(out.Held) != 1 || len(out.Certs) != 0 {
		t.Errorf("Sign(*) = %+v, %v; want the rejected one left alone", out, err)
	}
	if out, err := w.Sign(t.Context(), "operator/alice", "web1", "", false); err != nil || len(out.Certs) != 1 {
		t.Errorf("Sign(web1) = %+v, %v; an operator may think again", out, err)
	}
	if !slices.Contains(w.actions(), "cert.reject web1") {
		t.Errorf("audit log %q", w.actions())
	}
}

func TestSignPatterns(t *testing.T) {
	w := newWorld(t, nil)
	keyA, keyB, boss := newKey(t), newKey(t), newKey(t)
	for _, id := range []string{"minion/web1", "minion/web2"} {
		w.must(enrol.StateWaiting)(w.ask(id, newKey(t), ""))
	}
	w.must(enrol.StateWaiting)(w.ask("minion/web3", keyA, ""))
	w.must(enrol.StateWaiting)(w.ask("minion/web3", keyB, ""))
	w.must(enrol.StateWaiting)(w.ask("operator/webmaster", boss, ""))
	out, err := w.Sign(t.Context(), "operator/alice", "web*", "", false)
	if err != nil || len(out.Certs) != 2 || len(out.Held) != 2 {
		t.Fatalf("Sign(web*) = %+v, %v; want two signed and two held", out, err)
	}
	bossPrint := pki.Fingerprint(boss.Public())
	for _, tt := range []struct {
		name, fingerprint string
		replace           bool
		code              call.Code
		has               string
	}{
		{"web*", bossPrint, false, call.NotFound, `"web*" with the key "` + bossPrint + `" waits`},
		{"operator/web*", bossPrint, false, call.Invalid, "one name"},
		{"operator/webmaster", "", false, call.Invalid, "fingerprint"},
		{"operator/webmaster", pki.Fingerprint(keyA.Public()), false, call.NotFound, `"operator/webmaster" with the key`},
		{"webmaster", "", false, call.Invalid, "operator/webmaster --fingerprint " + bossPrint},
		{"webmaster", bossPrint, false, call.Invalid, "asks to be an operator"},
		{"web3", "", false, call.Invalid, "2 keys ask"},
		{"web*", "", true, call.Invalid, "one name"},
		{"nobody", "", false, call.NotFound, `no request for "nobody" waits; list those that do with: dominion cert pending`},
		{"king/web3", "", false, call.NotFound, "no request"},
		{"[", "", false, call.Invalid, "pattern"},
	} {
		out, err := w.Sign(t.Context(), "operator/alice", tt.name, tt.fingerprint, tt.replace)
		wantCode(t, err, tt.code, tt.has)
		if len(out.Certs) != 0 {
			t.Errorf("Sign(%s) signed %v", tt.name, out.Certs[0].Identity)
		}
	}
	if out, err := w.Sign(t.Context(), "operator/alice", "web3", pki.Fingerprint(keyB.Public()), false); err != nil || len(out.Certs) != 1 || out.Certs[0].Fingerprint != pki.Fingerprint(keyB.Public()) {
		t.Errorf("Sign by fingerprint = %+v, %v", out, err)
	}
	if out, err := w.Sign(t.Context(), "operator/alice", "operator/WEBMASTER", bossPrint, false); err != nil || len(out.Certs) != 1 {
		t.Errorf("Sign of an operator = %+v, %v", out, err)
	}
	w.must(enrol.StateGranted)(w.ask("operator/webmaster", boss, ""))
	// One key that asks for both roles gets the one that is named.
	twin := newKey(t)
	w.must(enrol.StateWaiting)(w.ask("operator/twin", twin, ""))
	w.must(enrol.StateWaiting)(w.ask("minion/twin", twin, ""))
	if out, err := w.Sign(t.Context(), "operator/alice", "twin", pki.Fingerprint(twin.Public()), false); err != nil || len(out.Certs) != 1 || out.Certs[0].Identity.Role != pki.Minion {
		t.Errorf("Sign(twin) = %+v, %v; want the minion", out, err)
	}
	if out, err := w.Reject(t.Context(), "operator/alice", "minion/twin", ""); err == nil {
		t.Errorf("Reject(minion/twin) = %+v; want only that role looked at", out)
	}
	if out, err := w.Reject(t.Context(), "operator/alice", "operator/twin", ""); err != nil || len(out) != 1 {
		t.Errorf("Reject(operator/twin) = %+v, %v", out, err)
	}
}

func TestPendingBounds(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	fill := func(source netip.Addr, prefix string, n int) {
		t.Helper()
		for i := range n {
			w.must(enrol.StateWaiting)(w.askFrom(source, fmt.Sprintf("minion/%s%d", prefix, i), key, ""))
		}
	}
	v6 := netip.MustParseAddr("2001:db8::1")
	fill(v6, "v6-", enrol.MaxSource)
	// The whole /64 is one source.
	_, err := w.askFrom(netip.MustParseAddr("2001:db8::ffff:2"), "minion/one-more", key, "")
	wantCode(t, err, call.Busy, "2001:db8::/64")
	if _, err := w.Reject(t.Context(), "operator/alice", "v6-7", ""); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateWaiting)(w.askFrom(v6, "minion/one-more", key, ""))
	w.mustBeGone("v6-7")
	// Fill up from sources of 50 each.
	for i := range enrol.MaxPending/enrol.MaxSource - 1 {
		fill(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), fmt.Sprintf("s%d-", i), enrol.MaxSource)
	}
	w.pass(time.Second)
	// Somebody new displaces the oldest of the largest source.
	w.must(enrol.StateWaiting)(w.ask("minion/honest", key, ""))
	if n := len(w.store.data.pending); n != enrol.MaxPending {
		t.Errorf("%d requests are held; want %d", n, enrol.MaxPending)
	}
	// A source that holds as much as any is refused: it has displaced one already.
	if _, err := w.Reject(t.Context(), "operator/alice", "s3-9", ""); err != nil {
		t.Fatal(err)
	}
	w.must(enrol.StateWaiting)(w.ask("minion/honest2", key, "")) // in place of the rejected one
	w.mustBeGone("s3-9")
	// After a week without asking all of them are gone.
	w.pass(enrol.PendingLife + time.Hour)
	w.must(enrol.StateWaiting)(w.ask("minion/late", key, ""))
	if n := len(w.store.data.pending); n != 1 {
		t.Errorf("%d requests are held; want 1", n)
	}
}

func (w *world) mustBeGone(name string) {
	w.t.Helper()
	list, err := w.PendingAll(w.t.Context())
	if err != nil || slices.ContainsFunc(list, func(p enrol.Pending) bool { return p.Identity.Name == name }) {
		w.t.Errorf("%s is still held, %v", name, err)
	}
}

// Callers without a certificate cannot fill the audit log.
func TestDenialsAreMetered(t *testing.T) {
	w := newWorld(t, nil)
	w.pass(time.Minute - time.Duration(w.now().Second())*time.Second)
	key := newKey(t)
	bad := strings.Repeat("0", 64)
	for range 100 {
		_, err := w.ask("minion/web1", key, bad)
		wantCode(t, err, call.Denied, "not known")
	}
	if n := len(w.actions()); n != 60 {
		t.Errorf("%d records of 100 denials; want 60", n)
	}
	w.pass(time.Minute)
	if _, err := w.ask("minion/web1", key, bad); err == nil {
		t.Error("a bad token was taken")
	}
	if last := w.store.data.records[60]; !strings.Contains(last.Detail, "40 records") {
		t.Errorf("detail %q does not count what was left out", last.Detail)
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", key, w.token(enrol.TokenSpec{Name: "*"})))
	leaf := w.verify(first.Chain, "minion/web1")
	peer := enrol.Peer{Identity: ident(t, "minion/web1"), Cert: leaf}
	if chain, err := w.Renew(t.Context(), peer, csr(t, "minion/web1", key)); err != nil || !bytes.Equal(chain[0], first.Chain[0]) {
		t.Errorf("a renewal that is not due: %v; want the same certificate", err)
	}
	w.pass(pki.MinionLife * 2 / 3)
	chain, err := w.Renew(t.Context(), peer, csr(t, "minion/web1", key))
	if err != nil || bytes.Equal(chain[0], first.Chain[0]) {
		t.Fatalf("Renew = %v; want a new certificate", err)
	}
	if next := w.verify(chain, "minion/web1"); !next.NotAfter.Equal(w.now().Add(pki.MinionLife)) {
		t.Errorf("it ends at %v", next.NotAfter)
	}
	fresh := newKey(t)
	if chain, err = w.Renew(t.Context(), peer, csr(t, "minion/web1", fresh)); err != nil {
		t.Fatal(err)
	}
	if next := w.verify(chain, "minion/web1"); pki.FingerprintOf(next) != pki.Fingerprint(fresh.Public()) {
		t.Error("the new key was not certified")
	}
	for _, tt := range []struct {
		name string
		csr  []byte
		code call.Code
	}{
		{"another name", csr(t, "minion/web2", key), call.Denied},
		{"another role", csr(t, "operator/web1", key), call.Denied},
		{"noise", []byte("noise"), call.Invalid},
	} {
		_, err := w.Renew(t.Context(), peer, tt.csr)
		wantCode(t, err, tt.code, "")
	}
	// A loop with new keys comes to an end.
	for err = nil; err == nil; _, err = w.Renew(t.Context(), peer, csr(t, "minion/web1", newKey(t))) {
	}
	wantCode(t, err, call.Busy, "8 valid certificates")
	if _, _, err := w.Revoke(t.Context(), "operator/alice", peer.Identity, "", "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Renew(t.Context(), peer, csr(t, "minion/web1", newKey(t)))
	wantCode(t, err, call.Revoked, "stolen")
	if !slices.Contains(w.actions(), "renewed web1") {
		t.Errorf("audit log %q", w.actions())
	}
	boss := enrol.Peer{Identity: ident(t, "overlord/dc1"), Cert: leaf}
	_, err = w.Renew(t.Context(), boss, csr(t, "overlord/dc1", key))
	wantCode(t, err, call.Denied, "overlord/dc1")
}

// A session may outlive the certificate that it began with; nobody is renewed by it.
func TestRenewWithAnExpiredCertificate(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", key, w.token(enrol.TokenSpec{Name: "*"})))
	peer := enrol.Peer{Identity: ident(t, "minion/web1"), Cert: w.verify(first.Chain, "minion/web1")}
	w.pass(pki.MinionLife + time.Minute)
	_, err := w.Renew(t.Context(), peer, csr(t, "minion/web1", newKey(t)))
	wantCode(t, err, call.Denied, "expired")
}

func TestRenewOfRevokedKey(t *testing.T) {
	w := newWorld(t, nil)
	stolen, kept := newKey(t), newKey(t)
	text := w.token(enrol.TokenSpec{Name: "*", Uses: 2})
	first := w.must(enrol.StateGranted)(w.ask("minion/web1", stolen, text))
	peer := enrol.Peer{Identity: ident(t, "minion/web1"), Cert: w.verify(first.Chain, "minion/web1")}
	chain, err := w.Renew(t.Context(), peer, csr(t, "minion/web1", kept))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Revoke(t.Context(), "operator/alice", peer.Identity, peer.Cert.SerialNumber.Text(16), "leaked"); err != nil {
		t.Fatal(err)
	}
	peer.Cert = w.verify(chain, "minion/web1")
	_, err = w.Renew(t.Context(), peer, csr(t, "minion/web1", stolen))
	wantCode(t, err, call.Revoked, "leaked")
}

// Without the root's key minions enrol, and the rest waits.
func TestStandby(t *testing.T) {
	w := newWorld(t, func(c *enrol.Config) { c.Root = nil })
	key := newKey(t)
	w.must(enrol.StateGranted)(w.ask("minion/web1", key, w.token(enrol.TokenSpec{Name: "*", Uses: 9, Replace: true})))
	_, _, err := w.AddOperator(t.Context(), "operator/alice", "bob", 0)
	wantCode(t, err, call.Unavailable, "root's key")
	_, _, err = w.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", "")
	wantCode(t, err, call.Unavailable, "root's key")
	bob := newKey(t)
	w.must(enrol.StateWaiting)(w.ask("operator/bob", bob, ""))
	_, err = w.Sign(t.Context(), "operator/alice", "operator/bob", pki.Fingerprint(bob.Public()), false)
	wantCode(t, err, call.Unavailable, "root's key")
	_, err = w.ask("minion/web1", newKey(t), w.token(enrol.TokenSpec{Name: "*", Replace: true}))
	wantCode(t, err, call.Unavailable, "root's key")
	w.must(enrol.StateGranted)(w.ask("minion/web1", key, ""))
}

// A certificate of an issuing CA that was replaced is issued anew on asking.
func TestNewIssuingCA(t *testing.T) {
	w := newWorld(t, nil)
	key := newKey(t)
	old := w.must(enrol.StateGranted)(w.ask("minion/web1", key, w.token(enrol.TokenSpec{Name: "*"})))
	next := newWorld(t, func(c *enrol.Config) {
		issuingKey := newKey(t)
		cert, err := w.root.NewIssuing("dc1", issuingKey.Public(), w.now())
		if err != nil {
			t.Fatal(err)
		}
		c.Store, c.Root, c.RootCert, c.Now = w.store, w.root, w.root.Cert, w.now
		c.Issuing = &pki.Authority{Cert: cert, Key: issuingKey}
	})
	next.root = w.root
	if err := next.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	d := next.must(enrol.StateGranted)(next.ask("minion/web1", key, ""))
	if bytes.Equal(d.Chain[0], old.Chain[0]) {
		t.Error("the old issuing CA's certificate was given with the new CA")
	}
}

func TestIssue(t *testing.T) {
	w := newWorld(t, nil)
	for id, length := range map[string]int{"overlord/dc1": 2, "operator/local": 2, "minion/dc1": 3} {
		chain, err := w.Issue(t.Context(), "local/root", pki.Template{Identity: ident(t, id), PublicKey: newKey(t).Public(), DNS: []string{"overlord.example"}})
		if err != nil || len(chain) != length {
			t.Fatalf("Issue(%s) = %d, %v", id, len(chain), err)
		}
		if leaf := w.verify(chain, id); !slices.Equal(leaf.DNSNames, []string{"overlord.example"}) {
			t.Errorf("DNS names %q", leaf.DNSNames)
		}
	}
	if _, err := w.Issue(t.Context(), "local/root", pki.Template{Identity: ident(t, "minion/x")}); err == nil {
		t.Error("Issue without a key succeeded")
	}
}

func TestNewRefuses(t *testing.T) {
	w, other := newWorld(t, nil), newWorld(t, nil)
	good := w.cfg
	for name, change := range map[string]func(*enrol.Config){
		"no store":               func(c *enrol.Config) { c.Store = nil },
		"no glob":                func(c *enrol.Config) { c.Glob = nil },
		"another root's key":     func(c *enrol.Config) { c.Root = other.root },
		"another fleet's issuer": func(c *enrol.Config) { c.Issuing = other.issuing },
		"no issuer":              func(c *enrol.Config) { c.Issuing = nil },
		"no root":                func(c *enrol.Config) { c.RootCert = (*x509.Certificate)(nil) },
	} {
		cfg := good
		change(&cfg)
		if _, err := enrol.New(cfg); err == nil {
			t.Errorf("New with %s succeeded", name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	w := newWorld(f, nil)
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		f.Fatal(err)
	}
	tok := w.token(enrol.TokenSpec{Name: "*", Uses: 1000})
	f.Add(csr(f, "minion/web1", newKey(f)), "minion", "")
	f.Add(csr(f, "operator/alice", newKey(f)), "operator", tok)
	f.Add(csr(f, "overlord/dc2", newKey(f)), "overlord", tok)
	f.Fuzz(func(t *testing.T, der []byte, role, token string) {
		d, err := w.Request(t.Context(), enrol.Request{CSR: der, Role: role, Token: token, Source: home})
		if err != nil {
			if c := call.CodeOf(err); c != call.Invalid && c != call.Denied && c != call.Busy {
				t.Fatalf("error %v has code %v", err, c)
			}
			return
		}
		if string(d.Identity.Role) != role || d.State == enrol.StateGranted && d.Identity.Role != pki.Minion {
			t.Fatalf("asked as %q, decided %+v", role, d)
		}
	})
}
