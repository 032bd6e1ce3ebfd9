package client_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/pki"
)

func status(t *testing.T, e client.Endpoint) error {
	t.Helper()
	conn, err := client.Dial(t.Context(), e)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	return err
}

func TestOverTLS(t *testing.T) {
	f := newFake(t, "web1")
	addr := f.tls(t, f.overlord2(t))
	dir := contexts(t)
	f.login(t, dir, "lab", addr, time.Now())
	c, err := client.New(t.Context(), "web1", client.Options{Endpoint: client.Endpoint{Overlord: addr, Contexts: dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	if groups, err := job.Groups(); err != nil || len(groups) != 1 {
		t.Fatalf("Groups = %v, %v", groups, err)
	}
	checkOrder(t, f.calls[0], job, []string{"web1"})
	if cert, err := x509.ParseCertificate(f.calls[0].GetOperatorCert()); err != nil || cert.Subject.CommonName != "alice" {
		t.Errorf("the order's certificate is of %v, %v; want alice", cert.Subject, err)
	}
}

// Only an overlord's certificate directly under the pinned root is believed.
func TestServersThatAreNoOverlord(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	issuingKey := newKey(t)
	issuing, err := f.root.NewIssuing("test", issuingKey.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	ca := &pki.Authority{Cert: issuing, Key: issuingKey}
	minionKey := newKey(t)
	minion, err := ca.Sign(pki.Template{Identity: pki.Identity{Role: pki.Minion, Name: "web1"}, PublicKey: minionKey.Public()}, now)
	if err != nil {
		t.Fatal(err)
	}
	operatorKey, operator := f.operator(t, "mallory", now)
	other := newFake(t)
	otherChain, otherKey := other.overlord(t)
	for _, tt := range []struct {
		name string
		s    served
	}{
		{"a minion", served{[]*x509.Certificate{minion, issuing, f.root.Cert}, minionKey}},
		{"an operator", served{[]*x509.Certificate{operator, f.root.Cert}, operatorKey}},
		{"an overlord of another root", served{otherChain, otherKey}},
		{"an issuing authority", served{[]*x509.Certificate{issuing, f.root.Cert}, issuingKey}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := f.tls(t, tt.s)
			dir := contexts(t)
			f.login(t, dir, "lab", addr, now)
			err := status(t, client.Endpoint{Overlord: addr, Contexts: dir})
			if err == nil || !strings.Contains(err.Error(), addr) {
				t.Errorf("asked with error %v; want a refusal that names %s", err, addr)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		name    string
		age     time.Duration
		works   bool
		renewed int
		code    call.Code
		warns   bool
	}{
		{"young", day, true, 0, call.OK, false},
		{"two thirds over", 25 * day, true, 1, call.OK, false},
		{"two thirds over, root key away", 25 * day, false, 0, call.OK, true},
		{"expired", 40 * day, true, 0, call.Denied, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			if tt.works {
				f.now = time.Now()
			}
			addr := f.tls(t, f.overlord2(t))
			dir := contexts(t)
			f.login(t, dir, "lab", addr, time.Now().Add(-tt.age))
			conn, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir, Context: "lab"})
			if call.CodeOf(err) != tt.code || f.renewed != tt.renewed {
				t.Fatalf("Dial = %v, renewed %d times; want %v, %d", err, f.renewed, tt.code, tt.renewed)
			}
			if err != nil {
				return
			}
			defer conn.Close()
			if warns := conn.Warning() != ""; warns != tt.warns {
				t.Errorf("Warning = %q", conn.Warning())
			}
			again, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir, Context: "lab"})
			if err != nil || f.renewed != tt.renewed {
				t.Fatalf("Dial again = %v, renewed %d times; want %d", err, f.renewed, tt.renewed)
			}
			again.Close()
		})
	}
}

func TestFindContext(t *testing.T) {
	f := newFake(t)
	dir := contexts(t)
	if _, err := client.FindContext(dir, "", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in an empty directory: %v; want fs.ErrNotExist", err)
	}
	f.login(t, dir, "lab", "lab.example:51235", time.Now())
	f.login(t, dir, "lab2", "lab.example:51235", time.Now())
	f.login(t, dir, "prod", "10.0.0.1:4000", time.Now())
	for _, tt := range []struct {
		name, context, addr string
		want, overlord      string
	}{
		{"the current one", "", "", "prod", "10.0.0.1:4000"},
		{"by name", "lab", "", "lab", "lab.example:51235"},
		{"by address", "", "lab.example", "lab", "lab.example:51235"},
		{"name and another address", "prod", "10.0.0.2", "prod", "10.0.0.2:51235"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.FindContext(dir, tt.context, tt.addr)
			if err != nil || c.Name != tt.want || c.Overlord != tt.overlord {
				t.Errorf("FindContext(%q, %q) = %+v, %v; want %s at %s", tt.context, tt.addr, c, err, tt.want, tt.overlord)
			}
		})
	}
	if err := client.UseContext(dir, "lab2"); err != nil {
		t.Fatal(err)
	}
	if c, err := client.FindContext(dir, "", "lab.example"); err != nil || c.Name != "lab2" {
		t.Errorf("two contexts for one address: %v, %v; want the current one", c, err)
	}
	for _, tt := range []struct{ name, addr string }{{"nosuch", ""}, {"", "other.example"}} {
		if _, err := client.FindContext(dir, tt.name, tt.addr); !errors.Is(err, fs.ErrNotExist) || call.CodeOf(err) != call.NotFound {
			t.Errorf("FindContext(%q, %q) = %v; want not found", tt.name, tt.addr, err)
		}
	}
	for _, tt := range []struct{ name, addr string }{{"../x", ""}, {"a/b", ""}, {"", "a b"}, {"", "a:x"}} {
		if _, err := client.FindContext(dir, tt.name, tt.addr); call.CodeOf(err) != call.Invalid {
			t.Errorf("FindContext(%q, %q) = %v; want invalid", tt.name, tt.addr, err)
		}
	}
}

