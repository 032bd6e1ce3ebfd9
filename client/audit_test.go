package client_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
)

// copyStore copies what an overlord's back-up would hold.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	for _, old := range []string{"store.db", "store.db-wal", "store.db-shm"} {
		b, err := os.ReadFile(filepath.Join(from, old))
		if os.IsNotExist(err) {
			if err := os.Remove(filepath.Join(to, old)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, old), b)
	}
}

// An operator remembers the audit log it has seen: an overlord that was rolled
// back is refused until the root key explains it.
func TestAuditHead(t *testing.T) {
	f := fleettest.New(t, 1)
	f.Down()
	backup := t.TempDir()
	copyStore(t, f.State, backup)
	f.Up()
	f.Await(1)
	dir := contexts(t)
	order := func() {
		t.Helper()
		c, err := f.Conn.Target("m01", client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		job, err := c.Call(t.Context(), "test.ping", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer job.Close()
		if _, err := job.Groups(); err != nil {
			t.Fatal(err)
		}
	}
	order()
	first, before, err := f.Conn.AuditHead(t.Context(), dir)
	if err != nil || before.Size != 0 || first.Size == 0 {
		t.Fatalf("AuditHead = %v, %v, %v", first, before, err)
	}
	order()
	second, before, err := f.Conn.AuditHead(t.Context(), dir)
	if err != nil || before != first || second.Size <= first.Size {
		t.Fatalf("AuditHead = %v, %v, %v; want one that continues %v", second, before, err, first)
	}

	f.Down()
	copyStore(t, backup, f.State)
	f.Up()
	if _, _, err := f.Conn.AuditHead(t.Context(), dir); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("after a roll-back: %v; want audit refused", err)
	}
	resp, err := f.Conn.Audit.Recover(t.Context(), connect.NewRequest(&apipb.AuditRecoverRequest{Confirm: true}))
	if err != nil || !resp.Msg.GetDone() {
		t.Fatalf("Recover = %v, %v", resp, err)
	}
	third, before, err := f.Conn.AuditHead(t.Context(), dir)
	if err != nil || before != second || third.Epoch != second.Epoch+1 {
		t.Errorf("after recovery: %v, %v, %v; want epoch %d", third, before, err, second.Epoch+1)
	}

	write(t, filepath.Join(dir, "checkpoints"), []byte("garbage"))
	if _, _, err := f.Conn.AuditHead(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "checkpoints") {
		t.Errorf("with a damaged memory: %v", err)
	}
}
