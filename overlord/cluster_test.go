package overlord

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/cluster"
	"dominion/fleettest/smalldisk"
	"dominion/policy"
	"dominion/store"
)

// Every change is one version, one higher, signed, on the log with the digest of
// what was signed, and there after a restart. The key is nowhere but in its table.
func TestClusterVersions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	l := openAt(t, dir)
	l.enrol("web1", "web2")
	start := l.keep.logSize()
	if v := l.clusterNow(); v != nil {
		t.Fatalf("a fresh overlord has version %d", v.serial)
	}
	steps := []func() uint64{
		func() uint64 { return l.candidate(t, "web1") },
		func() uint64 { return done(t, l.api.SetMaster, &apipb.ClusterSetMasterRequest{Node: "web1"}) },
		func() uint64 {
			return done(t, l.api.SetNode, &apipb.ClusterSetNodeRequest{Node: "web2", Role: new("drained")})
		},
		func() uint64 {
			return done(t, l.api.AddInstance, &apipb.ClusterInstanceRequest{Name: "www", Primary: new("web2"), SetNics: true, Nics: []*apipb.ClusterNIC{{Ip: "203.0.113.1"}}})
		},
		func() uint64 {
			return done(t, l.api.SetInstance, &apipb.ClusterInstanceRequest{Name: "www", State: new("down")})
		},
		func() uint64 {
			return done(t, l.api.RemoveInstance, &apipb.ClusterRemoveInstanceRequest{Name: "www"})
		},
		func() uint64 { return done(t, l.api.RotateKey, &apipb.ClusterRotateKeyRequest{}) },
	}
	for i, step := range steps {
		if n := step(); n != uint64(i+1) || l.clusterNow().serial != n {
			t.Fatalf("step %d: serial %d, and %d is in force", i, n, l.clusterNow().serial)
		}
		h := l.verified(t)
		all := l.records(t, start)
		last := all[len(all)-1]
		if len(all) != i+1 || last.Actor != "local/root" || !bytes.Equal(last.Digest, h.Digest[:]) || !strings.HasPrefix(last.Detail, fmt.Sprintf("serial %d: ", i+1)) {
			t.Errorf("step %d: %d records, the last is %v", i, len(all), last)
		}
	}
	if again := done(t, l.api.SetMaster, &apipb.ClusterSetMasterRequest{Node: "web1"}); again != 7 || l.keep.logSize() != start+7 {
		t.Errorf("nothing to change: serial %d, %d records", again, l.keep.logSize()-start)
	}
	before := l.clusterNow()
	shown, err := l.api.ShowKey(root(t), connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
	if err != nil || !bytes.Equal(shown.Msg.Key, before.key) || len(before.key) != 65 || before.key[64] != '\n' {
		t.Fatalf("key %q, %v", before.key, err)
	}
	exported, err := l.api.Export(root(t), connect.NewRequest(&apipb.ClusterExportRequest{}))
	if err != nil || !bytes.Equal(exported.Msg.Data, before.data) {
		t.Fatalf("export: %v", err)
	}
	secret := string(before.key[:64])
	for _, r := range l.records(t, 0) {
		if strings.Contains(r.String(), secret) {
			t.Errorf("the key is on the log: %v", r)
		}
	}
	if strings.Contains(l.log.String(), secret) || strings.Contains(string(before.doc.Bytes()), secret) {
		t.Error("the key is in the overlord's log, or in the document")
	}
	if r := l.records(t, start+7); len(r) != 2 || r[0].Action != "cluster.key.show" || r[1].Action != "cluster.export" {
		t.Errorf("records of what was shown: %v", r)
	}
	l.shut(t)
	l = openAt(t, dir)
	defer l.shut(t)
	after := l.clusterNow()
	if after == nil || !bytes.Equal(after.header, before.header) || !bytes.Equal(after.data, before.data) || !bytes.Equal(after.key, before.key) || !slices.Equal(after.candidates, before.candidates) {
		t.Errorf("after a restart %+v; before %+v", after, before)
	}
	if report, err := l.keep.db.Verify(t.Context(), nil, nil); err != nil || report.Problem != nil {
		t.Errorf("verify: %v, %v", report, err)
	}
}

