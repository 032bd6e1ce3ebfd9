package overlord_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
	"dominion/pki"
	"dominion/provision"
)

// ready gives a node that is approved and boots: it has its nonce.
func (s *site) booted(hwaddr, from string) *metal {
	s.T.Helper()
	if _, err := s.Conn.Nodes.AddNode(s.T.Context(), connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: hwaddr})); err != nil {
		s.T.Fatal(err)
	}
	m := s.metal(hwaddr, from, nil)
	if m.boot(); m.nonce == "" {
		s.T.Fatal("an approved node got no nonce")
	}
	return m
}

// want fails unless an answer refuses, without a byte of what was asked for.
func (m *metal) want(what string, status int, a answer) {
	m.s.T.Helper()
	var f struct{ Code, Detail string }
	if a.status != status || json.Unmarshal(a.body, &f) != nil || f.Code == "" || f.Detail == "" || len(a.body) > 500 {
		m.s.T.Errorf("%s: %v; want status %d with a code and a detail", what, a, status)
	}
	for _, k := range []string{"Digest", "Etag", "Dominion-Node", "Accept-Ranges"} {
		if v := a.header.Get(k); v != "" {
			m.s.T.Errorf("%s: the refusal has %s: %s", what, k, v)
		}
	}
}

// leaf gives the certificate that a minion of the fleet has on disk.
func (s *site) leaf(m *fleettest.Minion) *tls.Certificate {
	s.T.Helper()
	var chain []byte
	s.Until("the minion has its certificate", func() bool {
		found, _ := filepath.Glob(filepath.Join(m.State, "certs", "*.crt"))
		if len(found) == 0 {
			return false
		}
		b, err := os.ReadFile(found[0])
		chain = b
		return err == nil
	})
	key, err := os.ReadFile(filepath.Join(m.State, "minion.key"))
	if err != nil {
		s.T.Fatal(err)
	}
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		s.T.Fatal(err)
	}
	return &c
}

// Nobody gets a script, a token or a file of a boot but the node that boots.
func TestProvisionRefusesEverybodyElse(t *testing.T) {
	s := newSite(t, nil)
	s.put("nodescripts/init/all/10-x", "#!/bin/sh\necho secret\n", 0o755)
	s.put("vnfs/v/image", "secret", 0o644)
	one, two := s.booted(mac1, "127.0.0.2"), s.booted(mac2, "127.0.0.3")
	ask := func(what, why string, m *metal) {
		t.Helper()
		m.want(what+": script", 403, m.post("script", provision.Request{State: "init"}))
		m.want(what+": join", 403, m.post("join", provision.Request{}))
		m.want(what+": result", 403, m.post("result", provision.Request{State: "init"}))
		m.want(what+": file", 403, m.file(http.MethodGet, "vnfs/v/image", nil))
		head := m.file(http.MethodHead, "vnfs/v/image", nil)
		m.want(what+": head", 403, answer{head.status, head.header, []byte(`{"code":"x","detail":"y"}`)})
		s.wantAudited("denied", why)
	}
	thief := s.metal(mac1, "127.0.0.4", nil)
	ask("without a nonce", "node.script: without a nonce", thief)
	thief.nonce = strings.Repeat("0", 64)
	ask("with an invented nonce", "node.join: the nonce is unknown, or was withdrawn", thief)
	thief.nonce = one.nonce
	ask("from another address", "address/127.0.0.4 n0000 node.script: the nonce was given to 127.0.0.2", thief)
	s.wantAudited("denied", "node.file: vnfs/v/image: the nonce was given to 127.0.0.2")

	other := s.metal(mac1, "127.0.0.3", nil)
	other.nonce = two.nonce
	ask("with another node's nonce", "n0001 node.script: the nonce is that of another hardware address", other)

	old := one.nonce
	s.Until("a newer nonce is given", func() bool { one.boot(); return one.nonce != old })
	withdrawn := s.metal(mac1, "127.0.0.2", nil)
	withdrawn.nonce = old
	ask("with a withdrawn nonce", "the nonce is unknown, or was withdrawn", withdrawn)

	if a := one.post("script", provision.Request{State: "init"}); a.status != 200 || string(a.body) != "secret\n" {
		t.Errorf("the node itself gets %v", a)
	}
	set := func(change *apipb.SetNodesRequest) {
		t.Helper()
		change.Target = "n0000"
		if _, err := s.Conn.Nodes.SetNodes(t.Context(), connect.NewRequest(change)); err != nil {
			t.Fatal(err)
		}
	}
	set(&apipb.SetNodesRequest{Boot: new("local")})
	ask("set to boot from its disk", "the nonce is unknown, or was withdrawn", one)
	set(&apipb.SetNodesRequest{Boot: new("provision")})
	ask("set to provision again", "the nonce is unknown, or was withdrawn", one)
	if _, err := s.Conn.Nodes.DeleteNodes(t.Context(), connect.NewRequest(&apipb.DeleteNodesRequest{Target: "n0001"})); err != nil {
		t.Fatal(err)
	}
	ask("deleted", "the nonce is unknown, or was withdrawn", two)
}

