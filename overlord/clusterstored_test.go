package overlord

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/cluster"
)

// sqlOf opens the database of an overlord.
func sqlOf(t testing.TB, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, fileStore))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func labData(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../confd/testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (l *ledger) load(t testing.TB, r *apipb.ClusterImportRequest) (*apipb.ClusterChanged, error) {
	t.Helper()
	out, err := l.api.Import(root(t), connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	return out.Msg, nil
}

// Stored data that are not what was signed are not used: everything else works,
// commands say why, and another file mends it with a serial above.
func TestClusterStoredDataChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"the document":                           "UPDATE cluster_versions SET data = x'1f8b' WHERE serial = 2",
		"the header":                             "UPDATE cluster_versions SET header = x'00' WHERE serial = 2",
		"the serial":                             "UPDATE cluster_versions SET serial = 9 WHERE serial = 2",
		"an older header with the newest serial": "UPDATE cluster_versions SET header = (SELECT header FROM cluster_versions WHERE serial = 1) WHERE serial = 2",
		"an older version in the newest's place": "UPDATE cluster_versions SET header = (SELECT header FROM cluster_versions WHERE serial = 1), data = (SELECT data FROM cluster_versions WHERE serial = 1) WHERE serial = 2",
		"the key":                                "UPDATE cluster_key SET key = x'00'",
		"no key":                                 "DELETE FROM cluster_key",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			l := openAt(t, dir)
			l.enrol("web1")
			l.candidate(t, "web1")
			done(t, l.api.SetMaster, &apipb.ClusterSetMasterRequest{Node: "web1"})
			key := l.clusterNow().key
			l.shut(t)
			db := sqlOf(t, dir)
			if _, err := db.Exec(change); err != nil {
				t.Fatal(err)
			}
			db.Close()
			l = openAt(t, dir)
			defer func() { l.shut(t) }()
			l.enrol("web1")
			if l.clusterNow() != nil || !strings.Contains(l.log.String(), "stored cluster data cannot be used") {
				t.Fatalf("version %+v is in force", l.clusterNow())
			}
			shown, err := l.api.Show(root(t), connect.NewRequest(&apipb.ClusterShowRequest{}))
			if err != nil || shown.Msg.Exists || !strings.Contains(shown.Msg.Problem, "the stored cluster data cannot be used") {
				t.Errorf("show: %v, %v", shown, err)
			}
			if _, err := l.api.SetMaster(root(t), connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: "web1"})); call.CodeOf(err) != call.Unavailable {
				t.Errorf("set-master: %v", err)
			}
			if _, err := l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, labData(t))}); call.CodeOf(err) != call.Unavailable {
				t.Errorf("import: %v", err)
			}
			small := bytes.Replace(labData(t), []byte(`"serial_no": 42`), []byte(`"serial_no": 1`), 1)
			m, err := l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, small), Replace: true})
			want := uint64(3)
			if name == "the serial" {
				want = 10
			}
			if err != nil || m.Serial != want || l.verified(t).Serial != want {
				t.Errorf("import --replace: %v, %v", m, err)
			}
			if kept := bytes.Equal(l.clusterNow().key, key); kept != (name != "the header" && !strings.Contains(name, "key")) {
				t.Errorf("the key is kept: %v", kept)
			}
		})
	}
}