// What is wrong in a context is said, and nothing is sent.
func TestDamagedContexts(t *testing.T) {
	f := newFake(t)
	other, otherCert := f.operator(t, "bob", time.Now())
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		words string
	}{
		{"unknown key", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "config.yaml"), append(b, "colour: red\n"...))
		}, "colour"},
		{"no pin", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "config.yaml"), []byte("overlord: a:1\noperator: alice\npin: x\n"))
		}, "pin"},
		{"another root", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "root.crt"), pki.MarshalCerts(newFake(t).root.Cert))
		}, "not the root"},
		{"another key", func(t *testing.T, dir string) { writeKey(t, filepath.Join(dir, "key.pem"), other) }, "another key"},
		{"another operator", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "cert.pem"), pki.MarshalCerts(otherCert, f.root.Cert))
		}, "operator/bob"},
		{"no certificate", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "cert.pem")); err != nil {
				t.Fatal(err)
			}
		}, "cert.pem"},
		{"garbage", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "cert.pem"), []byte("x")) }, "cert.pem"},
		{"key that others may read", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "key.pem"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "key.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := contexts(t)
			f.login(t, dir, "lab", "127.0.0.1:1", time.Now())
			tt.spoil(t, filepath.Join(dir, "lab"))
			_, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir})
			if err == nil || !strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), "lab") {
				t.Errorf("Dial = %v; want one about lab and %q", err, tt.words)
			}
		})
	}
}

// An unfinished login keeps its key; a finished one that is done again gets a
// new one, and the old context works until then.
func TestLoginKeys(t *testing.T) {
	f := newFake(t)
	dir := contexts(t)
	first, err := client.PrepareLogin(dir, "lab")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client.PrepareLogin(dir, "lab"); err != nil || !again.Equal(first) {
		t.Errorf("the key of an unfinished login changed (%v)", err)
	}
	f.login(t, dir, "lab", "127.0.0.1:1", time.Now())
	second, err := client.PrepareLogin(dir, "lab")
	if err != nil || second.Equal(first) {
		t.Errorf("a new login took the old key (%v)", err)
	}
	conn, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir})
	if err != nil {
		t.Fatalf("the old context does not work while a login is on its way: %v", err)
	}
	conn.Close()
	oc := &client.Context{Name: "lab", Overlord: "127.0.0.1:1", Pin: pki.Pin(newFake(t).root.Cert), Operator: "alice"}
	if err := client.FinishLogin(dir, oc, []*x509.Certificate{f.sign(t, second, "alice", time.Now()), f.root.Cert}); err == nil {
		t.Error("a chain that does not end in the pinned root was taken")
	}
	if err := client.FinishLogin(dir, oc, []*x509.Certificate{f.sign(t, first, "alice", time.Now()), f.root.Cert}); err == nil {
		t.Error("a certificate of another key was taken")
	}
}

func TestNobodyAnswers(t *testing.T) {
	empty := t.TempDir()
	if err := status(t, client.Endpoint{State: empty}); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "dominion overlord") {
		t.Errorf("without a socket: %v", err)
	}
	dead := filepath.Join(empty, client.Socket)
	write(t, dead, nil)
	if err := status(t, client.Endpoint{State: empty}); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), dead) {
		t.Errorf("with a dead socket: %v", err)
	}
	f := newFake(t)
	dir := contexts(t)
	f.login(t, dir, "lab", "127.0.0.1:1", time.Now())
	if err := status(t, client.Endpoint{Contexts: dir}); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("with a closed port: %v", err)
	}
	if err := status(t, client.Endpoint{State: empty, Overlord: "a"}); call.CodeOf(err) != call.Invalid {
		t.Errorf("with state and address: %v", err)
	}
}

func TestNoLocalOperator(t *testing.T) {
	f := newFake(t, "web1")
	state := f.state(t)
	if err := os.Remove(filepath.Join(state, "operator.key")); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), "web1", client.Options{Endpoint: client.Endpoint{State: state}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Call(t.Context(), "test.ping", nil); call.CodeOf(err) != call.Denied || !strings.Contains(err.Error(), "dominion login") {
		t.Errorf("Call = %v; want denied, with the next step", err)
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"dc1": "dc1:51235", "dc1:4": "dc1:4", "10.0.0.1": "10.0.0.1:51235", "[::1]": "[::1]:51235", "::1": "[::1]:51235", "[::1]:4": "[::1]:4",
	} {
		if got, err := client.Address(in); err != nil || got != want {
			t.Errorf("Address(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":1", "a:", "a/b", "https://a", "a b:1", "a:b:c", "u@h"} {
		if got, err := client.Address(in); call.CodeOf(err) != call.Invalid {
			t.Errorf("Address(%q) = %q, %v; want invalid", in, got, err)
		}
	}
}
