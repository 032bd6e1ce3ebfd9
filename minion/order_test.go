package minion

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/module"
	"dominion/pki"
	"dominion/policy"
)

func TestOrderRuns(t *testing.T) {
	f := newFleet(t)
	p := attach(t, newAgent(t, f, nil), newOverlord(t, f).listen())
	r := p.do(f.call(t, draft{method: "test.ping"}))
	wantCode(t, r, call.OK)
	if len(r.Output) == 0 || r.TookUs == 0 {
		t.Errorf("result = %v; want output and time", r)
	}
	r = p.do(f.call(t, draft{method: "test.fail", args: `{"message":"no"}`}))
	wantCode(t, r, call.Failed)
	if !strings.Contains(r.Detail, "no") {
		t.Errorf("detail = %q; want the method's own", r.Detail)
	}
}

// wrongOrder is one way in which an order may be wrong.
type wrongOrder struct {
	name   string
	draft  draft
	change func(*fleetpb.Call)
	code   call.Code
	says   string
}

// wrongOrders gives every way; revoked is an operator whose certificate was
// revoked.
func wrongOrders(t *testing.T, f *fleet, revoked operatorKey) []wrongOrder {
	mallory := newFleet(t) // another root
	web9 := f.minion(t, "web9")
	minionKey := operatorKey{web9.PrivateKey.(*ecdsa.PrivateKey), web9.Leaf}
	rogue := mintOperator(t, f.issuing) // operator/alice, minted with the key of the issuing CA
	return []wrongOrder{
		{name: "no order", change: func(c *fleetpb.Call) { c.Order = nil }, code: call.BadOrder},
		{name: "garbage for an order", change: func(c *fleetpb.Call) { c.Order = []byte("garbage") }, code: call.BadOrder},
		{name: "another method in the call", change: func(c *fleetpb.Call) { c.Method = "test.fail" }, code: call.BadOrder, says: "another method"},
		{name: "no salt", change: func(c *fleetpb.Call) { c.Salt = nil }, code: call.BadOrder, says: "salt"},
		{name: "no certificate", change: func(c *fleetpb.Call) { c.OperatorCert = nil }, code: call.BadOrder, says: "certificate"},
		{name: "garbage for a certificate", change: func(c *fleetpb.Call) { c.OperatorCert = []byte("garbage") }, code: call.BadOrder, says: "certificate"},
		{name: "signed by a minion's key", draft: draft{by: minionKey}, code: call.BadOrder, says: "certificate"},
		{name: "signed by the overlord", draft: draft{by: operatorKey{f.overlord.PrivateKey.(*ecdsa.PrivateKey), f.overlord.Leaf}}, code: call.BadOrder, says: "no operator"},
		{name: "signed by an operator of another fleet", draft: draft{by: mallory.alice}, code: call.BadOrder, says: "certificate"},
		{name: "signed by an operator that an issuing CA made", draft: draft{by: rogue}, code: call.BadOrder, says: "certificate"},
		{name: "another key under alice's certificate", draft: draft{by: operatorKey{mallory.alice.key, f.alice.cert}}, code: call.BadOrder, says: "signature"},
		{name: "signature changed", change: func(c *fleetpb.Call) { c.Signature[8] ^= 1 }, code: call.BadOrder, says: "signature"},
		{name: "signed byte changed", change: func(c *fleetpb.Call) { c.Order[len(c.Order)-1] ^= 1 }, code: call.BadOrder, says: "signature"},
		{name: "revoked operator", draft: draft{by: revoked}, code: call.Revoked, says: "left"},
		{name: "argument byte changed", draft: draft{method: "test.echo", args: `{"text":"a"}`}, change: func(c *fleetpb.Call) { c.Args[9] ^= 1 }, code: call.BadOrder, says: "arguments"},
		{name: "salt changed", change: func(c *fleetpb.Call) { c.Salt[0] ^= 1 }, code: call.BadOrder, says: "arguments"},
		{name: "for other machines", draft: draft{names: []string{"web2", "web3"}}, code: call.BadOrder, says: `"web1" is not among`},
		{name: "another machine's place", change: func(c *fleetpb.Call) { c.LeafIndex ^= 1 }, code: call.BadOrder, says: "not among"},
		{name: "a place beyond all", change: func(c *fleetpb.Call) { c.LeafIndex = 1 << 63 }, code: call.BadOrder},
		{name: "proof left out", change: func(c *fleetpb.Call) { c.Proof = nil }, code: call.BadOrder, says: "not among"},
		{name: "not valid yet", draft: draft{issued: time.Now().Add(time.Hour)}, code: call.ClockSkew, says: " behind"},
		{name: "expired", draft: draft{issued: time.Now().Add(-2 * time.Hour)}, code: call.Expired},
		{name: "not allowed by this machine", draft: draft{method: "test.sleep"}, code: call.Denied, says: "policy"},
		{name: "no such method", draft: draft{method: "nosuch.method"}, code: call.NotFound, says: "nosuch.method"},
		{name: "arguments that the method does not take", draft: draft{method: "test.ping", args: `{"x":1}`}, code: call.Invalid},
	}
}

