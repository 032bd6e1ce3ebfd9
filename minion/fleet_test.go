package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/module"
	"dominion/pki"
	"dominion/session"
)

// fleet is a throwaway root with one overlord, dc1, and one operator, alice.
type fleet struct {
	root, issuing *pki.Authority
	trust         *pki.Trust
	overlord      tls.Certificate // with its root
	alice         operatorKey
	log           *testLog
}

type operatorKey struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	now := time.Now()
	f := &fleet{root: must[*pki.Authority](t)(pki.NewRoot(now))}
	f.trust = must[*pki.Trust](t)(pki.NewTrust(f.root.Cert))
	key := must[*ecdsa.PrivateKey](t)(pki.NewKey())
	ca := must[*x509.Certificate](t)(f.root.NewIssuing("dc1", key.Public(), now))
	f.issuing = &pki.Authority{Cert: ca, Key: key}
	f.overlord = f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "dc1"}, f.root.Cert)
	f.alice = f.operator(t, "alice")
	f.log = newTestLog(t, f, "fleet-log", "dc1")
	return f
}

// leaf makes a key and a certificate.
func (f *fleet) leaf(t testing.TB, by *pki.Authority, id pki.Identity, rest ...*x509.Certificate) tls.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(pki.NewKey())
	cert := must[*x509.Certificate](t)(by.Sign(pki.Template{Identity: id, PublicKey: key.Public()}, time.Now()))
	c := tls.Certificate{PrivateKey: key, Leaf: cert, Certificate: [][]byte{cert.Raw}}
	for _, r := range rest {
		c.Certificate = append(c.Certificate, r.Raw)
	}
	return c
}

func (f *fleet) minion(t testing.TB, name string) tls.Certificate {
	return f.leaf(t, f.issuing, pki.Identity{Role: pki.Minion, Name: name}, f.issuing.Cert, f.root.Cert)
}

func (f *fleet) operator(t testing.TB, name string) operatorKey {
	c := f.leaf(t, f.root, pki.Identity{Role: pki.Operator, Name: name})
	return operatorKey{c.PrivateKey.(*ecdsa.PrivateKey), c.Leaf}
}

// draft is an order before it is signed.
type draft struct {
	method  string
	args    string
	names   []string // machines; the first is ours
	by      operatorKey
	issued  time.Time // zero: now
	life    time.Duration
	stream  bool
	timeout time.Duration
	job     call.JobID
}

// call signs a draft and makes the call for its first machine.
func (f *fleet) call(t testing.TB, d draft) *fleetpb.Call {
	t.Helper()
	if d.by.key == nil {
		d.by = f.alice
	}
	if d.issued.IsZero() {
		d.issued = time.Now()
	}
	if d.life == 0 {
		d.life = time.Hour
	}
	if d.args == "" {
		d.args = "{}"
	}
	if d.names == nil {
		d.names = []string{"web1", "web2", "db1"}
	}
	if d.job.IsZero() {
		d.job = call.NewJobID(d.issued)
	}
	tree := must[*call.Names](t)(call.NewNames(d.names))
	salt := make([]byte, call.SaltSize)
	rand.Read(salt)
	issued := d.issued.Truncate(time.Millisecond)
	o := &call.Order{
		Job: d.job, Method: d.method, ArgsDigest: call.Digest(salt, []byte(d.args)),
		IssuedAt: issued, NotBefore: issued, Expiry: issued.Add(d.life), Count: tree.Len(), Root: tree.Root(),
	}
	s := must[call.Signed](t)(call.Sign(o, d.by.key, d.by.cert.Raw))
	i, _ := tree.Index(d.names[0])
	return &fleetpb.Call{
		Method: d.method, Args: []byte(d.args), Salt: salt, Order: s.Order, Signature: s.Signature, OperatorCert: s.Cert,
		LeafIndex: uint64(i), Proof: must[[][]byte](t)(tree.Proof(i)), Stream: d.stream, TimeoutMs: uint64(d.timeout.Milliseconds()),
	}
}

// testLog is an overlord's audit log in memory.
type testLog struct {
	signer *audit.Signer
	key    []byte // certified by the root

	mu       sync.Mutex
	epoch    uint64
	restored int64 // size from which the epoch goes on
	size     int64
	hashes   []tlog.Hash
	recovery [][]byte
}

func newTestLog(t testing.TB, f *fleet, id, overlord string) *testLog {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{signer: must[*audit.Signer](t)(audit.NewSigner(id, overlord, priv))}
	l.key = must[[]byte](t)(pki.SignLogKey(f.root, pki.LogKey{
		LogID: id, Overlord: overlord, PublicKey: pub, NotAfter: time.Now().Add(pki.OverlordLife).Truncate(time.Millisecond),
	}))
	l.append(t, "one", "two", "three")
	return l
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *testLog) append(t testing.TB, leaves ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaf := range leaves {
		l.hashes = append(l.hashes, must[[]tlog.Hash](t)(tlog.StoredHashes(l.size, []byte(leaf), l))...)
		l.size++
	}
}

