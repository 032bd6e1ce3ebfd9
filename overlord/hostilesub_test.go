package overlord_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/fleettest"
	"dominion/overlord"
	"dominion/pki"
	"dominion/session"
)

// subOf starts an overlord below f.
func subOf(t *testing.T, f *fleettest.Fleet, name string) *fleettest.Fleet {
	t.Helper()
	resp, err := f.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: name, Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	return fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), name), Name: name, Parent: f.Address, Pin: f.Pin, Token: resp.Msg.Token,
	})
}

// keyOf reads a key from an overlord's state directory, as a thief would.
func keyOf(t *testing.T, f *fleettest.Fleet, name string) crypto.Signer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.State, name))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pose gives a session with f for whoever holds the keys of a sub-overlord of it
// that has been stopped.
func pose(t *testing.T, f, sub *fleettest.Fleet) *session.Session {
	t.Helper()
	return poseAs(t, f, sub, new(stolen))
}

// poseAs is pose for who answers what f asks.
func poseAs(t *testing.T, f, sub *fleettest.Fleet, h session.Handler) *session.Session {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(sub.State, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		t.Fatal(err)
	}
	return dialAs(t, f, tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: keyOf(t, sub, "tls.key"), Leaf: certs[0]}, h)
}

func dialAs(t *testing.T, f *fleettest.Fleet, cert tls.Certificate, h session.Handler) *session.Session {
	t.Helper()
	conn, err := session.Dial(t.Context(), f.Address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Verify:      func(tls.ConnectionState) error { return nil },
	}))
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s, err := session.New(conn, &session.Options{Handler: h, Ready: func(*session.Session) { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- s.Serve(t.Context()) }()
	t.Cleanup(func() {
		s.Close(call.OK, "the test ends")
		<-over
	})
	select {
	case <-ready:
	case <-time.After(fleettest.Patience):
		t.Fatal("no session")
	}
	return s
}

// grantArgs is the request of an overlord with fresh keys.
func grantArgs(t *testing.T, name, logID string, key crypto.Signer) session.GrantArgs {
	t.Helper()
	issuing, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.NewOverlordRequest(name, key, issuing, log, logID)
	if err != nil {
		t.Fatal(err)
	}
	return session.GrantArgs{CSR: r.CSR, IssuingCSR: r.IssuingCSR, LogKey: r.LogKey, LogID: r.LogID, Signature: r.Signature}
}

// What a sub-overlord asks for over its session, in the wrong hands.
func TestHostileSubOverlord(t *testing.T) {
	f := fleettest.New(t, 0)
	sub := subOf(t, f, "mid")
	sub.Down()
	s := pose(t, f, sub)
	fresh, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	issuing := keyOf(t, sub, "ca/issuing.key")
	minion, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: "web1"}, fresh)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := pki.NewRequest(pki.Identity{Role: pki.Operator, Name: "mallory"}, fresh)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*session.GrantArgs)) session.GrantArgs {
		a := grantArgs(t, "low", "0123", fresh)
		change(&a)
		return a
	}
	for _, tt := range []struct {
		name, method string
		args         any
		code         call.Code // OK: it only waits for an operator
	}{
		{"a request", session.MethodGrant, with(func(*session.GrantArgs) {}), call.OK},
		{"another issuing CA", session.MethodGrant, with(func(a *session.GrantArgs) { a.IssuingCSR = grantArgs(t, "low", "0123", issuing).IssuingCSR }), call.Invalid},
		{"an operator", session.MethodGrant, with(func(a *session.GrantArgs) { a.CSR = operator }), call.Invalid},
		{"a minion", session.MethodGrant, with(func(a *session.GrantArgs) { a.CSR = minion }), call.Invalid},
		{"renewal of another", session.MethodGrant, with(func(a *session.GrantArgs) { a.Renew = true }), call.Denied},
		{"renewal with another key", session.MethodGrant, func() any {
			a := grantArgs(t, "mid", "0123", fresh)
			a.Renew = true
			return a
		}(), call.Denied},
		{"an operator by renewal", session.MethodRenew, session.RenewArgs{CSR: operator}, call.Denied},
		{"a machine by renewal", session.MethodRenew, session.RenewArgs{CSR: minion}, call.Denied},
		{"in a circle", session.MethodGrant, with(func(a *session.GrantArgs) { a.Via = []string{"overlord"} }), call.Invalid},
		{"through many", session.MethodGrant, with(func(a *session.GrantArgs) { a.Via = make([]string, 16) }), call.Invalid},
		{"through odd names", session.MethodGrant, with(func(a *session.GrantArgs) { a.Via = []string{"../x"} }), call.Invalid},
		{"an unknown token", session.MethodGrant, with(func(a *session.GrantArgs) { a.Token = strings.Repeat("0", 64) }), call.Denied},
		{"a large request", session.MethodGrant, with(func(a *session.GrantArgs) { a.From = strings.Repeat("a", 40<<10) }), call.Invalid},
		{"no object", session.MethodGrant, 7, call.Invalid},
		{"a revocation without signature", session.MethodRevoke, session.RevokeArgs{Overlord: "mid", Leaves: [][]byte{{1}}}, call.Denied},
		{"a revocation for another", session.MethodRevoke, session.RevokeArgs{Overlord: "overlord", Leaves: [][]byte{{1}}}, call.Denied},
		{"a revocation through many", session.MethodRevoke, session.RevokeArgs{Overlord: "mid", Hops: 16}, call.Invalid},
		{"a revocation that overflows", session.MethodRevoke, session.RevokeArgs{Overlord: "mid", Hops: 1<<63 - 1}, call.Invalid},
	} {
		b, err := json.Marshal(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Call(t.Context(), tt.method, b)
		if call.CodeOf(err) != tt.code {
			t.Errorf("%s: %v; want code %v", tt.name, err, tt.code)
		}
		var r session.GrantResult
		if err == nil && (json.Unmarshal(out, &r) != nil || r.State != session.GrantWaiting) {
			t.Errorf("%s: %s; want it to wait", tt.name, out)
		}
	}
}

