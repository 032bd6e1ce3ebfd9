package overlord_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/overlord"
)

// newOldSite starts an overlord that speaks the old protocol, too.
func newOldSite(t testing.TB, change func(*overlord.ProvisionConfig)) *site {
	t.Helper()
	return newSite(t, func(c *overlord.ProvisionConfig) {
		c.LegacyListen = "127.0.0.1:0"
		if change != nil {
			change(c)
		}
	})
}

func (s *site) legacyAddress() string {
	s.T.Helper()
	b, err := os.ReadFile(filepath.Join(s.State, "legacy_address"))
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// old gives what the old client makes of a request.
func (s *site) old(from string, words ...string) fleettest.OldReply {
	s.T.Helper()
	r, err := fleettest.OldClient{Server: s.legacyAddress(), From: from, Dir: s.T.TempDir()}.Run(s.T.Context(), words...)
	if err != nil {
		s.T.Fatal(err)
	}
	return r
}

// add makes a node that is approved.
func (s *site) add(r *apipb.AddNodeRequest) {
	s.T.Helper()
	if _, err := s.Conn.Nodes.AddNode(s.T.Context(), connect.NewRequest(r)); err != nil {
		s.T.Fatal(err)
	}
}

// The example of the old program, byte for byte as it came over the wire.
func TestLegacyWorkedExample(t *testing.T) {
	s := newOldSite(t, func(c *overlord.ProvisionConfig) { c.Rules = "perceus-1.9.3" })
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"vnfs/v/10-a", "echo A-vnfs\n", 0o755},
		{"all/10-a", "echo A-all\n", 0o755},
		{"all/9-z", "printf 'Z=%s' $NODENAME\n", 0o755},
		{"all/90-l", "#!/bin/sh\necho on $NODENAME\n", 0o644},
		{"group/g/20-b", "echo 'echo $A'; exit 4\n", 0o755},
		{"node/n1/20-b", "echo B=node; echo oops >&2\n", 0o755},
		{"all/30-n", "hello\n", 0o644},
		{"all/40-o~", "echo O\n", 0o755},
		{"all/X", "echo X\n", 0o755},
	} {
		s.put("nodescripts/ready/"+f.name, f.text, f.mode)
	}
	s.add(&apipb.AddNodeRequest{Hwaddr: mac1, Name: "n1", Group: "g", Vnfs: "v"})
	const want = "# PERCEUSD START\n# NODESCRIPT START\nA-all\nB=node\nZ=n1#!/bin/sh\necho on $NODENAME\n\nX\n# NODESCRIPT END\n# PROVISIOND END\n"
	if r := s.old("127.0.0.2", "ready", "nodeid="+strings.ToLower(mac1)); string(r.Wire) != want || r.Silent {
		t.Errorf("on the wire: %q; want %q", r.Wire, want)
	}
	s.wantAudited("node.script", "address/127.0.0.2 n1 ready to 127.0.0.2 over the old protocol as "+mac1+", ")
	n := s.node("n1")
	if n.State != "ready" || n.Address != "127.0.0.2" || n.ContactMs == 0 || len(n.ScriptSha256) != 32 {
		t.Errorf("node is %v", n)
	}
}

// A machine of old becomes known, waits for approval, and is provisioned, under
// the documented rules.
func TestLegacyFromFirstContact(t *testing.T) {
	s := newOldSite(t, nil)
	s.put("nodescripts/init/all/10-hello", "#!/bin/sh\necho echo hello $NODENAME $NODEID $IPADDR $ENABLED $VNFSMASTER\nprintf 'exit 7'\n", 0o755)
	if r := s.old("127.0.0.2", "init", "nodeid="+mac1); !r.Silent || string(r.Wire) != "# PERCEUSD START\n" || r.Exit != 0 {
		t.Fatalf("a machine that is not approved: %q, silent %v, exit %d", r.Wire, r.Silent, r.Exit)
	}
	if n := s.node("n0000"); n.Hwaddr != mac1 || n.ApprovedMs != 0 || n.Source != "127.0.0.2" {
		t.Fatalf("node is %v", n)
	}
	s.wantAudited("node.create", "address/127.0.0.2 n0000 "+mac1+"; held for approval")
	s.wantAudited("denied", "address/127.0.0.2 n0000 node.script over the old protocol: the node is not approved")
	s.approve("n0000")
	r := s.old("127.0.0.2", "init", "nodeid="+mac1)
	if want := "hello n0000 " + mac1 + " 127.0.0.2 1 127.0.0.1\n"; string(r.Output) != want || r.Exit != 7 || r.Silent {
		t.Errorf("it prints %q and ends with %d; want %q and 7; on the wire %q", r.Output, r.Exit, want, r.Wire)
	}
	if !strings.HasPrefix(string(r.Wire), "# PERCEUSD START\n# NODESCRIPT START\n# getfile PATH...") || !strings.HasSuffix(string(r.Wire), "\nexit 7\n# NODESCRIPT END\n# PROVISIOND END\n") {
		t.Errorf("on the wire: %q", r.Wire)
	}
	if strings.Count(string(r.Wire), "http://"+s.bootAddress()+"/legacy/") != 1 {
		t.Errorf("getfile does not ask %s: %q", s.bootAddress(), r.Wire)
	}
	if n := s.node("n0000"); n.State != "init" || n.BootSource != "127.0.0.2" || n.BootUntilMs == 0 {
		t.Errorf("node is %v", n)
	}
}

