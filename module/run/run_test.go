package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
)

func TestFind(t *testing.T) {
	for _, test := range []struct {
		names []string
		want  string // its base; empty: none
	}{
		{[]string{"sh"}, "sh"},
		{[]string{"no-such-program", "sh"}, "sh"},
		{[]string{"no-such-program", "nor-this"}, ""},
		{nil, ""},
	} {
		got, err := Find(test.names...)
		if test.want == "" {
			if call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), strings.Join(test.names, " or ")) {
				t.Errorf("Find(%q) = %q, %v", test.names, got, err)
			}
			continue
		}
		if err != nil || !filepath.IsAbs(got) || filepath.Base(got) != test.want {
			t.Errorf("Find(%q) = %q, %v; want %s", test.names, got, err, test.want)
		}
	}
}

func TestOutput(t *testing.T) {
	t.Setenv("AGENT_SECRET", "must not be inherited")
	for _, test := range []struct {
		name, script, want string
		err                string // its text; empty: there is none
		status             int    // of the error; 0: it has none
	}{
		{"plain", "echo out; echo aside >&2", "out\n", "", 0},
		{"environment", "env | grep -v ^_ | grep -v ^PWD | cut -d= -f1 | sort | tr '\\n' ' '", "LC_ALL PATH ", "", 0},
		{"directory", "pwd", "/\n", "", 0},
		{"no input", "cat", "", "", 0},
		{"status", "echo some; echo 'it is' >&2; echo wrong >&2; exit 100", "some\n", "sh: exit 100: it is\nwrong", 100},
		{"silent", "exit 1", "", "sh: exit 1", 1},
		{"not UTF-8", `printf '\377' >&2; exit 1`, "", "sh: exit 1: \ufffd", 1},
		{"signal", "kill -KILL $$", "", "sh: killed by SIGKILL", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Output(t.Context(), &module.Env{}, "/bin/sh", "-c", test.script)
			text := ""
			if err != nil {
				text = err.Error()
			}
			status, _ := Status(err)
			if string(got) != test.want || text != test.err || status != test.status {
				t.Errorf("%q, %q, %d; want %q, %q, %d", got, text, status, test.want, test.err, test.status)
			}
		})
	}
}

func TestOutputBounds(t *testing.T) {
	out, err := Output(t.Context(), nil, "/bin/sh", "-c", "head -c 9000000 /dev/zero | tr '\\0' x")
	if len(out) != KeepOutput || err == nil || err.Error() != "sh wrote more than 4194304 bytes" {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	_, err = Output(t.Context(), nil, "/bin/sh", "-c", "head -c 900000 /dev/zero | tr '\\0' x >&2; exit 2")
	if err == nil || len(err.Error()) > module.MaxDetail || !strings.HasSuffix(err.Error(), "x…") {
		t.Errorf("an error of %d bytes: %.80v", len(err.Error()), err)
	}
}

func TestNotStarted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(file, []byte("\x01\x02"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Output(t.Context(), nil, file); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "start "+file) {
		t.Errorf("garbage: %v", err)
	}
	if _, err := Output(t.Context(), nil, "/bin/echo", "a\x00b"); call.CodeOf(err) != call.Invalid {
		t.Errorf("a zero byte: %v", err)
	}
	gone := errors.New("it is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := Output(ctx, nil, "/bin/echo"); !errors.Is(err, gone) {
		t.Errorf("after its end: %v", err)
	}
}

// TestOutputEnds: an error of a program that was stopped has the cause, and no status.
func TestOutputEnds(t *testing.T) {
	cause := errors.New("it is over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	_, err := Output(ctx, nil, "/bin/sh", "-c", "exec sleep 60")
	if _, ok := Status(err); !errors.Is(err, cause) || ok {
		t.Errorf("%v", err)
	}
}