// The inventory makes no cluster, and no version when nothing changed.
func TestClusterSync(t *testing.T) {
	l := newLedger(t, "web1")
	l.cluster.sync(t.Context())
	if l.clusterNow() != nil {
		t.Fatal("nobody asked for a cluster, and there is one")
	}
	l.candidate(t, "web1")
	v := l.clusterNow()
	l.cluster.sync(t.Context())
	if l.clusterNow() != v {
		t.Error("nothing changed, and there is a version")
	}
	l.enrol("web1", "web2", "web3")
	l.fleet.enrolled("web4") // never connected: it has no address
	l.cluster.sync(t.Context())
	if n := len(l.clusterNow().doc.Nodes()); n != 3 || l.verified(t).Serial != 2 {
		t.Errorf("%d nodes in version %d", n, l.clusterNow().serial)
	}
	done(t, l.api.SetMaster, &apipb.ClusterSetMasterRequest{Node: "web2"})
	for _, m := range []string{"web1", "web2"} {
		l.fleet.forget(m)
	}
	l.cluster.sync(t.Context())
	if d := l.clusterNow().doc; len(d.Nodes()) != 2 || d.Master() != "web2" || !slices.Equal(l.clusterNow().candidates, []string{"web2"}) {
		t.Errorf("nodes %v, candidates %v", d.Nodes(), l.clusterNow().candidates)
	}
}

// What changes within a second of the first change is one version.
func TestClusterSyncGathers(t *testing.T) {
	l := newLedger(t, "web1")
	l.candidate(t, "web1")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.cluster.run(ctx) }()
	defer func() { stop(); <-done }()
	l.enrol("web1", "web2")
	l.cluster.look()
	for i := range 20 {
		l.enrol("web1", "web2", fmt.Sprintf("more%d", i))
		l.cluster.look()
	}
	await(t, "all are nodes", func() bool { return len(l.clusterNow().doc.Nodes()) == 22 })
	if n := l.clusterNow().serial; n != 2 {
		t.Errorf("serial %d", n)
	}
}

// Only the newest versions are kept.
func TestClusterVersionsKept(t *testing.T) {
	l := newLedger(t, "web1")
	l.candidate(t, "web1")
	for range store.KeptVersions + 3 {
		done(t, l.api.RotateKey, &apipb.ClusterRotateKeyRequest{})
	}
	if n := l.count(t, "SELECT count(*) FROM cluster_versions"); n != store.KeptVersions {
		t.Errorf("%d versions are kept; want %d", n, store.KeptVersions)
	}
}

