//go:build fleet

package main_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/fleettest"
	"dominion/pki"
	"dominion/session"
	"dominion/store"
	"dominion/target"
)

// impostor has the state directory of an overlord whose process has ended, and
// with it all of its keys. It serves the sessions of the machines of that
// overlord in its place.
type impostor struct {
	t     *testing.T
	name  string
	state string
	cert  tls.Certificate
	root  *x509.Certificate
	db    *store.DB
	log   []byte // the root's statement about its log key

	mu     sync.Mutex
	peers  map[string]*session.Session
	calls  uint64
	opened func(s *session.Session, st *session.Stream) // streams of machines; nil: refused
}

func (s *site) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.state, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *site) key(name string) *ecdsa.PrivateKey {
	s.t.Helper()
	key, err := pki.ParseKey(s.read(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

func (s *site) certs(name string) []*x509.Certificate {
	s.t.Helper()
	certs, err := pki.ParseCerts(s.read(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return certs
}

// possess ends an overlord's process and takes its place at its address.
func (s *site) possess(name string) *impostor {
	s.t.Helper()
	s.overlord.stop()
	leaf, root := s.certs("tls.crt")[0], s.certs("ca/root.crt")[0]
	logKey, err := pki.ParseLogKey(s.read("log.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	i := &impostor{
		t: s.t, name: name, state: s.state, root: root, peers: make(map[string]*session.Session),
		cert: tls.Certificate{Certificate: [][]byte{leaf.Raw, root.Raw}, PrivateKey: s.key("tls.key"), Leaf: leaf},
	}
	i.db, err = store.Open(s.t.Context(), filepath.Join(s.state, "store.db"), store.Options{Overlord: name, LogKey: logKey, Outside: s.read("checkpoint")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = i.db.Close() })
	if _, err := os.Stat(filepath.Join(s.state, "log.crt")); err == nil {
		i.log = s.read("log.crt")
	} else {
		i.log, err = pki.SignLogKey(&pki.Authority{Cert: root, Key: s.key("ca/root.key")}, pki.LogKey{
			LogID: i.db.LogID(), Overlord: name, PublicKey: publicOf(logKey), NotAfter: root.NotAfter,
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	l := session.NewListener(ln, session.ListenOptions{
		Fleet: session.TLSOptions{Certificate: func() (*tls.Certificate, error) { return &i.cert, nil }, Verify: anybody},
		Serve: func(ctx context.Context, conn *tls.Conn) {
			if p, err := session.New(conn, &session.Options{Hello: i.hello, Answer: true, Ready: i.ready, Handler: leafward{i}}); err == nil {
				_ = p.Serve(ctx) // never nil
			}
		},
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan struct{})
	go func() {
		_ = l.Run(ctx) // never nil
		close(done)
	}()
	s.t.Cleanup(func() {
		stop()
		<-done
	})
	return i
}

func anybody(tls.ConnectionState) error { return nil }

func (i *impostor) hello(_ *session.Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
	var mine []byte
	for _, n := range peer.Checkpoints {
		if c, err := audit.PeekCheckpoint(n); err == nil && c.LogID == i.db.LogID() {
			mine = n
		}
	}
	head, err := i.db.HeadFor(context.Background(), mine)
	if err != nil {
		return nil, err
	}
	head.LogKey = i.log
	birth := peer.JournalBirthMs
	if birth == 0 {
		birth = time.Now().UnixMilli()
	}
	return &fleetpb.Hello{AgentVersion: "evil", TimeMs: time.Now().UnixMilli(), JournalBirthMs: birth, LogHead: head}, nil
}

func (i *impostor) ready(s *session.Session) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.peers[s.Peer().Name] = s
}

// peer gives the session of a machine, when it is there.
func (i *impostor) peer(name string) *session.Session {
	i.t.Helper()
	var s *session.Session
	fleettest.Until(i.t, name+" has a session with the impostor", func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		s = i.peers[name]
		return s != nil && s.Err() == nil
	})
	return s
}

// id gives one that was not used before.
func (i *impostor) id() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls++
	return i.calls
}

// leafward is what machines send to an impostor.
type leafward struct{ i *impostor }

func (h leafward) Call(s *session.Session, id uint64, _ *fleetpb.Call) {
	_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
}
func (h leafward) Cancel(*session.Session, uint64)            {}
func (h leafward) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (h leafward) Closed(*session.Session, error)             {}
func (h leafward) Open(s *session.Session, st *session.Stream) {
	h.i.mu.Lock()
	defer h.i.mu.Unlock()
	if h.i.opened != nil {
		h.i.opened(s, st)
	}
}

// verdict is what a peer answered.
type verdict struct {
	code   call.Code
	detail string
}

// asked waits for the answer to one call.
type asked chan verdict

func (a asked) Result(_ *session.Session, _ uint64, body []byte) {
	r, err := session.DecodeResult(body)
	if err != nil {
		a <- verdict{call.Internal, err.Error()}
		return
	}
	a <- verdict{call.Code(r.Code), r.Detail}
}

func (a asked) Lost(_ *session.Session, _ uint64, err error) {
	a <- verdict{call.SessionLost, err.Error()}
}

func (a asked) wait(t *testing.T) verdict {
	t.Helper()
	select {
	case v := <-a:
		return v
	case <-time.After(hang):
		t.Error("no answer")
		return verdict{}
	}
}

// send sends a machine a call as it is.
func (i *impostor) send(name string, c *fleetpb.Call) asked {
	i.t.Helper()
	body, err := proto.Marshal(c)
	if err != nil {
		i.t.Error(err)
	}
	a := make(asked, 1)
	if err := i.peer(name).Start(i.id(), a, body); err != nil {
		a <- verdict{call.CodeOf(err), err.Error()}
	}
	return a
}

// callOf makes the call for one machine of an order, as an honest hop would.
func callOf(t *testing.T, d *fleetpb.Delegate, method, name string) *fleetpb.Call {
	t.Helper()
	names, err := target.Expand(d.Names)
	if err != nil {
		t.Error(err)
		return nil
	}
	tree, err := call.NewNames(names)
	if err != nil {
		t.Error(err)
		return nil
	}
	at, ok := tree.Index(name)
	if !ok {
		at = 0
	}
	return &fleetpb.Call{
		Method: method, Args: d.Args, Salt: d.Salt, Order: d.Order, Signature: d.Signature, OperatorCert: d.OperatorCert,
		LeafIndex: uint64(at), Proof: tree.Proof(nil, at), TimeoutMs: 20_000,
	}
}

// evilHop is a sub-overlord in the wrong hands.
type evilHop struct {
	*impostor
	up *session.Session // with the parent

	hopMu sync.Mutex
	act   func(o evilOrder) // what it does with an order
	last  evilOrder
	count int
}

// evilOrder is an order that it got.
type evilOrder struct {
	h  *evilHop
	id uint64
	d  *fleetpb.Delegate
}

// possessHop takes the place of a sub-overlord towards its machines and its parent.
func (s *site) possessHop(top *site, name string) *evilHop {
	s.t.Helper()
	h := &evilHop{impostor: s.possess(name)}
	h.up = dialAs(s.t, top.address, h.cert, upward{h})
	top.until("the top takes it for "+name, func() bool { m := top.machine(name); return m != nil && m.Connected })
	return h
}

// dialAs gives a session with an overlord for whoever holds cert.
func dialAs(t *testing.T, address string, cert tls.Certificate, h session.Handler) *session.Session {
	t.Helper()
	conn, err := session.Dial(t.Context(), address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Verify: anybody,
	}))
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s, err := session.New(conn, &session.Options{Handler: h, Ready: func(*session.Session) { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		_ = s.Serve(context.WithoutCancel(t.Context())) // never nil
		close(over)
	}()
	t.Cleanup(func() {
		s.Close(call.OK, "the test ends")
		<-over
	})
	select {
	case <-ready:
	case <-over:
		t.Fatalf("no session: %v", s.Err())
	case <-time.After(fleettest.Patience):
		t.Fatal("no session")
	}
	return s
}

// does sets what the hop does with orders from now on.
func (h *evilHop) does(act func(o evilOrder)) {
	h.hopMu.Lock()
	defer h.hopMu.Unlock()
	h.act, h.count = act, 0
}

// orders is how often it was sent one since.
func (h *evilHop) orders() int {
	h.hopMu.Lock()
	defer h.hopMu.Unlock()
	return h.count
}

// upward is what the parent sends to an evil hop.
type upward struct{ h *evilHop }

func (u upward) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	d := new(fleetpb.Delegate)
	if c.Method != session.MethodDelegate || proto.Unmarshal(c.Args, d) != nil {
		_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
		return
	}
	o := evilOrder{u.h, id, d}
	u.h.hopMu.Lock()
	act := u.h.act
	u.h.last = o
	u.h.count++
	u.h.hopMu.Unlock()
	if act != nil {
		go act(o)
	}
}
func (u upward) Cancel(*session.Session, uint64)            {}
func (u upward) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (u upward) Open(*session.Session, *session.Stream)     {}
func (u upward) Closed(*session.Session, error)             {}

// reply gives the RESULT.
func (o evilOrder) reply(code call.Code, detail string) {
	_ = o.h.up.Reply(o.id, &fleetpb.Result{Code: uint32(code), Detail: detail}) // an error: the top has ended
}

// open opens a stream of the order; nil when the top does not want it.
func (o evilOrder) open(name string) *session.Stream {
	st, err := o.h.up.Open(context.Background(), o.id, name)
	if err != nil {
		return nil
	}
	return st
}

// framed gives bytes behind a length.
func framed(n uint64, b []byte) []byte { return append(binary.AppendUvarint(nil, n), b...) }

// tell writes events to a stream.
func tell(to io.Writer, events ...*apipb.CallEvent) error {
	for _, ev := range events {
		b, err := proto.Marshal(ev)
		if err != nil {
			return err
		}
		if _, err := to.Write(framed(uint64(len(b)), b)); err != nil {
			return err
		}
	}
	return nil
}

func results(g *apipb.ResultGroup) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: g}}
}

func outputs(machine, stream string, data []byte) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: machine, Stream: stream, Data: data}}}
}