// What is no request gets nothing either, and says what is wrong.
func TestProvisionRefusesWhatIsMalformed(t *testing.T) {
	s := newSite(t, nil)
	m := s.booted(mac1, "")
	post := func(what, body string) answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.Address+provision.Path+what, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return m.do(req)
	}
	for name, body := range map[string]string{
		"empty": "", "no JSON": "hello", "two": `{} {}`, "an array": `[]`, "no address": `{"state":"init"}`, "no state": `{"hwaddr":["52:54:00:00:00:01"]}`,
		"an address of a group": `{"hwaddr":["01:54:00:00:00:01"],"state":"init"}`, "a path for a state": `{"hwaddr":["52:54:00:00:00:01"],"state":"../init"}`,
		"a short nonce": `{"hwaddr":["52:54:00:00:00:01"],"state":"init","nonce":"00"}`, "too large": `{"state":"` + strings.Repeat("x", 70<<10) + `"}`,
		"not UTF-8": "{\"state\":\"\xff\"}", "a number for a state": `{"hwaddr":[],"state":1}`,
	} {
		m.want(name, 400, post("script", body))
	}
	m.want("an exit out of bounds", 400, post("result", `{"hwaddr":["52:54:00:00:00:01"],"state":"init","exit":256}`))
	for _, x := range []struct {
		method, path string
		want         int
	}{{"GET", "script", 405}, {"POST", "files/x", 405}, {"POST", "nosuch", 404}, {"PUT", "files/x", 405}, {"DELETE", "files/x", 405}} {
		req, err := http.NewRequestWithContext(t.Context(), x.method, "https://"+s.Address+provision.Path+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := m.do(req); a.status != x.want {
			t.Errorf("%s %s: %v; want %d", x.method, x.path, a, x.want)
		}
	}
	for _, mac := range []string{"", "x", "01:00:00:00:00:00", "00:00:00:00:00:00", "52:54:00:00:00:01:02", "52:54:00:00:00:0g", "5254.0000.0001"} {
		resp, err := m.plain.Get("http://" + s.bootAddress() + "/boot/ipxe?mac=" + mac)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 400 {
			t.Errorf("boot of %q: %d", mac, resp.StatusCode)
		}
	}
}

