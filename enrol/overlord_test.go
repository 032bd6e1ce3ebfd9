package enrol_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// newcomer is an overlord that asks.
type newcomer struct {
	name         string
	key, issuing crypto.Signer
	req          pki.OverlordRequest
}

func newNewcomer(t testing.TB, name, logID string) *newcomer {
	t.Helper()
	log, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &newcomer{name: name, key: newKey(t), issuing: newKey(t)}
	if n.req, err = pki.NewOverlordRequest(name, n.key, n.issuing, log, logID); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *newcomer) asks(token string) enrol.Request {
	return enrol.Request{CSR: n.req.CSR, Role: "overlord", Token: token, Source: home, Overlord: &n.req}
}

func (n *newcomer) renews() enrol.Request {
	r := n.asks("")
	r.Renew = true
	return r
}

// got checks an answer as its overlord would.
func (n *newcomer) got(w *world, d enrol.Decision, err error) pki.OverlordGrant {
	w.t.Helper()
	if err != nil || d.State != enrol.StateGranted {
		w.t.Fatalf("Request = %d %q, %v; want it granted", d.State, d.Detail, err)
	}
	trust, err := pki.TrustPin(pki.Pin(w.root.Cert))
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := n.req.VerifyGrant(trust, d.Chain, d.Issuing, d.LogKey, w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// topAndMid gives a world that is the overlord called top, and mid one below it without
// the root's key, which has enrolled there.
func topAndMid(t *testing.T) (top, mid *world) {
	t.Helper()
	top = newWorld(t, func(c *enrol.Config) { c.Overlord, c.LogID = "top", "ffff" })
	relay := func(ctx context.Context, r enrol.Request) (enrol.Decision, error) {
		r.Via = append(r.Via, "mid")
		return top.Request(ctx, r)
	}
	mid = newWorld(t, func(c *enrol.Config) {
		n := newNewcomer(t, "mid", "eeee")
		d, err := top.Request(t.Context(), n.asks(top.token(enrol.TokenSpec{Name: "mid", Role: pki.Overlord})))
		g := n.got(top, d, err)
		c.RootCert, c.Root, c.Issuing = top.root.Cert, nil, &pki.Authority{Cert: g.Issuing, Key: n.issuing}
		c.Overlord, c.LogID, c.Relay, c.RootHost = "mid", "eeee", relay, func() string { return "top" }
		c.RelayRevoke = func(ctx context.Context, r pki.RevokeRequest) (uint64, error) {
			if err := r.Sign(n.key); err != nil {
				return 0, err
			}
			number, signed, err := top.RevokeBelow(ctx, r)
			if err == nil && r.Reason == pki.Replaced {
				mid.adopt(signed)
			}
			return number, err
		}
	})
	mid.root, mid.issuing = top.root, mid.cfg.Issuing
	return top, mid
}

func TestOverlordByToken(t *testing.T) {
	w, _ := topAndMid(t)
	n := newNewcomer(t, "dc2", "0123")
	d, err := w.Request(t.Context(), n.asks(""))
	w.must(enrol.StateWaiting)(d, err)
	for name, spec := range map[string]enrol.TokenSpec{
		"a machine's token": {Name: "*", Uses: 5}, "another name's": {Name: "dc3", Role: pki.Overlord},
	} {
		_, err := w.Request(t.Context(), n.asks(w.token(spec)))
		if call.CodeOf(err) != call.Denied {
			t.Errorf("%s: %v; want denied", name, err)
		}
	}
	text := w.token(enrol.TokenSpec{Name: "DC2", Role: pki.Overlord})
	_, err = w.ask("minion/dc2", newKey(t), text)
	wantCode(t, err, call.Denied, "it enrols a overlord")
	d, err = w.Request(t.Context(), n.asks(text))
	first := n.got(w, d, err)
	if d.RootHost != "top" {
		t.Errorf("the root's host is %q; want top", d.RootHost)
	}
	d, err = w.Request(t.Context(), n.asks("")) // the answer was lost
	if again := n.got(w, d, err); !again.Leaf.Equal(first.Leaf) || !again.Issuing.Equal(first.Issuing) {
		t.Error("asked again: other certificates; want the same")
	}
	if !w.store.data.subs["dc2"] || w.store.data.logs["0123"] != "dc2" {
		t.Errorf("noted %v, %v; want dc2 and its log", w.store.data.subs, w.store.data.logs)
	}
	// A log belongs to one overlord, and names to one machine.
	thief := newNewcomer(t, "dc9", "0123")
	_, err = w.Request(t.Context(), thief.asks(w.token(enrol.TokenSpec{Name: "dc9", Role: pki.Overlord})))
	wantCode(t, err, call.Conflict, "audit log")
	own := newNewcomer(t, "dc9", "ffff")
	_, err = w.Request(t.Context(), own.asks(w.token(enrol.TokenSpec{Name: "dc9", Role: pki.Overlord})))
	wantCode(t, err, call.Conflict, "audit log")
	if len(w.store.data.certs) != 4 { // two leaves, two issuing CAs
		t.Errorf("%d certificates; want nothing kept of what was refused", len(w.store.data.certs))
	}
}

func TestOverlordNames(t *testing.T) {
	w, _ := topAndMid(t)
	w.must(enrol.StateGranted)(w.ask("minion/web1", newKey(t), w.token(enrol.TokenSpec{Name: "*"})))
	for name, why := range map[string]string{"web1": "minion/web1 has a certificate", "top": "name of this overlord", "mid": "with another key"} {
		n := newNewcomer(t, name, "aa"+name)
		d, err := w.Request(t.Context(), n.asks(w.token(enrol.TokenSpec{Name: name, Role: pki.Overlord, Replace: name != "mid"})))
		w.must(enrol.StateWaiting)(d, err)
		fp := pki.Fingerprint(n.key.Public())
		_, err = w.Sign(t.Context(), "operator/alice", "overlord/"+name, fp, name != "mid")
		wantCode(t, err, call.Conflict, why)
	}
	// And a machine does not get the name of an overlord.
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"", w.token(enrol.TokenSpec{Name: "*", Replace: true})} {
		d, err := w.ask("minion/mid", newKey(t), token)
		w.must(enrol.StateWaiting)(d, err)
	}
	// Replaced by hand: what the lost one has signed goes with it.
	n := newNewcomer(t, "mid", "bbbb")
	d, err := w.Request(t.Context(), n.asks(""))
	w.must(enrol.StateWaiting)(d, err)
	if _, err := w.Sign(t.Context(), "operator/alice", "overlord/mid", pki.Fingerprint(n.key.Public()), true); err != nil {
		t.Fatal(err)
	}
	d, err = w.Request(t.Context(), n.asks(""))
	n.got(w, d, err)
	if got := len(w.list.Entries()); got != 2 {
		t.Errorf("%d entries on the list; want leaf and issuing CA of the lost one", got)
	}
}

func TestOverlordByHand(t *testing.T) {
	w, _ := topAndMid(t)
	n := newNewcomer(t, "dc2", "0123")
	fp := pki.Fingerprint(n.key.Public())
	if err := w.SetAutosign([]enrol.Rule{{Name: "*"}}); err != nil {
		t.Fatal(err)
	}
	d, err := w.Request(t.Context(), n.asks(""))
	w.must(enrol.StateWaiting)(d, err)
	for _, tt := range []struct {
		name, fingerprint string
		code              call.Code
	}{
		{"dc2", fp, call.Invalid}, {"overlord/dc2", "", call.Invalid}, {"overlord/dc*", fp, call.Invalid}, {"operator/dc2", fp, call.Invalid}, {"*", "", call.NotFound},
	} {
		if _, err := w.Sign(t.Context(), "operator/alice", tt.name, tt.fingerprint, false); call.CodeOf(err) != tt.code {
			t.Errorf("Sign(%q, %q) = %v; want code %v", tt.name, tt.fingerprint, err, tt.code)
		}
	}
	if _, err := w.Sign(t.Context(), "operator/alice", "overlord/dc2", fp, false); err != nil {
		t.Fatal(err)
	}
	d, err = w.Request(t.Context(), n.asks(""))
	n.got(w, d, err)
}

// What goes through another overlord is decided and recorded at the top, and cannot
// be changed on the way.
func TestOverlordRelayed(t *testing.T) {
	top, mid := topAndMid(t)
	n := newNewcomer(t, "low", "0123")
	d, err := mid.Request(t.Context(), n.asks(""))
	mid.must(enrol.StateWaiting)(d, err)
	if got, err := mid.PendingAll(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%d requests wait at mid, %v; want them at the top", len(got), err)
	}
	d, err = mid.Request(t.Context(), n.asks(top.token(enrol.TokenSpec{Name: "low", Role: pki.Overlord})))
	first := n.got(top, d, err)
	if top.store.data.subs["low"] || !mid.store.data.subs["low"] {
		t.Error("low is not noted where it asked, and there alone")
	}
	if got := strings.Join(mid.actions(), "; "); !strings.Contains(got, "relayed overlord/low") {
		t.Errorf("the log of mid holds %s", got)
	}
	if c := top.certsOf("overlord/low"); len(c) != 1 || !strings.HasSuffix(c[0].GrantedBy, " via mid") {
		t.Errorf("the top has %+v; want it granted via mid", c)
	}
	// Renewal: the same until it is due, for the same key alone.
	d, err = mid.Request(t.Context(), n.renews())
	if g := n.got(top, d, err); !g.Leaf.Equal(first.Leaf) || !g.Issuing.Equal(first.Issuing) {
		t.Error("renewed before it is due: other certificates")
	}
	forged := newNewcomer(t, "low", "0123")
	_, err = mid.Request(t.Context(), forged.renews())
	wantCode(t, err, call.Denied, "no valid certificate for this key")
	for _, w := range []*world{top, mid} {
		w.pass(pki.OverlordLife * 3 / 4)
	}
	d, err = mid.Request(t.Context(), n.renews())
	if g := n.got(top, d, err); !g.Leaf.NotAfter.After(first.Leaf.NotAfter) || !g.Issuing.NotAfter.After(first.Issuing.NotAfter) {
		t.Error("due, and not renewed")
	}
	// A name that mid's own machine has is held there.
	mid.must(enrol.StateGranted)(mid.ask("minion/web1", newKey(t), mid.token(enrol.TokenSpec{Name: "*"})))
	web := newNewcomer(t, "web1", "4567")
	d, err = mid.Request(t.Context(), web.asks(top.token(enrol.TokenSpec{Name: "web1", Role: pki.Overlord})))
	mid.must(enrol.StateWaiting)(d, err)
	// Through too many.
	r := n.asks("")
	r.Via = make([]string, 17)
	_, err = top.Request(t.Context(), r)
	wantCode(t, err, call.Invalid, "passed on more than")
}

// An overlord above that answers falsely.
func TestRelayChecksTheAnswer(t *testing.T) {
	top, _ := topAndMid(t)
	n, other := newNewcomer(t, "low", "0123"), newNewcomer(t, "low2", "4567")
	wrong, err := top.Request(t.Context(), other.asks(top.token(enrol.TokenSpec{Name: "low2", Role: pki.Overlord})))
	if err != nil {
		t.Fatal(err)
	}
	mid := newWorld(t, func(c *enrol.Config) {
		c.RootCert, c.Root, c.Issuing = top.root.Cert, nil, top.issuing
		c.Relay = func(context.Context, enrol.Request) (enrol.Decision, error) { return wrong, nil }
	})
	if _, err := mid.Request(t.Context(), n.asks("")); err == nil || !strings.Contains(err.Error(), "granted to overlord/low2") {
		t.Errorf("Request = %v; want the answer refused", err)
	}
}

func TestSubOverlordMintsNobody(t *testing.T) {
	top, mid := topAndMid(t)
	if _, _, err := mid.AddOperator(t.Context(), "local/root", "bob", 0); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "overlord/top") {
		t.Errorf("AddOperator = %v", err)
	}
	_, _, err := mid.CreateToken(t.Context(), "local/root", enrol.TokenSpec{Name: "x", Role: pki.Overlord})
	wantCode(t, err, call.Unavailable, "overlord/top")
	_, err = mid.ask("operator/bob", newKey(t), "")
	wantCode(t, err, call.Denied, "log in there")
	for _, role := range []pki.Role{pki.Operator, pki.Overlord} {
		if _, err := mid.Issue(t.Context(), "local/root", pki.Template{Identity: pki.Identity{Role: role, Name: "x"}, PublicKey: newKey(t).Public()}); err == nil {
			t.Errorf("mid issues an %s", role)
		}
		// With its issuing CA alone it can sign what it likes, and nobody believes it.
		forged := forge(t, mid.issuing, fmt.Sprintf("dominion://%s/x", role))
		trust, err := pki.NewTrust(top.root.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := trust.VerifyRaw([][]byte{forged, mid.issuing.Cert.Raw}, top.now()); err == nil {
			t.Errorf("believed: %v", v.Identity)
		}
	}
}

func TestRevokeBelow(t *testing.T) {
	top, mid := topAndMid(t)
	key := newKey(t)
	granted := mid.must(enrol.StateGranted)(mid.ask("minion/web1", key, mid.token(enrol.TokenSpec{Name: "*"})))
	for range 2 { // asked again when the answer was lost
		serials, number, err := mid.Revoke(t.Context(), "operator/alice", ident(t, "minion/web1"), "", "sold")
		if err != nil || len(serials) != 1 || number != 1 {
			t.Fatalf("Revoke = %v, %d, %v; want one certificate on list 1", serials, number, err)
		}
	}
	if why, ok := top.list.Revoked(mid.verify(granted.Chain, "minion/web1")); !ok || why != "sold" {
		t.Errorf("on the list: %v, %q", ok, why)
	}
	_, _, err := mid.Revoke(t.Context(), "operator/alice", ident(t, "operator/alice"), "", "")
	wantCode(t, err, call.Unavailable, "overlord/top")
	_, _, err = mid.Revoke(t.Context(), "operator/alice", ident(t, "minion/web2"), "", "")
	wantCode(t, err, call.NotFound, "no valid certificate")
	// Not what another has signed, not by another's word.
	d := top.must(enrol.StateGranted)(top.ask("minion/web9", newKey(t), top.token(enrol.TokenSpec{Name: "*"})))
	_, err = mid.cfg.RelayRevoke(t.Context(), pki.RevokeRequest{Overlord: "mid", Leaves: d.Chain[:1]})
	wantCode(t, err, call.Denied, "not signed by an issuing CA of overlord/mid")
	r := pki.RevokeRequest{Overlord: "mid", Leaves: granted.Chain[:1]}
	if err := r.Sign(newKey(t)); err != nil {
		t.Fatal(err)
	}
	_, _, err = top.RevokeBelow(t.Context(), r)
	wantCode(t, err, call.Denied, "signature")
	r.Overlord = "nobody"
	_, _, err = top.RevokeBelow(t.Context(), r)
	wantCode(t, err, call.Denied, "no certificate that counts")
}

// adopt notes what a list names, as an overlord does with one that comes from above.
func (w *world) adopt(signed []byte) {
	w.t.Helper()
	list, err := pki.ParseRevocations(w.root.Cert, signed)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for serial, c := range w.store.data.certs {
		leaf, err := x509.ParseCertificate(c.DER)
		if err != nil {
			w.t.Fatal(err)
		}
		if why, named := list.Revoked(leaf); named {
			c.Revoked, c.Reason = w.now(), why
			w.store.data.certs[serial] = c
		}
	}
}

// Replacing below another overlord: the old certificate is revoked above first.
func TestReplaceBelow(t *testing.T) {
	top, mid := topAndMid(t)
	old := mid.must(enrol.StateGranted)(mid.ask("minion/web1", newKey(t), mid.token(enrol.TokenSpec{Name: "*"})))
	token := mid.token(enrol.TokenSpec{Name: "web*", Replace: true})
	second := mid.must(enrol.StateGranted)(mid.ask("minion/web1", newKey(t), token))
	if why, ok := top.list.Revoked(mid.verify(old.Chain, "minion/web1")); !ok || why != pki.Replaced {
		t.Errorf("the old certificate is on the list: %v, %q", ok, why)
	}
	_, err := mid.ask("minion/web1", newKey(t), token)
	wantCode(t, err, call.Denied, "it is used up (1 of 1)")
	third := newKey(t)
	mid.must(enrol.StateWaiting)(mid.ask("minion/web1", third, ""))
	signed, err := mid.Sign(t.Context(), "operator/alice", "web1", "", true)
	if err != nil || len(signed.Certs) != 1 {
		t.Fatalf("Sign = %v, %v", signed, err)
	}
	if _, ok := top.list.Revoked(mid.verify(second.Chain, "minion/web1")); !ok {
		t.Error("the second certificate is not on the list")
	}
	mid.must(enrol.StateGranted)(mid.ask("minion/web1", third, ""))
}

// With an overlord goes what it has signed.
func TestRevokeOverlord(t *testing.T) {
	top, mid := topAndMid(t)
	serials, _, err := top.Revoke(t.Context(), "operator/alice", ident(t, "overlord/mid"), "", "stolen")
	if err != nil || len(serials) != 2 {
		t.Fatalf("Revoke = %v, %v; want leaf and issuing CA", serials, err)
	}
	if why, ok := top.list.Revoked(mid.cfg.Issuing.Cert); !ok || why != "stolen" {
		t.Errorf("the issuing CA is not on the list")
	}
}

func (w *world) certsOf(id string) (out []enrol.Cert) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, c := range w.store.data.certs {
		if c.Identity.String() == id {
			out = append(out, c)
		}
	}
	return out
}

// forge signs a leaf that the issuing CA may not.
func forge(t *testing.T, a *pki.Authority, uri string) []byte {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
	}, a.Cert, newKey(t).Public(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
