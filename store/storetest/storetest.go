// Package storetest is the suite that every engine under package store passes.
package storetest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/store"
)

// Place is a database that can be opened again and again.
type Place interface {
	Open(t testing.TB, opt store.Options) *store.DB // the suite closes it
}

// Keeper is a checkpoint kept outside the database, in memory.
type Keeper struct {
	mu   sync.Mutex
	note []byte
	kept int
}

// Keep is an Options.OnCheckpoint.
func (k *Keeper) Keep(note []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note, k.kept = bytes.Clone(note), k.kept+1
	return nil
}

// Kept is how many checkpoints were kept.
func (k *Keeper) Kept() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept
}

// Note gives what was kept last.
func (k *Keeper) Note() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.note
}

// Options gives what a store needs, with a fresh log key and the keeper.
func Options(t testing.TB, k *Keeper) store.Options {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return store.Options{Overlord: "dc1", LogKey: key, OnCheckpoint: k.Keep}
}

// Run runs the suite; fresh makes an empty place for each test.
func Run(t *testing.T, fresh func(t *testing.T) Place) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, p Place)
	}{
		{"jobs", testJobs},
		{"cancelled jobs", testCancelJob},
		{"results", testResults},
		{"tables", testTables},
		{"cluster data", testCluster},
		{"absent rows", testAbsent},
		{"an error is nobody else's", testIsolation},
		{"what was written is there after opening again", testReopen},
		{"outputs of old jobs make room", testRoom},
		{"nodes and nonces", testNodes},
		{"many at once", testMany},
		{"verification beside writes", testVerifyBesideWrites},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, fresh(t)) })
	}
}

