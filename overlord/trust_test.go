package overlord_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/client"
	"dominion/enrol"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/pki"
	"dominion/session"
)

// authority reads a CA of the overlord's state: "root" or "issuing".
func authority(t *testing.T, f *fleettest.Fleet, name string) *pki.Authority {
	t.Helper()
	read := func(ext string) []byte {
		b, err := os.ReadFile(filepath.Join(f.State, "ca", name+ext))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, err := pki.ParseKey(read(".key"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCerts(read(".crt"))
	if err != nil {
		t.Fatal(err)
	}
	return &pki.Authority{Cert: certs[0], Key: key}
}

// mint makes a leaf with the CA's bare key, as a thief of the key would: uri
// may be empty, and nothing is checked. life is an hour unless it is given.
func mint(t *testing.T, ca, root *pki.Authority, uri string, life ...time.Duration) tls.Certificate {
	t.Helper()
	end := time.Now().Add(time.Hour)
	if len(life) == 1 && life[0] != 0 {
		end = time.Now().Add(life[0])
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "minted"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		leaf.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.Cert, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	chain := [][]byte{der}
	if ca != root {
		chain = append(chain, ca.Cert.Raw)
	}
	return tls.Certificate{Certificate: append(chain, root.Cert.Raw), PrivateKey: key}
}

// api asks the overlord's port as whoever holds cert; nil: nobody.
func api(f *fleettest.Fleet, cert *tls.Certificate) *http.Client {
	cfg := &tls.Config{InsecureSkipVerify: true} // the client's side is not what is tested
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	f.T.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func fleetOf(f *fleettest.Fleet, cert *tls.Certificate) apipbconnect.FleetServiceClient {
	return apipbconnect.NewFleetServiceClient(api(f, cert), "https://"+f.Address)
}

func adminOf(f *fleettest.Fleet, cert *tls.Certificate) apipbconnect.AdminServiceClient {
	return apipbconnect.NewAdminServiceClient(api(f, cert), "https://"+f.Address)
}

// operator gives a certificate of an operator under the root.
func operator(t *testing.T, f *fleettest.Fleet, name string) *tls.Certificate {
	t.Helper()
	root := authority(t, f, "root")
	c := mint(t, root, root, "dominion://operator/"+name)
	return &c
}

func TestReadsNeedAnOperator(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	cert := func(ca *pki.Authority, uri string) *tls.Certificate { c := mint(t, ca, root, uri); return &c }
	stranger, err := pki.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*tls.Certificate{
		"nobody":                             nil,
		"a minion":                           cert(issuing, "dominion://minion/m01"),
		"an overlord":                        cert(root, "dominion://overlord/other"),
		"an operator minted by the issuer":   cert(issuing, "dominion://operator/x"),
		"an overlord minted by the issuer":   cert(issuing, "dominion://overlord/x"),
		"a leaf of the issuer without a URI": cert(issuing, ""),
		"an operator of another root":        cert(stranger, "dominion://operator/x"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := fleetOf(f, c).Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{})); err == nil {
				t.Error("Minions answers")
			}
			if _, err := adminOf(f, c).CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "*"})); err == nil {
				t.Error("CreateToken answers")
			}
			resp, err := api(f, c).Get("https://" + f.Address + "/metrics")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusForbidden {
					t.Errorf("/metrics answers %d", resp.StatusCode)
				}
			}
		})
	}
	if _, err := fleetOf(f, operator(t, f, "alice")).Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{})); err != nil {
		t.Errorf("an operator is refused: %v", err)
	}
}

func TestSessionsAreForOwnMinions(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := root.NewIssuing("elsewhere", key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]tls.Certificate{
		"operator by the issuer":     mint(t, issuing, root, "dominion://operator/x"),
		"overlord by the issuer":     mint(t, issuing, root, "dominion://overlord/x"),
		"no URI":                     mint(t, issuing, root, ""),
		"operator":                   mint(t, root, root, "dominion://operator/x"),
		"minion by the root":         mint(t, root, root, "dominion://minion/x"),
		"minion of another overlord": mint(t, &pki.Authority{Cert: other, Key: key}, root, "dominion://minion/x"),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := session.Dial(t.Context(), f.Address, session.ClientTLS(session.TLSOptions{
				Certificate: func() (*tls.Certificate, error) { return &c, nil }, Verify: func(tls.ConnectionState) error { return nil },
			}))
			if err != nil {
				return
			}
			defer conn.Close()
			// TLS 1.3: the client is done before the server has judged its certificate.
			if err := conn.SetReadDeadline(time.Now().Add(fleettest.Patience)); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("the overlord sent %d bytes", n)
			}
		})
	}
}

// impostor serves TLS with a certificate and gives its address.
func impostor(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request reached the impostor") }), ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().String()
}