func TestOrderRefused(t *testing.T) {
	f := newFleet(t)
	revoked := f.operator(t, "bob")
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now(), pki.Revoke(revoked.cert, "left"))))
	pol := must[*policy.Policy](t)(policy.Parse([]byte(
		"- {operators: alice, methods: 'test.ping,nosuch.*,test.echo', targets: '*'}\n- {operators: bob, methods: '*', targets: '*'}\n")))
	for _, tt := range wrongOrders(t, f, revoked) {
		t.Run(tt.name, func(t *testing.T) {
			o := newOverlord(t, f)
			o.hello = func(_, h *fleetpb.Hello) { h.Revocations = list }
			p := attach(t, newAgent(t, f, func(opt *Options) { opt.Policy = pol }), o.listen())
			if tt.draft.method == "" {
				tt.draft.method = "test.ping"
			}
			c := f.call(t, tt.draft)
			if tt.change != nil {
				tt.change(c)
			}
			r := p.do(c)
			wantCode(t, r, tt.code)
			if !strings.Contains(r.Detail, tt.says) {
				t.Errorf("detail = %q; want it to say %q", r.Detail, tt.says)
			}
			if len(r.Output) != 0 {
				t.Errorf("a refused call has the output %q", r.Output)
			}
			// The session and everybody else are unharmed.
			wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
		})
	}
}

// mintOperator does what the holder of an issuing CA's key could try.
func mintOperator(t *testing.T, by *pki.Authority) operatorKey {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(pki.NewKey())
	tmpl := must[*x509.Certificate](t)(x509.ParseCertificate(newFleet(t).alice.cert.Raw))
	tmpl.PublicKey, tmpl.SignatureAlgorithm = nil, 0
	der := must[[]byte](t)(x509.CreateCertificate(nil, tmpl, by.Cert, key.Public(), by.Key))
	return operatorKey{key, must[*x509.Certificate](t)(x509.ParseCertificate(der))}
}

func TestOrderRepeated(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).listen()
	a := newAgent(t, f, nil)
	p := attach(t, a, o)
	c := f.call(t, draft{method: "test.ping"})
	wantCode(t, p.do(c), call.OK)
	wantCode(t, p.do(c), call.Repeated)
	// The same id signed anew, with other arguments, is repeated too.
	ord := must[*call.Order](t)(call.ParseOrder(c.Order))
	wantCode(t, p.do(f.call(t, draft{method: "test.echo", args: `{"text":"b"}`, job: ord.Job})), call.Repeated)
	// A session that replaces this one does not make the machine forget.
	p2 := attach(t, a, o)
	wantCode(t, p2.do(c), call.Repeated)
}

func TestClockWrongByAnHour(t *testing.T) {
	f := newFleet(t)
	for _, tt := range []struct {
		name string
		off  time.Duration
		says string
	}{
		{"ahead", time.Hour, "1h0m0s ahead of"},
		{"behind", -time.Hour, "1h0m0s behind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t, f, func(opt *Options) { opt.Now = func() time.Time { return time.Now().Add(tt.off) } })
			p := attach(t, a, newOverlord(t, f).listen())
			r := p.do(f.call(t, draft{method: "test.ping"}))
			wantCode(t, r, call.ClockSkew)
			if !strings.Contains(r.Detail, tt.says) {
				t.Errorf("detail = %q; want it to say %q", r.Detail, tt.says)
			}
			// A short order on a clock that is ahead is not merely "expired".
			wantCode(t, p.do(f.call(t, draft{method: "test.ping", life: 10 * time.Minute})), call.ClockSkew)
		})
	}
}

func TestOverlordsWrongClockDoesNotHarm(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f)
	o.hello = func(_, h *fleetpb.Hello) { h.TimeMs = time.Now().Add(3 * time.Hour).UnixMilli() }
	p := attach(t, newAgent(t, f, nil), o.listen())
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
}

