package store_test

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"os"
	"strings"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/store"
	"dominion/store/storetest"
)

// fill writes a log in which each record has a checkpoint of its own, but for
// the last ten:
//
//	0 order, 1 results of three groups: 1, 2, 3, 4 its end, then 5 to 299, then 300 to 309 at once
func fill(t testing.TB, db *store.DB) store.Job {
	t.Helper()
	j := storetest.Job(time.UnixMilli(1_790_000_000_000))
	storetest.AddJob(t, db, &j)
	storetest.Update(t, db, func(tx *store.Tx) error {
		return tx.AddResults(t.Context(), j.ID, []store.ResultGroup{
			{Number: 0, Names: "web[01-02]", Count: 2, Status: call.Answered, Output: []byte(`"pong"`), Took: []time.Duration{1000, 2000}},
			{Number: 1, Names: "web03", Count: 1, Status: call.DidFail, Code: call.Denied, Detail: "no"},
			{Number: 2, Names: "web04", Count: 1, Status: call.Answered, Output: []byte(`"other"`)},
		})
	})
	storetest.Update(t, db, func(tx *store.Tx) error {
		return tx.CloseJob(t.Context(), j.ID, j.Created.Add(time.Minute), call.Counts{Targeted: 4, Answered: 3, Failed: 1}, "")
	})
	for range 295 {
		storetest.Update(t, db, note)
	}
	storetest.Update(t, db, func(tx *store.Tx) error {
		for range 10 {
			if err := note(tx); err != nil {
				return err
			}
		}
		return nil
	})
	return j
}

// filled is the file of a store that fill wrote, for tests that change it.
type filled struct {
	file []byte
	key  ed25519.PrivateKey
	note []byte // kept outside
}

func newFilled(t testing.TB) filled {
	t.Helper()
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	fill(t, db)
	if r := storetest.Verify(t, db, nil); r.Size != 310 {
		t.Fatalf("%d records; want 310", r.Size)
	}
	closeDB(t, db)
	b, err := os.ReadFile(string(path))
	if err != nil {
		t.Fatal(err)
	}
	return filled{file: b, key: opt.LogKey, note: k.Note()}
}

// copy gives a copy of the store, and what to open it with.
func (f filled) copy(t testing.TB, k *storetest.Keeper) (file, store.Options) {
	t.Helper()
	path := fresh(t)
	if err := os.WriteFile(string(path), f.file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(f.note); err != nil {
		t.Fatal(err)
	}
	return path, store.Options{Overlord: "dc1", LogKey: f.key, OnCheckpoint: k.Keep, Outside: f.note}
}

func note(tx *store.Tx) error {
	_, err := tx.Audit(&auditpb.Record{Actor: "local/root", Action: "test"})
	return err
}

// forged is a record that somebody without the log key would like to be there.
func forged(t testing.TB) (leaf []byte, hash audit.Hash) {
	t.Helper()
	leaf, err := audit.Encode(&auditpb.Record{Actor: "operator/mallory", Action: "order"})
	if err != nil {
		t.Fatal(err)
	}
	return leaf, audit.LeafHash(leaf)
}

// exec changes rows behind the store's back.
func exec(t testing.TB, path file, query string, args ...any) {
	t.Helper()
	r := rawExec(t, path, query, args...)
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s changed %d rows, %v", query, n, err)
	}
}

