package minion

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/cluster"
	"dominion/confd"
	"dominion/minion/candidate"
	"dominion/pki"
	"dominion/session"
)

// snapshot is a version of cluster data of dc1, for web1.
type snapshot struct {
	args   session.ClusterArgs
	packed []byte
	pulls  atomic.Int64
}

// announced makes one whose data come in several pieces, and lets o serve them.
func announced(t *testing.T, f *fleet, o *overlord) *snapshot {
	t.Helper()
	machines := make([]cluster.Machine, 8000)
	for i := range machines {
		machines[i] = cluster.Machine{Name: fmt.Sprintf("node%d", i), Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()}
	}
	doc := must[*cluster.Document](t)(cluster.New("fleet.example.org", time.Now()).Apply(time.Now(), cluster.Sync(machines), cluster.SetMaster("node7")))
	s := &snapshot{packed: must[[]byte](t)(cluster.Pack(doc.Bytes()))}
	s.args.Key = []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n")
	h := cluster.Header{Cluster: doc.UUID(), Serial: doc.Serial(), Made: time.Now(), KeyDigest: cluster.KeyDigest(s.args.Key), Candidates: []string{"web1"}}
	h.SetData(doc.Bytes(), s.packed)
	s.args.Header = must[[]byte](t)(cluster.Sign(h, f.overlord.PrivateKey.(crypto.Signer), f.overlord.Leaf))
	o.serve = func(method string, args []byte) ([]byte, error) {
		var in session.ClusterDataArgs
		if method != session.MethodClusterData {
			return nil, call.Errorf(call.NotFound, "%s", method)
		}
		if err := json.Unmarshal(args, &in); err != nil || [sha256.Size]byte(in.Digest) != h.Digest {
			return nil, call.Errorf(call.Invalid, "%s", args)
		}
		s.pulls.Add(1)
		return json.Marshal(session.ClusterDataResult{Data: s.packed[in.Offset:min(in.Offset+session.MaxClusterPiece, int64(len(s.packed)))]})
	}
	return s
}

// announce sends a version, or asks with an empty one.
func (p *peer) announce(args session.ClusterArgs) (r session.ClusterResult, err error) {
	p.o.t.Helper()
	out, err := p.own(session.MethodCluster, must[[]byte](p.o.t)(json.Marshal(args)))
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	return r, err
}

