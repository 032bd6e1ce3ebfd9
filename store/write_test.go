package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
)

// coded is an error of the engine.
type coded int

func (c coded) Error() string { return "engine error" }
func (c coded) Code() int     { return int(c) }

// faulty opens a store whose commits fail as told.
func faulty(t *testing.T) (*DB, func(error)) {
	t.Helper()
	return faultyWith(t, Options{Log: slog.New(slog.DiscardHandler)})
}

func faultyWith(t *testing.T, opt Options) (*DB, func(error)) {
	t.Helper()
	var mu sync.Mutex
	var fails error
	opt.Overlord, opt.LogKey = "dc1", ed25519.NewKeyFromSeed(make([]byte, 32))
	opt.commit = func(ctx context.Context, commit func(context.Context) error) error {
		mu.Lock()
		defer mu.Unlock()
		if fails != nil {
			return fails
		}
		return commit(ctx)
	}
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		fails = err
	}
}

func TestCommitFails(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		code    call.Code
		words   string
		forGood bool
	}{
		{"full", coded(codeFull), call.Unavailable, "is full", false},
		{"input or output", coded(codeIOErr | 3<<8), call.Unavailable, "cannot be written", false},
		{"damaged", coded(codeCorrupt), call.Unavailable, "is damaged", false},
		{"fsync", coded(codeFsync), call.Unavailable, "restart the overlord", true},
		{"fsync of the directory", coded(codeDirFsync), call.Unavailable, "restart the overlord", true},
		{"busy", coded(5), call.Internal, "write to the store", false},
		{"a bug", errors.New("bug"), call.Internal, "bug", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, fail := faulty(t)
			note := func(tx *Tx) error {
				_, err := tx.Audit(&auditpb.Record{Action: "test"})
				return err
			}
			if err := db.Update(t.Context(), note); err != nil {
				t.Fatal(err)
			}
			fail(tt.err)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if err := db.Update(t.Context(), note); call.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.words) {
						t.Errorf("Update = %v; want %v, %q", err, tt.code, tt.words)
					}
				})
			}
			wg.Wait()
			if tt.code == call.Unavailable && !strings.Contains(db.Problem(), tt.words) {
				t.Errorf("Problem = %q; want %q", db.Problem(), tt.words)
			}
			fail(nil)
			err := db.Update(t.Context(), note)
			if tt.forGood {
				if call.CodeOf(err) != call.Unavailable || db.Problem() == "" {
					t.Errorf("Update after an fsync error = %v, problem %q; want unavailable until restart", err, db.Problem())
				}
				return
			}
			if err != nil || db.Problem() != "" {
				t.Errorf("Update when all is well = %v, problem %q", err, db.Problem())
			}
			if r, err := db.Verify(t.Context(), nil, nil); err != nil || r.Problem != nil || r.Size != 2 {
				t.Errorf("Verify = %+v, %v; want 2 good records", r, err)
			}
		})
	}
}

// TestFaultIsToldOnceAMinute has writers try again and again on a full disk.
func TestFaultIsToldOnceAMinute(t *testing.T) {
	var (
		log bytes.Buffer // written by the writer, read between two updates
		now atomic.Int64 // seconds
	)
	db, fail := faultyWith(t, Options{
		Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return time.Unix(now.Load(), 0) },
	})
	for _, step := range []struct {
		name          string
		after         int64 // seconds
		err           error
		errors, infos int // in all, after this step
	}{
		{"full", 0, coded(codeFull), 1, 0},
		{"again", 59, coded(codeFull), 1, 0},
		{"a minute later", 1, coded(codeFull), 2, 0},
		{"another fault", 1, coded(codeIOErr | 3<<8), 3, 0},
		{"room", 1, nil, 3, 1},
		{"still room", 1, nil, 3, 1},
		{"full", 1, coded(codeFull), 4, 1},
		{"room for a moment", 1, nil, 4, 2},
		{"full at once", 1, coded(codeFull), 4, 2},
		{"and again", 1, nil, 4, 2},
	} {
		now.Add(step.after)
		fail(step.err)
		for range 5 {
			if err := db.Update(t.Context(), func(*Tx) error { return nil }); (err == nil) != (step.err == nil) {
				t.Fatalf("%s: Update = %v", step.name, err)
			}
		}
		if e, i := strings.Count(log.String(), "level=ERROR"), strings.Count(log.String(), "level=INFO"); e != step.errors || i != step.infos {
			t.Errorf("%s: %d complaints and %d words of an end; want %d and %d:\n%s", step.name, e, i, step.errors, step.infos, log.String())
		}
	}
}

// TestEngineErrorInWrite has one write of a group meet a fault of the engine:
// the whole group fails.
func TestEngineErrorInWrite(t *testing.T) {
	db, _ := faulty(t)
	err := db.Update(t.Context(), func(*Tx) error { return coded(codeFull) })
	if call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "is full") {
		t.Errorf("Update = %v; want unavailable", err)
	}
	if err := db.Update(t.Context(), func(*Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}

// TestPageLimit fills the database itself.
func TestPageLimit(t *testing.T) {
	db, _ := faulty(t)
	if err := db.Update(t.Context(), func(tx *Tx) error { return tx.exec(t.Context(), "PRAGMA max_page_count = 60") }); err != nil {
		t.Fatal(err)
	}
	put := func(n int) error {
		return db.Update(t.Context(), func(tx *Tx) error {
			return tx.PutMinion(t.Context(), Minion{Name: "web1", Facts: bytes.Repeat([]byte("x"), n)})
		})
	}
	if err := put(1 << 20); call.CodeOf(err) != call.Unavailable {
		t.Errorf("a write of 1 MiB = %v; want unavailable", err)
	}
	if err := put(1000); err != nil {
		t.Errorf("a write that fits, after it: %v", err)
	}
}

func TestSQLiteDDL(t *testing.T) {
	got := sqliteDDL("CREATE TABLE x (a BIGINT NOT NULL PRIMARY KEY, b BYTEA, c BIGINT NOT NULL, PRIMARY KEY (a))")
	want := "CREATE TABLE x (a INTEGER PRIMARY KEY, b BLOB, c BIGINT NOT NULL, PRIMARY KEY (a))"
	if got != want {
		t.Errorf("sqliteDDL = %s; want %s", got, want)
	}
}

func TestTook(t *testing.T) {
	if got := unpackTook([]byte{1, 0x80}); len(got) != 1 {
		t.Errorf("unpackTook of a cut list = %v; want what is whole", got)
	}
}
