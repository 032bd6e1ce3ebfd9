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
		env  string // a variable that is set to 1
		want []string
		not  []string
	}{
		{"run", []string{"run", "m*", "--shell", "--", `printf "\033[31mred\033[0m\n"`}, "", []string{"\x1b[36mm01:\x1b[0m " + `\x1b[31mred\x1b[0m`, "\x1b[36mm02:\x1b[0m " + `\x1b[31mred\x1b[0m`}, []string{"\x1b[31m", "(2)"}},
		{"errors", []string{"run", "m01", "--shell", "--", "echo oh >&2"}, "", []string{"\x1b[33mm01:\x1b[0m oh"}, nil},
		{"folded", []string{"run", "m*", "--fold", "--", "echo", "x"}, "", []string{"\x1b[1mm[01-02] (2):\x1b[0m x"}, []string{"m01: x"}},
		{"differences", []string{"run", "m*", "--diff", "--shell", "--", `echo a; test $(cat /proc/sys/kernel/random/uuid) && echo $PPID$RANDOM$$`}, "", []string{"differs:", "\x1b[31m-", "\x1b[32m+", "\x1b[36m@@"}, nil},
		{"without colours", []string{"run", "m*", "--fold", "--", "echo", "x"}, "NO_COLOR", []string{"m[01-02] (2): x"}, []string{"\x1b[1m"}},
		{"live without colours", []string{"run", "m*", "--", "echo", "x"}, "NO_COLOR", []string{"m01: x"}, []string{"\x1b[36m"}},
		{"progress", []string{"call", "m*", "test.sleep", "0.5"}, "NO_COLOR", []string{"\r\x1b[K0/2: 0 answered, 2 silent", "\r\x1b[Km[01-02] (2): ok: true"}, nil},
		{"json", []string{"call", "m*", "test.ping", "-o", "jsonl"}, "", []string{`{"machine":"m01"`}, []string{"\x1b["}},
		{"document", []string{"call", "m*", "test.ping", "-o", "json"}, "", []string{`"machine": "m01"`}, []string{"\x1b["}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := terminal(t)
			var seen bytes.Buffer
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(&seen, ours) // ends with EIO when the other side is closed
			}()
			a := newApp(theirs, theirs, theirs, func(name string) string {
				return map[string]string{tt.env: "1"}[name]
			})
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