// Each method has its own permission, and what is denied is on the log and changes
// nothing. A line that allows everything allows the key to nobody.
func TestClusterPermissions(t *testing.T) {
	l := newLedger(t, "web1")
	l.candidate(t, "web1")
	calls := map[string]func(context.Context) error{
		"cluster.set master": func(ctx context.Context) error {
			_, err := l.api.SetMaster(ctx, connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: "web1"}))
			return err
		},
		"cluster.set candidates": func(ctx context.Context) error {
			_, err := l.api.SetCandidates(ctx, connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: []string{"web1"}}))
			return err
		},
		"cluster.set node": func(ctx context.Context) error {
			_, err := l.api.SetNode(ctx, connect.NewRequest(&apipb.ClusterSetNodeRequest{Node: "web1", Primary: new("auto")}))
			return err
		},
		"cluster.set node removed": func(ctx context.Context) error {
			_, err := l.api.RemoveNode(ctx, connect.NewRequest(&apipb.ClusterRemoveNodeRequest{Node: "nobody"}))
			return err
		},
		"cluster.set instance added": func(ctx context.Context) error {
			_, err := l.api.AddInstance(ctx, connect.NewRequest(&apipb.ClusterInstanceRequest{Name: "i", Primary: new("web1")}))
			return err
		},
		"cluster.set instance": func(ctx context.Context) error {
			_, err := l.api.SetInstance(ctx, connect.NewRequest(&apipb.ClusterInstanceRequest{Name: "i"}))
			return err
		},
		"cluster.set instance removed": func(ctx context.Context) error {
			_, err := l.api.RemoveInstance(ctx, connect.NewRequest(&apipb.ClusterRemoveInstanceRequest{Name: "i"}))
			return err
		},
		"cluster.import": func(ctx context.Context) error {
			_, err := l.api.Import(ctx, connect.NewRequest(&apipb.ClusterImportRequest{}))
			return err
		},
		"cluster.export": func(ctx context.Context) error {
			_, err := l.api.Export(ctx, connect.NewRequest(&apipb.ClusterExportRequest{}))
			return err
		},
		"cluster.key.show": func(ctx context.Context) error {
			_, err := l.api.ShowKey(ctx, connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
			return err
		},
		"cluster.key.rotate": func(ctx context.Context) error {
			_, err := l.api.RotateKey(ctx, connect.NewRequest(&apipb.ClusterRotateKeyRequest{}))
			return err
		},
	}
	p, err := policy.Parse([]byte(`
- {operators: "all", methods: "*", targets: "*"}
- {operators: "cluster", methods: "cluster.*", targets: "*"}
- {operators: "keys", methods: "cluster.key.*", targets: "*"}
- {operators: "some", methods: "cluster.*", targets: "web1"}
`))
	if err != nil {
		t.Fatal(err)
	}
	l.policy.Store(p)
	for name, f := range calls {
		method, _, _ := strings.Cut(name, " ")
		for operator, allowed := range map[string]bool{
			"all": !strings.Contains(method, ".key."), "cluster": !strings.Contains(method, ".key."), "keys": strings.Contains(method, ".key."),
			"some": false, "eve": false, localOperator: true,
		} {
			before, version := l.keep.logSize(), l.clusterNow()
			err := f(as(t.Context(), operator))
			if denied := call.CodeOf(err) == call.Denied; denied == allowed {
				t.Errorf("%s by %s: %v", name, operator, err)
			}
			if allowed {
				continue
			}
			r := l.records(t, before)
			if len(r) != 1 || r[0].Action != "denied" || !strings.Contains(r[0].String(), method) || l.clusterNow() != version {
				t.Errorf("%s by %s: records %v, version %p after %p", name, operator, r, l.clusterNow(), version)
			}
		}
	}
	// An import brings a key only for who may change it.
	_, err = l.api.Import(as(t.Context(), "all"), connect.NewRequest(&apipb.ClusterImportRequest{Key: []byte("k")}))
	if call.CodeOf(err) != call.Denied {
		t.Errorf("an import with a key: %v", err)
	}
}