// In every state but init a node shows the certificate of its minion, and
// nothing else opens that state.
func TestProvisionInOtherStatesTakesTheMinionsCertificate(t *testing.T) {
	s := newSite(t, func(c *overlord.ProvisionConfig) { c.States = []string{"init", "ready", "halt"} })
	s.put("nodescripts/ready/all/10-x", "#!/bin/sh\necho ready $NODENAME\n", 0o755)
	s.put("nodescripts/other/all/10-x", "#!/bin/sh\necho other\n", 0o755)
	s.put("vnfs/v/image", "secret", 0o644)
	if _, err := s.Conn.Nodes.AddNode(t.Context(), connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: mac1, Name: "m01"})); err != nil {
		t.Fatal(err)
	}
	enrolled, foreign := s.Enrol("m01", minion.Config{}), s.Enrol("m02", minion.Config{})
	s.Await(2)
	nobody, booting := s.metal(mac1, "127.0.0.2", nil), s.metal(mac1, "127.0.0.2", nil)
	if booting.boot(); booting.nonce == "" {
		t.Fatal("no nonce")
	}
	m := s.metal(mac1, "", s.leaf(enrolled))
	if a := m.post("script", provision.Request{State: "ready"}); a.status != 200 || string(a.body) != "ready m01\n" || a.header.Get("Dominion-Node") != "m01" {
		t.Fatalf("the node gets %v", a)
	}
	if a := m.file(http.MethodGet, "vnfs/v/image", nil); a.status != 200 || string(a.body) != "secret" {
		t.Errorf("the node gets the file as %v", a)
	}
	if a := m.post("result", provision.Request{State: "ready", Exit: 7}); a.status != 204 {
		t.Errorf("result: %v", a)
	}
	if n := s.node("m01"); n.State != "ready" || n.EndedExit != 7 {
		t.Errorf("node is %v", n)
	}
	s.wantAudited("node.script", "node/m01 m01 ready to 127.0.0.1, 10 bytes; ready/all/10-x ")

	nobody.want("nobody in ready", 403, nobody.post("script", provision.Request{State: "ready"}))
	s.wantAudited("denied", "node.script: without a certificate")
	booting.want("a nonce in ready", 403, booting.post("script", provision.Request{State: "ready"}))
	booting.want("a nonce for a result in ready", 403, booting.post("result", provision.Request{State: "ready"}))
	m.want("a certificate in init", 403, m.post("script", provision.Request{State: "init"}))
	m.want("a certificate for a token", 403, m.post("join", provision.Request{}))
	m.want("a state outside the list", 404, m.post("script", provision.Request{State: "other"}))
	s.wantAudited("denied", `node.script: there is no state "other" here; there are init, ready, halt`)
	nobody.want("a state outside the list for nobody", 403, nobody.post("script", provision.Request{State: "other"}))
	booting.want("a state outside the list with a nonce", 403, booting.post("script", provision.Request{State: "other"}))
	x := s.metal(mac1, "", s.leaf(foreign))
	x.want("another machine's certificate", 403, x.post("script", provision.Request{State: "ready"}))
	x.want("another machine's certificate", 403, x.file(http.MethodGet, "vnfs/v/image", nil))
	s.wantAudited("denied", "m02 node.script: no node has this name")

	root, issuing := authority(t, s.Fleet, "root"), authority(t, s.Fleet, "issuing")
	for role, ca := range map[string]*pki.Authority{"operator": root, "overlord": root} {
		c := mint(t, ca, root, "dominion://"+role+"/m01")
		y := s.metal(mac1, "", &c)
		y.want("the name as "+role, 403, y.post("script", provision.Request{State: "ready"}))
	}
	c := mint(t, issuing, root, "dominion://minion/m01", -1)
	y := s.metal(mac1, "", &c)
	y.want("a certificate that has ended", 403, y.post("script", provision.Request{State: "ready"}))

	if _, err := s.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "m01", Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	m.want("revoked", 403, m.post("script", provision.Request{State: "ready"}))
	s.wantAudited("denied", "the certificate of minion/m01 was revoked: stolen")
}

// A server that shows a minion's certificate is refused, although the root is
// the same: that is why clients look at the role.
func TestProvisionClientRefusesAMinionAsServer(t *testing.T) {
	s := newSite(t, nil)
	enrolled := s.Enrol("m01", minion.Config{})
	s.Await(1)
	c := s.leaf(enrolled)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*c}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	m := s.metal(mac1, "", nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+ln.Addr().String()+provision.Path+"script", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := m.secure.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "overlord") {
		t.Errorf("a minion passes for an overlord: %v", err)
	}
}

// The socket of the host's root is no way round.
func TestProvisionNotOverTheSocket(t *testing.T) {
	s := newSite(t, nil)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.State, "overlord.sock"))
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Post("http://x"+provision.Path+"script", "application/json", strings.NewReader(`{"hwaddr":["52:54:00:00:00:01"],"state":"ready"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("over the socket: %d", resp.StatusCode)
	}
}
