package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

// The very same command carries on when the overlord is started again.
func TestOverlordRestartedUnderACall(t *testing.T) {
	cfg := fleettest.Config()
	cfg.Grace = overlord.Duration(10 * time.Millisecond)
	f := fleettest.Start(t, cfg)
	f.Enrol("m01", minion.Config{})
	f.Await(1)
	started := filepath.Join(t.TempDir(), "started")
	files := make([]*os.File, 3)
	for i, name := range []string{"in", "out", "err"} {
		var err error
		if files[i], err = os.Create(filepath.Join(t.TempDir(), name)); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	code := make(chan int, 1)
	a := newApp(files[0], files[1], files[2], os.Getenv)
	go func() {
		code <- a.main(t.Context(), []string{"--state", f.State, "run", "m01", "--shell", "--", "touch " + started + "; sleep 1; echo done"})
	}()
	fleettest.Until(t, "the command runs", func() bool { return fleettest.Exists(started) })
	f.Down()
	f.Up()
	select {
	case got := <-code:
		out, err := os.ReadFile(files[1].Name())
		if err != nil {
			t.Fatal(err)
		}
		errs, err := os.ReadFile(files[2].Name())
		if err != nil {
			t.Fatal(err)
		}
		if got != exitOK || !bytes.Contains(out, []byte("m01: done\n")) || strings.Count(string(errs), "connection to the overlord lost") != 1 {
			t.Errorf("exit code %d, output %q, said %q; want 0, done, and one note", got, out, errs)
		}
	case <-time.After(fleettest.Patience):
		t.Error("the command does not end")
	}
}
