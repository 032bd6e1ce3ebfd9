package overlord_test

import (
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
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

// The log of a restored sub-overlord is explained by the host of the root's key, over
// two sessions and for a token; its machines believe it again.
func TestRestoredSubOverlordRecovers(t *testing.T) {
	t.Parallel()
	top := fleettest.New(t, 0)
	mid := subOf(t, top, "mid")
	token := func(name string) string {
		t.Helper()
		resp, err := top.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: name, Role: "overlord"}))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Msg.Token
	}
	low := fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), "low"), Name: "low", Parent: mid.Address, Pin: top.Pin, Token: token("low"),
		Autosign: []overlord.AutosignRule{{Names: "*"}},
	})
	low.Enrol("low-1", minion.Config{})
	low.Await(1)
	low.Down()
	putBack := files(t, low, "store.db", "checkpoint")
	low.Up()
	low.Await(1)
	if _, err := low.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "x"})); err != nil {
		t.Fatal(err)
	}
	for range 2 { // its machine sees the new checkpoint in HELLO
		low.Down()
		low.Up()
		low.Await(1)
	}
	low.Down()
	putBack()
	low.Up()
	low.Await(1)
	low.Until("the machine gives the older log away", func() bool { return status(t, low).AuditProblem != "" })
	low.Until("low is connected", func() bool { return status(t, low).Parent.Connected })
	mid.Until("it is connected, too", func() bool { return status(t, mid).Parent.Connected })

	recovers := func(token string) (*apipb.AuditRecoverResponse, error) {
		resp, err := low.Conn.Audit.Recover(t.Context(), connect.NewRequest(&apipb.AuditRecoverRequest{Confirm: true, Token: token}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	for _, bad := range []string{"", token("mid")} {
		if _, err := recovers(bad); call.CodeOf(err) != call.Denied {
			t.Errorf("token %.8q: %v; want denied", bad, err)
		}
	}
	if s := status(t, low); s.AuditProblem == "" {
		t.Fatal("recovered without the root's word")
	}
	done, err := recovers(token("low"))
	if err != nil || !done.Done || done.Epoch != 1 || done.AbandonedSize <= done.RestoredSize {
		t.Fatalf("recovery: %v, %v", done, err)
	}
	for range 2 {
		if got := verify(t, low.Conn); !got.Ok {
			t.Errorf("after the recovery: %v", got.Problem)
		}
		if s := status(t, low); s.AuditProblem != "" {
			t.Errorf("after the recovery: %s", s.AuditProblem)
		}
		low.Down()
		low.Up()
		low.Await(1) // its machine shows what it remembers
	}
	var at *apipb.AuditRecord
	stream, err := top.Conn.Audit.List(t.Context(), connect.NewRequest(&apipb.AuditListRequest{Action: "recovery", Actor: "overlord/low", Limit: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		at = stream.Msg()
	}
	if at == nil {
		t.Error("the top has no record of it")
	}
}
