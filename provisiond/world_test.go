package provisiond

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/pki"
)

// The program is getfile when a script of these tests calls it so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Getfile {
		p := &program{Invocation: Invocation{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}, pause: time.Millisecond}
		os.Exit(p.getfile(context.Background()))
	}
	os.Exit(m.Run())
}

const (
	testMAC   = "52:54:00:12:34:56"
	testNonce = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	testToken = "aa112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// world is a fleet's root, and a server that speaks provision/1.
type world struct {
	t    *testing.T
	root *pki.Authority
	addr string // of the server
	dir  string // working directory of scripts, by $DIR
	mu   sync.Mutex
	log  []request

	script  http.HandlerFunc // nil: echo
	join    http.HandlerFunc // nil: grants
	files   http.HandlerFunc // nil: none
	noReply bool             // result is refused
	cert    tls.Certificate  // of the server
	macs    []string         // of this machine's interfaces
}

// request is one that the server saw.
type request struct {
	path string
	peer string // identity of the client's certificate; empty: none
	auth string
	rng  string
	body map[string]any
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := pki.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: root, dir: t.TempDir(), macs: []string{"02:00:00:00:00:01", testMAC}}
	w.cert = w.leaf(root, pki.Identity{Role: pki.Overlord, Name: "dc1"}, root.Cert)
	w.addr = w.listen()
	return w
}

// leaf makes a certificate with the chain above it.
func (w *world) leaf(a *pki.Authority, id pki.Identity, above ...*x509.Certificate) tls.Certificate {
	w.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := a.Sign(pki.Template{Identity: id, PublicKey: key.Public()}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	c := tls.Certificate{PrivateKey: key, Certificate: [][]byte{cert.Raw}}
	for _, x := range above {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// issuing makes an overlord's issuing CA.
func (w *world) issuing() *pki.Authority {
	w.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.root.NewIssuing("dc1", key.Public(), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return &pki.Authority{Cert: cert, Key: key}
}

// minion makes the state directory of a minion that has enrolled.
func (w *world) minion(name string) string {
	w.t.Helper()
	ca := w.issuing()
	c := w.leaf(ca, pki.Identity{Role: pki.Minion, Name: name}, ca.Cert, w.root.Cert)
	chain, err := pki.ParseChain(c.Certificate)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := pki.MarshalKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.TempDir()
	w.write(filepath.Join(dir, "minion.key"), key)
	w.write(filepath.Join(dir, "root.crt"), pki.MarshalCerts(w.root.Cert))
	if err := os.Mkdir(filepath.Join(dir, "certs"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	w.write(filepath.Join(dir, "certs", "dc1.crt"), pki.MarshalCerts(chain...))
	return dir
}

func (w *world) write(name string, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) listen() string {
	w.t.Helper()
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &w.cert, nil },
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(w.serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	w.t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String()
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	req := request{path: r.URL.Path, auth: r.Header.Get("Authorization"), rng: r.Header.Get("Range")}
	if pc := r.TLS.PeerCertificates; len(pc) > 0 {
		if id, err := pki.IdentityOf(pc[0]); err == nil {
			req.peer = id.String()
		}
	}
	if b, err := io.ReadAll(r.Body); err == nil && len(b) > 0 {
		_ = json.Unmarshal(b, &req.body)
	}
	w.mu.Lock()
	w.log = append(w.log, req)
	w.mu.Unlock()
	pick := func(h, otherwise http.HandlerFunc) http.HandlerFunc {
		if h != nil {
			return h
		}
		return otherwise
	}
	switch p := r.URL.Path; {
	case p == "/provision/v1/script":
		pick(w.script, sends("echo hello >$DIR/hello"))(rw, r)
	case p == "/provision/v1/join":
		pick(w.join, w.grants)(rw, r)
	case p == "/provision/v1/result" && !w.noReply:
		rw.WriteHeader(http.StatusNoContent)
	case strings.HasPrefix(p, "/provision/v1/files/"):
		pick(w.files, refuses(http.StatusNotFound, "not_found", "no such file"))(rw, r)
	default:
		http.NotFound(rw, r)
	}
}

// seen gives the requests of a path.
func (w *world) seen(path string) []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.log), func(r request) bool { return r.path != path })
}

func digestOf(b []byte) string { return digest(sha256.Sum256(b)).String() }

func sends(text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/x-shellscript")
		rw.Header().Set("Digest", digestOf([]byte(text)))
		rw.Header().Set("Dominion-Node", "n0001")
		rw.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(rw, text)
	}
}

func refuses(status int, code, detail string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(map[string]string{"code": code, "detail": detail})
	}
}

func (w *world) grants(rw http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(rw).Encode(joinAnswer{Token: testToken, Pin: pki.Pin(w.root.Cert), Overlords: []string{w.addr}, Name: "n0001"})
}

// outcome is what a run of the program left.
type outcome struct {
	exit        int
	out, errors string
}

// provisiond runs the program with a kernel's command line of this boot.
func (w *world) provisiond(args ...string) outcome {
	w.t.Helper()
	return w.boot("quiet dominion.pin="+pki.Pin(w.root.Cert)+" dominion.nonce="+testNonce+" dominion.mac=52:54:00:12:34:56 dominion.server="+w.addr+"\n", args...)
}

func (w *world) boot(cmdline string, args ...string) outcome {
	w.t.Helper()
	tmp := w.t.TempDir()
	w.write(filepath.Join(tmp, "cmdline"), []byte(cmdline))
	out, errs := w.create(filepath.Join(tmp, "out")), w.create(filepath.Join(tmp, "err"))
	defer out.Close()
	defer errs.Close()
	p := &program{
		Invocation: Invocation{Args: args, Environ: append(os.Environ(), "DIR="+w.dir), Stdout: out, Stderr: errs},
		pause:      time.Millisecond, cmdline: filepath.Join(tmp, "cmdline"), pinFile: filepath.Join(tmp, "pin"),
		hwaddrs:    func() ([]string, error) { return w.macs, nil },
		executable: os.Executable,
	}
	o := outcome{exit: p.main(w.t.Context())}
	o.out, o.errors = w.read(out.Name()), w.read(errs.Name())
	return o
}

func (w *world) create(name string) *os.File {
	w.t.Helper()
	f, err := os.Create(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// exists says whether a script left this file.
func (w *world) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(w.dir, name))
	return err == nil
}

// nobody gives an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