// fine says that machines answered what test.ping does.
func fine(names string) *apipb.CallEvent {
	return results(&apipb.ResultGroup{Names: names, Output: []byte(`{"ok":true}`)})
}

// answer gives groups of results, and the RESULT.
func (o evilOrder) answer(events ...*apipb.CallEvent) {
	if st := o.open("events"); st != nil {
		_ = tell(st, events...) // an error: the top wants no more
		_ = st.Close()
	}
	o.reply(call.OK, "")
}

// answerWith gives events with the answer, without a stream.
func (o evilOrder) answerWith(events []byte) {
	_ = o.h.up.Reply(o.id, &fleetpb.Result{Output: events}) // an error: the top has ended
}

// eventBytes gives events as tell writes them.
func eventBytes(t *testing.T, events ...*apipb.CallEvent) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tell(&b, events...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mine gives the machines that the hop is to reach.
func (o evilOrder) mine() []string {
	names, err := target.Expand(o.d.Reach.GetMachines())
	if err != nil {
		o.h.t.Error(err)
	}
	return names
}

// relay sends every machine its call, changed, and says what each answered.
func (o evilOrder) relay(method string, change func(name string, c *fleetpb.Call)) {
	var events []*apipb.CallEvent
	for _, name := range o.mine() {
		c := callOf(o.h.t, o.d, method, name)
		change(name, c)
		v := o.h.send(name, c).wait(o.h.t)
		events = append(events, results(&apipb.ResultGroup{Names: name, Code: uint32(v.code), Detail: v.detail}))
	}
	o.answer(events...)
}

// ordered gives an order that root signs, for an impostor to carry.
func (s *site) ordered(method, args, names string, issued, expiry time.Time) *fleetpb.Delegate {
	s.t.Helper()
	list, err := target.Expand(names)
	if err != nil {
		s.t.Fatal(err)
	}
	tree, err := call.NewNames(list)
	if err != nil {
		s.t.Fatal(err)
	}
	salt := []byte(strings.Repeat("s", call.SaltSize))
	o := &call.Order{
		Job: call.NewJobID(issued), Method: method, ArgsDigest: call.Digest(salt, []byte(args)), Root: tree.Root(), Count: tree.Len(), Confirmed: tree.Len(),
		IssuedAt: issued, NotBefore: issued, Expiry: expiry,
	}
	signed, err := call.Sign(o, s.key("operator.key"), s.certs("operator.crt")[0].Raw)
	if err != nil {
		s.t.Fatal(err)
	}
	return &fleetpb.Delegate{Order: signed.Order, Signature: signed.Signature, OperatorCert: signed.Cert, Salt: salt, Args: []byte(args), Names: names}
}