func TestImpostorsAreRefused(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	for name, c := range map[string]tls.Certificate{
		"a minion":               mint(t, issuing, root, "dominion://minion/web1"),
		"no URI":                 mint(t, issuing, root, ""),
		"overlord by the issuer": mint(t, issuing, root, "dominion://overlord/overlord"),
		"an operator":            mint(t, root, root, "dominion://operator/x"),
	} {
		t.Run(name, func(t *testing.T) {
			addr := impostor(t, c)
			key, err := pki.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			for _, role := range []pki.Role{pki.Minion, pki.Operator} {
				if _, err := enrol.Ask(t.Context(), enrol.Options{Address: addr, Pin: f.Pin, Identity: pki.Identity{Role: role, Name: "web9"}, Key: key, Attempts: 1}); err == nil {
					t.Errorf("%s enrols with it", role)
				}
			}
			conn, err := client.Dial(t.Context(), loggedIn(t, f, "alice", addr))
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{})); err == nil {
				t.Error("the client believes it")
			}
		})
	}
}

// loggedIn makes an operator's context for the overlord at addr.
func loggedIn(t *testing.T, f *fleettest.Fleet, name, addr string) client.Endpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "contexts")
	key, err := client.PrepareLogin(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	root := authority(t, f, "root")
	leaf, err := root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: name}, PublicKey: key.Public()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	oc := &client.Context{Name: name, Overlord: addr, Pin: f.Pin, Operator: name}
	if err := client.FinishLogin(dir, oc, []*x509.Certificate{leaf, root.Cert}); err != nil {
		t.Fatal(err)
	}
	return client.Endpoint{Contexts: dir, Context: name}
}

func TestSecondMachineOfANameIsHeld(t *testing.T) {
	f := fleettest.New(t, 1)
	f.Enrol("m01", minion.Config{State: filepath.Join(t.TempDir(), "second")})
	var held []*apipb.PendingRequest
	f.Until("the second request is held", func() bool {
		res, err := f.Conn.Admin.Certs(t.Context(), connect.NewRequest(&apipb.CertsRequest{PendingOnly: true}))
		if err != nil {
			t.Fatal(err)
		}
		held = res.Msg.Pending
		return len(held) == 1
	})
	if held[0].Name != "m01" || held[0].Conflict == "" {
		t.Errorf("held: %v", held[0])
	}
	if got := results(t, f.Conn, "m01", "test.ping", nil); got["m01"].Code != call.OK {
		t.Errorf("the first machine: %+v", got["m01"])
	}
}

