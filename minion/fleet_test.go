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
	"net"
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

// overlord is the other end: the real protocol, without a store behind it.
type overlord struct {
	t     testing.TB
	f     *fleet
	cert  tls.Certificate
	addr  string
	hello func(peer *fleetpb.Hello, h *fleetpb.Hello) // changes what is said; may be nil
	serve func(method string, args []byte) ([]byte, error)

	opened chan *peer

	mu    sync.Mutex
	peers map[*session.Session]*peer
	next  uint64
	facts [][]byte
}

// peer is one session at the overlord.
type peer struct {
	o    *overlord
	s    *session.Session
	gone chan error // gets what Closed was told

	mu      sync.Mutex
	streams map[uint64]map[string]*got // by call
}

// got is what came on one stream.
type got struct {
	done chan struct{}
	data []byte
	err  error
}

func newOverlord(t testing.TB, f *fleet) *overlord {
	o := &overlord{t: t, f: f, cert: f.overlord, opened: make(chan *peer, 64), peers: make(map[*session.Session]*peer)}
	return o
}

// listen makes the overlord accept sessions until the test ends.
func (o *overlord) listen() *overlord {
	o.t.Helper()
	ln := must[net.Listener](o.t)(net.Listen("tcp", "127.0.0.1:0"))
	o.addr = ln.Addr().String()
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: o.tls(), Serve: func(ctx context.Context, conn *tls.Conn) { o.run(ctx, conn) },
	})
	background(o.t, func(ctx context.Context) { _ = l.Run(ctx) })
	return o
}

// background runs f until the test ends, and waits for it.
func background(t testing.TB, f func(ctx context.Context)) {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

func (o *overlord) tls() session.TLSOptions {
	return session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &o.cert, nil },
		Verify: func(cs tls.ConnectionState) error {
			_, err := o.f.trust.Verify(cs.PeerCertificates, time.Now())
			return err
		},
	}
}

func (o *overlord) run(ctx context.Context, conn *tls.Conn) {
	s, err := session.New(conn, &session.Options{Answer: true, Hello: o.greet, Ready: o.ready, Handler: o})
	if err != nil {
		o.t.Error(err)
		return
	}
	_ = s.Serve(ctx) // told to Closed
}

func (o *overlord) greet(_ *session.Session, theirs *fleetpb.Hello) (*fleetpb.Hello, error) {
	h := &fleetpb.Hello{TimeMs: time.Now().UnixMilli(), LogHead: o.f.log.head(o.t, theirs.Checkpoints)}
	if o.hello != nil {
		o.hello(theirs, h)
	}
	return h, nil
}

func (o *overlord) ready(s *session.Session) {
	p := &peer{o: o, s: s, gone: make(chan error, 1), streams: make(map[uint64]map[string]*got)}
	o.mu.Lock()
	o.peers[s] = p
	o.mu.Unlock()
	o.opened <- p
}

// dial opens a session to a minion that listens.
func (o *overlord) dial(addr string) error {
	conn, err := session.Dial(o.t.Context(), addr, session.ClientTLS(o.tls()))
	if err != nil {
		return err
	}
	background(o.t, func(ctx context.Context) { o.run(ctx, conn) })
	return nil
}

// peer waits for the next session.
func (o *overlord) peer() *peer {
	o.t.Helper()
	select {
	case p := <-o.opened:
		return p
	case <-time.After(20 * time.Second):
		o.t.Fatal("no session was opened within 20 s")
		return nil
	}
}

func (o *overlord) of(s *session.Session) *peer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.peers[s]
}

func (o *overlord) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	go func() { // ends with the session at the latest
		r := &fleetpb.Result{Output: []byte("{}")}
		if c.Method == session.MethodFacts {
			o.mu.Lock()
			o.facts = append(o.facts, c.Args)
			o.mu.Unlock()
		} else if o.serve != nil {
			out, err := o.serve(c.Method, c.Args)
			if err != nil {
				r = failure(err)
			} else {
				r.Output = out
			}
		}
		_ = s.Reply(id, r)
	}()
}
func (o *overlord) Cancel(*session.Session, uint64)            {}
func (o *overlord) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (o *overlord) Closed(s *session.Session, err error)       { o.of(s).gone <- err }
func (o *overlord) Open(s *session.Session, st *session.Stream) {
	p := o.of(s)
	g := &got{done: make(chan struct{})}
	p.mu.Lock()
	if p.streams[st.CallID()] == nil {
		p.streams[st.CallID()] = make(map[string]*got)
	}
	p.streams[st.CallID()][st.Name()] = g
	p.mu.Unlock()
	st.Accept()
	go func() { // ends with the stream
		defer close(g.done)
		defer st.Close()
		g.data, g.err = io.ReadAll(st)
	}()
}

// pending is one call under way.
type pending struct {
	p      *peer
	id     uint64
	result chan *fleetpb.Result
	lost   chan error
}

func (c *pending) Result(_ *session.Session, _ uint64, body []byte) {
	r, err := session.DecodeResult(body)
	if err != nil {
		c.p.o.t.Error(err)
	}
	c.result <- r
}
func (c *pending) Lost(_ *session.Session, _ uint64, err error) { c.lost <- err }

// start sends a call.
func (p *peer) start(c *fleetpb.Call) *pending {
	p.o.t.Helper()
	p.o.mu.Lock()
	p.o.next++
	id := p.o.next
	p.o.mu.Unlock()
	w := &pending{p: p, id: id, result: make(chan *fleetpb.Result, 1), lost: make(chan error, 1)}
	if err := p.s.Start(id, w, must[[]byte](p.o.t)(proto.Marshal(c))); err != nil {
		p.o.t.Fatal(err)
	}
	return w
}

// wait gives the answer, with an output that came as a stream put in its place.
func (c *pending) wait() *fleetpb.Result {
	t := c.p.o.t
	t.Helper()
	select {
	case r := <-c.result:
		if r.OutputStream != 0 {
			r.Output = c.stream("result")
		}
		return r
	case err := <-c.lost:
		t.Fatalf("the call was lost: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("no answer within 30 s")
	}
	return nil
}

// stream gives all that came on one of the call's streams; nil when there was none.
func (c *pending) stream(name string) []byte {
	c.p.mu.Lock()
	g := c.p.streams[c.id][name]
	c.p.mu.Unlock()
	if g == nil {
		return nil
	}
	<-g.done
	return g.data
}

// do makes a call and waits.
func (p *peer) do(c *fleetpb.Call) *fleetpb.Result {
	p.o.t.Helper()
	return p.start(c).wait()
}

// own calls one of the session's own methods.
func (p *peer) own(method string, args []byte) ([]byte, error) {
	ctx, stop := context.WithTimeout(p.o.t.Context(), 20*time.Second)
	defer stop()
	return p.s.Call(ctx, method, args)
}

// ended waits for the session's end.
func (p *peer) ended() error {
	p.o.t.Helper()
	select {
	case err := <-p.gone:
		return err
	case <-time.After(20 * time.Second):
		p.o.t.Fatal("the session did not end within 20 s")
		return nil
	}
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
