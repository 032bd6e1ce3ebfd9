package overlord_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
	"dominion/module"
	"dominion/session"
)

// offering is a machine that says what it offers as the test wants.
type offering struct {
	session *session.Session
	asked   *atomic.Int32
	answer  func() *fleetpb.Result // nil: the offer; a nil result: none
	hold    chan struct{}          // the answer waits until it is closed; nil: it does not

	mu    sync.Mutex
	offer []byte
}

func (m *offering) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	if c.Method != session.MethodOffer {
		_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
		return
	}
	if m.asked != nil {
		m.asked.Add(1)
	}
	go func() { // ends with the session
		if m.hold != nil {
			<-m.hold
		}
		if m.answer != nil {
			if r := m.answer(); r != nil {
				_ = s.Reply(id, r)
			}
			return
		}
		m.mu.Lock()
		b, _ := json.Marshal(session.OfferResult{Offer: m.offer})
		m.mu.Unlock()
		_ = s.Reply(id, &fleetpb.Result{Output: b})
	}()
}
func (m *offering) Cancel(*session.Session, uint64)            {}
func (m *offering) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (m *offering) Open(*session.Session, *session.Stream)     {}
func (m *offering) Closed(*session.Session, error)             {}

func offerDigest(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// connect gives the machine a session under a name, with that digest in HELLO.
func (m *offering) connect(t *testing.T, f *fleettest.Fleet, name string, digest []byte) {
	t.Helper()
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	cert := mint(t, issuing, root, "dominion://minion/"+name)
	conn, err := session.Dial(t.Context(), f.Address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Verify:      func(tls.ConnectionState) error { return nil },
	}))
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	m.session, err = session.New(conn, &session.Options{
		Handler: m, Ready: func(*session.Session) { close(ready) },
		Hello: func(*session.Session, *fleetpb.Hello) (*fleetpb.Hello, error) {
			return &fleetpb.Hello{Offer: digest}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- m.session.Serve(t.Context()) }()
	t.Cleanup(func() { m.session.Close(call.OK, "the test ends"); <-over })
	select {
	case <-ready:
	case <-time.After(fleettest.Patience):
		t.Fatal("no session")
	}
}

// tells says that it offers something else.
func (m *offering) tells(t *testing.T, offer []byte) error {
	t.Helper()
	m.mu.Lock()
	m.offer = offer
	m.mu.Unlock()
	args, err := json.Marshal(session.OfferArgs{Digest: offerDigest(offer)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.session.Call(t.Context(), session.MethodOffer, args)
	return err
}

// offerOf is an offer of one method without fields.
func offerOf(t *testing.T, name string, effect module.Effect, more ...module.Disabled) []byte {
	t.Helper()
	b, err := module.Offer{Methods: []module.Schema{{Name: name, Doc: "Does it.", Effect: effect, Timeout: "1m0s"}}, Disabled: more}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// offered gives how many machines have the versions of a method, as "2 1".
func offered(t *testing.T, f *fleettest.Fleet, method string) string {
	t.Helper()
	cat, err := f.Conn.Catalogue(t.Context(), method)
	if err != nil {
		return call.CodeOf(err).String()
	}
	var n []string
	for _, o := range cat.Offered {
		n = append(n, fmt.Sprint(o.Machines))
	}
	return strings.Join(n, " ")
}

func TestOffersAreAskedForOnce(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	const n = 20
	var asked atomic.Int32
	hold := make(chan struct{})
	offer := offerOf(t, "disk.check", module.Read, module.Disabled{Name: "bad", Reason: "it is"})
	for i := range n {
		(&offering{asked: &asked, hold: hold, offer: offer}).connect(t, f, fmt.Sprintf("m%02d", i), offerDigest(offer))
	}
	close(hold)
	f.Until("all are counted", func() bool { return offered(t, f, "disk.check") == fmt.Sprint(n) })
	if got := asked.Load(); got != 1 {
		t.Errorf("%d machines were asked; want 1", got)
	}
	cat, err := f.Conn.Catalogue(t.Context(), "")
	if err != nil || len(cat.Disabled) != 1 || cat.Disabled[0] != (client.DisabledModule{Name: "bad", Reason: "it is", Names: "m[00-19]", Machines: n}) {
		t.Errorf("%v, %+v", err, cat.Disabled)
	}
}

func TestVersionsOfAMethod(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	common, rare := offerOf(t, "disk.check", module.Read), offerOf(t, "disk.check", module.Destroy)
	machines := make([]offering, 3)
	for i, offer := range [][]byte{common, common, rare} {
		machines[i].offer = offer
		machines[i].connect(t, f, fmt.Sprintf("m%d", i), offerDigest(offer))
	}
	f.Until("both are known", func() bool { return offered(t, f, "disk.check") == "2 1" })
	cat, err := f.Conn.Catalogue(t.Context(), "disk.check")
	if err != nil || cat.Schemas[0].Effect != module.Destroy || cat.Offered[0].Schema.Effect != module.Read || cat.Offered[0].Names != "m[0,1]" {
		t.Errorf("%v, %+v; want the gravest effect, and the common version first", err, cat)
	}
	if err := machines[2].tells(t, common); err != nil || offered(t, f, "disk.check") != "3" {
		t.Errorf("%v, %s", err, offered(t, f, "disk.check"))
	}
	for i := range machines {
		if err := machines[i].tells(t, nil); err != nil {
			t.Error(err)
		}
	}
	if got := offered(t, f, "disk.check"); got != "not found" {
		t.Errorf("nobody offers it, and there is %s", got)
	}
	if _, err := f.Conn.Catalogue(t.Context(), "test.ping"); err != nil {
		t.Error(err)
	}
}

// TestFalseOffers: what a machine in the wrong hands offers harms nobody else.
func TestFalseOffers(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	offer := offerOf(t, "disk.check", module.Read)
	reply := func(offer []byte) func() *fleetpb.Result {
		return func() *fleetpb.Result {
			b, _ := json.Marshal(session.OfferResult{Offer: offer})
			return &fleetpb.Result{Output: b}
		}
	}
	for _, test := range []struct {
		name   string
		digest []byte
		answer func() *fleetpb.Result
	}{
		{"another", offerDigest(offer), reply(offerOf(t, "disk.check", module.Destroy))},
		{"garbage", offerDigest([]byte("x")), reply([]byte("x"))},
		{"none", offerDigest([]byte("y")), reply(nil)},
		{"too large", offerDigest(make([]byte, module.MaxOffer+1)), reply(make([]byte, module.MaxOffer+1))},
		{"no json", offerDigest([]byte("z")), func() *fleetpb.Result { return &fleetpb.Result{Output: []byte("[")} }},
		{"an error", offerDigest([]byte("e")), func() *fleetpb.Result { return &fleetpb.Result{Code: uint32(call.Failed), Detail: "no"} }},
		{"silent", offerDigest([]byte("s")), func() *fleetpb.Result { return nil }},
	} {
		(&offering{answer: test.answer}).connect(t, f, "liar-"+strings.ReplaceAll(test.name, " ", "-"), test.digest)
	}
	// Names that come with agents, and words of administrative actions.
	for i, name := range []string{"test.ping", "command.run", "cert.sign", "token.create", "session.map", "node.set"} {
		b := offerOf(t, name, module.Destroy)
		(&offering{offer: b}).connect(t, f, fmt.Sprintf("claims-%d", i), offerDigest(b))
	}
	// One who does not answer for an offer that an honest machine has too.
	(&offering{answer: func() *fleetpb.Result { return nil }}).connect(t, f, "holds", offerDigest(offer))
	honest := &offering{offer: offer}
	honest.connect(t, f, "honest", offerDigest(offer))
	f.Until("the honest one is known", func() bool { return strings.HasPrefix(offered(t, f, "disk.check"), "1") })
	cat, err := f.Conn.Catalogue(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cat.Schemas {
		if s.Name == "test.ping" && s.Effect != module.Read {
			t.Errorf("test.ping is %s now", s.Effect)
		}
	}
	if len(cat.Offered) != 1 {
		t.Errorf("offered: %+v", cat.Offered)
	}
	if err := honest.tells(t, []byte("q")); call.CodeOf(err) != call.Invalid {
		t.Errorf("an offer that cannot be read: %v", err)
	}
}