// Programs that take 12 s: the client that gives up after 5 s does not.
func TestLegacySlowAssembly(t *testing.T) {
	for _, rules := range []string{"documented", "perceus-1.9.3"} {
		t.Run(rules, func(t *testing.T) {
			t.Parallel()
			s := newOldSite(t, func(c *overlord.ProvisionConfig) { c.Rules = rules })
			s.put("nodescripts/ready/all/10-slow", "#!/bin/sh\nsleep 12\necho echo there at last\n", 0o755)
			s.add(&apipb.AddNodeRequest{Hwaddr: mac1})
			r := s.old("", "ready", "nodeid="+mac1)
			if string(r.Output) != "there at last\n" || r.Silent || r.Exit != 0 || r.Took < 12*time.Second || r.Gap > 4*time.Second {
				t.Errorf("output %q, silent %v, exit %d, took %v, longest silence %v", r.Output, r.Silent, r.Exit, r.Took, r.Gap)
			}
			begin, _, ok := strings.Cut(string(r.Wire), "# NODESCRIPT START\n")
			if want := "# PERCEUSD START\n" + strings.Repeat("# WAIT\n", strings.Count(begin, "\n")-1); !ok || begin != want || len(begin) == len("# PERCEUSD START\n") {
				t.Errorf("before the script comes %q", begin)
			}
			if strings.Contains(strings.TrimPrefix(string(r.Wire), begin), "WAIT") {
				t.Errorf("a comment is in the script: %q", r.Wire)
			}
			t.Logf("figure: an assembly of %v under %s: longest silence %v", r.Took.Round(time.Millisecond), rules, r.Gap.Round(time.Millisecond))
		})
	}
}