// copy gives the log as it is now: an older store to come back to.
func (l *testLog) copy() *testLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &testLog{signer: l.signer, key: l.key, epoch: l.epoch, size: l.size, hashes: append([]tlog.Hash(nil), l.hashes...), recovery: l.recovery}
}

func (l *testLog) checkpoint(t testing.TB) audit.Checkpoint {
	root := must[tlog.Hash](t)(tlog.TreeHash(l.size, l))
	return audit.Checkpoint{LogID: l.signer.Key().LogID, Epoch: l.epoch, Size: l.size, Root: root}
}

// recover makes the statement by which a minion gives up what it remembers.
func (l *testLog) recover(t testing.TB, f *fleet, abandoned audit.Checkpoint) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.checkpoint(t)
	body := must[[]byte](t)(proto.MarshalOptions{Deterministic: true}.Marshal(&fleetpb.Recovery{
		LogId: now.LogID, Epoch: abandoned.Epoch + 1, AbandonedSize: uint64(abandoned.Size), AbandonedRoot: abandoned.Root[:],
		RestoredSize: uint64(now.Size), RestoredRoot: now.Root[:], TimeMs: time.Now().UnixMilli(),
	}))
	l.recovery = append(l.recovery, must[[]byte](t)(pki.SignStatement(f.root, pki.RecoveryPrefix, body)))
	l.epoch, l.restored = abandoned.Epoch+1, now.Size
}

// head gives the newest checkpoint with a proof from what a minion remembers.
func (l *testLog) head(t testing.TB, remembered [][]byte) *fleetpb.LogHead {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &fleetpb.LogHead{LogKey: l.key, Checkpoint: must[[]byte](t)(l.signer.Sign(l.checkpoint(t)))}
	for _, note := range remembered {
		c := must[audit.Checkpoint](t)(audit.PeekCheckpoint(note))
		old := c.Size
		if c.Epoch < l.epoch {
			old = l.restored
		}
		if c.LogID != l.signer.Key().LogID || old == 0 || old > l.size {
			continue
		}
		for _, p := range must[tlog.TreeProof](t)(tlog.ProveTree(l.size, old, l)) {
			h.Proof = append(h.Proof, p[:])
		}
	}
	if n := len(l.recovery); n > 0 {
		h.Recovery, h.RecoveriesBefore = l.recovery[n-1], l.recovery[:n-1]
	}
	return h
}

// newAgent makes the agent of web1.
func newAgent(t testing.TB, f *fleet, change func(*Options)) *Agent {
	t.Helper()
	opt := Options{
		Name: "web1", Trust: f.trust, Overlords: []string{"dc1"}, Version: "test", Log: testLogger(t),
		Table: must[*module.Table](t)(module.NewTable(append(Modules(nil, nil), testModule))),
	}
	if change != nil {
		change(&opt)
	}
	return must[*Agent](t)(New(opt))
}

// attach dials the overlord for an agent and serves until the test ends. It
// gives the overlord's end when both sides have accepted the session.
func attach(t testing.TB, a *Agent, o *overlord) *peer {
	t.Helper()
	before := a.link("dc1")
	p := dialed(t, a, o)
	until(t, "the agent accepts the session", func() bool { l := a.link("dc1"); return l != nil && l != before })
	return p
}

// dialed is attach that does not wait for the agent's side.
func dialed(t testing.TB, a *Agent, o *overlord) *peer {
	t.Helper()
	cert := o.f.minion(t, a.Name())
	conn, err := session.Dial(t.Context(), o.addr, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: a.VerifyPeer,
	}))
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) { _ = a.Serve(ctx, conn) })
	return o.peer()
}

// testModule has methods that tests steer.
var testModule = module.Module{Name: "probe", Doc: "Methods for tests.", Methods: []module.Method{
	module.Func("big", "Answers with so many bytes.", module.Read, func(_ context.Context, _ *module.Env, in bigIn) (bigOut, error) {
		b := make([]byte, in.Bytes)
		for i := range b {
			b[i] = 'x'
		}
		return bigOut{Text: string(b)}, nil
	}, module.MethodOptions{}),
	module.Func("talk", "Writes so many bytes of live output.", module.Read, func(ctx context.Context, env *module.Env, in bigIn) (bigOut, error) {
		buf := make([]byte, 64<<10)
		for n := 0; n < in.Bytes && ctx.Err() == nil; n += len(buf) {
			if _, err := env.Stdout.Write(buf[:min(len(buf), in.Bytes-n)]); err != nil {
				return bigOut{}, err
			}
		}
		_, err := io.WriteString(env.Stderr, "done")
		return bigOut{}, errors.Join(err, ctx.Err())
	}, module.MethodOptions{}),
}}

type bigIn struct {
	Bytes int `json:"bytes" doc:"how many" min:"0" max:"1000000000"`
}

type bigOut struct {
	Text string `json:"text" doc:"so many times x"`
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// until polls a condition that another goroutine makes true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func wantCode(t *testing.T, r *fleetpb.Result, want call.Code) {
	t.Helper()
	if got := call.Code(r.Code); got != want {
		t.Fatalf("code = %s (%s); want %s", got, r.Detail, want)
	}
}
