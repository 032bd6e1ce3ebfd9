//go:build fleet

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// below makes a site for an overlord that runs below this one. The flags are
// those for its first start.
func (s *site) below(name string, flags ...string) (b *site, first []string) {
	s.t.Helper()
	b = newSite(s.t, s.binary)
	b.unnamed = true
	return b, append([]string{"--name", name, "--parent", s.address, "--pin", s.pin, "--autosign", name + "-*"}, flags...)
}

// sub starts an overlord below this one with a token of the top, and waits for it.
func (s *site) sub(top *site, name string) *site {
	s.t.Helper()
	_, file := top.token(name+".sub", "--role", "overlord", "--name", name)
	b, flags := s.below(name, "--token-file", file)
	b.up(flags...)
	s.until(name+" is connected", func() bool { m := s.machine(name); return m != nil && m.Connected && m.Overlord })
	return b
}

// tree is a top overlord, one below it and one below that, each with a minion.
func tree(t *testing.T, binary string) (top, mid, low *site) {
	t.Helper()
	top = newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	mid = top.sub(top, "mid")
	low = mid.sub(top, "low")
	top.minion("top-1")
	mid.minion("mid-1")
	low.minion("low-1")
	top.await(2)
	mid.await(2)
	low.await(1)
	return top, mid, low
}

// orders gives the words of an order to an overlord elsewhere in the fleet.
func (s *site) orders(words ...string) []string {
	return append(words, "--context", "alice", "--overlord", s.address)
}

// Three layers, by token and by hand, and orders at each of them by an operator of
// the top.
func testSubOverlords(t *testing.T, binary string) {
	top, mid, low := tree(t, binary)
	alice := top.login("alice")
	alice.run(top.orders("call", "*", "test.ping")...).exits(0).prints("mid,top-1 (2): ok: true")
	alice.run(mid.orders("call", "*", "test.ping")...).exits(0).prints("low,mid-1 (2): ok: true")
	alice.run(low.orders("call", "*", "test.ping")...).exits(0).prints("low-1: ok: true")
	top.root.run("minions").exits(0).prints("mid ", "overlord")
	low.root.run("status").exits(0).prints("mid at "+mid.address+", connected", "on top:")
	mid.root.run("status", "-o", "json").exits(0).prints(`"root_host": "top"`, `"connected": true`)
	top.root.run("cert", "list", "low").exits(0).prints(" via mid", "issuing")
	for _, s := range []*site{top, mid, low} {
		s.root.run("audit", "verify").exits(0)
		alice.run(s.orders("audit", "verify", "--fleet")...).exits(0)
	}

	// By hand, passed on by two overlords.
	hand, flags := low.below("hand")
	hand.launch(flags...)
	fingerprint := hand.overlord.awaitFingerprint()
	top.until("the request has come to the top", func() bool {
		return strings.Contains(top.root.run("cert", "pending").exits(0).out.String(), fingerprint)
	})
	if c := low.root.run("cert", "pending").exits(0); strings.Contains(c.out.String(), "hand") {
		t.Errorf("the request is held where it came in, too: %s", c.out)
	}
	top.root.run("cert", "sign", "*").exits(1)
	top.root.run("cert", "sign", "overlord/hand").exits(2).tells("give the fingerprint too")
	low.root.run("cert", "sign", "overlord/hand", "--fingerprint", fingerprint).exits(1)
	hand.overlord.stop() // while it waits, and it goes on with the same key
	top.root.run("cert", "sign", "overlord/hand", "--fingerprint", fingerprint).exits(0).prints("signed hand")
	hand.launch()
	hand.answers()
	low.await(2)
	alice.run(low.orders("call", "hand", "test.ping")...).exits(0).prints("hand: ok: true")
}

