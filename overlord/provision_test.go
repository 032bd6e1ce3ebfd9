package overlord_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/audit"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
	"dominion/pki"
	"dominion/provision"
)

// site is an overlord that provisions.
type site struct {
	*fleettest.Fleet
	statedir string
	metrics  string // address of its metrics; empty: none
}

// newSite starts an overlord that provisions; change may say how.
func newSite(t testing.TB, change func(*overlord.ProvisionConfig)) *site {
	t.Helper()
	s := &site{statedir: filepath.Join(t.TempDir(), "perceus")}
	cfg := fleettest.Config()
	cfg.Provision = overlord.ProvisionConfig{Enabled: true, Statedir: s.statedir, Listen: "127.0.0.1:0"}
	if change != nil {
		change(&cfg.Provision)
	}
	s.statedir = cfg.Provision.Statedir
	s.Fleet = fleettest.Start(t, cfg)
	return s
}

// put writes a file below the directory of node scripts and files.
func (s *site) put(name, text string, mode os.FileMode) {
	s.T.Helper()
	path := filepath.Join(s.statedir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.T.Fatal(err)
	}
}

func (s *site) bootAddress() string {
	s.T.Helper()
	b, err := os.ReadFile(filepath.Join(s.State, "boot_address"))
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// metal is a machine that boots: it speaks from one address.
type metal struct {
	s      *site
	hwaddr string
	nonce  string
	plain  *http.Client // to /boot
	secure *http.Client // to provision/1
}

// metal makes a machine; from is its address, empty: any of loopback. It may
// show a certificate.
func (s *site) metal(hwaddr, from string, cert *tls.Certificate) *metal {
	s.T.Helper()
	dialer := &net.Dialer{Timeout: fleettest.Patience}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	trust, err := pki.TrustPin(s.Pin)
	if err != nil {
		s.T.Fatal(err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: trust.VerifyOverlord(""),
	}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	m := &metal{
		s: s, hwaddr: hwaddr, plain: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}},
		secure: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: conf}},
	}
	s.T.Cleanup(func() {
		m.plain.CloseIdleConnections()
		m.secure.CloseIdleConnections()
	})
	return m
}

// boot asks for the script that iPXE runs, and keeps the nonce in it.
func (m *metal) boot() string {
	m.s.T.Helper()
	resp, err := m.plain.Get("http://" + m.s.bootAddress() + "/boot/ipxe?mac=" + m.hwaddr)
	if err != nil {
		m.s.T.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.s.T.Fatalf("boot: %d %q, %v", resp.StatusCode, b, err)
	}
	if found := regexp.MustCompile(`dominion\.nonce=([0-9a-f]{64})`).FindSubmatch(b); found != nil {
		m.nonce = string(found[1])
	}
	return string(b)
}

// answer is one reply of provision/1.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %q", a.status, a.body) }

