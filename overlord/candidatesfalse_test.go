package overlord_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/cluster"
	"dominion/fleettest"
	"dominion/pki"
	"dominion/session"
)

// falseCandidate is a machine that answers announcements of cluster data as the test says.
type falseCandidate struct {
	session *session.Session
	answer  func(in session.ClusterArgs) *fleetpb.Result // nil: none

	mu    sync.Mutex
	heard []session.ClusterArgs
}

func (l *falseCandidate) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	if c.Method != session.MethodCluster {
		_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
		return
	}
	var in session.ClusterArgs
	if err := json.Unmarshal(c.Args, &in); err != nil {
		return
	}
	l.mu.Lock()
	l.heard = append(l.heard, in)
	l.mu.Unlock()
	r := l.answer(in)
	if r != nil {
		go s.Reply(id, r) // an answer may be large, and waits for the reader then
	}
}
func (l *falseCandidate) Cancel(*session.Session, uint64)            {}
func (l *falseCandidate) Ack(*session.Session, uint64, *fleetpb.Ack) {}
func (l *falseCandidate) Open(*session.Session, *session.Stream)     {}
func (l *falseCandidate) Closed(*session.Session, error)             {}

// told gives the announcements that came.
func (l *falseCandidate) told() []session.ClusterArgs {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// connect gives the liar a session under a name.
func (l *falseCandidate) connect(t *testing.T, f *fleettest.Fleet, name string, holds bool) {
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
	l.session, err = session.New(conn, &session.Options{
		Handler: l, Ready: func(*session.Session) { close(ready) },
		Hello: func(*session.Session, *fleetpb.Hello) (*fleetpb.Hello, error) {
			return &fleetpb.Hello{Cluster: holds}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- l.session.Serve(t.Context()) }()
	t.Cleanup(func() { l.session.Close(call.OK, "the test ends"); <-over })
	select {
	case <-ready:
	case <-time.After(fleettest.Patience):
		t.Fatal("no session")
	}
}

// says answers with a JSON document.
func says(r session.ClusterResult) func(session.ClusterArgs) *fleetpb.Result {
	return func(session.ClusterArgs) *fleetpb.Result {
		b, _ := json.Marshal(r)
		return &fleetpb.Result{Output: b}
	}
}

// raised signs the header that came, with another serial, with a key and a
// certificate.
func raised(t *testing.T, f *fleettest.Fleet, in session.ClusterArgs, serial uint64, sign func(cluster.Header) ([]byte, error)) *fleetpb.Result {
	trust, err := pki.NewTrust(authority(t, f, "root").Cert)
	if err != nil {
		t.Error(err)
		return nil
	}
	s, err := cluster.Verify(trust, in.Header, time.Now())
	if err != nil {
		t.Error(err)
		return nil
	}
	h := s.Header
	h.Serial = serial
	b, err := sign(h)
	if err != nil {
		t.Error(err)
		return nil
	}
	return says(session.ClusterResult{Header: b, Error: "no", Serving: true})(in)
}

// tlsCert is the overlord's own certificate, read as a thief would.
func tlsCert(t *testing.T, f *fleettest.Fleet) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.State, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// Whatever a candidate says, the others serve what is in force, and only what this
// overlord signed makes it raise its serial.
func TestLyingCandidate(t *testing.T) {
	t.Parallel()
	f := candidatesOf(t, 2)
	key, cert := keyOf(t, f, "tls.key"), tlsCert(t, f)
	root, issuing := authority(t, f, "root"), authority(t, f, "issuing")
	own := mint(t, issuing, root, "dominion://minion/m09")
	other := mint(t, root, root, "dominion://overlord/dc1")
	by := func(c tls.Certificate) func(h cluster.Header) ([]byte, error) {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return func(h cluster.Header) ([]byte, error) { return cluster.Sign(h, c.PrivateKey.(crypto.Signer), leaf) }
	}
	const far = cluster.MaxSerial/2 + 1
	for i, tt := range []struct {
		name          string
		answer        func(in session.ClusterArgs) *fleetpb.Result
		state, reason string
		raise         uint64 // the serial is above it afterwards
	}{
		{"nothing", says(session.ClusterResult{}), "behind", "", 0},
		{"that it serves, without a header", says(session.ClusterResult{Serving: true, Listen: "192.0.2.1:1814"}), "behind", "", 0},
		{"noise", func(session.ClusterArgs) *fleetpb.Result { return &fleetpb.Result{Output: []byte("noise")} }, "refuses", "invalid character", 0},
		{"a header of noise", says(session.ClusterResult{Header: []byte("noise")}), "refuses", "it shows a header that does not hold", 0},
		{"a long text", says(session.ClusterResult{Error: strings.Repeat("long ", 500_000)}), "refuses", "long long", 0},
		{"that its agent is old", func(session.ClusterArgs) *fleetpb.Result {
			return &fleetpb.Result{Code: uint32(call.NotFound), Detail: "no method"}
		}, "refuses", "a newer one is needed", 0},
		{"a header that it signed itself", func(in session.ClusterArgs) *fleetpb.Result {
			return raised(t, f, in, 1000, by(own))
		}, "refuses", "it shows a header that does not hold", 0},
		{"a header of another overlord", func(in session.ClusterArgs) *fleetpb.Result {
			return raised(t, f, in, 1000, by(other))
		}, "refuses", "no", 0},
		{"a serial at the end of all", func(in session.ClusterArgs) *fleetpb.Result {
			return raised(t, f, in, far, func(h cluster.Header) ([]byte, error) { return cluster.Sign(h, key, cert) })
		}, "refuses", "no version is made above that", 0},
		{"a higher serial that this overlord signed", func(in session.ClusterArgs) *fleetpb.Result {
			return raised(t, f, in, 5000, func(h cluster.Header) ([]byte, error) { return cluster.Sign(h, key, cert) })
		}, "refuses", "no", 5000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.T = t
			name := machineName(10 + i)
			l := &falseCandidate{answer: tt.answer}
			l.connect(t, f, name, i%2 == 0)
			f.Await(3)
			before := clusterOf(t, f).Serial
			f.Until("the liar is a node", func() bool {
				for _, n := range clusterOf(t, f).Nodes {
					if n.Name == name {
						return true
					}
				}
				return false
			})
			addCandidate(t, f, name)
			f.Until("it was told with the key", func() bool {
				for _, in := range l.told() {
					if len(in.Key) > 0 {
						return true
					}
				}
				return false
			})
			c := state(t, f, name, tt.state, tt.reason)
			if len(c.Reason) > 1000 {
				t.Errorf("a reason of %d bytes", len(c.Reason))
			}
			if tt.raise > 0 {
				f.Until("the serial is raised", func() bool { return clusterOf(t, f).Serial > tt.raise })
			} else if s := clusterOf(t, f).Serial; s > before+20 {
				t.Errorf("serial %d, before %d", s, before)
			}
			setMaster(t, f, machineName(i%2))
			current(t, f, 2)
			l.session.Close(call.OK, "done")
			f.Await(2)
			removeCandidate(t, f, name)
		})
	}
}

// A candidate that never answers holds up nobody.
func TestSilentCandidate(t *testing.T) {
	f := candidatesOf(t, 2)
	l := &falseCandidate{answer: func(session.ClusterArgs) *fleetpb.Result { return nil }}
	l.connect(t, f, "m09", false)
	f.Await(3)
	addCandidate(t, f, "m09")
	setMaster(t, f, "m02")
	current(t, f, 2)
	if c := candidateOf(t, f, "m09"); c.State != "behind" {
		t.Errorf("state %q; want behind", c.State)
	}
}

// Who pulls what.
func TestPull(t *testing.T) {
	f := candidatesOf(t, 1)
	l := &falseCandidate{answer: says(session.ClusterResult{})}
	l.connect(t, f, "m09", false)
	f.Await(2)
	pull := func(digest []byte, offset int64) (int, error) {
		args, err := json.Marshal(session.ClusterDataArgs{Digest: digest, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.session.Call(t.Context(), session.MethodClusterData, args)
		var r session.ClusterDataResult
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		return len(r.Data), err
	}
	want := func(what string, err error, code call.Code) {
		t.Helper()
		if call.CodeOf(err) != code {
			t.Errorf("%s: %v; want code %v", what, err, code)
		}
	}
	_, err := pull(make([]byte, 32), 0)
	want("a machine that is no candidate", err, call.Denied)
	if len(l.told()) > 0 {
		t.Error("a machine that is no candidate and holds nothing was told of the data")
	}
	addCandidate(t, f, "m09")
	f.Until("it is told", func() bool { return len(l.told()) > 0 })
	trust, err := pki.NewTrust(authority(t, f, "root").Cert)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cluster.Verify(trust, l.told()[0].Header, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := pull(s.Digest[:], 1); err != nil || int64(n) != s.Packed-1 {
		t.Errorf("the data from the second byte on: %d bytes, %v; want %d", n, err, s.Packed-1)
	}
	_, err = pull(make([]byte, 32), 0)
	want("other data", err, call.NotFound)
	_, err = pull(nil, 0)
	want("no digest", err, call.NotFound)
	for _, offset := range []int64{-1, s.Packed, 1 << 62} {
		_, err = pull(s.Digest[:], offset)
		want("an offset outside", err, call.Invalid)
	}
	_, err = l.session.Call(t.Context(), session.MethodClusterData, []byte("noise"))
	want("noise", err, call.Invalid)
	busy := false
	for range 6 {
		_, err := pull(s.Digest[:], 0)
		busy = busy || call.CodeOf(err) == call.Busy
	}
	if !busy {
		t.Error("nobody stops a machine that pulls again and again")
	}
	// A new version may be pulled at once.
	setMaster(t, f, "m09")
	f.Until("it is told of another", func() bool {
		told := l.told()
		if s, err = cluster.Verify(trust, told[len(told)-1].Header, time.Now()); err != nil {
			t.Fatal(err)
		}
		return s.Serial == clusterOf(t, f).Serial
	})
	if _, err := pull(s.Digest[:], 0); err != nil {
		t.Errorf("a new version: %v", err)
	}
}
