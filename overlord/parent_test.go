package overlord

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/enrol"
	"dominion/minion"
	"dominion/pki"
	"dominion/session"
)

var noPin = "sha256:" + strings.Repeat("ab", 32)

func TestOpenParent(t *testing.T) {
	at := func(addr, pin string) Config { return Config{Parent: addr, Pin: pin} }
	other := "sha256:" + strings.Repeat("cd", 32)
	for _, tt := range []struct {
		name   string
		before string // file that is there; empty: none
		first  *Config
		cfg    Config
		want   string // address; empty: there is no parent
		err    string
	}{
		{name: "an overlord of its own", cfg: Config{}},
		{name: "a fresh directory", cfg: at("a:1", noPin), want: "a:1"},
		{name: "an old root", before: fileRootKey, cfg: at("a:1", noPin), err: "--parent is for a fresh one"},
		{name: "half an old root", before: fileRootCert, cfg: at("a:1", noPin), err: "--parent is for a fresh one"},
		{name: "an old store", before: fileStore, cfg: at("a:1", noPin), err: "store.db"},
		{name: "an old log key", before: fileLogKey, cfg: at("a:1", noPin), err: "log.key"},
		{name: "started again without flags", first: new(at("a:1", noPin)), cfg: Config{}, want: "a:1"},
		{name: "started again with the same flags", first: new(at("a:1", noPin)), before: fileTLSKey, cfg: at("a:1", noPin), want: "a:1"},
		{name: "the parent has moved", first: new(at("a:1", noPin)), cfg: at("b:2", noPin), want: "b:2"},
		{name: "another fleet", first: new(at("a:1", noPin)), cfg: at("a:1", other), err: "under the root " + noPin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := pki.OpenDir(filepath.Join(t.TempDir(), "state"))
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if tt.first != nil {
				if _, err := openParent(dir, *tt.first); err != nil {
					t.Fatal(err)
				}
			}
			if tt.before != "" {
				if err := dir.WriteFile(tt.before, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			p, err := openParent(dir, tt.cfg)
			switch {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("openParent = %v; want %q", err, tt.err)
				}
			case err != nil:
				t.Error(err)
			case tt.want == "":
				if p != nil {
					t.Errorf("openParent = %+v; want none", p)
				}
			case p == nil || p.Address != tt.want || p.Pin != noPin:
				t.Errorf("openParent = %+v; want %s", p, tt.want)
			}
		})
	}
}

func TestSettleParent(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string // the address; or, with a blank, the error
	}{
		{Config{Parent: "top.example.org", Pin: noPin}, "top.example.org:51235"},
		{Config{Parent: "::1", Pin: noPin}, "[::1]:51235"},
		{Config{Parent: "[::1]:7", Pin: noPin}, "[::1]:7"},
		{Config{Parent: "10.0.0.1:7", Pin: noPin}, "10.0.0.1:7"},
		{Config{Parent: "top"}, "the pin of the fleet's root is needed"},
		{Config{Parent: "top", Pin: "x"}, "pin: not a pin"},
		{Config{Parent: "a b", Pin: noPin}, "is not host:port"},
		{Config{Parent: ":7", Pin: noPin}, "is not host:port"},
		{Config{Pin: noPin}, "with a parent; give"},
		{Config{TokenFile: "f"}, "with a parent; give"},
		{Config{Confd: minion.Confd{Listen: "a b"}}, "confd: listen:"},
	} {
		c := tt.cfg
		err := c.settleParent()
		if strings.Contains(tt.want, " ") {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v: %v; want %q", tt.cfg.Parent, err, tt.want)
			}
		} else if err != nil || c.Parent != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.cfg.Parent, c.Parent, err, tt.want)
		}
	}
}

func TestPassing(t *testing.T) {
	var p passing
	now := time.Now()
	for _, tt := range []struct {
		who        string
		most, want int
	}{
		{"strangers", passStrangers, passStrangers},
		{"strangers again", passStrangers, 0},
		{"those below", passBelow, passBelow - passStrangers},
		{"those below again", passBelow, 0},
		{"itself", passOwn, 30},
	} {
		got := 0
		for got < 30 && p.take(now, float64(tt.most)) {
			got++
		}
		if got != tt.want {
			t.Errorf("%s: %d may be passed on; want %d", tt.who, got, tt.want)
		}
	}
	now = now.Add(31 * askEvery)
	if !p.take(now, passBelow) || p.take(now, passBelow) {
		t.Errorf("after %s: want one more, and no other", 31*askEvery)
	}
}

