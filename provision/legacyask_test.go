package provision

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dominion/call"
	"dominion/nodescript"
)

const oldScript = oldStart + "echo n0000\n# PROVISIOND END\n"

// oldSite is a bench that is asked by the old protocol.
type oldSite struct {
	*bench
	addr     string
	arp      map[string]string
	enrolled map[string]bool
}

// newOldSite makes one with a node n0000 of macA that is approved; it was never
// heard of.
func newOldSite(t *testing.T, change func(*Config)) *oldSite {
	t.Helper()
	s := &oldSite{arp: make(map[string]string), enrolled: make(map[string]bool)}
	s.bench = newBench(t, func(c *Config) {
		c.Legacy = &Legacy{
			Rules:     nodescript.Perceus193,
			Neighbour: func(a netip.Addr) (string, bool) { hw, ok := s.arp[a.String()]; return hw, ok },
			Enrolled:  func(name string) bool { return s.enrolled[name] },
		}
		if change != nil {
			change(c)
		}
	})
	if _, err := s.Add(t.Context(), "operator/alice", Spec{HWAddr: macA, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	s.addr, _ = s.serveOld(t, 0)
	return s
}

// want fails unless a request from an address gets an answer, and the audit log
// holds a text so often.
func (s *oldSite) want(from, request, answer string, times int, logged string) {
	s.t.Helper()
	if got := sayOld(s.t, s.addr, from, request+"\n\x00"); got != answer {
		s.t.Errorf("%q from %s gets %q; want %q", request, from, got, answer)
	}
	if n := s.logged(logged); n != times {
		s.t.Errorf("%q from %s: %d records hold %q, want %d: %q", request, from, n, logged, times, s.m.records())
	}
}

func (s *oldSite) set(c Change) {
	s.t.Helper()
	if _, err := s.Set(s.t.Context(), "operator/alice", []string{"n0000"}, c); err != nil {
		s.t.Fatal(err)
	}
}

// The boot of a node is one address's, whichever protocol it speaks.
func TestLegacySecondClaim(t *testing.T) {
	s := newOldSite(t, nil)
	init := "init nodeid=" + macA
	s.want("127.0.0.2", init, oldScript, 1, "address/127.0.0.2 node.script n0000 init to 127.0.0.2 over the old protocol as "+macA+", 11 bytes")
	s.want("127.0.0.2", init, oldScript, 2, "node.script n0000 init to 127.0.0.2")
	for range 3 {
		s.want("127.0.0.3", init, oldStart, 1, "denied n0000 node.script over the old protocol: somebody else boots as this node, or did when it was claimed")
	}
	if n := s.node("n0000"); n.Claim.String() != "127.0.0.3" || n.Addr.String() != "127.0.0.2" || s.logged("node.claim n0000") != 1 {
		t.Errorf("node is %+v; log: %q", n, s.m.records())
	}
	if got := s.claim(macA, "127.0.0.4"); got.Nonce != "" {
		t.Error("a boot by iPXE from another address is not held")
	}
	s.want("127.0.0.2", init, oldScript, 3, "node.script n0000 init to 127.0.0.2")
	s.pass(2 * NonceLife)
	s.want("127.0.0.3", init, oldStart, 0, "init to 127.0.0.3")
	if _, err := s.Approve(t.Context(), "operator/alice", []string{"n0000"}); err != nil {
		t.Fatal(err)
	}
	s.want("127.0.0.3", init, oldScript, 1, "init to 127.0.0.3")

	// The nonce of a boot by iPXE is not taken away by who has the same address, and not given to others.
	s.pass(2 * NonceLife)
	nonce := s.claim(macA, "127.0.0.3").Nonce
	s.want("127.0.0.3", init, oldScript, 2, "init to 127.0.0.3")
	s.want("127.0.0.2", init, oldStart, 1, "node.claim n0000 127.0.0.2 wants to boot as the node that booted from 127.0.0.3; held")
	if _, _, err := s.bootingNow(memoryTx{s.m}, proof{hwaddrs: []string{macA}, nonce: nonce, source: netip.MustParseAddr("127.0.0.3")}); err != nil {
		t.Errorf("the nonce of the boot by iPXE: %v", err)
	}
}

// What keeps a node from its scripts elsewhere keeps it here.
func TestLegacyHolds(t *testing.T) {
	s := newOldSite(t, nil)
	s.want("127.0.0.2", "init nodeid="+macB, oldStart, 1, "node.create n0001 "+macB+"; held for approval")
	s.want("127.0.0.2", "ready nodeid="+macB, oldStart, 1, "denied n0001 node.script over the old protocol: the node is not approved")
	s.want("127.0.0.2", "log hello nodeid="+macB, oldStart, 1, "denied "+macB+" node.script over the old protocol: log: no node that is approved")
	s.want("127.0.0.2", "halt nodeid="+macA, oldStart, 1, "denied n0000 node.script over the old protocol: there is no state \"halt\" here; there are init, ready")
	for i, boot := range []Boot{BootLocal, BootHold} {
		s.set(Change{Boot: &boot})
		s.want("127.0.0.2", "init nodeid="+macA, oldStart, 1, "denied n0000 node.script over the old protocol: the node is not set to provision")
		s.want("127.0.0.2", "ready nodeid="+macA, oldScript, 1+i, "node.script n0000 ready to 127.0.0.2")
	}
}

// Machines that enrolled have a certificate to ask with; they may be made anew.
func TestLegacyEnrolled(t *testing.T) {
	s := newOldSite(t, nil)
	s.enrolled["n0000"] = true
	s.want("127.0.0.2", "ready nodeid="+macA, oldStart, 1, "denied n0000 node.script over the old protocol: its machine has enrolled, and asks by provision/1")
	s.want("127.0.0.2", "init nodeid="+macA, oldScript, 1, "node.script n0000 init to 127.0.0.2")
}

// A machine that names no address is who ARP says; one that names another than
// ARP does is believed, and the log tells.
func TestLegacyNeighbours(t *testing.T) {
	s := newOldSite(t, nil)
	s.arp["127.0.0.2"], s.arp["127.0.0.3"], s.arp["127.0.0.4"] = strings.ToLower(macA), macB, "00:00:00:00:00:00"
	s.want("127.0.0.2", "init", oldScript, 1, "init to 127.0.0.2 over the old protocol as "+macA+", 11 bytes")
	s.want("127.0.0.2", "ready nodeid="+macA, oldScript, 1, "ready to 127.0.0.2 over the old protocol as "+macA+", 11 bytes")
	s.want("127.0.0.3", "ready nodeid="+macA, oldScript, 1, "ready to 127.0.0.3 over the old protocol as "+macA+", ARP says "+macB+", 11 bytes")
	s.want("127.0.0.4", "init", oldStart, 1, "it names no nodeid, and ARP does not know 127.0.0.4")
	s.want("127.0.0.3", "init", oldStart, 1, "node.create n0001 "+macB)
}

// A name that a machine wishes for it has when an operator will look at it.
func TestLegacyNodename(t *testing.T) {
	s := newOldSite(t, nil)
	s.m.taken["was"] = true
	for i, x := range []struct{ wish, want string }{
		{"Web1", "web1"}, {"web1", "n0001"}, {"n0000", "n0002"}, {"was", "n0003"}, {"../x", "n0004"}, {"", "n0005"}, {strings.Repeat("x", 300), "n0006"},
	} {
		mac := fmt.Sprintf("52:54:00:00:01:%02X", i)
		s.want("127.0.0.2", "init nodeid="+mac+" nodename="+x.wish, oldStart, 1, "node.create "+x.want+" "+mac+"; held")
	}
	if err := s.SetApprove([]Rule{{MAC: "52:54:00:00:02:*"}}); err != nil {
		t.Fatal(err)
	}
	s.want("127.0.0.2", "init nodeid=52:54:00:00:02:01 nodename=web7", oldStart+"echo n0007\n# PROVISIOND END\n", 1, "node.create n0007 52:54:00:00:02:01; approved by rule")
}

// Rules that are changed count from then on.
func TestSetApprove(t *testing.T) {
	s := newOldSite(t, nil)
	if got := s.claim(macB, "192.0.2.1"); got.Nonce != "" {
		t.Fatalf("without a rule: %+v", got)
	}
	if err := s.SetApprove([]Rule{{MAC: "[", Network: netip.Prefix{}}}); err == nil {
		t.Error("a pattern that is none is taken")
	}
	rules := []Rule{{MAC: "52:54:*"}}
	if err := s.SetApprove(rules); err != nil {
		t.Fatal(err)
	}
	rules[0].MAC = "*"
	if got := s.claim("52:54:00:00:00:77", "192.0.2.1"); got.Nonce == "" {
		t.Errorf("with a rule: %+v", got)
	}
	if got := s.claim("52:55:00:00:00:77", "192.0.2.1"); got.Nonce != "" {
		t.Error("the rule was changed from outside")
	}
	if got := s.claim(macB, "192.0.2.1"); got.Nonce != "" {
		t.Error("a rule approves who is held")
	}
	if err := s.SetApprove(nil); err != nil {
		t.Fatal(err)
	}
	if got := s.claim("52:54:00:00:00:78", "192.0.2.1"); got.Nonce != "" {
		t.Error("a rule that is gone approves")
	}
}

// What cannot be recorded, cannot be made, or is withdrawn meanwhile, is not
// handed out; and nothing of why.
func TestLegacyNotHandedOut(t *testing.T) {
	var s *oldSite
	var then atomic.Pointer[func() error]
	meanwhile := func(f func() error) { then.Store(&f) }
	s = newOldSite(t, func(c *Config) {
		c.Scripts = scripts(func(_ context.Context, n nodescript.Node, _ string) (*nodescript.Script, error) {
			return &nodescript.Script{Text: []byte("echo " + n.Name + "\n")}, (*then.Load())()
		})
	})
	ready := "ready nodeid=" + macA
	fail := func(err error) { s.m.mu.Lock(); s.m.fail = err; s.m.mu.Unlock() }
	meanwhile(func() error { fail(call.Errorf(call.Unavailable, "the disk is full")); return nil })
	s.want("127.0.0.2", ready, oldStart, 0, "node.script")
	fail(nil)
	meanwhile(func() error { return fmt.Errorf("open /secret/place: input/output error") })
	s.want("127.0.0.2", ready, oldStart, 0, "node.script")
	meanwhile(func() error {
		_, err := s.Set(t.Context(), "operator/alice", []string{"n0000"}, Change{Boot: new(BootHold)})
		return err
	})
	s.want("127.0.0.2", "init nodeid="+macA, oldStart, 1, "denied n0000 node.script over the old protocol: the node is not set to provision")
	meanwhile(func() error { _, err := s.Delete(t.Context(), "operator/alice", []string{"n0000"}); return err })
	s.want("127.0.0.2", ready, oldStart, 1, "denied "+macA+" node.script over the old protocol: no node has this hardware address")
	if s.logged(" to 127.0.0.2") != 0 {
		t.Errorf("log: %q", s.m.records())
	}
}

// Strangers cannot make nodes without end, nor fill the log.
func TestLegacyStrangersAreBounded(t *testing.T) {
	s := newOldSite(t, nil)
	for i := range meetBurst + 20 {
		r, err := ParseLegacy(fmt.Appendf(nil, "init nodeid=52:54:00:01:%02X:%02X\n", i>>8, i&255))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.legacyAsks(t.Context(), r, netip.MustParseAddr("192.0.2.1"))
		if err == nil {
			t.Fatalf("stranger %d gets a script", i)
		}
		s.refuseTo(t.Context(), "192.0.2.1:1", legacyAction, err)
	}
	if n := len(s.m.nodes); n != 1+MaxHeldSource {
		t.Errorf("%d nodes", n)
	}
	if n := s.logged("denied"); n > 60 {
		t.Errorf("%d refusals on the log in a moment", n)
	}
	s.pass(time.Minute)
	s.want("127.0.0.2", "ready nodeid=52:54:00:02:00:00", oldStart, 1, "records like this before it were left out")
	if s.old.has("x", s.now) || !s.old.has("x", s.now.Add(legacySeenFor-1)) || s.old.has("x", s.now.Add(legacySeenFor)) {
		t.Error("a refusal is not new once an hour")
	}
	for i := range 2 * maxLegacySeen {
		s.old.has(fmt.Sprint(i), s.now)
	}
	if n := len(s.old.at); n > maxLegacySeen {
		t.Errorf("%d refusals are remembered", n)
	}
}

// Under the documented rules the script is in the frame too, on lines of its own.
func TestLegacyReply(t *testing.T) {
	fn := strings.ReplaceAll(string(legacyGetfile), "@MASTER@", "192.0.2.1:51237")
	for text, want := range map[string]string{
		"":          "",
		"echo a\n":  "echo a\n",
		"printf 'a": "printf 'a\n",
	} {
		if got := string(legacyReply(nodescript.Documented, []byte(text), "192.0.2.1:51237")); got != "# NODESCRIPT START\n"+fn+want+"# NODESCRIPT END\n# PROVISIOND END\n" {
			t.Errorf("documented: %q becomes %q", text, got)
		}
	}
	text := []byte("# NODESCRIPT START\nx# NODESCRIPT END\n")
	if got := string(legacyReply(nodescript.Perceus193, text, "x")); got != string(text)+"# PROVISIOND END\n" {
		t.Errorf("as it was: %q", got)
	}
	if strings.Contains(fn, "MASTER") {
		t.Errorf("the master is not in it everywhere: %s", fn)
	}
}