// results gives what each machine answered to one call.
func results(t *testing.T, conn *client.Conn, target, method string, args any) map[string]call.Result {
	t.Helper()
	got, err := ask(t, conn, target, method, args)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func ask(t *testing.T, conn *client.Conn, target, method string, args any) (map[string]call.Result, error) {
	t.Helper()
	c, err := conn.Target(target, client.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	if args == nil {
		args = map[string]any{}
	}
	j, err := c.Call(t.Context(), method, args)
	if err != nil {
		return nil, err
	}
	got := make(map[string]call.Result)
	for r, err := range j.Results() {
		if err != nil {
			return got, err
		}
		got[r.Machine] = r
	}
	return got, nil
}

func TestPolicyBindsOperators(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	f.Enrol("m01", minion.Config{})
	f.Await(1)
	policy := "- operators: carol\n  methods: test.*\n  targets: m*\n"
	if err := os.WriteFile(filepath.Join(f.State, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Down()
	f.Up()
	f.Await(1)
	conn, err := client.Dial(t.Context(), loggedIn(t, f, "carol", f.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := results(t, conn, "m01", "test.ping", nil); got["m01"].Code != call.OK {
		t.Errorf("what is allowed: %+v", got["m01"])
	}
	if _, err := ask(t, conn, "m01", "command.run", map[string]any{"argv": []string{"true"}}); call.CodeOf(err) != call.Denied {
		t.Errorf("command.run: %v; want denied", err)
	}
	if _, err := conn.Admin.AddOperator(t.Context(), connect.NewRequest(&apipb.AddOperatorRequest{Name: "dave"})); call.CodeOf(err) != call.Denied {
		t.Errorf("operator.add: %v; want denied", err)
	}
	if _, err := conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "*"})); call.CodeOf(err) != call.Denied {
		t.Errorf("token.create: %v; want denied", err)
	}
	denied := 0
	for _, rec := range records(t, f.Conn) {
		if rec.Action == "denied" && rec.Actor == "operator/carol" {
			denied++
		}
	}
	if denied != 3 {
		t.Errorf("%d denials on the audit log; want 3", denied)
	}
}

// Who may sign machines does not become anybody else by it.
func TestSigningAnOperatorIsAddingOne(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	policy := "- {operators: carol, methods: cert.*, targets: '*'}\n- {operators: dave, methods: operator.add, targets: '*'}\n"
	if err := os.WriteFile(filepath.Join(f.State, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Down()
	f.Up()
	request := func(name string) *apipb.SignCertRequest {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := pki.NewRequest(pki.Identity{Role: pki.Operator, Name: name}, key)
		if err != nil {
			t.Fatal(err)
		}
		ask := apipbconnect.NewEnrolServiceClient(api(f, nil), "https://"+f.Address)
		if _, err := ask.Request(t.Context(), connect.NewRequest(&apipb.EnrolRequest{Csr: csr, Role: "operator"})); err != nil {
			t.Fatal(err)
		}
		return &apipb.SignCertRequest{Name: "operator/" + name, Fingerprint: pki.Fingerprint(key.Public())}
	}
	sign := func(by string, req *apipb.SignCertRequest) call.Code {
		_, err := adminOf(f, operator(t, f, by)).SignCert(t.Context(), connect.NewRequest(req))
		if err == nil {
			return call.OK
		}
		return apierrOf(err)
	}
	admin, root := request("admin"), request("root")
	for _, test := range []struct {
		what, by string
		req      *apipb.SignCertRequest
		want     call.Code
	}{
		{"cert.* signs an operator", "carol", admin, call.Denied},
		{"a second root", "dave", root, call.Conflict},
		{"operator.add signs an operator", "dave", admin, call.OK},
	} {
		if got := sign(test.by, test.req); got != test.want {
			t.Errorf("%s: %v; want %v", test.what, got, test.want)
		}
	}
}

func TestSomebodyElsesOrder(t *testing.T) {
	f := fleettest.New(t, 1)
	signed, req := orderOf(t, f, "alice", "test.ping", "m01")
	_ = signed
	eve := operator(t, f, "eve")
	out, err := fleetOf(f, eve).Call(t.Context(), connect.NewRequest(req))
	if err == nil {
		for out.Receive() {
		}
		err = out.Err()
		out.Close()
	}
	if e := apierrOf(err); e != call.Denied {
		t.Errorf("eve sends alice's order: %v; want denied", err)
	}
}

// orderOf makes a request to carry out an order of an operator's.
func orderOf(t *testing.T, f *fleettest.Fleet, name, method string, machines ...string) (call.Signed, *apipb.CallRequest) {
	t.Helper()
	cert := operator(t, f, name)
	tree, err := call.NewNames(machines)
	if err != nil {
		t.Fatal(err)
	}
	now, salt, args := time.Now().Truncate(time.Millisecond), make([]byte, call.SaltSize), []byte("{}")
	o := &call.Order{
		Job: call.NewJobID(now), Method: method, ArgsDigest: call.Digest(salt, args), IssuedAt: now, NotBefore: now,
		Expiry: now.Add(time.Hour), Count: tree.Len(), Root: tree.Root(),
	}
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	s, err := call.Sign(o, key, cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return s, &apipb.CallRequest{
		Order: s.Order, Signature: s.Signature, OperatorCert: s.Cert, Salt: salt, Args: args, Names: machines[0], TimeoutMs: 5000,
	}
}

// A machine whose certificate the issuing CA before this one signed is shown
// with that one: whoever verifies its signed log needs it.
func TestChainOfAFormerIssuer(t *testing.T) {
	f := fleettest.New(t, 1)
	f.Down()
	ca := filepath.Join(f.State, "ca")
	if err := os.Rename(filepath.Join(ca, "issuing.crt"), filepath.Join(ca, "former.crt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(ca, "issuing.key")); err != nil {
		t.Fatal(err)
	}
	f.Up()
	f.Await(1)
	res, err := f.Conn.Fleet.Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{Certs: true}))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := pki.NewTrust(authority(t, f, "root").Cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyRaw(res.Msg.Minions[0].Chain, time.Now()); err != nil {
		t.Error(err)
	}
}

// A wrong clock keeps nobody out; its orders fail, and say why.
func TestClockWrongByAnHour(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	for name, off := range map[string]time.Duration{"m-behind": -time.Hour, "m-ahead": time.Hour} {
		f.Enrol(name, minion.Config{Now: func() time.Time { return time.Now().Add(off) }})
	}
	f.Await(2)
	for name, r := range results(t, f.Conn, "m-behind,m-ahead", "test.ping", nil) {
		if r.Code != call.ClockSkew || !strings.Contains(r.Detail, "1h0m") && !strings.Contains(r.Detail, "59m") {
			t.Errorf("%s: %v, %s; want a clock skew of an hour by name", name, r.Code, r.Detail)
		}
	}
	if n := f.Connected(); n != 2 {
		t.Errorf("%d keep their session; want 2", n)
	}
}