// A sub-overlord works alone, starts alone, and finds its parent again.
func testParentGone(t *testing.T, binary string) {
	top, mid, low := tree(t, binary)
	alice := top.login("alice")
	mid.overlord.kill()
	low.until("the parent is missed", func() bool { return !low.status().Parent.Connected })
	alice.run(low.orders("call", "*", "test.ping")...).exits(0).prints("low-1: ok: true")
	low.root.run("status").exits(0).prints("not connected")
	low.overlord.kill()
	low.up("--autosign", "low-*") // the state directory says what it is
	low.await(1)
	alice.run(low.orders("call", "*", "test.ping")...).exits(0).prints("low-1: ok: true")
	low.root.run("cert", "revoke", "low-1").exits(1).tells("no session with its parent")
	other, flags := low.below("other")
	other.launch(flags...)
	other.overlord.awaitSaid("parent not reached; asking again", "has no session with its parent overlord/mid")
	mid.up()
	mid.await(2)
	low.until("the parent is back", func() bool { return low.status().Parent.Connected })
	alice.run(mid.orders("call", "low", "test.ping")...).exits(0).prints("low: ok: true")

	// The same words that made it do no harm to what it has become.
	pin := mid.status().Pin
	low.overlord.stop()
	low.up("--parent", mid.address, "--pin", pin, "--autosign", "low-*")
	low.await(1)
}

// What the top revokes counts everywhere within seconds; machines of a
// sub-overlord are revoked at it, by the top.
func testRevocationGoesDown(t *testing.T, binary string) {
	top, mid, low := tree(t, binary)
	alice := top.login("alice")
	low.minion("low-2")
	low.await(2)
	alice.run(low.orders("call", "*", "test.ping")...).exits(0).prints("low-[1,2] (2): ok: true")

	low.root.run("cert", "revoke", "low-2", "--reason", "sold").exits(0).prints("revoked 1 certificate of low-2; revocation list 1")
	low.await(1)
	for _, s := range []*site{top, mid, low} {
		s.until("the list is there", func() bool { return s.status().RevocationNumber == 1 })
	}
	low.root.run("cert", "list", "low-2").exits(0).prints("revoked", "sold")
	top.root.run("audit", "list", "--actor", "overlord/low").exits(0).prints("1 certificates of its machines", "local/root")
	before := mid.machine("mid-1").Fingerprint
	_, file := mid.token("again", "--name", "mid-1", "--replace")
	again := mid.daemon("again", "minion", "--state", filepath.Join(mid.dir, "again.state"), "--name", "mid-1", "--config", mid.config, "--pin", mid.pin,
		"--overlord", mid.address, "--token-file", file)
	again.awaitSaid("session opened")
	if m := mid.machine("mid-1"); m.Fingerprint == before || !m.Connected {
		t.Errorf("mid-1 has the key %s; want another, and a session", m.Fingerprint)
	}
	top.until("the list has both", func() bool { return top.status().RevocationNumber == 2 })
	for _, words := range [][]string{{"cert", "revoke", "--role", "operator", "alice"}, {"operator", "add", "bob"}} {
		low.root.run(words...).exits(1).tells("the root's key is on overlord/top")
	}

	began := time.Now()
	top.root.run("cert", "revoke", "--role", "operator", "alice", "--reason", "left").exits(0)
	low.until("the list is on the machine's disk", func() bool {
		number, _ := low.revocations("low-1")
		return number == 3
	})
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the list was two layers down after %s; want 5s at most", d)
	}
	alice.run(low.orders("call", "*", "test.ping")...).exits(1).silent().tells("the certificate of operator/alice was revoked: left")

	top.root.run("cert", "revoke", "--role", "overlord", "mid", "--reason", "stolen").exits(0).prints("revoked 2 certificates of mid")
	top.await(1)
	mid.until("its machines leave it", func() bool { return mid.status().Connected == 0 })
}

