package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dominion/fleettest"
)

// terminal opens a pseudo-terminal, 60 columns wide.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(theirs.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 60}); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// On a terminal output is live, after the name of its machine, and a line of
// progress is shown and taken away.
func TestTerminal(t *testing.T) {
	f := fleettest.New(t, 2)
	for _, tt := range []struct {
		name string
		args []string
		want []string
		not  []string
	}{
		{"run", []string{"run", "m*", "--shell", "--", `printf "\033[31mred\033[0m\n"`}, []string{`m01: \x1b[31mred\x1b[0m`, `m02: \x1b[31mred\x1b[0m`}, []string{"\x1b[31m", "(2)"}},
		{"folded", []string{"run", "m*", "--fold", "--", "echo", "x"}, []string{"m[01-02] (2): x"}, []string{"m01: x"}},
		{"progress", []string{"call", "m*", "test.sleep", "0.5"}, []string{"\r\x1b[K0/2", "\r\x1b[Km[01-02] (2): ok: true"}, nil},
		{"json", []string{"call", "m*", "test.ping", "-o", "jsonl"}, []string{`{"machine":"m01"`}, []string{"\x1b[K"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := terminal(t)
			var seen bytes.Buffer
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(&seen, ours) // ends with EIO when the other side is closed
			}()
			a := newApp(theirs, theirs, theirs, os.Getenv)
			code := a.main(t.Context(), append([]string{"--state", f.State}, tt.args...))
			theirs.Close()
			<-done
			if code != exitOK {
				t.Errorf("exit code %d", code)
			}
			for _, w := range tt.want {
				if !strings.Contains(seen.String(), w) {
					t.Errorf("the terminal does not show %q:\n%q", w, seen.String())
				}
			}
			for _, w := range tt.not {
				if strings.Contains(seen.String(), w) {
					t.Errorf("the terminal shows %q:\n%q", w, seen.String())
				}
			}
		})
	}
}
