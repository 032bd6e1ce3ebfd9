package minion

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

func TestRenewal(t *testing.T) {
	f := newFleet(t)
	of := newOffice(f)
	// Granted so long ago that two thirds of its life are over.
	of.now = func() time.Time { return time.Now().Add(-pki.MinionLife * 2 / 3) }
	o := newOverlord(t, f).open(of)
	renewed := make(chan struct{}, 4)
	o.serve = func(method string, args []byte) ([]byte, error) {
		if method != session.MethodRenew {
			return nil, call.Errorf(call.NotFound, "%s", method)
		}
		var in session.RenewArgs
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, err
		}
		r, err := pki.ParseRequest(in.CSR)
		if err != nil {
			return nil, err
		}
		cert, err := f.issuing.Sign(pki.Template{Identity: r.Identity, PublicKey: r.PublicKey}, time.Now())
		if err != nil {
			return nil, err
		}
		renewed <- struct{}{}
		return json.Marshal(session.RenewResult{Chain: [][]byte{cert.Raw, f.issuing.Cert.Raw, f.root.Cert.Raw}})
	}
	dir := filepath.Join(t.TempDir(), "s")
	cfg := Config{Name: "web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert)}
	_, stop := start(t, cfg)
	p := o.peer()
	old := p.s.PeerCert()
	<-renewed
	_ = p.ended()
	if p = o.peer(); p.s.PeerCert().Equal(old) {
		t.Fatal("the session after the renewal uses the old certificate")
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	certs := must[[]*x509.Certificate](t)(pki.ParseCerts(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "certs/dc1.crt")))))
	if !certs[0].Equal(p.s.PeerCert()) {
		t.Error("the new certificate is not on the disk")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// enrolledDaemon makes a daemon that has enrolled, without running it.
func enrolledDaemon(t *testing.T, f *fleet, o *overlord) *daemon {
	t.Helper()
	d := openDaemon(t, f, o, filepath.Join(t.TempDir(), "s"))
	t.Cleanup(func() { _ = d.close() })
	if err := d.enrol(t.Context(), o.addr); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRenewalRefused(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).open(newOffice(f))
	var chain func(r pki.Request) [][]byte
	o.serve = func(_ string, args []byte) ([]byte, error) {
		var in session.RenewArgs
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, err
		}
		r, err := pki.ParseRequest(in.CSR)
		if err != nil {
			return nil, err
		}
		return json.Marshal(session.RenewResult{Chain: chain(r)})
	}
	d := enrolledDaemon(t, f, o)
	before := d.at(o.addr)
	if err := d.renew(t.Context(), "dc1"); call.CodeOf(err) != call.NoSession {
		t.Errorf("without a session: %v", err)
	}
	background(t, func(ctx context.Context) { _, _ = d.connect(ctx, ctx, o.addr, "dc1") })
	o.peer()
	until(t, "the session is open", func() bool { return d.agent.Done("dc1") != nil })
	sign := func(id pki.Identity, key any, now time.Time) [][]byte {
		cert := must[*x509.Certificate](t)(f.issuing.Sign(pki.Template{Identity: id, PublicKey: key}, now))
		return [][]byte{cert.Raw, f.issuing.Cert.Raw, f.root.Cert.Raw}
	}
	web1 := pki.Identity{Role: pki.Minion, Name: "web1"}
	for _, tt := range []struct {
		name  string
		chain func(r pki.Request) [][]byte
	}{
		{"nothing", func(pki.Request) [][]byte { return nil }},
		{"garbage", func(pki.Request) [][]byte { return [][]byte{{1}} }},
		{"another name", func(r pki.Request) [][]byte {
			return sign(pki.Identity{Role: pki.Minion, Name: "web2"}, r.PublicKey, time.Now())
		}},
		{"another key", func(pki.Request) [][]byte { return sign(web1, f.alice.cert.PublicKey, time.Now()) }},
		{"one that ends no later", func(r pki.Request) [][]byte { return sign(web1, r.PublicKey, time.Now().Add(-time.Hour)) }},
		{"another fleet's", func(r pki.Request) [][]byte {
			g := newFleet(t)
			cert := must[*x509.Certificate](t)(g.issuing.Sign(pki.Template{Identity: web1, PublicKey: r.PublicKey}, time.Now()))
			return [][]byte{cert.Raw, g.issuing.Cert.Raw, g.root.Cert.Raw}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain = tt.chain
			if err := d.renew(t.Context(), "dc1"); err == nil {
				t.Error("the renewal is taken")
			}
			if d.at(o.addr) != before {
				t.Error("another certificate is in use")
			}
		})
	}
}