// Update runs one write and fails the test if it fails.
func Update(t testing.TB, db *store.DB, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// Verify checks the whole log and fails the test if it is not good.
func Verify(t testing.TB, db *store.DB, outside []byte) *audit.Report {
	t.Helper()
	r, err := db.Verify(t.Context(), outside, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Problem != nil {
		t.Fatalf("Verify found at record %d: %s", r.Problem.Index, r.Problem.What)
	}
	return r
}

func open(t *testing.T, p Place, opt store.Options) *store.DB {
	t.Helper()
	db := p.Open(t, opt)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// Job gives a job of an order that names web1 and web2.
func Job(at time.Time) store.Job {
	return store.Job{
		ID: call.NewJobID(at), Operator: "alice", Method: "test.ping", Order: []byte("order"), Signature: []byte("sig"), OperatorCert: []byte("cert"),
		Args: []byte("{}"), Salt: []byte("0123456789abcdef"), Target: "web*", Names: "web[01-02]", Unknown: "db7",
		Created: at, Expires: at.Add(time.Hour), Counts: call.Counts{Targeted: 3, Unreachable: 1}, Timeout: time.Minute, Wait: true, Bare: true, Delegated: []byte("reach"),
	}
}

// AddJob stores a job with its order's record.
func AddJob(t testing.TB, db *store.DB, j *store.Job) {
	t.Helper()
	Update(t, db, func(tx *store.Tx) error {
		var err error
		if j.Record, err = tx.Audit(&auditpb.Record{Actor: "operator/" + j.Operator, Action: "order", Subject: j.ID.String()}); err != nil {
			return err
		}
		return tx.AddJob(t.Context(), *j)
	})
}

func stamp() time.Time { return time.UnixMilli(1_790_000_000_000) }

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func testJobs(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	first, second := Job(stamp()), Job(stamp().Add(time.Second))
	AddJob(t, db, &first)
	AddJob(t, db, &second)
	got, err := db.Job(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "Job", got, first)
	err = db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddJob(t.Context(), first) })
	if call.CodeOf(err) != call.Repeated {
		t.Errorf("AddJob of a job that is there = %v; want repeated", err)
	}
	third := Job(stamp().Add(2 * time.Second))
	third.Operator, third.Args, third.Wait, third.Timeout, third.Bare = "bob", []byte(`{"a":1}`), false, 0, false
	third.Target = strings.Repeat("web1,", 400)
	AddJob(t, db, &third)
	for _, tt := range []struct {
		name  string
		query store.JobQuery
		want  []store.Job
	}{
		{"all", store.JobQuery{Limit: 10}, []store.Job{third, second, first}},
		{"a page", store.JobQuery{Limit: 1, Before: third.ID}, []store.Job{second}},
		{"of one operator", store.JobQuery{Limit: 10, Operator: "alice"}, []store.Job{second, first}},
		{"open", store.JobQuery{Limit: 2, Open: true}, []store.Job{third, second}},
		{"open ones of one operator, from the second on", store.JobQuery{Limit: 10, Open: true, Operator: "alice", Before: second.ID}, []store.Job{first}},
		{"of nobody", store.JobQuery{Limit: 10, Operator: "carol"}, nil},
	} {
		check(t, "Jobs: "+tt.name, brief(tt.want))(db.Jobs(t.Context(), tt.query))
	}

	counts := call.Counts{Targeted: 3, Answered: 2, Unreachable: 1}
	Update(t, db, func(tx *store.Tx) error {
		return tx.CloseJob(t.Context(), first.ID, stamp().Add(time.Minute), counts, "cancelled")
	})
	first.Closed, first.Counts, first.Reason, first.Args, first.Salt = stamp().Add(time.Minute), counts, "cancelled", nil, nil
	if got, err = db.Job(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	diff(t, "Job after CloseJob", got, first)
	check(t, "OpenJobs", []store.Job{second, third})(db.OpenJobs(t.Context()))
}

// brief gives jobs as Jobs does.
func brief(jobs []store.Job) []store.Job {
	out := slices.Clone(jobs)
	for i := range out {
		out[i].Order, out[i].Signature, out[i].OperatorCert, out[i].Args, out[i].Salt = nil, nil, nil, nil, nil
		out[i].Delegated = nil
		out[i].Names, out[i].Unknown = "", ""
		out[i].Target = out[i].Target[:min(len(out[i].Target), 1000)]
	}
	return out
}

func testCancelJob(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	j := Job(stamp())
	AddJob(t, db, &j)
	cancel := func(at time.Time) (open bool) {
		t.Helper()
		Update(t, db, func(tx *store.Tx) (err error) {
			open, err = tx.CancelJob(t.Context(), j.ID, at)
			return err
		})
		return open
	}
	if !cancel(stamp().Add(time.Second)) || !cancel(stamp().Add(time.Minute)) {
		t.Error("CancelJob of an open job says that it is closed")
	}
	j.Cancelled = stamp().Add(time.Second)
	check(t, "Job after CancelJob", j)(db.Job(t.Context(), j.ID))
	check(t, "OpenJobs after CancelJob", []store.Job{j})(db.OpenJobs(t.Context()))
	Update(t, db, func(tx *store.Tx) error {
		return tx.CloseJob(t.Context(), j.ID, stamp().Add(time.Hour), j.Counts, "")
	})
	if cancel(stamp().Add(2 * time.Hour)) {
		t.Error("CancelJob of a closed job says that it is open")
	}
	j.Closed, j.Args, j.Salt = stamp().Add(time.Hour), nil, nil
	check(t, "Job after CloseJob", j)(db.Job(t.Context(), j.ID))
	before, _ := db.Checkpoint()
	Update(t, db, func(tx *store.Tx) error {
		return tx.CloseJob(t.Context(), j.ID, stamp().Add(3*time.Hour), call.Counts{}, "again")
	})
	check(t, "Job after a second CloseJob", j)(db.Job(t.Context(), j.ID))
	if after, _ := db.Checkpoint(); after.Size != before.Size {
		t.Errorf("a second CloseJob appends %d records", after.Size-before.Size)
	}
	Verify(t, db, nil)
}

func groups() []store.ResultGroup {
	return []store.ResultGroup{
		{Number: 0, Names: "web[01-02]", Count: 2, Status: call.Answered, Output: []byte(`"pong"`), Took: []time.Duration{time.Millisecond, 1500 * time.Microsecond}},
		{Number: 1, Names: "db7", Count: 1, Status: call.Unreachable, Code: call.UnknownName, Detail: "nobody knows it"},
		{Number: 2, Names: "big", Count: 1, Status: call.Answered, Output: bytes.Repeat([]byte("x"), 1<<20), Cut: 12, SentSum: [32]byte{1}},
	}
}

func testResults(t *testing.T, p Place) {
	k := new(Keeper)
	db := open(t, p, Options(t, k))
	j := Job(stamp())
	AddJob(t, db, &j)
	want := groups()
	Update(t, db, func(tx *store.Tx) error { return tx.AddResults(t.Context(), j.ID, want) })
	for i := range want {
		want[i].SentSum = [32]byte{}
		want[i].Record = int64(i + 1)
	}
	var got []store.ResultGroup
	for g, err := range db.Results(t.Context(), j.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, g)
	}
	diff(t, "Results", got, want)
	got = nil
	for g, err := range db.Results(t.Context(), j.ID, 2) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, g)
	}
	diff(t, "Results from 2 on", got, want[2:])
	check(t, "CountResults", 3)(db.CountResults(t.Context(), j.ID))
	if r := Verify(t, db, nil); r.Size != 4 || r.Results != 3 {
		t.Errorf("Verify checked %d records and %d results; want 4 and 3", r.Size, r.Results)
	}
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AddResults(t.Context(), j.ID, []store.ResultGroup{{Number: store.MaxGroups}})
	})
	if call.CodeOf(err) != call.TooMany {
		t.Errorf("AddResults of group %d = %v; want too many", store.MaxGroups, err)
	}
}

