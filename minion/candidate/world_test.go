package candidate_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"dominion/call"
	"dominion/cluster"
	"dominion/confd"
	"dominion/minion/candidate"
	"dominion/pki"
	"dominion/session"
)

// The keys of the worlds below: as an overlord makes them.
var (
	keyOne = []byte(hex.EncodeToString(make([]byte, 32)) + "\n")
	keyTwo = []byte(hex.EncodeToString(append(make([]byte, 31), 1)) + "\n")
)

// world is an overlord with cluster data, without the overlord: what it signs, and
// what can be pulled from it.
type world struct {
	t     testing.TB
	now   time.Time
	root  *pki.Authority
	trust *pki.Trust
	key   *ecdsa.PrivateKey // of every leaf
	leafs map[string]*x509.Certificate
	first *cluster.Document
	data  map[[sha256.Size]byte][]byte // compressed, by digest
	pulls int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: time.Now(), leafs: make(map[string]*x509.Certificate), data: make(map[[sha256.Size]byte][]byte)}
	var err error
	if w.root, err = pki.NewRoot(w.now); err == nil {
		if w.trust, err = pki.NewTrust(w.root.Cert); err == nil {
			w.key, err = pki.NewKey()
		}
	}
	w.must(err)
	w.first, err = cluster.New("cluster.example.org", w.now).Apply(w.now, cluster.Sync([]cluster.Machine{
		{Name: "n1", Address: "192.0.2.1"}, {Name: "n2", Address: "192.0.2.2"},
	}), cluster.SetMaster("n1"))
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// leaf is the certificate of an overlord.
func (w *world) leaf(name string) *x509.Certificate {
	w.t.Helper()
	if w.leafs[name] == nil {
		c, err := w.root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: name}, PublicKey: w.key.Public()}, w.now)
		w.must(err)
		w.leafs[name] = c
	}
	return w.leafs[name]
}

// version is one to be announced; its fields may be changed before it is signed.
type version struct {
	cluster.Header
	signer string
	key    []byte
	w      *world
}

// version is the world's document with that serial, n1 being the master of odd ones
// and n2 of even ones, for the machine c1.
func (w *world) version(serial uint64) *version {
	w.t.Helper()
	changes := []cluster.Change{cluster.SetMaster([]string{"n2", "n1"}[serial%2])}
	if serial > w.first.Serial()+1 {
		changes = append(changes, cluster.Raise(serial-1))
	}
	// A change that is none at first would give no version.
	changes = append(changes, cluster.AddCandidates("n1", "n2"))
	d, err := w.first.Apply(w.now, changes...)
	w.must(err)
	if d.Serial() != serial {
		w.t.Fatalf("the document has the serial %d; want %d", d.Serial(), serial)
	}
	return w.of(d.Bytes(), serial, d.UUID())
}

// of is a version with any bytes as its document.
func (w *world) of(document []byte, serial uint64, uuid string) *version {
	w.t.Helper()
	packed, err := cluster.Pack(document)
	w.must(err)
	v := &version{w: w, signer: "main", key: keyOne}
	v.Header = cluster.Header{Cluster: uuid, Serial: serial, Made: w.now, KeyDigest: cluster.KeyDigest(keyOne), Candidates: []string{"c1", "n1"}}
	v.SetData(document, packed)
	w.data[v.Digest] = packed
	return v
}

func (v *version) change(f func(*version)) *version { f(v); return v }

// args is how the version is announced.
func (v *version) args() session.ClusterArgs {
	v.w.t.Helper()
	h, err := cluster.Sign(v.Header, v.w.key, v.w.leaf(v.signer))
	v.w.must(err)
	return session.ClusterArgs{Header: h, Key: v.key}
}

// pull is the honest overlord's.
func (w *world) pull(_ context.Context, digest []byte, offset int64) ([]byte, error) {
	w.pulls++
	b := w.data[[sha256.Size]byte(digest)]
	if b == nil || offset >= int64(len(b)) {
		return nil, errors.New("no such data")
	}
	return b[offset:min(offset+session.MaxClusterPiece, int64(len(b)))], nil
}