func TestHostileRecovery(t *testing.T) {
	f := fleettest.New(t, 0)
	sub := subOf(t, f, "mid")
	sub.Down()
	s := pose(t, f, sub)
	for _, tt := range []struct {
		name string
		args session.RecoverArgs
		code call.Code
	}{
		{"a recovery without signature", session.RecoverArgs{Overlord: "mid"}, call.Denied},
		{"a recovery for another", session.RecoverArgs{Overlord: "overlord"}, call.Denied},
		{"a recovery for nobody", session.RecoverArgs{Overlord: "../x"}, call.Invalid},
		{"a recovery through many", session.RecoverArgs{Overlord: "mid", Hops: 16}, call.Invalid},
		{"a recovery that overflows", session.RecoverArgs{Overlord: "mid", Hops: -1 << 63}, call.Invalid},
		{"a large recovery", session.RecoverArgs{Overlord: "mid", Recovery: make([]byte, 8<<10)}, call.Invalid},
	} {
		b, err := json.Marshal(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Call(t.Context(), session.MethodRecover, b); call.CodeOf(err) != tt.code {
			t.Errorf("%s: %v; want code %v", tt.name, err, tt.code)
		}
	}
}

// Machines pass nothing on; overlords that asked elsewhere have no session here.
func TestGrantIsForOwnSubOverlords(t *testing.T) {
	f := fleettest.New(t, 0)
	m := new(stolen)
	m.connect(t, f, "m01")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for method, args := range map[string]any{
		session.MethodGrant: grantArgs(t, "low", "0123", key), session.MethodRevoke: session.RevokeArgs{Overlord: "overlord"},
		session.MethodRecover: session.RecoverArgs{Overlord: "overlord"},
	} {
		b, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.session.Call(t.Context(), method, b); call.CodeOf(err) != call.NotFound {
			t.Errorf("%s by a machine: %v; want not found", method, err)
		}
	}
	mid := subOf(t, f, "mid")
	low := subOf(t, f, "other")
	low.Down()
	b, err := os.ReadFile(filepath.Join(low.State, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: keyOf(t, low, "tls.key"), Leaf: certs[0]}
	conn, err := session.Dial(t.Context(), mid.Address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: func(tls.ConnectionState) error { return nil },
	}))
	if err == nil { // with TLS 1.3 the refusal comes after the handshake
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("an overlord that asked elsewhere: %v; want it refused", err)
	}
}