func TestOperatorCacheFollowsRevocations(t *testing.T) {
	f := newFleet(t)
	v := &verifier{name: "web1", trust: f.trust}
	op := must[*operator](t)(v.operator(f.alice.cert.Raw))
	if again := must[*operator](t)(v.operator(f.alice.cert.Raw)); again != op {
		t.Error("the certificate was verified twice")
	}
	v.setRevoked(pki.NewRevocations().Add(time.Now(), pki.Revoke(f.alice.cert, "gone")))
	if now := must[*operator](t)(v.operator(f.alice.cert.Raw)); !now.revoked || now.reason != "gone" {
		t.Errorf("after revocation: %+v", now)
	}
	for range maxOperators + 10 {
		_ = must[*operator](t)(v.operator(f.operator(t, "x").cert.Raw))
	}
	if n := len(v.operators); n > maxOperators {
		t.Errorf("%d operators are cached; at most %d", n, maxOperators)
	}
}

func TestOperatorCertificateDates(t *testing.T) {
	f := newFleet(t)
	for _, tt := range []struct {
		name string
		at   time.Time
		skew time.Duration
		code call.Code
	}{
		{"after its end", time.Now().Add(pki.OperatorLife + time.Hour), 0, call.BadOrder},
		{"just after its end", time.Now().Add(pki.OperatorLife + time.Minute), 0, call.OK},
		{"before its beginning", time.Now().Add(-pki.Backdate - time.Hour), 0, call.BadOrder},
		{"a clock ahead by a year", time.Now().Add(365 * 24 * time.Hour), 365 * 24 * time.Hour, call.ClockSkew},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &verifier{name: "web1", trust: f.trust}
			_, err := v.checkOperator(f.alice.cert.Raw, sessionView{skew: tt.skew, peer: "dc1"}, tt.at)
			if call.CodeOf(err) != tt.code {
				t.Errorf("checkOperator = %v; want %s", err, tt.code)
			}
		})
	}
}

var update = flag.Bool("update", false, "write testdata anew")

// fixedCall gives a root and a call for web1 that it covers, the same in every
// process, and a time at which the call may run. Fuzzing needs that: its
// workers must agree on what an input does.
func fixedCall(t testing.TB) (*pki.Trust, *fleetpb.Call, time.Time) {
	t.Helper()
	if *update {
		f := newFleet(t)
		for name, b := range map[string][]byte{
			"root.crt": pki.MarshalCerts(f.root.Cert),
			"call.pb":  must[[]byte](t)(proto.Marshal(f.call(t, draft{method: "test.echo", args: `{"text":"a"}`}))),
		} {
			if err := os.WriteFile(filepath.Join("testdata", name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	certs := must[[]*x509.Certificate](t)(pki.ParseCerts(must[[]byte](t)(os.ReadFile("testdata/root.crt"))))
	c := new(fleetpb.Call)
	if err := proto.Unmarshal(must[[]byte](t)(os.ReadFile("testdata/call.pb")), c); err != nil {
		t.Fatal(err)
	}
	o := must[*call.Order](t)(call.ParseOrder(c.Order))
	return must[*pki.Trust](t)(pki.NewTrust(certs[0])), c, o.IssuedAt
}

func FuzzVerify(f *testing.F) {
	trust, good, now := fixedCall(f)
	table := must[*module.Table](f)(module.NewTable(Modules(nil, nil)))
	verify := func(c *fleetpb.Call) (verdict, error) {
		v := &verifier{name: "web1", trust: trust, methods: table, jobs: &books{birth: time.Unix(1, 0)}}
		return v.verify(c, sessionView{peer: "dc1"}, now)
	}
	if _, err := verify(good); err != nil {
		f.Fatal(err)
	}
	alice := must[pki.Verified](f)(trust.VerifyRaw([][]byte{good.OperatorCert}, now)).Leaf.PublicKey.(*ecdsa.PublicKey)
	b := must[[]byte](f)(proto.Marshal(good))
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := new(fleetpb.Call)
		if proto.Unmarshal(b, c) != nil {
			return // the session refuses such a frame
		}
		d, err := verify(c)
		if err != nil {
			if e, ok := errors.AsType[*call.Error](err); !ok || e.Code == call.Internal {
				t.Fatalf("error %v has no code of its own", err)
			}
			return
		}
		// Only alice's very bytes run.
		if call.VerifySignature(alice, c.Order, c.Signature) != nil || call.Digest(c.Salt, c.Args) != d.order.ArgsDigest ||
			!bytes.Equal(c.Order, good.Order) {
			t.Fatalf("accepted %v", c)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFleet(b)
	a := newAgent(b, f, func(opt *Options) { opt.Log = nil })
	names := make([]string, 5000)
	names[0] = "web1"
	for i := 1; i < len(names); i++ {
		names[i] = "n" + strings.Repeat("0", i%5) + time.Duration(i).String()
	}
	c := f.call(b, draft{method: "test.ping", names: names})
	now := time.Now()
	for b.Loop() {
		if _, err := a.verifier.verify(c, sessionView{peer: "dc1"}, now); err != nil {
			b.Fatal(err)
		}
	}
}
