//go:build fleet

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"dominion/fleettest"
	"dominion/pki"
)

// login makes an operator on the overlord's host and gives it a home of its
// own, where it logs in.
func (s *site) login(name string) *user {
	s.t.Helper()
	token := s.root.run("operator", "add", name).exits(0).out.String()
	u := s.user(name)
	file := s.write(name+".token", token)
	u.run("login", "--overlord", s.address, "--pin", s.pin, "--token-file", file, name).exits(0).tells("operator " + name)
	return u
}

// A revoked machine loses its session within two seconds and gets none again;
// a revoked operator is refused by the overlord and on every machine.
func testRevocation(t *testing.T, binary string) {
	s := startSite(t, binary, 2)
	alice := s.login("alice")
	alice.run("call", "*", "test.ping").exits(0).prints("m[01-02] (2): ok: true")

	revoked := time.Now()
	s.root.run("cert", "revoke", "m02", "--reason", "disk sold").exits(0).prints("revoked 1 certificate of m02; revocation list 1")
	s.await(1)
	if d := time.Since(revoked); d > 2*time.Second {
		t.Errorf("the session was cut %s after the command began; want 2s at most", d)
	}
	m02 := &daemon{t: t, name: "m02", log: filepath.Join(s.dir, "m02.log")}
	m02.awaitSaid("the certificate was revoked: disk sold", "tls: bad certificate")
	if n := s.status().Connected; n != 1 {
		t.Errorf("%d minions are connected; want the revoked one refused", n)
	}
	s.root.run("call", "m02", "test.ping").exits(3).tells("m02: ")

	s.root.run("cert", "revoke", "--role", "operator", "alice", "--reason", "left").exits(0)
	for _, words := range [][]string{{"ping", "m01"}, {"call", "m01", "test.ping"}, {"minions"}, {"token", "list"}} {
		alice.run(words...).exits(1).silent().tells("the certificate of operator/alice was revoked: left")
	}
	s.root.run("call", "m01", "test.ping").exits(0)
	s.until("the list is on the machine's disk", func() bool {
		number, serials := s.revocations("m01")
		return number == 2 && serials == 2
	})
}

// revocations reads the list that a machine keeps.
func (s *site) revocations(machine string) (number uint64, serials int) {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, machine, "root.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	root, err := pki.ParseCerts(b)
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err := os.ReadFile(filepath.Join(s.dir, machine, "revoked"))
	if err != nil {
		return 0, 0 // none yet
	}
	list, err := pki.ParseRevocations(root[0], signed)
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Number(), len(list.Entries())
}

// noSecrets wants none of these on the command line of any process.
func noSecrets(t *testing.T, secrets ...string) {
	t.Helper()
	for _, x := range secrets {
		if x = strings.TrimSpace(x); x == "" {
			t.Fatal("an empty token")
		} else if pids := processes(t, holding(x)); len(pids) > 0 {
			t.Errorf("a token is on the command line of processes %v", pids)
		}
	}
}

// token makes a join token, and a file that holds it.
func (s *site) token(file string, flags ...string) (secret, path string) {
	s.t.Helper()
	c := s.root.run(append([]string{"token", "create"}, flags...)...).exits(0)
	if !regexp.MustCompile(`^\S+\n$`).MatchString(c.out.String()) {
		s.t.Errorf("token create prints %q; want a token alone", c.out)
	}
	return strings.TrimSpace(c.out.String()), s.write(file, c.out.String())
}

// By hand, by token, by rule; and what is refused.
func testEnrolment(t *testing.T, binary string) {
	s := newSite(t, binary)
	s.up("--autosign", "auto*")
	hand, no := s.minion("hand"), s.minion("no") // these two ask again after ten seconds
	fingerprint := hand.awaitFingerprint()
	no.awaitFingerprint()
	var pending struct {
		Pending []struct{ Name, Role, Fingerprint, Source string }
	}
	s.until("both wait", func() bool {
		pending.Pending = nil
		c := s.root.run("cert", "pending", "-o", "json").exits(0)
		return json.Unmarshal(c.out.Bytes(), &pending) == nil && len(pending.Pending) == 2
	})
	if p := pending.Pending[0]; p.Name != "hand" || p.Fingerprint != fingerprint || p.Role != "minion" || !strings.HasPrefix(p.Source, "127.0.0.1") {
		t.Errorf("pending: %+v; want hand with the key %s", p, fingerprint)
	}
	s.root.run("cert", "pending").exits(0).prints("hand", fingerprint)
	s.root.run("call", "hand", "test.ping").exits(3).tells("hand: unknown name")
	s.root.run("cert", "sign", "nobody").exits(1).tells(`dominion cert sign: no request for "nobody" waits; list those that do with: dominion cert pending`)
	s.root.run("cert", "sign", "hand", "--fingerprint", "sha256:"+strings.Repeat("0", 64)).exits(1)
	s.root.run("cert", "sign", "hand").exits(0).prints("signed hand")
	s.root.run("cert", "reject", "no").exits(0).prints("rejected no")
	s.root.run("cert", "pending", "no").exits(0).prints("rejected")

	once, onceFile := s.token("once", "--name", "w*")
	s.minion("auto1")
	s.minion("w1", "--token-file", onceFile)
	s.await(2)
	second := s.minion("w2", "--token-file", onceFile)
	late, lateFile := s.token("late", "--name", "w*", "--for", "1ms")
	s.minion("w3", "--token-file", lateFile).awaitSaid("it expired at")
	other, otherFile := s.token("other", "--name", "db*", "--uses", "5")
	wrong := s.minion("w4", "--token-file", otherFile)
	far, farFile := s.token("far", "--name", "w*", "--network", "10.0.0.0/8")
	network := s.minion("w5", "--token-file", farFile)
	second.awaitSaid("it is used up (1 of 1)")
	wrong.awaitSaid(`it enrols \"db*\", not \"w4\"`)
	network.awaitSaid("it may not be used from 127.0.0.1")
	pin := s.minion("w6", "--pin", "sha256:"+strings.Repeat("ab", 32))
	pin.awaitSaid("is no overlord of this fleet")
	noSecrets(t, once, late, other, far)

	no.awaitSaid("rejected")
	s.await(3)
	s.root.run("call", "*", "test.ping").exits(0).prints("auto1,hand,w1 (3): ok: true")
	s.root.run("audit", "verify").exits(0)
}