func (m *metal) do(req *http.Request) answer {
	m.s.T.Helper()
	resp, err := m.secure.Do(req)
	if err != nil {
		m.s.T.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.s.T.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// post sends a request with this machine's hardware address and nonce.
func (m *metal) post(what string, r provision.Request) answer {
	m.s.T.Helper()
	if r.HWAddr == nil {
		r.HWAddr = []string{m.hwaddr}
	}
	if r.Nonce == "" && m.nonce != "" {
		r.Nonce = m.nonce
	}
	b, err := json.Marshal(r)
	if err != nil {
		m.s.T.Fatal(err)
	}
	req, err := http.NewRequestWithContext(m.s.T.Context(), http.MethodPost, "https://"+m.s.Address+provision.Path+what, bytes.NewReader(b))
	if err != nil {
		m.s.T.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return m.do(req)
}

// script asks for the script of init.
func (m *metal) script() answer { return m.post("script", provision.Request{State: "init"}) }

// file asks for a file; the header is for ranges.
func (m *metal) file(method, path string, header http.Header) answer {
	m.s.T.Helper()
	req, err := http.NewRequestWithContext(m.s.T.Context(), method, "https://"+m.s.Address+provision.Path+"files/"+path, nil)
	if err != nil {
		m.s.T.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	if m.nonce != "" {
		req.Header.Set("Authorization", m.authorization())
	}
	return m.do(req)
}

// authorization is the header of a request for files.
func (m *metal) authorization() string { return provision.Authorization(m.hwaddr, m.nonce) }

func sumOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha-256=" + base64.StdEncoding.EncodeToString(sum[:])
}

// node gives one node as the API shows it.
func (s *site) node(name string) *apipb.Node {
	s.T.Helper()
	r, err := s.Conn.Nodes.Nodes(s.T.Context(), connect.NewRequest(&apipb.NodesRequest{Target: name}))
	if err != nil || len(r.Msg.Nodes) != 1 {
		s.T.Fatalf("node %s: %v, %v", name, r, err)
	}
	return r.Msg.Nodes[0]
}

func (s *site) approve(target string) {
	s.T.Helper()
	if _, err := s.Conn.Nodes.ApproveNodes(s.T.Context(), connect.NewRequest(&apipb.ApproveNodesRequest{Target: target})); err != nil {
		s.T.Fatal(err)
	}
}

// audited gives the records of an action, as "actor subject detail".
func (s *site) audited(action string) []string {
	s.T.Helper()
	stream, err := s.Conn.Audit.List(s.T.Context(), connect.NewRequest(&apipb.AuditListRequest{Action: action}))
	if err != nil {
		s.T.Fatal(err)
	}
	defer stream.Close()
	var out []string
	for stream.Receive() {
		if len(stream.Msg().LeafHash) == 0 {
			continue
		}
		r, err := audit.Decode(stream.Msg().Body)
		if err != nil {
			s.T.Fatal(err)
		}
		out = append(out, r.Actor+" "+r.Subject+" "+r.Detail)
	}
	if err := stream.Err(); err != nil {
		s.T.Fatal(err)
	}
	return out
}

// wantAudited fails unless a record of an action holds a text.
func (s *site) wantAudited(action, text string) {
	s.T.Helper()
	list := s.audited(action)
	if !slices.ContainsFunc(list, func(r string) bool { return strings.Contains(r, text) }) {
		s.T.Errorf("no record %s holds %q: %q", action, text, list)
	}
}

const mac1, mac2 = "52:54:00:00:00:01", "52:54:00:00:00:02"

// A bare machine becomes an enrolled minion: held, approved, a nonce by its
// boot script, the script, a token, its result; and all of it is on the log.
func TestProvisionFromBareMetalToMinion(t *testing.T) {
	s := newSite(t, nil)
	s.put("nodescripts/init/all/10-hello", "#!/bin/sh\necho echo hello $NODENAME $NODEID $IPADDR $ENABLED $VNFSMASTER\n", 0o755)
	m := s.metal(mac1, "", nil)
	if text := m.boot(); !strings.HasPrefix(text, "#!ipxe\n") || strings.Contains(text, "nonce") || strings.Contains(text, "n0000") {
		t.Fatalf("a node that is not approved boots with %q", text)
	}
	n := s.node("n0000")
	if n.Hwaddr != mac1 || n.ApprovedMs != 0 || n.ContactMs == 0 || n.Address != "127.0.0.1" {
		t.Fatalf("node is %v", n)
	}
	s.approve("n0000")
	if text := m.boot(); m.nonce == "" || !strings.Contains(text, "dominion.pin="+s.Pin) || !strings.Contains(text, "dominion.server="+s.Address) {
		t.Fatalf("an approved node boots with %q", text)
	}
	script := m.post("script", provision.Request{State: "init"})
	const want = "echo hello n0000 52:54:00:00:00:01 127.0.0.1 1 127.0.0.1\n"
	if script.status != http.StatusOK || string(script.body) != want || script.header.Get("Digest") != digestOf(script.body) ||
		script.header.Get("Dominion-Node") != "n0000" || script.header.Get("Content-Type") != "text/x-shellscript" || script.header.Get("Content-Length") != fmt.Sprint(len(want)) {
		t.Fatalf("script is %v with %v", script, script.header)
	}
	s.Down() // the boot goes on where it was
	s.Up()
	joined := m.post("join", provision.Request{})
	var j provision.Joining
	if err := json.Unmarshal(joined.body, &j); err != nil || j.Name != "n0000" || j.Pin != s.Pin || !slices.Equal(j.Overlords, []string{s.Address}) {
		t.Fatalf("join is %v: %v", joined, err)
	}
	if again := m.post("join", provision.Request{}); again.status != http.StatusConflict {
		t.Errorf("a second token of one boot: %v", again)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(j.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Enrol(j.Name, minion.Config{TokenFile: token})
	s.Await(1)
	if late := m.post("script", provision.Request{State: "init"}); late.status != http.StatusForbidden {
		t.Errorf("a nonce whose token was used gives %v", late)
	}
	if r := m.post("result", provision.Request{State: "init", Digest: script.header.Get("Digest"), Exit: 3, TookMS: 1500, Detail: "so so"}); r.status != http.StatusNoContent {
		t.Errorf("result: %v", r)
	}
	n = s.node("n0000")
	if n.State != "init" || n.EndedExit != 3 || n.EndedState != "init" || n.EndedTookMs != 1500 || n.EndedDetail != "so so" || n.BootUntilMs != 0 {
		t.Errorf("node is %v", n)
	}
	s.checkLog(m.nonce, j.Token)
}

// checkLog looks for the records of one machine's way, and for secrets in them.
func (s *site) checkLog(secrets ...string) {
	s.T.Helper()
	for action, text := range map[string]string{
		"node.create": "address/127.0.0.1 n0000 " + mac1 + "; held for approval", "node.approve": "local/root n0000",
		"node.boot": "n0000 " + mac1 + " boots from 127.0.0.1", "node.script": "node/n0000 n0000 init to 127.0.0.1, 57 bytes; init/all/10-hello ",
		"node.join": "node/n0000 n0000 token/", "node.result": "exit 3 after 1500 ms", "enrolled": "n0000",
		"denied": "node.join: the token of this boot was given",
	} {
		s.wantAudited(action, text)
	}
	s.wantAudited("denied", "node.script: the nonce was used")
	for _, action := range []string{"node.boot", "node.script", "node.join", "node.result", "denied"} {
		for _, r := range s.audited(action) {
			for _, secret := range secrets {
				if strings.Contains(r, secret) {
					s.T.Errorf("a secret is on the log: %s", r)
				}
			}
		}
	}
}