func testTables(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	ctx := t.Context()
	m := store.Minion{Name: "web1", Fingerprint: "sha256:aa", FirstSeen: stamp(), LastSeen: stamp(), AgentVersion: "1", Address: "10.0.0.1:1", FactsDigest: []byte{}}
	c := store.Cert{Serial: "0a", Role: "minion", Name: "web1", Fingerprint: "sha256:aa", DER: []byte("der"), NotBefore: stamp(), NotAfter: stamp().Add(time.Hour), GrantedBy: "token/1", Granted: stamp()}
	r := store.Pending{Role: "minion", Name: "web2", Fingerprint: "sha256:bb", CSR: []byte("csr"), Source: "10.0.0.2", First: stamp(), Last: stamp(), Conflict: "taken"}
	k := store.Token{ID: "1", Hash: []byte("hash"), Pattern: "web*", Role: "minion", Uses: 2, Expires: stamp(), Replace: true, Networks: []string{"10.0.0.0/8", "fd00::/8"}, CreatedBy: "operator/alice", Created: stamp()}
	u := store.TokenUse{Token: "1", Name: "web1", Fingerprint: "sha256:aa", Serial: "0a", At: stamp()}
	g := store.Group{Name: "web", Members: "web[01-02]"}
	l := store.Revocations{Number: 3, Signed: []byte("list"), Issued: stamp()}
	put := func(tx *store.Tx) error {
		return errors.Join(tx.PutMinion(ctx, m), tx.PutCert(ctx, c), tx.PutPending(ctx, r), tx.PutToken(ctx, k), tx.PutTokenUse(ctx, u), tx.PutGroup(ctx, g), tx.SetMeta(ctx, "x", "y"))
	}
	Update(t, db, put)
	m.Address, c.Reason, c.Revoked, r.Rejected, k.Used, u.Serial, g.Members = "10.0.0.9:1", "lost", stamp(), true, 1, "0b", "web1"
	Update(t, db, put) // changes what is there
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.PutRevocations(ctx, store.Revocations{Number: 2, Signed: []byte("old")}), tx.PutRevocations(ctx, l))
	})
	err := db.Update(ctx, func(tx *store.Tx) error { return tx.PutRevocations(ctx, store.Revocations{Number: 3}) })
	if call.CodeOf(err) != call.Conflict {
		t.Errorf("PutRevocations of an old number = %v; want conflict", err)
	}
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.PutFacts(ctx, "web1", stamp(), []byte("digest"), []byte("{}")), tx.SetDialAddress(ctx, "web1", "web1:51234"), tx.SeeMinion(ctx, "web1", stamp().Add(time.Hour), "2", "10.0.0.3:1"))
	})
	m.FactsAt, m.FactsDigest, m.Facts, m.DialAddress = stamp(), []byte("digest"), []byte("{}"), "web1:51234"
	m.LastSeen, m.AgentVersion, m.Address = stamp().Add(time.Hour), "2", "10.0.0.3:1"
	short := m
	short.Facts = nil
	check(t, "Minion", m)(db.Minion(ctx, "web1"))
	check(t, "Minions", []store.Minion{m})(db.Minions(ctx, true))
	check(t, "Minions without facts", []store.Minion{short})(db.Minions(ctx, false))
	check(t, "Cert", c)(db.Cert(ctx, "0a"))
	check(t, "CertsOf", []store.Cert{c})(db.CertsOf(ctx, "minion", "web1"))
	check(t, "Certs of minions", []store.Cert{c})(db.Certs(ctx, "minion"))
	check(t, "Certs", []store.Cert{c})(db.Certs(ctx, ""))
	check(t, "PendingOf", r)(db.PendingOf(ctx, "minion", "web2", "sha256:bb"))
	check(t, "Pendings", []store.Pending{r})(db.Pendings(ctx))
	check(t, "Token", k)(db.Token(ctx, "1"))
	check(t, "Tokens", []store.Token{k})(db.Tokens(ctx))
	check(t, "TokenUse", u)(db.TokenUse(ctx, "1", "web1", "sha256:aa"))
	check(t, "Group", g)(db.Group(ctx, "web"))
	check(t, "Groups", []store.Group{g})(db.Groups(ctx))
	check(t, "Revocations", l)(db.Revocations(ctx))
	check(t, "Meta", "y")(db.Meta(ctx, "x"))
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.DeleteMinion(ctx, "web1"), tx.DeleteCert(ctx, "0a"), tx.DeletePending(ctx, "minion", "web2", "sha256:bb"), tx.DeleteToken(ctx, "1"), tx.DeleteGroup(ctx, "web"))
	})
	check(t, "Minions when none is left", []store.Minion(nil))(db.Minions(ctx, true))
}