// A candidate that proves a higher serial is followed by a version above it, once.
func TestClusterRaise(t *testing.T) {
	l := newLedger(t, "web1")
	if err := l.clusterRaise(t.Context(), 7, "nothing"); err != nil || l.clusterNow() != nil {
		t.Fatalf("without a cluster: %v", err)
	}
	l.candidate(t, "web1")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := l.clusterRaise(t.Context(), 41, "web1 shows version 41"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if h := l.verified(t); h.Serial != 42 {
		t.Errorf("serial %d above 41", h.Serial)
	}
	r := l.records(t, l.keep.logSize()-1)
	if r[0].Action != "cluster.raise" || r[0].Actor != "overlord/overlord" || r[0].Detail != "serial 42: above 41: web1 shows version 41" {
		t.Errorf("record %v", r[0])
	}
	if err := l.clusterRaise(t.Context(), 41, "again"); err != nil || l.clusterNow().serial != 42 {
		t.Errorf("again: %v, serial %d", err, l.clusterNow().serial)
	}
	if err := l.clusterRaise(t.Context(), cluster.MaxSerial, "no more"); err == nil || l.clusterNow().serial != 42 {
		t.Errorf("beyond all serials: %v", err)
	}
}

// Changes at the same time are one after the other, and none is lost.
func TestClusterChangesAtOnce(t *testing.T) {
	l := newLedger(t, "web1")
	l.candidate(t, "web1")
	const n = 12
	var all sync.WaitGroup
	serials := make(chan uint64, n)
	for i := range n {
		all.Go(func() {
			out, err := l.api.AddInstance(root(t), connect.NewRequest(&apipb.ClusterInstanceRequest{Name: fmt.Sprintf("i%d", i), Primary: new("web1")}))
			if err != nil {
				t.Error(err)
				return
			}
			serials <- out.Msg.Serial
		})
	}
	all.Wait()
	close(serials)
	seen := make(map[uint64]bool)
	for s := range serials {
		seen[s] = true
	}
	if i, _ := l.clusterNow().doc.Count(); i != n || len(seen) != n || l.verified(t).Serial != n+1 {
		t.Errorf("%d instances, %d serials, serial %d", i, len(seen), l.clusterNow().serial)
	}
}

// A full disk changes nothing, and says so; afterwards it goes on.
func TestClusterOnFullDisk(t *testing.T) {
	dir := smalldisk.New(t, "4m")
	l := openAt(t, filepath.Join(dir, "state"))
	defer func() { l.shut(t) }()
	l.enrol("web1")
	l.candidate(t, "web1")
	before := l.clusterNow()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	var failed error
	for range 1000 { // the log of the database has some room left in it
		if _, failed = l.api.RotateKey(root(t), connect.NewRequest(&apipb.ClusterRotateKeyRequest{})); failed != nil {
			break
		}
		before = l.clusterNow()
	}
	if call.CodeOf(failed) != call.Unavailable || !strings.Contains(failed.Error(), "is full") || l.clusterNow() != before {
		t.Fatalf("on a full disk: %v", failed)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if n := done(t, l.api.RotateKey, &apipb.ClusterRotateKeyRequest{}); n != before.serial+1 {
		t.Errorf("serial %d after %d", n, before.serial)
	}
}

// With a fresh certificate the same version is signed again, so that candidates
// that come later find a signer that is valid.
func TestClusterSignedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	l := openAt(t, dir)
	l.enrol("web1")
	l.candidate(t, "web1")
	before := l.verified(t)
	l.cluster.renewed(t.Context())
	if h := l.verified(t); h.Leaf.SerialNumber.Cmp(before.Leaf.SerialNumber) != 0 {
		t.Error("signed again without need")
	}
	for _, f := range []string{fileTLSKey, fileTLSCert} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.keys.renew(time.Now()); err != nil {
		t.Fatal(err)
	}
	size := l.keep.logSize()
	l.cluster.renewed(t.Context())
	after := l.verified(t)
	if !after.Same(&before.Header) || !sameCert(after.Leaf, l.keys.server.Load().Leaf) || sameCert(after.Leaf, before.Leaf) || l.keep.logSize() != size {
		t.Errorf("signed again: %+v; before %+v", after, before)
	}
	header := l.clusterNow().header
	l.shut(t)
	l = openAt(t, dir)
	defer l.shut(t)
	if !bytes.Equal(l.clusterNow().header, header) {
		t.Error("the fresh signature is not stored")
	}
}

func sameCert(a, b *x509.Certificate) bool { return sha256.Sum256(a.Raw) == sha256.Sum256(b.Raw) }

// Who leaves while another change is made waits no longer, and shows are not
// delayed by it.
func TestClusterChangeThatWaits(t *testing.T) {
	l := newLedger(t, "web1")
	l.candidate(t, "web1")
	if err := l.cluster.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(root(t))
	leave()
	if _, err := l.api.RotateKey(ctx, connect.NewRequest(&apipb.ClusterRotateKeyRequest{})); err == nil {
		t.Error("a change was made while another is")
	}
	l.cluster.renewed(ctx)
	if out, err := l.api.Show(root(t), connect.NewRequest(&apipb.ClusterShowRequest{})); err != nil || out.Msg.Serial != 1 {
		t.Errorf("show: %v, %v", out, err)
	}
	l.cluster.give()
	if n := done(t, l.api.RotateKey, &apipb.ClusterRotateKeyRequest{}); n != 2 {
		t.Errorf("serial %d", n)
	}
}
