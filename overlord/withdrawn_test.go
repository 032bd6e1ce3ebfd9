package overlord_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

// An order goes on when a sub-overlord was ended in order and is back; and one that is
// withdrawn while a sub-overlord is away is withdrawn there, and not
// failed, when that is back.
func TestWithdrawnWhileAway(t *testing.T) {
	f, sub := aboveAndBelow(t)
	c, err := f.Conn.Target("m01", client.Options{Delegate: true, Wait: time.Hour, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), "test.sleep", map[string]any{"seconds": 600})
	if err != nil {
		t.Fatal(err)
	}
	open := func(f *fleettest.Fleet) bool { return openJobs(t, f) == 1 }
	sub.Until("it has the order", func() bool { return open(sub) })
	for range 2 { // ended in order: the job goes on
		sub.Down()
		f.Await(0)
		if !open(f) {
			got, err := j.ByMachine()
			t.Fatalf("the job is over, with %v, %v", got, err)
		}
		sub.Up()
		f.Await(1)
		sub.Await(1)
	}
	sub.Down()
	f.Await(0)
	if _, err := j.Cancel(t.Context()); err != nil {
		got, end := j.ByMachine()
		t.Fatalf("%v; it ended with %v, %v", err, got, end)
	}
	sub.Up()
	got, err := j.ByMachine()
	if err != nil || got["m01"].Code != call.Cancelled {
		t.Errorf("m01 gives %v, %v; want that it is cancelled", got["m01"], err)
	}
}

// A sub-overlord that comes back when the order is long over at the top ends it, too.
func TestOverWhileAway(t *testing.T) {
	f, sub := aboveAndBelow(t)
	c, err := f.Conn.Target("m01", client.Options{Delegate: true, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), "test.sleep", map[string]any{"seconds": 600})
	if err != nil {
		t.Fatal(err)
	}
	sub.Until("it has the order", func() bool { return openJobs(t, sub) == 1 })
	sub.Down()
	f.Await(0)
	if _, err := j.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := j.ByMachine()
	if err != nil || got["m01"].Code != call.SessionLost || !strings.Contains(got["m01"].Detail, "unreachable behind mid") {
		t.Errorf("m01 gives %v, %v; want that its session is lost behind mid", got["m01"], err)
	}
	if n := openJobs(t, f); n != 0 {
		t.Fatalf("%d jobs are open at the top", n)
	}
	sub.Up()
	sub.Until("it has ended the order", func() bool { return openJobs(t, sub) == 0 })
}

// aboveAndBelow is an overlord with its map, and mid below it with a machine, m01.
func aboveAndBelow(t *testing.T) (f, sub *fleettest.Fleet) {
	t.Helper()
	f = fleettest.New(t, 0)
	resp, err := f.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "mid", Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	sub = fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), "mid"), Name: "mid", Parent: f.Address, Pin: f.Pin, Token: resp.Msg.Token,
		Autosign: []overlord.AutosignRule{{Names: "m*"}}, Grace: overlord.Duration(time.Millisecond),
	})
	f.Await(1)
	sub.Enrol("m01", minion.Config{})
	sub.Await(1)
	build, err := f.Conn.Maps.Build(t.Context(), connect.NewRequest(&apipb.BuildMapRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for build.Receive() {
	}
	if err := build.Err(); err != nil {
		t.Fatal(err)
	}
	return f, sub
}

// openJobs is how many jobs of an overlord are open; -1 while it does not answer.
func openJobs(t *testing.T, f *fleettest.Fleet) int {
	t.Helper()
	resp, err := f.Conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Open: true}))
	if err != nil {
		return -1
	}
	return len(resp.Msg.Jobs)
}
