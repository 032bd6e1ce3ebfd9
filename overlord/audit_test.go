package overlord_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	_ "modernc.org/sqlite"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
)

func apierrOf(err error) call.Code {
	if e := apierr.FromPeer(err); e != nil {
		return e.Code
	}
	return call.CodeOf(err)
}

// records gives the whole audit log.
func records(t *testing.T, conn *client.Conn) []*auditpb.Record {
	t.Helper()
	s, err := conn.Audit.List(t.Context(), connect.NewRequest(&apipb.AuditListRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []*auditpb.Record
	for s.Receive() {
		r, err := audit.Decode(s.Msg().Body)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// verify gives the end of a verification.
func verify(t *testing.T, conn *client.Conn) *apipb.AuditVerifyEvent {
	t.Helper()
	s, err := conn.Audit.Verify(t.Context(), connect.NewRequest(&apipb.AuditVerifyRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var last *apipb.AuditVerifyEvent
	for s.Receive() {
		last = s.Msg()
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return last
}

func TestTamperedStoreIsFound(t *testing.T) {
	for _, tt := range []struct {
		name, sql string
		index     int64  // -1: any
		what      string // part of what is said
	}{
		{"a byte of a record", "UPDATE records SET leaf = CAST(leaf || x'00' AS BLOB) WHERE idx = 2", 2, ""},
		{"a record removed", "DELETE FROM records WHERE idx = 1", 1, ""},
		{"a stored result", "UPDATE results SET output = CAST('{\"ok\":false}' AS BLOB)", -1, "output of group 0"},
		{"a result's machines", "UPDATE results SET names = 'm02'", -1, "group 0"},
		{"the tail cut", "DELETE FROM records WHERE idx = (SELECT max(idx) FROM records); DELETE FROM checkpoints WHERE size > (SELECT count(*) FROM records)", -1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fleettest.New(t, 1)
			results(t, f.Conn, "m01", "test.ping", nil)
			if got := verify(t, f.Conn); !got.Ok || got.Size < 3 {
				t.Fatalf("before: %v", got)
			}
			f.Down()
			db, err := sql.Open("sqlite", filepath.Join(f.State, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(tt.sql); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			f.Up()
			got := verify(t, f.Conn)
			if got.Ok || got.Problem == nil {
				t.Fatalf("verify finds nothing: %v", got)
			}
			if tt.index >= 0 && got.Problem.Index != tt.index || !strings.Contains(got.Problem.What, tt.what) {
				t.Errorf("verify finds %v; want record %d, %q", got.Problem, tt.index, tt.what)
			}
		})
	}
}

func TestRolledBackOverlordIsRefused(t *testing.T) {
	t.Parallel()
	f := fleettest.New(t, 2)
	f.Down()
	saved := make(map[string][]byte)
	for _, n := range []string{"store.db", "checkpoint"} {
		b, err := os.ReadFile(filepath.Join(f.State, n))
		if err != nil {
			t.Fatal(err)
		}
		saved[n] = b
	}
	f.Up()
	f.Await(2)
	results(t, f.Conn, "*", "test.ping", nil)
	f.Down()
	f.Up() // the minions see the new checkpoint in HELLO
	f.Await(2)
	f.Down()
	for n, b := range saved {
		if err := os.WriteFile(filepath.Join(f.State, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"store.db-wal", "store.db-shm"} {
		_ = os.Remove(filepath.Join(f.State, n)) // there is none after an orderly end
	}
	f.Up()
	f.Await(2)
	if _, err := ask(t, f.Conn, "*", "test.ping", nil); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("an order on the older store: %v; want audit refused", err)
	}
	res, err := f.Conn.Audit.Recover(t.Context(), connect.NewRequest(&apipb.AuditRecoverRequest{Confirm: true}))
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.Epoch != 1 || res.Msg.AbandonedSize <= res.Msg.RestoredSize {
		t.Errorf("recovery: %v", res.Msg)
	}
	f.Until("the minions take orders again", func() bool {
		got := results(t, f.Conn, "*", "test.ping", nil)
		return got["m01"].Code == call.OK && got["m02"].Code == call.OK
	})
	if got := verify(t, f.Conn); !got.Ok {
		t.Errorf("after the recovery: %v", got.Problem)
	}
}
