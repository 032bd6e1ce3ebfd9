//go:build fleet

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/fleettest"
)

// A machine that listens is dialled by the overlord; when both dial, there is
// one session and it stays.
func testListen(t *testing.T, binary string) {
	s := startSite(t, binary, 0)
	port := fleettest.FreePort(t)
	m := s.minion("m01", "--listen", port)
	s.await(1)
	m.stop()
	s.await(0)
	s.root.run("minions", "set", "m01", "address="+port).exits(0)
	s.root.run("minions", "set", "m01", "addr="+port).exits(2)
	s.root.run("minions", "set", "nobody", "address="+port).exits(1).tells("nobody")

	m = s.agent("m01", "--listen", port)
	s.await(1)
	if got := s.machine("m01"); got.Address != port || got.DialAddress != port {
		t.Errorf("m01 is at %s, to be dialled at %s; want a session that the overlord dialled to %s", got.Address, got.DialAddress, port)
	}
	s.root.run("call", "m01", "test.ping").exits(0).prints("m01: ok: true")
	s.root.run("minions").exits(0).prints("dialled at " + port)
	m.stop()
	s.await(0)

	s.minion("m01", "--listen", port)
	s.await(1)
	since := s.machine("m01").SinceMs
	steady := time.NewTimer(5 * time.Second) // both sides would have dialled again by then
	defer steady.Stop()
	s.until("five seconds are over", func() bool {
		if got := s.machine("m01"); !got.Connected || got.SinceMs < since {
			t.Fatalf("the session is gone: %+v", got)
		} else if got.SinceMs > since {
			t.Fatalf("the session that began at %d was replaced by one of %d", since, got.SinceMs)
		}
		select {
		case <-steady.C:
			return true
		default:
			return false
		}
	})
	s.root.run("call", "m01", "test.ping").exits(0)
}

// A machine refuses a revoked operator by itself: an overlord that does not
// know of the revocation, another one of the same root here, passes the order on.
func testRevokedAtTheMachine(t *testing.T, binary string) {
	a, b := startSite(t, binary, 0), newSite(t, binary)
	for _, name := range []string{"ca/root.key", "ca/root.crt"} {
		copyFile(t, filepath.Join(a.state, name), filepath.Join(b.state, name))
	}
	b.up("--autosign", "m*", "--name", "second")
	a.minion("m01", "--overlord", b.address)
	b.minion("m02")
	a.await(1)
	b.await(2)
	alice := a.login("alice")
	words := []string{"call", "*", "test.ping", "--context", "alice", "--overlord", b.address}
	alice.run(words...).exits(0).prints("m[01-02] (2): ok: true")
	a.root.run("cert", "revoke", "--role", "operator", "alice", "--reason", "left").exits(0)
	a.until("the list is on the machine's disk", func() bool {
		number, _ := a.revocations("m01")
		return number == 1
	})
	alice.run(words...).exits(3).prints("m02: ok: true").tells("1 of 2 minions failed: m01: revoked: ", "left")
	alice.run("call", "m02", "test.ping", "--context", "alice").exits(1).tells("operator/alice was revoked: left")
}

// One machine serves two overlords under one root, and neither minds what
// happens to the other. An overlord under another root is not believed.
func testTwoOverlords(t *testing.T, binary string) {
	a, b, c := startSite(t, binary, 0), newSite(t, binary), startSite(t, binary, 0)
	for _, name := range []string{"ca/root.key", "ca/root.crt"} {
		copyFile(t, filepath.Join(a.state, name), filepath.Join(b.state, name))
	}
	b.up("--autosign", "m*", "--name", "second")
	if a.pin != b.pin {
		t.Fatalf("the overlords have the pins %s and %s; want one root", a.pin, b.pin)
	}
	m := a.minion("m01", "--overlord", b.address, "--overlord", c.address)
	a.await(1)
	b.await(1)
	m.awaitSaid("is no overlord of this fleet")
	for _, s := range []*site{a, b} {
		s.root.run("call", "m01", "test.ping").exits(0).prints("m01: ok: true")
		s.root.run("call", "m01", "test.ping").exits(0)
	}
	since := b.machine("m01").SinceMs
	a.overlord.kill()
	for range 5 {
		b.root.run("call", "m01", "test.ping").exits(0)
	}
	if got := b.machine("m01"); got.SinceMs != since {
		t.Errorf("the session with the second overlord began at %d; want the one of %d undisturbed", got.SinceMs, since)
	}
	a.up()
	a.await(1)
	a.root.run("call", "m01", "test.ping").exits(0)
	if got := b.machine("m01"); got.SinceMs != since {
		t.Errorf("the session with the second overlord began at %d; want the one of %d undisturbed", got.SinceMs, since)
	}
	if n := c.status().Connected; n != 0 {
		t.Errorf("%d minions are at the overlord of another root; want none", n)
	}
	if strings.Count(m.said(), `"msg":"enrolled"`) != 2 {
		t.Error("the machine enrolled more than once with each overlord")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(to)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
