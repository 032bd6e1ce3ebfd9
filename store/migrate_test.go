package store

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"dominion/call"
)

// A store of the first version goes on, its open jobs with what they lack.
func TestMigrateFromFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	pool, err := sqlitePool(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	text, err := migrations.ReadFile("migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	id := call.NewJobID(time.Now())
	firstVersion(t, pool, string(text), id)
	conn, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), conn, sqliteDDL); err != nil {
		t.Fatal(err)
	}
	r := &reader{conn}
	jobs, err := r.OpenJobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].ID != id {
		t.Fatalf("OpenJobs = %v, %v; want the one job", jobs, err)
	}
	if j := jobs[0]; j.Timeout != 0 || j.Wait || j.Bare || !j.Cancelled.IsZero() || string(j.Args) != "{}" {
		t.Errorf("it is %+v", j)
	}
	if n, err := schemaVersion(t.Context(), conn); n < 2 || err != nil {
		t.Errorf("schema %d, %v", n, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

func firstVersion(t *testing.T, pool *sql.DB, text string, id call.JobID) {
	t.Helper()
	conn, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := step(t.Context(), conn, sqliteDDL(text), 1); err != nil {
		t.Fatal(err)
	}
	_, err = conn.ExecContext(t.Context(), `INSERT INTO jobs VALUES (1, $1, 0, 'alice', 'test.ping', x'', x'', x'', CAST('{}' AS BLOB), x'00', 'web*', 'web1', '',
		1, 2, 0, 1, 0, 0, 0, 0, '', 0, 0)`, id[:])
	if err != nil {
		t.Fatal(err)
	}
}
