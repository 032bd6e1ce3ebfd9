package overlord_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/fleettest"
	"dominion/overlord"
)

// SIGHUP to a sub-overlord reads the policy of its agent again; what does not hold
// leaves the older one in force.
func TestReloadOfTheAgentsPolicy(t *testing.T) {
	top := fleettest.New(t, 0)
	resp, err := top.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "mid", Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	hup := make(chan os.Signal)
	mid := fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), "mid"), Name: "mid", Parent: top.Address, Pin: top.Pin, Token: resp.Msg.Token, Reload: hup,
	})
	top.Until("mid is connected", func() bool { return status(t, top).Connected == 1 })
	file := filepath.Join(mid.State, "minion", "policy.yaml")
	allow, deny := `[{operators: "*", methods: "*", targets: "*"}]`, `[{operators: "nobody", methods: "*", targets: "*"}]`
	for _, tt := range []struct {
		name, policy string // empty: no file
		code         call.Code
	}{
		{"without a policy", "", call.OK}, {"denied", deny, call.Denied}, {"no policy at all", "[{", call.Denied}, {"gone", "", call.Denied}, {"allowed again", allow, call.OK},
	} {
		if tt.policy == "" {
			_ = os.Remove(file)
		} else if err := os.WriteFile(file, []byte(tt.policy), 0o600); err != nil {
			t.Fatal(err)
		}
		hup <- syscall.SIGHUP
		hup <- syscall.SIGHUP // it has been seen: the first is carried out
		top.Until(tt.name+": the order ends as it should", func() bool { return results(t, top.Conn, "mid", "test.ping", nil)["mid"].Code == tt.code })
	}
}