// awaitFingerprint waits until an agent says which key it asks with.
func (d *daemon) awaitFingerprint() string {
	d.t.Helper()
	var found string
	fleettest.Until(d.t, d.name+" logs its key's fingerprint", func() bool {
		m := regexp.MustCompile(`"fingerprint":"(sha256:[0-9a-f]+)"`).FindStringSubmatch(d.said())
		if m != nil {
			found = m[1]
		}
		return m != nil
	})
	return found
}

// An operator with a home of its own and nothing else.
func testOperator(t *testing.T, binary string) {
	s := startSite(t, binary, 2)
	token := s.root.run("operator", "add", "alice").exits(0).out.String()
	file := s.write("alice.token", token)
	alice, mallory := s.user("alice"), s.user("mallory")
	alice.run("ping", "*").exits(1).silent()
	address := []string{"--overlord", s.address}

	wrongPin := append([]string{"login", "--pin", "sha256:" + strings.Repeat("ab", 32), "--token-file", file, "alice"}, address...)
	alice.run(wrongPin...).exits(1).tells("is no overlord of this fleet", "is the pin right")
	login := append([]string{"login", "--pin", s.pin, "--token-file", file}, address...)
	mallory.run(append(login, "mallory")...).exits(1).tells("mallory")
	alice.run(append(login, "alice")...).exits(0)
	mallory.run(append(login, "alice")...).exits(1).tells("it is used up")
	noSecrets(t, token)

	for _, words := range [][]string{
		{"ping", "*"}, {"call", "*", "test.ping"}, {"run", "*", "--", "true"}, {"minions"}, {"audit", "verify"}, {"audit", "verify", "--fleet"},
	} {
		alice.run(words...).exits(0)
	}
	alice.run("run", "m01", "--", "sh", "-c", "echo $DOMINION_MACHINE; exit 3").exits(3).prints("m01").tells("m01: exit 3")
	s.root.run("audit", "list", "--actor", "operator/alice").exits(0).prints("command.run on m01", "test.ping on m[01-02]")
	bob := s.user("bob", "DOMINION_TOKEN="+strings.TrimSpace(s.root.run("operator", "add", "bob").exits(0).out.String()))
	bob.run(append([]string{"login", "--pin", s.pin, "bob"}, address...)...).exits(0)
	bob.run("call", "m01", "test.echo", "hello").exits(0).prints("hello")
	if info, err := os.Stat(filepath.Join(alice.home, ".config/dominion/alice")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the operator's context: %v, %v; want a directory of mode 0700", info, err)
	}
}

// A machine that lost its state asks with another key: that is held until an
// operator says that it replaces the old one.
func testLostState(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	m02 := s.minion("m02")
	s.await(2)
	old := s.machine("m02").Fingerprint
	m02.stop()
	s.await(1)
	if err := os.RemoveAll(filepath.Join(s.dir, "m02")); err != nil {
		t.Fatal(err)
	}
	offset := len(m02.said())
	m02 = s.minion("m02")
	var c *command
	s.until("the request is held", func() bool {
		c = s.root.run("cert", "pending", "m02").exits(0)
		return strings.Contains(c.out.String(), "m02")
	})
	c.prints("minion/m02 has a certificate with another key (" + old + ")")
	if n := s.status().Connected; n != 1 {
		t.Errorf("%d minions are connected; want the new key held", n)
	}
	s.root.run("cert", "sign", "m02").exits(1).tells("--replace")
	s.root.run("cert", "sign", "m02", "--replace").exits(0).prints("signed m02")
	s.await(2) // it asks again after ten seconds
	if again := s.machine("m02").Fingerprint; again == old || !strings.Contains(m02.said()[offset:], again) {
		t.Errorf("m02 has the key %s; want the new one, not %s", again, old)
	}
	s.root.run("call", "*", "test.ping").exits(0)
	var list struct {
		Certificates []struct{ Name, Fingerprint, Reason, Revoked string }
	}
	c = s.root.run("cert", "list", "m02", "-o", "json").exits(0)
	if err := json.Unmarshal(c.out.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	for _, x := range list.Certificates {
		if (x.Fingerprint == old) != (x.Revoked != "") {
			t.Errorf("certificate %+v; want the old one revoked, and only that", x)
		}
	}
	if len(list.Certificates) != 2 {
		t.Errorf("%d certificates; want 2: %s", len(list.Certificates), fmt.Sprint(list))
	}
}
