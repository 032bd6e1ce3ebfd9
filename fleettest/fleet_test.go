package fleettest_test

import (
	"testing"

	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
)

func TestCall(t *testing.T) {
	f := fleettest.New(t, 3)
	c, err := f.Conn.Target("*,nobody", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), "test.ping", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]call.Result)
	for r, err := range j.Results() {
		if err != nil {
			t.Fatal(err)
		}
		got[r.Machine] = r
	}
	for _, m := range []string{"m01", "m02", "m03"} {
		if got[m].Code != call.OK {
			t.Errorf("%s: %+v; want an answer", m, got[m])
		}
	}
	if got["nobody"].Code != call.UnknownName {
		t.Errorf("nobody: %+v; want unknown name", got["nobody"])
	}
}