// An overlord below that asks as fast as it can keeps neither its parent nor
// another one there from what they need.
func TestOneBelowLeavesRoom(t *testing.T) {
	top := started(t, Config{Name: "top"})
	mid := below(t, top, top, "mid")
	low, other := below(t, top, mid, "low"), below(t, top, mid, "other")
	for range 2 * askBurst {
		if _, err := low.askRevoke(t.Context(), session.RevokeArgs{Overlord: "low"}); err == nil {
			t.Fatal("a request without a signature is carried out")
		}
	}
	if err := other.renewSub(t.Context()); err != nil {
		t.Errorf("another one: %v", err)
	}
	if err := mid.renewSub(t.Context()); err != nil {
		t.Errorf("its parent: %v", err)
	}
}

func TestTimeFor(t *testing.T) {
	for ms, want := range map[uint64]time.Duration{
		0: minionCall, 1: time.Millisecond, 1000: 980 * time.Millisecond, 30_000: minionCall - 20*time.Millisecond, 1 << 60: minionCall,
	} {
		if got := timeFor(ms); got != want {
			t.Errorf("timeFor(%d) = %s; want %s", ms, got, want)
		}
	}
}

// started runs an overlord until the test ends.
func started(t testing.TB, cfg Config) *Overlord {
	t.Helper()
	o, stop := startedAt(t, cfg, "127.0.0.1:0")
	t.Cleanup(stop)
	return o
}

// startedAt runs an overlord on a fresh state directory until stop.
func startedAt(t testing.TB, cfg Config, listen string) (o *Overlord, stop func()) {
	t.Helper()
	cfg.State, cfg.Listen = filepath.Join(t.TempDir(), cfg.Name), listen
	cfg, err := cfg.settle()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if o, err = open(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		cancel()
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := o.listenSocket()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.State, fileAddress), []byte(ln.Addr().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- o.run(ctx, ln, sock, nil, nil) }()
	return o, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := o.close(); err != nil {
			t.Error(err)
		}
	}
}

