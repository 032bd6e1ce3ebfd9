package funcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/test"
	"dominion/pki"
	"dominion/session"
)

// world is a machine with its Func face on a port, and the authorities above it.
type world struct {
	t             testing.TB
	root, issuing *pki.Authority
	trust         *pki.Trust
	dir           string // with certificates and acl/
	addr          string
	srv           *Server
	log           recorded
	stop          func() error

	mu      sync.Mutex
	revoked *pki.RevocationList
}

// recorded is a log in memory.
type recorded struct {
	mu      sync.Mutex
	full    error // given by Begin
	begun   []Record
	ended   []Record
	refused []Record
}

func (r *recorded) Begin(x Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full == nil {
		r.begun = append(r.begun, x)
	}
	return r.full
}

func (r *recorded) End(x Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, x)
}

func (r *recorded) Refused(x Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, x)
}

func (r *recorded) all() (begun, ended, refused []Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun, r.ended, r.refused
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newWorld starts a machine named web1; change may alter its options.
func newWorld(t testing.TB, acl string, change func(*Options)) *world {
	t.Helper()
	now := time.Now()
	w := &world{t: t, root: must(pki.NewRoot(now))(t), dir: t.TempDir()}
	key := must(pki.NewKey())(t)
	w.issuing = &pki.Authority{Cert: must(w.root.NewIssuing("dc1", key.Public(), now))(t), Key: key}
	w.trust = must(pki.NewTrust(w.root.Cert))(t)
	if err := os.Mkdir(filepath.Join(w.dir, "acl"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.acl("site.acl", acl)
	w.write("ca.pem", pki.MarshalCerts(w.root.Cert))
	table := must(module.NewTable([]module.Module{test.Module, nativeModule}))(t)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	opt := Options{
		Machine: "web1", Version: "1.2.3", Table: func() *module.Table { return table }, Modules: Builtin(), ACL: OpenACL(filepath.Join(w.dir, "acl"), log),
		Admit: w.admit, Record: &w.log, Log: log,
	}
	if change != nil {
		change(&opt)
	}
	w.srv = must(New(opt))(t)
	w.listen()
	return w
}

func (w *world) listen() {
	cert := w.certificate(pki.Identity{Role: pki.Minion, Name: "web1"})
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(w.t)
	w.addr = ln.Addr().String()
	own := func() (*tls.Certificate, error) { return cert, nil }
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: session.TLSOptions{Certificate: own, Verify: func(tls.ConnectionState) error { return errors.New("no sessions here") }},
		Serve: func(context.Context, *tls.Conn) {},
		HTTP:  &session.TLSOptions{Certificate: own, Verify: w.srv.Verify}, FuncFace: true,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- l.Run(ctx) }()
	go func() { done <- w.srv.Run(ctx, l.HTTP(), 500*time.Millisecond) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		first, second := <-done, <-done
		for _, err := range []error{first, second} {
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
		return nil
	})
	w.t.Cleanup(func() {
		if err := w.stop(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) admit(certs []*x509.Certificate) (pki.Verified, error) {
	v, err := w.trust.Verify(certs, time.Now())
	if err != nil {
		return v, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if reason, yes := w.revoked.Revoked(v.Leaf, v.Issuer); yes {
		return v, call.Errorf(call.Revoked, "%s was revoked: %s", v.Identity, reason)
	}
	return v, nil
}

// certificate signs one for an identity, with its chain.
func (w *world) certificate(id pki.Identity) *tls.Certificate {
	w.t.Helper()
	key := must(pki.NewKey())(w.t)
	by, chain := w.root, [][]byte{w.root.Cert.Raw}
	if id.Role == pki.Minion {
		by, chain = w.issuing, [][]byte{w.issuing.Cert.Raw, w.root.Cert.Raw}
	}
	leaf := must(by.Sign(pki.Template{Identity: id, PublicKey: key.Public(), DNS: []string{id.Name}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now()))(w.t)
	return &tls.Certificate{Certificate: append([][]byte{leaf.Raw}, chain...), PrivateKey: key, Leaf: leaf}
}

// peer writes a certificate and its key to a file, and gives its path and CN-HASH.
func (w *world) peer(role pki.Role, name string) (path, hash string) {
	w.t.Helper()
	c := w.certificate(pki.Identity{Role: role, Name: name})
	certs := []*x509.Certificate{c.Leaf}
	for _, der := range c.Certificate[1:] {
		certs = append(certs, must(x509.ParseCertificate(der))(w.t))
	}
	key := must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))(w.t)
	path = w.write(string(role)+"-"+name+".pem", append(pki.MarshalCerts(certs...), pemOf("PRIVATE KEY", key)...))
	return path, must(CertHash(c.Leaf))(w.t)
}

func (w *world) write(name string, text []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) acl(name, text string) { w.write("acl/"+name, []byte(text)) }

// nativeModule has a method of each kind of field, as the minion's own modules do.
var nativeModule = module.Module{Name: "native", Doc: "Methods of the minion's own kind.", Methods: []module.Method{
	module.Func("fields", "Gives back its fields.", module.Read, func(_ context.Context, _ *module.Env, in fields) (fieldsOut, error) {
		return fieldsOut{
			Text: in.Text, Count: in.Count, Ratio: in.Ratio, Yes: in.Yes, Wait: in.Wait.String(), Data: in.Data, List: in.List, Map: in.Map, Big: 1 << 40,
		}, nil
	}, module.MethodOptions{}),
	module.Func("say", "Says lines, then fails.", module.Read, func(_ context.Context, env *module.Env, _ struct{}) (struct{}, error) {
		_, _ = io.WriteString(env.Stdout, "one\ntw")
		_, _ = io.WriteString(env.Stdout, "o\nthree")
		_, _ = io.WriteString(env.Stderr, "\xfffour\n")
		return struct{}{}, errors.New("failed as it should")
	}, module.MethodOptions{}),
	module.Func("break", "Breaks.", module.Read, func(context.Context, *module.Env, struct{}) (struct{}, error) {
		panic("broken")
	}, module.MethodOptions{}),
	module.Func("secret", "Takes a secret.", module.Read, func(context.Context, *module.Env, secretIn) (struct{}, error) {
		return struct{}{}, nil
	}, module.MethodOptions{}),
	module.Func("hang", "Waits until its time is over.", module.Read, func(ctx context.Context, _ *module.Env, _ struct{}) (struct{}, error) {
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	}, module.MethodOptions{Timeout: 50 * time.Millisecond}),
}}

type secretIn struct {
	Password string `json:"password" doc:"a password" secret:"true" required:"true"`
}

type fields struct {
	Text  string            `json:"text" doc:"a text" required:"true" max:"100"`
	Count int               `json:"count" doc:"a number" default:"3" min:"1" max:"9"`
	Ratio float64           `json:"ratio" doc:"a number"`
	Yes   bool              `json:"yes" doc:"whether"`
	Wait  time.Duration     `json:"wait" doc:"how long" default:"1m"`
	Kind  string            `json:"kind" doc:"of two" enum:"a,b" default:"a"`
	Data  module.Bytes      `json:"data" doc:"bytes"`
	List  []string          `json:"list" doc:"texts" pattern:"[a-z]+"`
	Map   map[string]string `json:"map" doc:"entries"`
}

type fieldsOut struct {
	Text  string            `json:"text" doc:"as given"`
	Count int               `json:"count" doc:"as given"`
	Ratio float64           `json:"ratio" doc:"as given"`
	Yes   bool              `json:"yes" doc:"as given"`
	Wait  string            `json:"wait" doc:"as given"`
	Data  module.Bytes      `json:"data" doc:"as given"`
	List  []string          `json:"list" doc:"as given"`
	Map   map[string]string `json:"map" doc:"as given"`
	Big   int64             `json:"big" doc:"2^40"`
}