// What an overlord may not become, and what a sub-overlord may not do.
func testSubOverlordRefused(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "*", "--name", "top")
	mid := top.sub(top, "mid")
	top.minion("web1")
	top.await(2)

	// On a state directory that has been used.
	used := newSite(t, binary)
	used.up("--name", "used")
	used.overlord.stop()
	used.unnamed = true
	used.launch("--parent", top.address, "--pin", top.pin)
	if code := used.overlord.code(); code != 1 {
		t.Errorf("--parent on a used state directory: exit code %d; want 1", code)
	}
	used.overlord.awaitSaid("--parent is for a fresh one")
	mid.overlord.stop()
	mid.launch("--parent", top.address, "--pin", "sha256:"+strings.Repeat("ab", 32))
	if code := mid.overlord.code(); code != 1 {
		t.Errorf("another pin: exit code %d; want 1", code)
	}
	mid.up("--name", "mid", "--autosign", "*")

	// Neither operators nor overlords are made by anybody but the top.
	mid.root.run("operator", "add", "bob").exits(1).silent().tells("the root's key is on overlord/top")
	mid.root.run("token", "create", "--role", "overlord", "--name", "x").exits(1).silent().tells("the root's key is on overlord/top")
	_, wrong := top.token("wrong", "--name", "*", "--uses", "9")
	bob := top.user("bob")
	bob.run("login", "--overlord", mid.address, "--pin", mid.pin, "--token-file", wrong, "bob").exits(1).within(5*time.Second).tells("the root's key is on overlord/top", "log in there")

	// By the right token only, and never by a rule.
	x, flags := mid.below("x", "--token-file", wrong)
	x.launch(flags...)
	x.overlord.awaitSaid("it enrols a minion, not a overlord")
	for _, words := range [][]string{{"--name", "x*"}, {"--name", "x", "--uses", "2"}} {
		top.root.run(append([]string{"token", "create", "--role", "overlord"}, words...)...).exits(2).silent()
	}
	for name, why := range map[string]string{
		"mid": "overlord/mid has a certificate with another key", "web1": "minion/web1 has a certificate", "top": "top is the name of this overlord",
	} {
		_, file := top.token(name+".twice", "--role", "overlord", "--name", name)
		again, flags := top.below(name, "--token-file", file)
		again.launch(flags...)
		again.overlord.awaitSaid("waiting for an operator")
		top.until(name+" is held", func() bool {
			return strings.Contains(top.root.run("cert", "pending", name).exits(0).out.String(), why)
		})
	}
	if n := top.status().Connected; n != 2 {
		t.Errorf("%d machines are connected; want the first ones undisturbed", n)
	}

	// With a policy it takes a line that says so.
	top.login("carol")
	if err := os.WriteFile(filepath.Join(top.state, "policy.yaml"), []byte(
		`[{operators: "carol", methods: "cert.*,token.*,operator.*,*", targets: "*"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	top.overlord.stop()
	top.up()
	carol := top.user("carol")
	carol.run("token", "create", "--role", "overlord", "--name", "y").exits(1).silent().tells("may not call overlord.add here")
	carol.run("token", "create", "--name", "y").exits(0)
}

// A sub-overlord whose store was put back to an older one: its machines refuse it, and
// for a token of the top the root explains it.
func testSubOverlordRestored(t *testing.T, binary string) {
	top, _, low := tree(t, binary)
	alice := top.login("alice")
	kept := []string{"store.db", "checkpoint"}
	low.overlord.stop()
	saved := make(map[string][]byte)
	for _, n := range kept {
		b, err := os.ReadFile(filepath.Join(low.state, n))
		if err != nil {
			t.Fatal(err)
		}
		saved[n] = b
	}
	for range 2 { // the machine sees the new checkpoint when it connects
		low.up("--autosign", "low-*")
		low.await(1)
		alice.run(low.orders("call", "*", "test.ping")...).exits(0).prints("low-1: ok: true")
		low.overlord.stop()
	}
	for _, n := range kept {
		if err := os.WriteFile(filepath.Join(low.state, n), saved[n], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"store.db-wal", "store.db-shm"} {
		_ = os.Remove(filepath.Join(low.state, n))
	}
	low.up("--autosign", "low-*")
	low.until("its machine gives the older log away", func() bool { return low.status().AuditProblem != "" })
	low.until("the parent is there", func() bool { return low.status().Parent.Connected })
	low.root.run("audit", "recover").exits(0).prints("would be recovered")
	low.root.run("audit", "recover", "--confirm").exits(1).silent().tells("dominion token create --role overlord --name low")
	_, wrong := top.token("wrong", "--role", "overlord", "--name", "mid")
	low.root.run("audit", "recover", "--confirm", "--token-file", wrong).exits(1).silent().tells(`it enrols "mid", not "low"`)
	_, file := top.token("right", "--role", "overlord", "--name", "low")
	low.root.run("audit", "recover", "--confirm", "--token-file", file).exits(0).prints("recovered: ", "epoch 1")
	low.until("its machine takes orders again", func() bool {
		return strings.Contains(alice.run(low.orders("call", "*", "test.ping")...).out.String(), "low-1: ok: true")
	})
	low.root.run("audit", "verify").exits(0)
	top.root.run("audit", "list", "--actor", "overlord/low").exits(0).prints("recovery", `by "local/root", token/`)
	top.root.run("audit", "verify").exits(0)
}