func check[T any](t *testing.T, what string, want T) func(got T, err error) {
	return func(got T, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		diff(t, what, got, want)
	}
}

func testAbsent(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	ctx := t.Context()
	id := call.NewJobID(stamp())
	read := func(_ any, err error) error { return err }
	write := func(fn func(tx *store.Tx) error) error { return db.Update(ctx, fn) }
	for name, err := range map[string]error{
		"Job":            read(db.Job(ctx, id)),
		"Minion":         read(db.Minion(ctx, "x")),
		"Cert":           read(db.Cert(ctx, "x")),
		"PendingOf":      read(db.PendingOf(ctx, "x", "x", "x")),
		"Token":          read(db.Token(ctx, "x")),
		"TokenUse":       read(db.TokenUse(ctx, "x", "x", "x")),
		"Group":          read(db.Group(ctx, "x")),
		"Revocations":    read(db.Revocations(ctx)),
		"Meta":           read(db.Meta(ctx, "x")),
		"Record":         read(db.Record(ctx, 0)),
		"ClusterVersion": read(db.ClusterVersion(ctx)),
		"ClusterKey":     read(db.ClusterKey(ctx)),
		"CountResults":   read(db.CountResults(ctx, id)),
		"Node":           read(db.Node(ctx, "x")),
		"NodeOf":         read(db.NodeOf(ctx, "x")),
		"Nonce":          read(db.Nonce(ctx, []byte("x"))),
		"NonceOf":        read(db.NonceOf(ctx, "x")),
		"CancelJob": write(func(tx *store.Tx) error {
			_, err := tx.CancelJob(ctx, id, stamp())
			return err
		}),
		"CloseJob":       write(func(tx *store.Tx) error { return tx.CloseJob(ctx, id, stamp(), call.Counts{}, "") }),
		"AddResults":     write(func(tx *store.Tx) error { return tx.AddResults(ctx, id, groups()) }),
		"PutFacts":       write(func(tx *store.Tx) error { return tx.PutFacts(ctx, "x", stamp(), nil, nil) }),
		"SetDialAddress": write(func(tx *store.Tx) error { return tx.SetDialAddress(ctx, "x", "y") }),
		"DeleteGroup":    write(func(tx *store.Tx) error { return tx.DeleteGroup(ctx, "x") }),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s of what is not there = %v; want ErrNotFound", name, err)
		}
	}
	for _, err := range db.Results(ctx, id, 0) {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Results of what is not there = %v; want ErrNotFound", err)
		}
	}
}