func (o *Overlord) address(t testing.TB) string {
	b, err := os.ReadFile(filepath.Join(o.dir.Path(), fileAddress))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// below starts an overlord below p, with a token of top.
func below(t testing.TB, top, p *Overlord, name string) *Overlord {
	t.Helper()
	text, _, err := top.registrar.CreateToken(t.Context(), "local/root", enrol.TokenSpec{Name: name, Role: pki.Overlord})
	if err != nil {
		t.Fatal(err)
	}
	o := started(t, Config{Name: name, Parent: p.address(t), Pin: top.keys.pin(), Token: text})
	await(t, name+" has a session with its parent", func() bool { _, ok := o.parent.agent.Connected(); return ok })
	return o
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// Certificates are renewed over two sessions; what comes is written and used.
func TestRenewSub(t *testing.T) {
	t.Parallel()
	top := started(t, Config{Name: "top"})
	mid := below(t, top, top, "mid")
	low := below(t, top, mid, "low")
	for _, o := range []*Overlord{mid, low} {
		since, _ := o.parent.agent.Connected()
		if err := os.Remove(filepath.Join(o.dir.Path(), fileTLSCert)); err != nil {
			t.Fatal(err)
		}
		if err := o.renewSub(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(o.dir.Path(), fileTLSCert)); err != nil {
			t.Errorf("the renewed certificate is not on the disk: %v", err)
		}
		await(t, "the agent has another session", func() bool { s, ok := o.parent.agent.Connected(); return ok && s.After(since) })
	}
	id := pki.Identity{Role: pki.Overlord, Name: "low"}
	if _, _, err := top.registrar.Revoke(t.Context(), "local/root", id, "", "sold"); err != nil {
		t.Fatal(err)
	}
	await(t, "low knows that it is revoked", func() bool { _, yes := low.revoked().Revoked(low.keys.server.Load().Leaf); return yes })
	await(t, "low has no session", func() bool { _, ok := low.parent.agent.Connected(); return !ok })
	if err := low.renewSub(t.Context()); err == nil {
		t.Error("a revoked overlord renews itself")
	}
}

// The list that came with the certificates is given to the agent before there is a
// life to hang work on.
func TestFirstListIsThereAlready(t *testing.T) {
	top := started(t, Config{Name: "top"})
	gone := below(t, top, top, "gone")
	if _, _, err := top.registrar.Revoke(t.Context(), "local/root", pki.Identity{Role: pki.Overlord, Name: "gone"}, "", "sold"); err != nil {
		t.Fatal(err)
	}
	await(t, "the list is in force", func() bool { return gone.revoked().Number() == 1 })
	mid := below(t, top, top, "mid")
	if n := mid.revoked().Number(); n != 1 {
		t.Errorf("mid has list %d; want 1", n)
	}
}

// A list that could not be stored is in force all the same, and is stored later.
func TestListIsStoredLater(t *testing.T) {
	top := started(t, Config{Name: "top"})
	mid := below(t, top, top, "mid")
	web := grantMachine(t, mid, "web1")
	if _, ok := mid.fleet.look("web1"); !ok {
		t.Fatal("web1 is not known")
	}
	cert, err := x509.ParseCertificate(web)
	if err != nil {
		t.Fatal(err)
	}
	list := pki.NewRevocations().Add(time.Now(), pki.Revoke(cert, "sold"))
	signed, err := pki.SignRevocations(top.keys.root, list)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel() // as when the store takes nothing
	mid.adopt(gone, signed, list)
	if n := mid.revoked().Number(); n != 1 {
		t.Errorf("list %d is in force; want 1", n)
	}
	if _, err := mid.keep.db.Revocations(t.Context()); err == nil {
		t.Fatal("it is stored at once")
	}
	mid.storeAgain(t.Context())
	if _, ok := mid.fleet.look("web1"); ok {
		t.Error("web1 is still one of its machines")
	}
	row, err := mid.keep.db.Revocations(t.Context())
	if err != nil || row.Number != 1 {
		t.Errorf("the store has list %d, %v; want 1", row.Number, err)
	}
}

// grantMachine lets o grant a certificate to a machine.
func grantMachine(t *testing.T, o *Overlord, name string) []byte {
	t.Helper()
	text, _, err := o.registrar.CreateToken(t.Context(), "local/root", enrol.TokenSpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: name}, key)
	if err != nil {
		t.Fatal(err)
	}
	d, err := o.registrar.Request(t.Context(), enrol.Request{CSR: csr, Role: "minion", Token: text})
	if err != nil {
		t.Fatal(err)
	}
	return d.Chain[0]
}

// A parent that was made anew, with its name and address, knows the overlords below
// it again.
func TestParentMadeAnew(t *testing.T) {
	t.Parallel()
	top := started(t, Config{Name: "top"})
	token := func(name string, replace bool) string {
		t.Helper()
		text, _, err := top.registrar.CreateToken(t.Context(), "local/root", enrol.TokenSpec{Name: name, Role: pki.Overlord, Replace: replace})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	mid := Config{Name: "mid", Parent: top.address(t), Pin: top.keys.pin(), Token: token("mid", false)}
	first, stop := startedAt(t, mid, "127.0.0.1:0")
	addr := first.address(t)
	low := below(t, top, first, "low")
	web := grantMachine(t, low, "web1")
	stop()
	mid.Token = token("mid", true)
	second, stop := startedAt(t, mid, addr)
	t.Cleanup(stop)
	await(t, "the new parent is connected", func() bool { _, ok := second.parent.agent.Connected(); return ok })
	if _, ok := second.fleet.look("low"); ok {
		t.Fatal("the new parent knows low already")
	}
	leaf := low.keys.server.Load().Leaf
	if err := low.rejoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "low has a session again", func() bool { _, ok := low.parent.agent.Connected(); return ok })
	if !low.keys.server.Load().Leaf.Equal(leaf) || low.revoked().Number() != 1 {
		t.Errorf("certificate changed, or list %d; want the same, and list 1", low.revoked().Number())
	}
	cert, err := x509.ParseCertificate(web)
	if err != nil || low.keys.issuerOf(cert) == nil {
		t.Errorf("the machines of low are not its own any more: %v", err)
	}
}
