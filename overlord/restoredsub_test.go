package overlord_test

import (
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
)

// files gives some of an overlord's state, to be put back later.
func files(t *testing.T, f *fleettest.Fleet, names ...string) (putBack func()) {
	t.Helper()
	saved := make(map[string][]byte)
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(f.State, n))
		if err != nil {
			t.Fatal(err)
		}
		saved[n] = b
	}
	return func() {
		t.Helper()
		for n, b := range saved {
			if err := os.WriteFile(filepath.Join(f.State, n), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range []string{"store.db-wal", "store.db-shm"} {
			_ = os.Remove(filepath.Join(f.State, n)) // there is none after an orderly end
		}
	}
}

func status(t *testing.T, f *fleettest.Fleet) *apipb.StatusResponse {
	t.Helper()
	resp, err := f.Conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg
}

// A sub-overlord whose store was put back to an older one starts, knows the list of
// the revoked that its agent has, and says what is wrong.
func TestRestoredSubOverlordStarts(t *testing.T) {
	top := fleettest.New(t, 0)
	gone, mid := subOf(t, top, "gone"), subOf(t, top, "mid")
	mid.Down()
	putBack := files(t, mid, "store.db")
	mid.Up()
	if _, err := top.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "gone", Role: "overlord"})); err != nil {
		t.Fatal(err)
	}
	gone.Down()
	mid.Until("the list has come", func() bool { return status(t, mid).RevocationNumber == 1 })
	mid.Down()
	putBack()
	mid.Up()
	s := status(t, mid)
	if s.RevocationNumber != 1 || s.AuditProblem == "" {
		t.Errorf("list %d, problem %q; want list 1 and a log that was cut", s.RevocationNumber, s.AuditProblem)
	}
}