// A rack of old machines is switched on: each gets its script before its client
// gives up.
func TestLegacyTwoHundredNodesAtOnce(t *testing.T) {
	const nodes, scripts = 200, 10
	s := newOldSite(t, func(c *overlord.ProvisionConfig) { c.Approve = overlord.ApproveRules{{MAC: "52:54:00:*"}} })
	want := ""
	for i := range scripts {
		s.put(fmt.Sprintf("nodescripts/init/all/%02d-x", 10+i), fmt.Sprintf("#!/bin/sh\necho echo %d $NODENAME\n", i), 0o755)
		want += fmt.Sprintf("echo %d %%[1]s\n", i)
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		took   []time.Duration
		gap    time.Duration
		broken []string
		seen   = make(map[string]bool)
		client = fleettest.OldClient{Server: s.legacyAddress(), Shell: "cat"}
	)
	for i := range nodes {
		c := client
		c.From = fmt.Sprintf("127.0.4.%d", i+1)
		wg.Go(func() {
			r, err := c.Run(t.Context(), "init", fmt.Sprintf("nodeid=52:54:00:00:04:%02X", i))
			mu.Lock()
			defer mu.Unlock()
			took, gap = append(took, r.Took), max(gap, r.Gap)
			_, text, _ := strings.Cut(string(r.Output), "\n)\n") // after getfile
			text, _, _ = strings.Cut(text, "# NODESCRIPT END")
			first, _, _ := strings.Cut(strings.TrimPrefix(text, "echo 0 "), "\n")
			if err != nil || r.Silent || text != fmt.Sprintf(want, first) || seen[first] {
				broken = append(broken, fmt.Sprintf("%s: %v, silent %v, %q", c.From, err, r.Silent, r.Wire))
			}
			seen[first] = true
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("figure: %d old clients with %d scripts each, new nodes: p50 %v, p99 %v, most %v, longest silence %v", nodes, scripts,
		took[nodes/2].Round(time.Millisecond), took[nodes*99/100].Round(time.Millisecond), took[nodes-1].Round(time.Millisecond), gap.Round(time.Millisecond))
	if len(broken) > 0 {
		t.Errorf("%d of %d clients did not get their script: %s", len(broken), nodes, broken[0])
	}
	if got := len(s.audited("node.script")); got != nodes {
		t.Errorf("%d records of scripts; want %d", got, nodes)
	}
}

// exchange sends bytes and gives what comes until the server closes; open: it
// did not within a time.
func exchange(addr, text string, within time.Duration) (answer string, open bool, err error) {
	conn, err := net.DialTimeout("tcp", addr, fleettest.Patience)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", false, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(conn)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return string(b), true, nil
	}
	return string(b), false, err
}

// What the old daemon answered to each kind of request.
func TestLegacyRequests(t *testing.T) {
	s := newOldSite(t, func(c *overlord.ProvisionConfig) {
		c.Rules = "perceus-1.9.3"
		c.States = []string{"init", "ready", "single-user"}
	})
	s.put("nodescripts/ready/all/10-x", "#!/bin/sh\necho echo $NODENAME $STATE\n", 0o755)
	s.add(&apipb.AddNodeRequest{Hwaddr: mac1, Name: "n1"})
	s.add(&apipb.AddNodeRequest{Hwaddr: mac2, Name: "n2"})
	const start, frame, end = "# PERCEUSD START\n", "# NODESCRIPT START\n", "# NODESCRIPT END\n# PROVISIOND END\n"
	ready := func(node string) string { return start + frame + "echo " + node + " ready\n" + end }
	addr := s.legacyAddress()
	var wg sync.WaitGroup
	for _, x := range []struct {
		name, send, want string
		open             bool
	}{
		{"ping", "ping\n", start + "ping\n", false},
		{"ping with words", "ping  abc\tdef\r\n\x00", start + "abc def\n", false},
		{"log", "log going down nodeid=" + mac1 + "\n\x00", start, false},
		{"a line", "ready nodeid=" + mac1 + "\n", ready("n1"), false},
		{"with a zero byte", "ready nodeid=" + mac1 + "\n\x00", ready("n1"), false},
		{"without a line end", "ready nodeid=" + mac1, ready("n1"), false},
		{"the last nodeid counts", "ready nodeid=" + mac1 + " x y=z nodeid=" + mac2 + "\n", ready("n2"), false},
		{"two lines are one request", "ready nodeid=" + mac1 + "\nhalt nodeid=" + mac2 + "\n", ready("n2"), false},
		{"small letters and hyphens", "ready nodeid=52-54-00-00-00-01\n", ready("n1"), false},
		{"a state without folders", "single-user nodeid=" + mac1 + "\n", start + frame + end, false},
		{"a state that is not on the list", "halt nodeid=" + mac1 + "\n", start, false},
		{"an unknown node", "ready nodeid=52:54:00:00:00:99\n", start, true},
		{"an unknown node in a state that is not on the list", "halt nodeid=52:54:00:00:00:99\n", start, true},
		{"no word", "../x nodeid=" + mac1 + "\n", start, true},
		{"nothing on the line", "\n\x00", start, true},
		{"no nodeid", "ready\n", start, true},
		{"no nodeid in init", "init\n", start, true},
		{"no address", "ready nodeid=n1\n", start, true},
		{"no address in init", "init nodeid=n1\n", start + "echo \"Could not add node to DB.\"\n", false},
		{"a group's address in init", "init nodeid=01:00:5e:00:00:01\n", start + "echo \"Could not add node to DB.\"\n", false},
		{"01: before a known node", "init nodeid=01:" + mac1 + "\n", start + "echo \"Could not add node to DB.\"\n", false},
		{"01: before an unknown node", "init nodeid=01:52:54:00:00:00:77\n", start, true},
		{"too long", "ready nodeid=" + mac1 + strings.Repeat(" x", 4096) + "\n", start, true},
	} {
		within := fleettest.Patience
		if x.open {
			within = 2 * time.Second
		}
		wg.Go(func() {
			if got, open, err := exchange(addr, x.send, within); got != x.want || open != x.open || err != nil {
				t.Errorf("%s: %q gives %q, left open %v, %v; want %q, %v", x.name, x.send, got, open, err, x.want, x.open)
			}
		})
	}
	wg.Wait()
	for _, why := range []string{
		`n1 node.script over the old protocol: there is no state "halt" here`, "52:54:00:00:00:99 node.script over the old protocol: no node has this hardware address",
		"it names no nodeid, and ARP does not know 127.0.0.1", `malformed request: not a request for a node script: "../x" is not a state`,
		"malformed request: it is empty", "malformed request: more than 4096 bytes", `not a hardware address: "n1"`, "is 01: before one that is known",
		"n0000 node.script over the old protocol: the node is not approved",
	} {
		s.wantAudited("denied", why)
	}
	if n := s.node("n0000"); n.Hwaddr != "52:54:00:00:00:77" {
		t.Errorf("node is %v", n)
	}
}
