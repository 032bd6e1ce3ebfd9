//go:build fleet

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dominion/fleettest"
)

// binary is the program to be tested, built without the race detector.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("DOMINION_BINARY"); b != "" {
		return b
	}
	b := filepath.Join(t.TempDir(), "dominion")
	out, err := exec.Command("go", "build", "-o", b, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return b
}

// The demo shows its tour, and leaves neither a process nor a file.
func TestFleetDemo(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(binary(t), "demo", "--minions", "4", "--once")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	for _, want := range []string{"db01,web[01-03] (4): alive", "db01,web[01-03] (4): ok: true", "sum: 3", "web01: disk is full", "nosuch: unknown name", "records hold"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("the demo left %v in its directory (%v)", left, err)
	}
}

// Ctrl-C ends every process of the demo and removes its directory.
func TestFleetDemoInterrupted(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(binary(t), "demo", "--minions", "2")
	var out lockedBuffer
	cmd.Env, cmd.Stdout = append(os.Environ(), "TMPDIR="+tmp), &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fleettest.Until(t, "the demo is up", func() bool { return strings.Contains(out.String(), "In another terminal") })
	state := filepath.Join(tmp, "nothing")
	for line := range strings.Lines(out.String()) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "export DOMINION_STATE="); ok {
			state = s
		}
	}
	if b, err := exec.Command(cmd.Path, "ping", "*", "--state", state).CombinedOutput(); err != nil {
		t.Errorf("ping from elsewhere: %v\n%s", err, b)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("demo: %v", err)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("the demo left %v in its directory (%v)", left, err)
	}
}

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex // covers b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