// A candidate serves what it was sent from its start on, with no overlord anywhere
// and its own certificate, and that of the overlord, long over.
func TestServesWithoutOverlord(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f)
	s := announced(t, f, o)
	holds := make(chan bool, 8)
	o.hello = func(theirs, _ *fleetpb.Hello) { holds <- theirs.Cluster }
	o.open(newOffice(f))
	conn := must[net.PacketConn](t)(net.ListenPacket("udp", "127.0.0.1:0"))
	at := conn.LocalAddr().String()
	conn.Close()
	dir := filepath.Join(t.TempDir(), "s")
	cfg := Config{Name: "web1", State: dir, Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), Confd: Confd{Listen: at}}
	_, stop := start(t, cfg)
	p := o.peer()
	if r, err := p.announce(session.ClusterArgs{}); err != nil || r.Header != nil || r.Serving || r.Error != "" {
		t.Errorf("asked before anything came: %+v, %v", r, err)
	}
	r, err := p.announce(s.args)
	if err != nil || !r.Serving || r.Error != "" || r.Listen != at || s.pulls.Load() < 2 {
		t.Fatalf("announced: %+v, %v, pulled in %d pieces", r, err, s.pulls.Load())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if first := <-holds; first {
		t.Error("HELLO tells of data before there are any")
	}
	_, stop = start(t, cfg)
	o.peer()
	if !<-holds {
		t.Error("HELLO does not tell of the data")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	late := func() time.Time { return time.Now().Add(2 * pki.OverlordLife) }
	cfg.Now, cfg.Overlords = late, []string{"127.0.0.1:1"}
	start(t, cfg)
	until(t, "it answers", func() bool {
		c := must[*confd.Client](t)(confd.NewClient(confd.ClientConfig{Key: s.args.Key, Peers: []string{"127.0.0.1"}, Port: int(netip.MustParseAddrPort(at).Port()), Now: late}))
		defer c.Close()
		ask := confd.Master()
		q, err := c.Query(t.Context(), ask.Request)
		return err == nil && string(q.Reply.Answer) == `"node7"`
	})
}

// An overlord whose certificate is on the list announces nothing that is taken, and
// what was taken before stays.
func TestRevokedSignerAnnounces(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f)
	s := announced(t, f, o)
	o.open(newOffice(f))
	_, stop := start(t, Config{Name: "web1", State: filepath.Join(t.TempDir(), "s"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), Confd: Confd{Listen: "127.0.0.1:0"}})
	defer func() { _ = stop() }()
	p := o.peer()
	other := f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "elsewhere"})
	signed := func(by func(cluster.Header) ([]byte, error)) session.ClusterArgs {
		v := must[*cluster.Signed](t)(cluster.Verify(f.trust, s.args.Header, time.Now()))
		return session.ClusterArgs{Header: must[[]byte](t)(by(v.Header)), Key: s.args.Key}
	}
	r, err := p.announce(signed(func(h cluster.Header) ([]byte, error) {
		return cluster.Sign(h, other.PrivateKey.(crypto.Signer), other.Leaf)
	}))
	if err != nil || r.Header != nil || r.Error == "" {
		t.Errorf("signed by an overlord that this machine does not know: %+v, %v", r, err)
	}
	again := f.leaf(t, f.root, pki.Identity{Role: pki.Overlord, Name: "dc1"})
	list := must[[]byte](t)(pki.SignRevocations(f.root, pki.NewRevocations().Add(time.Now(), pki.Revoke(again.Leaf, "stolen")).Add(time.Now()).Add(time.Now())))
	if _, err := p.own(session.MethodRevocations, must[[]byte](t)(json.Marshal(session.RevocationsArgs{List: list}))); err != nil {
		t.Fatal(err)
	}
	r, err = p.announce(signed(func(h cluster.Header) ([]byte, error) {
		return cluster.Sign(h, again.PrivateKey.(crypto.Signer), again.Leaf)
	}))
	if err != nil || r.Header != nil || r.Error == "" {
		t.Errorf("signed with a certificate that was revoked: %+v, %v", r, err)
	}
	if r, err = p.announce(s.args); err != nil || !r.Serving {
		t.Errorf("signed with the good one: %+v, %v", r, err)
	}
}

func TestClusterArgsRefused(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f).listen()
	if _, err := attach(t, newAgent(t, f, nil), o).announce(session.ClusterArgs{}); call.CodeOf(err) != call.NotFound {
		t.Errorf("an agent without a replica: %v; want not found", err)
	}
	p := attach(t, newAgent(t, f, func(o *Options) { o.Replica = noReplica{} }), o)
	if _, err := p.own(session.MethodCluster, []byte("noise")); call.CodeOf(err) != call.Invalid {
		t.Errorf("noise: %v; want invalid", err)
	}
}

// noReplica takes nothing.
type noReplica struct{}

func (noReplica) Holds() bool { return false }
func (noReplica) Take(context.Context, session.ClusterArgs, candidate.Pull) session.ClusterResult {
	return session.ClusterResult{}
}

func TestConfdAddress(t *testing.T) {
	for _, tt := range []struct{ listen, want string }{
		{"", ":1814"}, {"off", "off"}, {"192.0.2.1", "192.0.2.1:1814"}, {":99", ":99"}, {"[::1]:7", "[::1]:7"}, {"::1", "[::1]:1814"},
	} {
		if got, err := (Confd{Listen: tt.listen}).Address(); err != nil || got != tt.want {
			t.Errorf("Address of %q = %q, %v; want %q", tt.listen, got, err, tt.want)
		}
	}
}