// Without rows there is no cluster, and an older store is no problem.
func TestClusterWithoutVersions(t *testing.T) {
	l := newLedger(t)
	if p := l.cluster.problem.Load(); l.clusterNow() != nil || p != nil {
		t.Errorf("%v, %v", l.clusterNow(), p)
	}
	for name, f := range map[string]func(context.Context) error{
		"export": func(ctx context.Context) error {
			_, err := l.api.Export(ctx, connect.NewRequest(&apipb.ClusterExportRequest{}))
			return err
		},
		"key show": func(ctx context.Context) error {
			_, err := l.api.ShowKey(ctx, connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
			return err
		},
		"key rotate": func(ctx context.Context) error {
			_, err := l.api.RotateKey(ctx, connect.NewRequest(&apipb.ClusterRotateKeyRequest{}))
			return err
		},
		"instances": func(ctx context.Context) error {
			_, err := l.api.Instances(ctx, connect.NewRequest(&apipb.ClusterInstancesRequest{}))
			return err
		},
		"candidate remove": func(ctx context.Context) error {
			_, err := l.api.SetCandidates(ctx, connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: []string{"a"}, Remove: true}))
			return err
		},
		"set-master of nobody": func(ctx context.Context) error {
			_, err := l.api.SetMaster(ctx, connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: "nobody"}))
			return err
		},
	} {
		if err := f(root(t)); call.CodeOf(err) != call.NotFound || l.clusterNow() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An import keeps the file as it is, above its serial and that of what was there.
func TestClusterImport(t *testing.T) {
	l := newLedger(t, "alpha.lab.example", "web1")
	m, err := l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, labData(t)), Key: []byte("a key of Ganeti's\n")})
	if err != nil || m.Serial != 43 || m.Note != "" {
		t.Fatalf("import: %v, %v", m, err)
	}
	if v := l.clusterNow(); string(v.key) != "a key of Ganeti's\n" || v.doc.UUID() != "ffffffff-0000-4000-8000-000000000001" || len(v.doc.Nodes()) != 8 {
		t.Errorf("%s, key %q, %v", v.doc.UUID(), v.key, v.doc.Nodes())
	}
	if n, err := l.clusterNow().doc.Node("alpha"); err != nil || n.Primary != "192.0.2.1" {
		t.Errorf("alpha: %+v, %v", n, err)
	}
	if _, err := l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, labData(t))}); call.CodeOf(err) != call.Conflict {
		t.Errorf("import over a cluster: %v", err)
	}
	m, err = l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, labData(t)), Replace: true})
	if err != nil || m.Serial != 44 || string(l.clusterNow().key) != "a key of Ganeti's\n" || m.Note != "" {
		t.Errorf("import again: %v, %v", m, err)
	}
	other := bytes.Replace(labData(t), []byte("ffffffff-0000"), []byte("fffffffe-0000"), 1)
	m, err = l.load(t, &apipb.ClusterImportRequest{Data: zipped(t, other), Replace: true})
	if err != nil || m.Serial != 45 || !strings.Contains(m.Note, "of another cluster") {
		t.Errorf("import of another cluster: %v, %v", m, err)
	}
	exported, err := l.api.Export(root(t), connect.NewRequest(&apipb.ClusterExportRequest{}))
	if err != nil || exported.Msg.Serial != 45 {
		t.Fatal(err)
	}
	if b, err := unzip(exported.Msg.Data); err != nil || !bytes.Equal(b, l.clusterNow().doc.Bytes()) {
		t.Errorf("export gives %d bytes, %v", len(b), err)
	}
}

// Files and keys that are none, or too large, are refused in bounded memory.
func TestClusterImportRefuses(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	cut := zipped(t, labData(t))
	odd := func(old, with string) []byte {
		return zipped(t, bytes.Replace(labData(t), []byte(old), []byte(with), 1))
	}
	for name, r := range map[string]*apipb.ClusterImportRequest{
		"nothing":                 {},
		"not compressed":          {Data: labData(t)},
		"cut":                     {Data: cut[:len(cut)-9]},
		"a bomb":                  {Data: zipped(t, make([]byte, cluster.MaxDocument+1))},
		"too large":               {Data: make([]byte, cluster.MaxPacked+1)},
		"no configuration":        {Data: zipped(t, []byte("{}"))},
		"a uuid that is none":     {Data: odd("ffffffff-0000", "ffff ffff-0000")},
		"a key that is too large": {Data: cut, Key: make([]byte, cluster.MaxKey+1)},
	} {
		if _, err := l.load(t, r); call.CodeOf(err) != call.Invalid || l.clusterNow() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.load(t, &apipb.ClusterImportRequest{Data: odd(`"serial_no": 42`, `"serial_no": 9223372036854775807`)}); call.CodeOf(err) != call.TooMany {
		t.Errorf("the last serial: %v", err)
	}
	many := make([]string, cluster.MaxCandidates+1)
	for _, nodes := range [][]string{nil, many} {
		if _, err := l.api.SetCandidates(root(t), connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: nodes})); call.CodeOf(err) != call.Invalid {
			t.Errorf("%d candidates: %v", len(nodes), err)
		}
	}
}

// An address that changes all the time does not make a version each time.
func TestAddressThatChangesAllTheTime(t *testing.T) {
	start := time.Now()
	var w whence
	for _, step := range []struct {
		at      time.Duration
		address string
		want    string
	}{
		{0, "192.0.2.1", "192.0.2.1"},
		{0, "", "192.0.2.1"},
		{time.Second, "192.0.2.2", "192.0.2.2"},
		{2 * time.Second, "192.0.2.3", "192.0.2.2"},
		{addressHold, "192.0.2.3", "192.0.2.2"},
		{addressHold + time.Second, "192.0.2.4", "192.0.2.4"},
	} {
		if w = w.seen(step.address, start.Add(step.at)); w.address != step.want {
			t.Errorf("%s at %s: %s; want %s", step.address, step.at, w.address, step.want)
		}
	}
	for in, want := range map[string]string{"192.0.2.1:51235": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1", "[fe80::1%eth0]:1": "", "@": "", "": "", "0.0.0.0:1": ""} {
		if got := addressOf(in); got != want {
			t.Errorf("addressOf(%q) = %q; want %q", in, got, want)
		}
	}
}
