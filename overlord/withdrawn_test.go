package overlord_test

import (
	"path/filepath"
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
	f := fleettest.New(t, 0)
	resp, err := f.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: "mid", Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	sub := fleettest.Start(t, overlord.Config{
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
	c, err := f.Conn.Target("m01", client.Options{Delegate: true, Wait: time.Hour, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), "test.sleep", map[string]any{"seconds": 600})
	if err != nil {
		t.Fatal(err)
	}
	open := func(f *fleettest.Fleet) bool {
		resp, err := f.Conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Open: true}))
		return err == nil && len(resp.Msg.Jobs) == 1
	}
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