// rawExec changes a database behind the store's back.
func rawExec(t testing.TB, path file, query string, args ...any) sql.Result {
	t.Helper()
	raw, err := sql.Open("sqlite", string(path))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	r, err := raw.ExecContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func swap(t testing.TB, path file, columns string, a, b int) {
	t.Helper()
	for _, c := range strings.Fields(columns) {
		exec(t, path, "UPDATE records SET "+c+" = (SELECT "+c+" FROM records r WHERE r.idx = $1 + $2 - records.idx) WHERE idx IN ($1, $2)", a, b)
	}
}

func TestVerifyNamesTheFirstBadRecord(t *testing.T) {
	template := newFilled(t)
	leaf, hash := forged(t)
	for _, tt := range []struct {
		name    string
		tamper  func(t *testing.T, path file)
		outside func(note []byte) []byte // nil: the newest
		index   int64
		words   string
	}{
		{"one byte of one record", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = substr(leaf, 1, 3) || x'00' || substr(leaf, 5) WHERE idx = 7")
		}, nil, 7, "record 7 was changed"},
		{"one byte of one stored output", func(t *testing.T, path file) {
			exec(t, path, `UPDATE results SET output = CAST('"pung"' AS BLOB) WHERE names = 'web[01-02]'`)
		}, nil, 1, "stored output of group 0"},
		{"status of one stored result", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET status = 1, code = 0 WHERE names = 'web03'")
		}, nil, 2, "stored result of group 1"},
		{"detail of one stored result", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET detail = 'na' WHERE names = 'web03'")
		}, nil, 2, "stored result of group 1"},
		{"names of one stored result", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET names = 'web05' WHERE names = 'web04'")
		}, nil, 3, "stored result of group 2"},
		{"durations of one stored result", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET took = x'0103' WHERE names = 'web[01-02]'")
		}, nil, 1, "stored result of group 0"},
		{"output and its digest", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET output = x'22', sum = x'8a331fdde7032f33a71e1b2e257d80166e348e00fcb17914f48bdb57a1c63007' WHERE names = 'web04'")
		}, nil, 3, "stored output of group 2"},
		{"a stored result removed", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM results WHERE names = 'web03'")
		}, nil, 2, "group 1 of job"},
		{"the job of results removed", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM jobs")
		}, nil, 1, "group 0 of job"},
		{"a stored result added", func(t *testing.T, path file) {
			exec(t, path, "INSERT INTO results SELECT id + 10, record, machines, status, code, cut, dropped, sum, names, detail, took, output FROM results WHERE names = 'web04'")
		}, nil, -1, "1 stored groups of results have no record"},
		{"an output dropped in silence", func(t *testing.T, path file) {
			exec(t, path, "UPDATE results SET output = NULL, dropped = 1 WHERE names = 'web04'")
		}, nil, 3, "no record says so"},
		{"the counts of a closed job", func(t *testing.T, path file) {
			exec(t, path, "UPDATE jobs SET answered = 4, failed = 0")
		}, nil, 4, "stored counts of job"},
		{"the reason of a closed job", func(t *testing.T, path file) {
			exec(t, path, "UPDATE jobs SET reason = 'it was late'")
		}, nil, 4, "stored counts of job"},
		{"a closed job opened", func(t *testing.T, path file) {
			exec(t, path, "UPDATE jobs SET closed_ms = 0")
		}, nil, 4, "was closed, and is not"},
		{"a record removed", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM records WHERE idx = 50")
		}, nil, 50, "record 50 is missing"},
		{"the tail cut", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM records WHERE idx >= 305")
		}, nil, 305, "records 305 to 309 are missing: the newest stored checkpoint"},
		{"the tail cut with its checkpoints", func(t *testing.T, path file) {
			exec(t, path, "DELETE FROM records WHERE idx >= 290")
			exec(t, path, "DELETE FROM checkpoints WHERE size > 290")
		}, nil, 290, "records 290 to 309 are missing: the checkpoint kept outside"},
		{"a record and its hash, consistently", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = $1, hash = $2 WHERE idx = 20", leaf, hash[:])
		}, nil, 20, "records 20 to 20 are not the ones"},
		{"the same among ten under one checkpoint", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = $1, hash = $2 WHERE idx = 303", leaf, hash[:])
		}, nil, 300, "records 300 to 309 are not the ones"},
		{"the same, with every checkpoint after it removed", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = $1, hash = $2 WHERE idx = 303", leaf, hash[:])
			exec(t, path, "DELETE FROM checkpoints WHERE size > 300")
		}, nil, 300, "records 300 to 309 are under no checkpoint"},
		{"the same, with the nodes above it, in a log of which only the outside is left", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET leaf = $1, hash = $2 WHERE idx = 303", leaf, hash[:])
			exec(t, path, "DELETE FROM checkpoints WHERE size < 310")
		}, nil, 0, "records 0 to 309 are not the ones"},
		{"two records swapped", func(t *testing.T, path file) { swap(t, path, "leaf hash", 5, 0) }, nil, 0, "records 0 to 0 are not the ones"},
		{"two leaves swapped", func(t *testing.T, path file) { swap(t, path, "leaf", 5, 2) }, nil, 2, "record 2 was changed"},
		{"a hash of the tree", func(t *testing.T, path file) {
			exec(t, path, "UPDATE nodes SET hash = $1 WHERE level = 8 AND number = 0", hash[:])
		}, nil, 0, "stored hash over the records 0 to 255"},
		{"a hash of the wrong length", func(t *testing.T, path file) {
			exec(t, path, "UPDATE records SET hash = x'00' WHERE idx = 9")
		}, nil, 9, "record 9 was changed"},
		{"a checkpoint in the middle", func(t *testing.T, path file) {
			exec(t, path, "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 11) WHERE size = 12")
		}, nil, -1, "checkpoint of 11 records is out of order"},
		{"a checkpoint's text", func(t *testing.T, path file) {
			exec(t, path, "UPDATE checkpoints SET note = CAST(replace(note, 'epoch 0', 'epoch 1') AS BLOB) WHERE size = 12")
		}, nil, -1, "the stored checkpoint after record 10"},
		{"every checkpoint removed", func(t *testing.T, path file) { exec(t, path, "DELETE FROM checkpoints") }, nil, -1, "310 records and no checkpoint"},
		{"the newest checkpoint's text", func(t *testing.T, path file) {
			exec(t, path, "UPDATE checkpoints SET note = x'00' WHERE size = 310")
		}, nil, -1, "the newest stored checkpoint: bad audit checkpoint"},
		{"a malformed outside checkpoint", func(*testing.T, file) {}, func([]byte) []byte { return []byte("x") }, -1, "kept outside the database: bad"},
		{"an outside checkpoint with another text", func(*testing.T, file) {}, func(note []byte) []byte {
			return bytes.Replace(note, []byte("\n310\n"), []byte("\n300\n"), 1)
		}, -1, "kept outside the database: bad"},
		{"a leaf that is no record", func(t *testing.T, path file) {
			h := audit.LeafHash([]byte{0xff})
			exec(t, path, "UPDATE records SET leaf = x'ff', hash = $1 WHERE idx = 9", h[:])
		}, nil, 9, "record 9: malformed audit record"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path, opt := template.copy(t, new(storetest.Keeper))
			tt.tamper(t, path)
			if tt.outside != nil {
				opt.Outside = tt.outside(opt.Outside)
			}
			db := path.Open(t, opt) // on a damaged log, too
			defer db.Close()
			r, err := db.Verify(t.Context(), opt.Outside, func(int64, int64) {})
			if err != nil {
				t.Fatal(err)
			}
			if r.Problem == nil || r.Problem.Index != tt.index || !strings.Contains(r.Problem.What, tt.words) {
				t.Errorf("Verify = %+v; want record %d, %q", r.Problem, tt.index, tt.words)
			}
		})
	}
}
