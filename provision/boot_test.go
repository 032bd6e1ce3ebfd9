package provision

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dominion/call"
)

const macA, macB = "52:54:00:00:00:0A", "52:54:00:00:00:0B"

func TestClaimOfAnUnknownMachineIsHeld(t *testing.T) {
	b := newBench(t, nil)
	for range 3 {
		if got := b.claim(macA, "192.0.2.1"); got.Boot != BootHold || got.Nonce != "" || got.Node != "" || got.Why != holdAll {
			t.Fatalf("it boots as %+v", got)
		}
	}
	if n := b.node("n0000"); !n.held() || n.HWAddr != macA || n.Source != netip.MustParseAddr("192.0.2.1") || !n.Enabled {
		t.Errorf("node is %+v", n)
	}
	if b.logged("node.create n0000") != 1 || len(b.m.log) != 1 {
		t.Errorf("log: %q", b.m.records())
	}
}

func TestRulesApprove(t *testing.T) {
	net := netip.MustParsePrefix("192.0.2.0/24")
	for name, x := range map[string]struct {
		rules []Rule
		want  bool
	}{
		"no rule": {nil, false}, "all": {[]Rule{{MAC: "*"}}, true}, "its maker": {[]Rule{{MAC: "52:54:00:*"}}, true}, "small letters": {[]Rule{{MAC: "52:54:00:00:00:0a"}}, true},
		"another maker": {[]Rule{{MAC: "52:55:*"}}, false}, "its network": {[]Rule{{Network: net}}, true}, "both": {[]Rule{{MAC: "52:*", Network: net}}, true},
		"another network": {[]Rule{{MAC: "*", Network: netip.MustParsePrefix("198.51.100.0/24")}}, false}, "the second": {[]Rule{{MAC: "00:*"}, {Network: net}}, true},
	} {
		b := newBench(t, func(c *Config) { c.Approve = x.rules })
		if got := b.claim(macA, "192.0.2.1"); (got.Boot == BootProvision) != x.want || (got.Nonce != "") != x.want {
			t.Errorf("%s: it boots as %+v", name, got)
		}
	}
}

