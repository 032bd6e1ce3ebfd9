//go:build fleet

package logs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dominion/fleettest/box"
	"dominion/module"
)

// TestFleetJournal reads what the journal of a real systemd has.
func TestFleetJournal(t *testing.T) {
	b := box.New(t, map[string]string{
		"boot-talks.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo hello one; echo \"<3>bad thing\"; echo hello two'\n",
		"boot-other.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo from another'\n",
	})
	m := machine{args: []string{"--directory=" + b.Run + "/log/journal"}}
	b.Do("journalctl", "--sync")
	for _, test := range []struct {
		name  string
		in    JournalIn
		want  []string // lines end so
		lines int      // -1: any number
	}{
		{"unit", JournalIn{Unit: "boot-talks.service", Priority: "debug", Grep: "hello|bad", Lines: 100}, []string{"hello one\n", "bad thing\n", "hello two\n"}, 3},
		{"priority", JournalIn{Unit: "boot-talks.service", Priority: "err", Lines: 100}, []string{"bad thing\n"}, 1},
		{"last", JournalIn{Unit: "boot-talks.service", Priority: "debug", Grep: "^hello", Lines: 1}, []string{"hello two\n"}, 1},
		{"grep", JournalIn{Grep: "from an[o]ther", Priority: "debug", Lines: 100}, []string{"from another\n"}, 1},
		{"nothing", JournalIn{Grep: "no such words", Priority: "debug", Lines: 100}, nil, 0},
		{"since", JournalIn{Since: time.Hour, Priority: "debug", Lines: 1000}, []string{"hello one\n"}, -1},
		{"identifier", JournalIn{Identifier: "sh", Priority: "debug", Lines: 1000}, []string{"hello one\n", "from another\n"}, -1},
	} {
		got, err := m.journal(t.Context(), nil, test.in)
		if err != nil || test.lines >= 0 && got.Lines != test.lines {
			t.Errorf("%s: %d lines, %v; want %d:\n%s", test.name, got.Lines, err, test.lines, got.Text)
		}
		for _, want := range test.want {
			if !strings.Contains(string(got.Text), want) {
				t.Errorf("%s: no %q in\n%s", test.name, want, got.Text)
			}
		}
	}
	out := make(live, 16)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() {
		_, err := m.journal(ctx, &module.Env{Stdout: out}, JournalIn{Unit: "boot-talks.service", Grep: "^hello", Priority: "debug", Lines: 1, Follow: time.Hour})
		ended <- err
	}()
	if got := <-out; !strings.HasSuffix(got, "hello two\n") {
		t.Errorf("followed: %q", got)
	}
	b.Do("systemctl", "restart", "boot-talks.service")
	for all := ""; strings.Count(all, "hello two") == 0; {
		all += <-out
	}
	mine := errors.New("withdrawn")
	cancel(mine)
	if err := <-ended; !errors.Is(err, mine) {
		t.Errorf("%v; want the cause", err)
	}
	if _, err := m.journal(t.Context(), nil, JournalIn{Priority: "debug", Lines: 1, Follow: 300 * time.Millisecond}); err != nil {
		t.Errorf("followed to its end: %v", err)
	}
}
