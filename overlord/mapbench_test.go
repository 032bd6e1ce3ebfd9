package overlord

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/client"
	"dominion/pki"
	"dominion/session"
)

// branchOf is the agent of a sub-overlord with so many machines.
type branchOf struct{ answer []byte }

func newBranch(name string, machines int) *branchOf {
	var r session.MapResult
	for i := range machines {
		r.Machines = append(r.Machines, session.MapMachine{
			Name: fmt.Sprintf("%s-%03d", name, i), Fingerprint: "sha256:" + fmt.Sprintf("%064x", i), Alive: true,
		})
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // of strings
	}
	return &branchOf{b}
}

func (b *branchOf) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	out := []byte("{}")
	if c.Method == session.MethodMap {
		out = b.answer
	}
	_ = s.Reply(id, &fleetpb.Result{Output: out}) // small: it does not wait
}
func (b *branchOf) Cancel(*session.Session, uint64)            {}
func (b *branchOf) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (b *branchOf) Open(*session.Session, *session.Stream)     {}
func (b *branchOf) Closed(*session.Session, error)             {}

// connect gives top a session with a sub-overlord of that name.
func (b *branchOf) connect(t testing.TB, top *Overlord, address, name string) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := top.keys.root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: name}, PublicKey: key.Public()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	top.fleet.enrolledSub(name)
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	conn, err := session.Dial(t.Context(), address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return cert, nil }, Verify: func(tls.ConnectionState) error { return nil },
	}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.New(conn, &session.Options{Handler: b})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- s.Serve(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		s.Close(call.OK, "the test ends")
		<-over
	})
}

// A map by way of real sessions: the top and its sub-overlords, each with 50
// machines, in one process.
func BenchmarkBuildMap(b *testing.B) {
	for _, subs := range []int{100, 1000} {
		b.Run(fmt.Sprint(subs), func(b *testing.B) {
			top := started(b, Config{Name: "top"})
			address := top.address(b)
			for i := range subs {
				name := fmt.Sprintf("sub%04d", i)
				newBranch(name, 50).connect(b, top, address, name)
			}
			await(b, "all are connected", func() bool { _, up := top.fleet.count(); return up == subs })
			conn, err := client.Dial(b.Context(), client.Endpoint{State: top.dir.Path()})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			for b.Loop() {
				m, err := conn.BuildMap(b.Context(), client.MapOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if n := m.Count(); n.Machines != 51*subs || n.Overlords != subs {
					b.Fatalf("the map is %+v", n)
				}
			}
		})
	}
}