// machine is a candidate with its state directory, and Run.
type machine struct {
	*candidate.Candidate
	w    *world
	dir  *pki.Dir
	opt  candidate.Options
	stop func()
}

// machine starts the candidate c1 on a fresh state directory.
func (w *world) machine() *machine {
	w.t.Helper()
	dir, err := pki.OpenDir(filepath.Join(w.t.TempDir(), "state"))
	w.must(err)
	w.t.Cleanup(func() { dir.Close() })
	m := &machine{w: w, dir: dir, opt: candidate.Options{
		Name: "c1", Dir: dir, Trust: w.trust, Listen: "127.0.0.1:0",
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Admit: func(id pki.Identity, _ *x509.Certificate) error {
			if id.Name == "stranger" {
				return call.Errorf(call.Denied, "this machine is not enrolled with %s", id)
			}
			return nil
		},
	}}
	m.start()
	w.t.Cleanup(func() { m.stop() })
	return m
}

func (m *machine) start() {
	m.Candidate = candidate.Open(m.opt)
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.w.t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	m.stop = func() { cancel(); <-done }
	until(m.w.t, "it runs", m.Running)
}

// restart is what a restart of the agent does.
func (m *machine) restart() {
	m.stop()
	m.start()
}

// announce has the machine take a version from an honest overlord.
func (m *machine) announce(v *version) session.ClusterResult {
	m.w.t.Helper()
	return m.Take(m.w.t.Context(), v.args(), m.w.pull)
}

// good announces what must be taken.
func (m *machine) good(v *version) {
	m.w.t.Helper()
	r := m.announce(v)
	if r.Error != "" || !r.Serving || m.serial(r) != v.Serial {
		m.w.t.Fatalf("serial %d announced: %s", v.Serial, m.show(r))
	}
}

// asked is what the machine answers to an overlord that only asks, once it has
// opened its socket or failed to.
func (m *machine) asked() session.ClusterResult {
	return m.Take(m.w.t.Context(), session.ClusterArgs{}, nil)
}

// serial is that of the header in an answer; 0: there is none.
func (m *machine) serial(r session.ClusterResult) uint64 {
	m.w.t.Helper()
	if r.Header == nil {
		return 0
	}
	s, err := cluster.Verify(m.w.trust, r.Header, time.Time{})
	m.w.must(err)
	return s.Serial
}

func (m *machine) show(r session.ClusterResult) string {
	return fmt.Sprintf("serial %d, serving %v at %q, error %q", m.serial(r), r.Serving, r.Listen, r.Error)
}

// query asks the machine for the master over UDP.
func (m *machine) query(key []byte, timeout time.Duration) (confd.Result, error) {
	m.w.t.Helper()
	at, err := netip.ParseAddrPort(m.asked().Listen)
	if err != nil {
		return confd.Result{}, err
	}
	c, err := confd.NewClient(confd.ClientConfig{Key: key, Peers: []string{at.Addr().String()}, Port: int(at.Port()), Now: m.opt.Now})
	m.w.must(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(m.w.t.Context(), timeout)
	defer cancel()
	ask := confd.Master()
	return c.Query(ctx, ask.Request)
}

// serves checks that queries are answered from that serial.
func (m *machine) serves(serial uint64) {
	m.w.t.Helper()
	q, err := m.query(keyOne, 5*time.Second)
	r := q.Reply
	if want := strconv.Quote([]string{"n2", "n1"}[serial%2]); err != nil || r.Status != confd.StatusOK || string(r.Answer) != want || r.Serial != int64(serial) {
		m.w.t.Errorf("the master by confd: %s, serial %d, status %v, error %v; want %s with serial %d", r.Answer, r.Serial, r.Status, err, want, serial)
	}
}

// files are the names in the folder of cluster data.
func (m *machine) files() []string {
	m.w.t.Helper()
	names, err := m.dir.List("cluster")
	m.w.must(err)
	return names
}
