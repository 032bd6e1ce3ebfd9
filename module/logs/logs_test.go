package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	for _, test := range []struct {
		name, text string
		lines      int
		want       string
		count      int
	}{
		{"empty", "", 10, "", 0},
		{"fewer", "a\nb\n", 10, "a\nb\n", 2},
		{"some", "a\nb\nc\nd\n", 2, "c\nd\n", 2},
		{"without an end", "a\nb\nc", 2, "b\nc", 2},
		{"none", "a\nb\n", 0, "", 0},
		{"empty lines", "a\n\n\n\n", 2, "\n\n", 2},
		{"one", "a", 1, "a", 1},
		{"long lines", strings.Repeat(strings.Repeat("x", 70_000)+"\n", 3), 2, strings.Repeat(strings.Repeat("x", 70_000)+"\n", 2), 2},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := tail(t.Context(), nil, TailIn{Path: file, Lines: test.lines})
		if err != nil || string(got.Text) != test.want || got.Lines != test.count {
			t.Errorf("%s: %d lines, %.40q, %v; want %d, %.40q", test.name, got.Lines, got.Text, err, test.count, test.want)
		}
	}
}

func TestTailBounds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	line := strings.Repeat("x", 99) + "\n"
	if err := os.WriteFile(file, []byte(strings.Repeat(line, 100_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := tail(t.Context(), nil, TailIn{Path: file, Lines: 100_000})
	if err != nil || len(got.Text) > keep || uint64(len(got.Text))+got.Cut != maxTail || got.Lines != maxTail/100+1 {
		t.Errorf("%d bytes, %d cut, %d lines, %v", len(got.Text), got.Cut, got.Lines, err)
	}
}

func TestTailRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(syscall.Mkfifo(dir+"/fifo", 0o600), os.Symlink("/dev/zero", dir+"/zero"), os.Mkdir(dir+"/dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/fifo", "/zero", "/dir", "/nosuch"} {
		if got, err := tail(t.Context(), nil, TailIn{Path: dir + name, Lines: 1}); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// live passes on what is written.
type live chan string

func (l live) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// TestTailFollow: what is written later arrives, also to a file that was cut
// or that took the name.
func TestTailFollow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	write(t, file, "old\nfirst\n")
	out := make(live, 16)
	ctx, cancel := context.WithCancelCause(t.Context())
	type result struct {
		Text
		error
	}
	ended := make(chan result)
	go func() {
		text, err := tail(ctx, &module.Env{Stdout: out}, TailIn{Path: file, Lines: 1, Follow: time.Hour})
		ended <- result{text, err}
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-out:
			if got != want {
				t.Fatalf("got %q; want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no %q", want)
		}
	}
	expect("first\n")
	write(t, file, "second\n")
	expect("second\n")
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * tailTick) // a cut that is filled at once to the same length cannot be seen
	write(t, file, "cut\n")
	expect("cut\n")
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, file+".1", "last of the old\n")
	expect("last of the old\n")
	write(t, file, "new\n")
	expect("new\n")
	mine := errors.New("withdrawn")
	cancel(mine)
	if r := <-ended; !errors.Is(r.error, mine) || r.Lines != 5 || string(r.Text.Text) != "first\nsecond\ncut\nlast of the old\nnew\n" {
		t.Errorf("%+v", r)
	}
	got, err := tail(t.Context(), nil, TailIn{Path: file, Lines: 1, Follow: time.Millisecond})
	if err != nil || string(got.Text) != "new\n" {
		t.Errorf("followed to its end: %+v, %v", got, err)
	}
}

func TestNoJournal(t *testing.T) {
	if _, err := exec.LookPath("journalctl"); err != nil {
		t.Skipf("SKIPPED %s: %v (Debian: systemd)", t.Name(), err)
	}
	got, err := machine{args: []string{"--directory=" + t.TempDir()}}.journal(t.Context(), nil, JournalIn{Priority: "debug", Lines: 5})
	if call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "keeps no journal") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLeavingReader(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	write(t, file, "a\nb\n")
	got, err := tail(t.Context(), &module.Env{Stdout: gone{}}, TailIn{Path: file, Lines: 5})
	if err != nil || got.Lines != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, fmt.Errorf("nobody listens") }
