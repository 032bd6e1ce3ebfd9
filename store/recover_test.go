package store_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/store"
	"dominion/store/storetest"
)

// root signs recovery statements without a signature: what pki does with one.
func root(r *fleetpb.Recovery) ([]byte, error) { return proto.Marshal(r) }

func trust(key audit.LogKey) audit.Trust {
	return audit.Trust{
		LogKey: func([]byte) (string, string, ed25519.PublicKey, error) {
			return key.LogID, key.Overlord, key.Public, nil
		},
		Recovery: func(b []byte) (*fleetpb.Recovery, error) {
			r := new(fleetpb.Recovery)
			return r, proto.Unmarshal(b, r)
		},
	}
}

// TestRollBack restores an older copy of the store, and follows what the
// overlord and a minion make of it until the recovery.
func TestRollBack(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	key := audit.LogKey{LogID: db.LogID(), Overlord: "dc1", Public: opt.LogKey.Public().(ed25519.PublicKey)}
	fill(t, db)
	closeDB(t, db)
	backup, err := os.ReadFile(string(path))
	if err != nil {
		t.Fatal(err)
	}
	opt.Outside = k.Note()
	db = path.Open(t, opt)
	for range 7 {
		storetest.Update(t, db, note)
	}
	minion := accept(t, db, audit.Memory{}, trust(key), call.OK)
	closeDB(t, db)

	if err := os.WriteFile(string(path), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, side := range []string{"-wal", "-shm"} {
		if err := os.Remove(string(path) + side); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	opt.Outside = k.Note()
	db = path.Open(t, opt)
	if got := db.AuditProblem(); !strings.Contains(got, "has 310 records") || !strings.Contains(got, "counts 317") {
		t.Errorf("AuditProblem = %q; want it to name 310 and 317", got)
	}
	if err := db.Update(t.Context(), note); call.CodeOf(err) != call.Unavailable {
		t.Errorf("Audit on a damaged log = %v; want unavailable", err)
	}
	storetest.Update(t, db, func(tx *store.Tx) error { return tx.PutGroup(t.Context(), store.Group{Name: "web"}) })
	if r, err := db.Verify(t.Context(), k.Note(), nil); err != nil || r.Problem == nil || r.Problem.Index != 310 {
		t.Errorf("Verify = %+v, %v; want record 310", r, err)
	}
	accept(t, db, minion, trust(key), call.AuditRefused)

	plan, err := db.Recover(t.Context(), "local/root", nil, root)
	if err != nil || plan.Epoch != 1 || plan.Abandoned.Size != 317 || plan.Restored.Size != 310 {
		t.Fatalf("Recover = %+v, %v; want epoch 1, 317 and 310", plan, err)
	}
	storetest.Update(t, db, note)
	again := accept(t, db, minion, trust(key), call.OK)
	if again.Checkpoint.Epoch != 1 || again.Checkpoint.Size != 312 {
		t.Errorf("the minion remembers %v; want 312 records of epoch 1", again.Checkpoint)
	}
	if _, err := db.Recover(t.Context(), "local/root", nil, root); call.CodeOf(err) != call.Conflict {
		t.Errorf("Recover of a good log = %v; want conflict", err)
	}
	closeDB(t, db)
	opt.Outside = k.Note()
	db = path.Open(t, opt)
	defer db.Close()
	if db.AuditProblem() != "" {
		t.Errorf("AuditProblem after the recovery = %q", db.AuditProblem())
	}
	storetest.Verify(t, db, k.Note())
	accept(t, db, again, trust(key), call.OK)
}

func closeDB(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// accept shows a minion that remembers m the head of db.
func accept(t *testing.T, db *store.DB, m audit.Memory, tr audit.Trust, want call.Code) audit.Memory {
	t.Helper()
	head, err := db.HeadFor(t.Context(), m.Note)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Accept(head, tr)
	if call.CodeOf(err) != want {
		t.Errorf("Accept = %v; want %v", err, want)
	}
	return got
}

// TestRecoverWhatAMinionSaw restores the outside checkpoint with the store, so
// that only a minion knows of the newer log.
func TestRecoverWhatAMinionSaw(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	defer db.Close()
	storetest.Update(t, db, note)
	signer, err := audit.NewSigner(db.LogID(), "dc1", opt.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := signer.Sign(audit.Checkpoint{LogID: db.LogID(), Size: 9, Root: audit.Hash{1}})
	if err != nil {
		t.Fatal(err)
	}
	other, err := audit.NewSigner(db.LogID(), "dc1", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	lie, err := other.Sign(audit.Checkpoint{LogID: db.LogID(), Size: 99, Root: audit.Hash{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.PlanRecovery(t.Context(), [][]byte{lie, []byte("x")}); call.CodeOf(err) != call.Conflict {
		t.Errorf("PlanRecovery with a stranger's checkpoint = %v; want conflict", err)
	}
	p, err := db.PlanRecovery(t.Context(), [][]byte{lie, seen})
	if err != nil || p.Abandoned.Size != 9 || p.Restored.Size != 1 || p.Epoch != 1 {
		t.Errorf("PlanRecovery = %+v, %v; want 9, 1, epoch 1", p, err)
	}
	if _, err := db.Recover(t.Context(), "local/root", [][]byte{seen}, root); err != nil {
		t.Error(err)
	}
	storetest.Verify(t, db, nil)
}

// TestLostDatabase begins an empty store beside the checkpoint of the old one.
func TestLostDatabase(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	id := db.LogID()
	storetest.Update(t, db, note)
	closeDB(t, db)
	opt.Outside = k.Note()
	db = fresh(t).Open(t, opt)
	defer db.Close()
	if db.LogID() != id || !strings.Contains(db.AuditProblem(), "has 0 records") {
		t.Errorf("log %s, problem %q; want log %s and a problem", db.LogID(), db.AuditProblem(), id)
	}
}

// TestKilledAfterRecover opens with the checkpoint from before a recovery: the
// overlord died before it could keep the new one.
func TestKilledAfterRecover(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	storetest.Update(t, db, note)
	storetest.Update(t, db, note)
	closeDB(t, db)
	before := k.Note()
	exec(t, path, "DELETE FROM records WHERE idx = 1")
	opt.Outside = before
	db = path.Open(t, opt)
	if _, err := db.Recover(t.Context(), "local/root", nil, root); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	after := k.Note()
	db = path.Open(t, opt)
	if db.AuditProblem() != "" {
		t.Errorf("AuditProblem = %q; want none", db.AuditProblem())
	}
	closeDB(t, db)

	exec(t, path, "DELETE FROM recoveries")
	db = path.Open(t, opt)
	if db.AuditProblem() == "" {
		t.Error("no AuditProblem although the recovery is gone")
	}
	closeDB(t, db)
	exec(t, path, "DELETE FROM records WHERE idx = 1")
	exec(t, path, "DELETE FROM checkpoints WHERE size = 2")
	opt.Outside = after
	db = path.Open(t, opt)
	defer db.Close()
	if !strings.Contains(db.AuditProblem(), "older copy: it is at epoch 0") {
		t.Errorf("AuditProblem = %q; want it to name the epochs", db.AuditProblem())
	}
}

func TestForeignLog(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	closeDB(t, path.Open(t, opt))
	opt.LogID = "another"
	if _, err := store.Open(t.Context(), string(path), opt); err == nil || !strings.Contains(err.Error(), `not "another"`) {
		t.Errorf("Open with another log id = %v", err)
	}
	if _, opt.LogKey, _ = ed25519.GenerateKey(rand.Reader); opt.LogKey == nil {
		t.Fatal("no key")
	}
	opt.LogID, opt.Outside = "", k.Note()
	db := path.Open(t, opt)
	defer db.Close()
	if !strings.Contains(db.AuditProblem(), "refused") {
		t.Errorf("AuditProblem with another log key = %q", db.AuditProblem())
	}
}

func TestOpenReportsTheLog(t *testing.T) {
	template := newFilled(t)
	leaf, hash := forged(t)
	c, err := audit.PeekCheckpoint(template.note)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := audit.NewSigner(c.LogID, "dc1", template.key)
	if err != nil {
		t.Fatal(err)
	}
	old, err := signer.Sign(audit.Checkpoint{LogID: c.LogID, Size: 299})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		tamper  func(t *testing.T, path file)
		outside func(note []byte) []byte
		words   string
		recover call.Code // of Recover
	}{
		{"tail cut", func(t *testing.T, path file) { exec(t, path, "DELETE FROM records WHERE idx > 3") }, nil, "it was cut: it has 4 records", call.OK},
		{"all records gone", func(t *testing.T, path file) { exec(t, path, "DELETE FROM records") }, nil, "it was cut: it has 0 records", call.OK},
		{"newest record forged", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = $1, hash = $2 WHERE idx = 309", leaf, hash[:])
		}, nil, "it was changed", call.OK},
		{"tree with a hole", func(t *testing.T, path file) { exec(t, path, "DELETE FROM nodes") }, nil, "not whole", call.OK},
		{"record of the edge gone", func(t *testing.T, path file) { exec(t, path, "DELETE FROM records WHERE idx = 300") }, nil, "not whole", call.Failed},
		{"outside missing", func(*testing.T, file) {}, func([]byte) []byte { return nil }, "outside the database is missing", call.OK},
		{"outside malformed", func(*testing.T, file) {}, func([]byte) []byte { return []byte("x") }, "outside the database is refused", call.OK},
		{"outside not in the log", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM checkpoints")
		}, nil, "310 records and no checkpoint", call.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := new(storetest.Keeper)
			path, opt := template.copy(t, k)
			tt.tamper(t, path)
			if tt.outside != nil {
				opt.Outside = tt.outside(opt.Outside)
			}
			kept := k.Note()
			db := path.Open(t, opt)
			defer db.Close()
			if got := db.AuditProblem(); !strings.Contains(got, tt.words) {
				t.Errorf("AuditProblem = %q; want %q", got, tt.words)
			}
			if !bytes.Equal(k.Note(), kept) {
				t.Error("the checkpoint outside was overwritten: it is the evidence")
			}
			for _, remembered := range [][]byte{nil, kept, old} {
				head, err := db.HeadFor(t.Context(), remembered)
				if err != nil {
					t.Errorf("HeadFor: %v", err)
				}
				if head.GetCheckpoint() != nil && !bytes.Equal(head.GetCheckpoint(), kept) {
					t.Errorf("a checkpoint was signed over a damaged log: %q", head.GetCheckpoint())
				}
			}
			_, err := db.Recover(t.Context(), "local/root", nil, root)
			if call.CodeOf(err) != tt.recover {
				t.Fatalf("Recover = %v; want %v", err, tt.recover)
			}
			if err == nil {
				storetest.Update(t, db, note)
			}
			if (err == nil) != (db.AuditProblem() == "") {
				t.Errorf("AuditProblem after Recover = %q", db.AuditProblem())
			}
		})
	}
}

// A statement that was signed before explains what was planned, and nothing else.
func TestExplained(t *testing.T) {
	plan := store.RecoveryPlan{Epoch: 1, Abandoned: audit.Checkpoint{LogID: "a", Size: 9}, Restored: audit.Checkpoint{LogID: "a", Size: 4}}
	sign := plan.Explained([]byte("statement"))
	again := plan.Recovery()
	again.TimeMs = 7
	if b, err := sign(again); err != nil || string(b) != "statement" {
		t.Errorf("what was planned: %q, %v", b, err)
	}
	plan.Abandoned.Size++
	if _, err := sign(plan.Recovery()); call.CodeOf(err) != call.Busy {
		t.Errorf("something else: %v; want busy", err)
	}
}