// A boot is one address's until it ends; who else asks is held, shown, and on
// the log, until an operator decides.
func TestSecondClaimIsHeld(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	first := b.claim(macA, "192.0.2.1")
	if first.Nonce == "" || first.Node != "n0000" {
		t.Fatalf("first: %+v", first)
	}
	b.pass(time.Minute)
	if got := b.claim(macA, "192.0.2.66"); got.Boot != BootHold || got.Nonce != "" || got.Node != "" || got.Why != holdAll {
		t.Fatalf("second: %+v", got)
	}
	if n := b.node("n0000"); n.Claim.String() != "192.0.2.66" || !n.ClaimAt.Equal(b.now) || n.Addr.String() != "192.0.2.1" {
		t.Errorf("node is %+v", n)
	}
	if b.logged("address/192.0.2.66 node.claim n0000 192.0.2.66 wants to boot as the node that booted from 192.0.2.1; held") != 1 {
		t.Errorf("log: %q", b.m.records())
	}
	still := func(nonce string) error {
		_, _, err := b.bootingNow(memoryTx{b.m}, proof{hwaddrs: []string{macA}, nonce: nonce, source: netip.MustParseAddr("192.0.2.1")})
		return err
	}
	if err := still(first.Nonce); err != nil {
		t.Errorf("the first boot does not go on: %v", err)
	}
	again := b.claim(macA, "192.0.2.1") // the machine was switched off and on
	if again.Nonce == "" || still(again.Nonce) != nil || still(first.Nonce) == nil {
		t.Errorf("a newer boot from the same address: %+v", again)
	}
	b.pass(2 * NonceLife)
	if got := b.claim(macA, "192.0.2.66"); got.Nonce != "" {
		t.Error("the claim is not held any more once the boot is over")
	}
	if got := b.claim(macA, "192.0.2.1"); got.Nonce == "" {
		t.Error("the machine itself is held")
	}
	for _, what := range []Boot{BootLocal, BootProvision} {
		if _, err := b.Set(t.Context(), "operator/alice", []string{"n0000"}, Change{Boot: &what}); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.claim(macA, "192.0.2.66"); got.Nonce != "" {
		t.Error("the claim is not held any more once the boot was ended")
	}
	if _, err := b.Approve(t.Context(), "operator/alice", []string{"n0000"}); err != nil {
		t.Fatal(err)
	}
	if got := b.claim(macA, "192.0.2.66"); got.Nonce == "" || b.node("n0000").Claim.IsValid() {
		t.Errorf("after it was approved: %+v", got)
	}
}

// A boot that is over gives way to another address by itself.
func TestNonceEnds(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	nonce := b.claim(macA, "192.0.2.1").Nonce
	p := proof{hwaddrs: []string{macB, macA}, nonce: nonce, source: netip.MustParseAddr("192.0.2.1")}
	b.pass(NonceLife - time.Second)
	if _, _, err := b.bootingNow(memoryTx{b.m}, p); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	b.pass(time.Second)
	_, _, err := b.bootingNow(memoryTx{b.m}, p)
	f, ok := errors.AsType[*Refusal](err)
	if !ok || f.Status != 403 || !strings.HasPrefix(f.why, "the nonce expired") || strings.Contains(f.Detail, "expired") {
		t.Errorf("at its end: %v", err)
	}
	if got := b.claim(macA, "192.0.2.2"); got.Nonce == "" {
		t.Errorf("from another address afterwards: %+v", got)
	}
}

// One machine cannot fill the log by asking again and again.
func TestClaimsAreBounded(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	for range 1000 {
		b.claim(macA, "192.0.2.1")
		b.pass(10 * time.Millisecond)
	}
	if got := b.logged("node.boot"); got != 5 {
		t.Errorf("%d nonces in 10 s", got)
	}
	for i := range 1000 {
		b.claim(macA, fmt.Sprintf("192.0.2.%d", 2+i%200))
	}
	if got := b.logged("node.claim"); got > 60 {
		t.Errorf("%d records of claims in a moment", got)
	}
	b.pass(time.Minute)
	b.claim(macA, "192.0.2.9")
	if b.logged("records like this before it were left out") != 1 {
		t.Error("the log does not say that some were left out")
	}
}

func TestHeldNodesAreBounded(t *testing.T) {
	b := newBench(t, nil)
	boot := func(i int, from string) BootScript {
		b.pass(meetEvery)
		return b.claim(fmt.Sprintf("52:54:00:00:%02X:%02X", i>>8, i&255), from)
	}
	for i := range MaxHeldSource + 10 {
		boot(i, "192.0.2.1")
	}
	if len(b.m.nodes) != MaxHeldSource {
		t.Errorf("one address makes %d nodes", len(b.m.nodes))
	}
	if b.logged("denied 52:54:00:00:00:32 node.create: 50 nodes from 192.0.2.1 wait for approval already") != 1 {
		t.Errorf("log: %q", b.m.records())
	}
	for i := range 1000 {
		boot(1000+i, fmt.Sprintf("198.51.100.%d", i/40))
	}
	if len(b.m.nodes) != MaxHeld {
		t.Errorf("%d nodes wait for approval", len(b.m.nodes))
	}
	if _, err := b.Add(t.Context(), "operator/alice", Spec{HWAddr: "52:54:01:00:00:00"}); err != nil {
		t.Errorf("an operator has no room: %v", err)
	}
	b.pass(HeldFor + time.Hour)
	boot(5000, "203.0.113.1")
	if len(b.m.nodes) != 2 {
		t.Errorf("%d nodes are left after a week of silence; want the operator's and the new one", len(b.m.nodes))
	}
	if b.logged("overlord node.delete n[0000-0999] held, and not heard of") != 1 {
		t.Error("the log does not say that they were forgotten")
	}
}

// Machines that nobody knows cost the store a search for a name: so many at once
// become known, and then 50 in a second; the others ask again.
func TestNewMachinesArePaced(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	boot := func(i int) BootScript {
		return b.claim(fmt.Sprintf("52:54:00:00:%02X:%02X", i>>8, i&255), "192.0.2.1")
	}
	for i := range meetBurst + 100 {
		if got := boot(i); (got.Nonce != "") != (i < meetBurst) {
			t.Fatalf("machine %d: %+v", i, got)
		}
	}
	b.pass(time.Second)
	for i := range meetBurst {
		boot(meetBurst + i)
	}
	if got := len(b.m.nodes); got != meetBurst+50 {
		t.Errorf("%d nodes a second later; want %d", got, meetBurst+50)
	}
	b.pass(nonceEvery)
	if b.claim("52:54:00:00:00:00", "192.0.2.1").Boot != BootProvision {
		t.Error("a node that is known has to wait with them")
	}
}

func TestNamesAreFree(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Names = Pattern{Text: "rack-##.example.org", First: 98} })
	b.m.taken["rack-99.example.org"] = true
	for i, want := range []string{"rack-98.example.org", "rack-100.example.org", "rack-101.example.org"} {
		n, err := b.Add(t.Context(), "operator/alice", Spec{HWAddr: fmt.Sprintf("52:54:00:00:00:%02X", i)})
		if err != nil || n.Name != want {
			t.Errorf("name %d is %q, %v; want %q", i, n.Name, err, want)
		}
	}
	if _, err := b.Delete(t.Context(), "operator/alice", []string{"rack-98.example.org"}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Add(t.Context(), "operator/alice", Spec{HWAddr: macA}); err != nil || n.Name != "rack-98.example.org" {
		t.Errorf("the name of a node that was deleted: %q, %v", n.Name, err)
	}
	for _, bad := range []Pattern{{Text: ""}, {Text: "n"}, {Text: "a#b#"}, {Text: "../##"}, {Text: "n####", First: -1}, {Text: "-##"}, {Text: strings.Repeat("#", 70)}, {Text: "a b#"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken for a pattern", bad)
		}
	}
}

func TestReplaceKeepsTheName(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	old, err := b.Add(t.Context(), "operator/alice", Spec{HWAddr: macA, Name: "Web1", Group: "Web", VNFS: "v"})
	if err != nil || old.Name != "web1" || old.Group != "web" {
		t.Fatalf("%+v, %v", old, err)
	}
	b.claim(macA, "192.0.2.1")
	b.claim(macB, "192.0.2.2")
	n, err := b.Replace(t.Context(), "operator/alice", "web1", "n0000")
	if err != nil || n.HWAddr != macB || n.VNFS != "v" || len(b.m.nodes) != 1 || len(b.m.nonces) != 0 {
		t.Errorf("%+v, %v; %d nodes, %d nonces", n, err, len(b.m.nodes), len(b.m.nonces))
	}
	for by, want := range map[string]call.Code{macB: call.Conflict, "nosuch": call.NotFound, "web1": call.Invalid, "01:00:00:00:00:00": call.NotFound} {
		if _, err := b.Replace(t.Context(), "operator/alice", "web1", by); call.CodeOf(err) != want {
			t.Errorf("by %s: %v", by, err)
		}
	}
}