func testIsolation(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	ctx := t.Context()
	own := errors.New("own error")
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() {
			errs[i] = db.Update(ctx, func(tx *store.Tx) error {
				if _, err := tx.Audit(&auditpb.Record{Action: "test", Subject: fmt.Sprint(i)}); err != nil {
					return err
				}
				if err := tx.PutGroup(ctx, store.Group{Name: fmt.Sprintf("g%02d", i)}); err != nil {
					return err
				}
				if i%3 == 0 {
					return own
				}
				return nil
			})
		})
	}
	wg.Wait()
	for i, err := range errs {
		if i%3 == 0 != errors.Is(err, own) {
			t.Errorf("write %d = %v", i, err)
		}
	}
	got, err := db.Groups(ctx)
	if err != nil || len(got) != 66 {
		t.Errorf("%d groups are stored, %v; want 66", len(got), err)
	}
	if r := Verify(t, db, nil); r.Size != 66 {
		t.Errorf("%d records; want 66", r.Size)
	}
}

func testReopen(t *testing.T, p Place) {
	k := new(Keeper)
	opt := Options(t, k)
	db := p.Open(t, opt)
	id := db.LogID()
	began := time.Now()
	jobs := make([]store.Job, 300) // more than one stored node of the tree
	for i := range jobs {
		jobs[i] = Job(stamp())
		AddJob(t, db, &jobs[i])
	}
	head, note := db.Checkpoint()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if most := int(time.Since(began)/(3*time.Second)) + 3; k.Kept() > most { // at the start, the first, and the one at the end
		t.Errorf("%d checkpoints are kept outside in %v; want at most %d", k.Kept(), time.Since(began), most)
	}
	if !bytes.Equal(k.Note(), note) {
		t.Errorf("outside is kept %q; want the newest, %q", k.Note(), note)
	}
	if err := db.Update(t.Context(), func(*store.Tx) error { return nil }); call.CodeOf(err) != call.Unavailable {
		t.Errorf("Update of a closed store = %v; want unavailable", err)
	}
	opt.Outside = k.Note()
	db = open(t, p, opt)
	if db.LogID() != id || db.AuditProblem() != "" || db.Problem() != "" {
		t.Errorf("opened again: log %q, problems %q, %q; want %q and none", db.LogID(), db.AuditProblem(), db.Problem(), id)
	}
	if again, _ := db.Checkpoint(); again != head {
		t.Errorf("opened again: %v; want %v", again, head)
	}
	j := Job(stamp())
	AddJob(t, db, &j)
	if r := Verify(t, db, k.Note()); r.Size != 301 {
		t.Errorf("%d records; want 301", r.Size)
	}
	for _, old := range []int64{0, 1, 255, 256, 300, 301} {
		checkHead(t, db, old, jobs)
	}
}

// checkHead checks that what a minion gets continues a log of old records.
func checkHead(t *testing.T, db *store.DB, old int64, jobs []store.Job) {
	t.Helper()
	var tree audit.Tree
	for row, err := range db.LogRows(t.Context(), 0, old) {
		if err != nil {
			t.Fatal(err)
		}
		tree.Append(nil, row.Hash)
	}
	c, note := db.Checkpoint()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := audit.NewSigner(c.LogID, "any", key) // HeadFor does not ask whose it is
	if err != nil {
		t.Fatal(err)
	}
	remembered, err := signer.Sign(audit.Checkpoint{LogID: c.LogID, Size: old, Root: tree.Root()})
	if err != nil {
		t.Fatal(err)
	}
	head, err := db.HeadFor(t.Context(), remembered)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head.GetCheckpoint(), note) {
		t.Errorf("HeadFor(%d) has another checkpoint", old)
	}
	if err := audit.CheckConsistency(head.GetProof(), old, tree.Root(), c.Size, c.Root); err != nil {
		t.Errorf("HeadFor(%d): %v", old, err)
	}
}
