package reboot

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
)

// at is a machine without logind in a boot of that id.
func at(t *testing.T, boot string) machine {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "boot_id")
	if err := os.WriteFile(file, []byte(boot+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return machine{bus: filepath.Join(dir, "none"), bootID: file, root: dir}
}

func TestResume(t *testing.T) {
	m := at(t, "second")
	for _, test := range []struct {
		name string
		note ledger
		raw  string
		back bool
		err  string
	}{
		{"restarted", ledger{"first", time.Now().Add(-time.Minute), time.Now()}, "", true, ""},
		{"the agent alone", ledger{"second", time.Now(), time.Now().Add(time.Minute)}, "", false, module.ErrLater.Error()},
		{"not restarted", ledger{"second", time.Now(), time.Now().Add(-time.Hour)}, "", false, "failed: the machine has not restarted"},
		{"clock set back", ledger{"first", time.Now().Add(time.Hour), time.Now()}, "", true, ""},
		{"garbage", ledger{}, "x", false, "unknown: the note"},
		{"empty", ledger{}, "{}", false, "unknown: the note"},
	} {
		b := []byte(test.raw)
		if test.raw == "" {
			b, _ = json.Marshal(test.note)
		}
		got, err := m.resume(t.Context(), nil, b)
		p, _ := got.(Planned)
		if p.Back != test.back || p.Seconds < 0 || test.err == "" && (err != nil || p.BootID != "second" || p.BootedAt == nil) || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
			t.Errorf("%s: %+v, %v; want %q", test.name, got, err, test.err)
		}
	}
}

func TestWithoutLogind(t *testing.T) {
	m := at(t, "x")
	for name, f := range map[string]func() error{
		"now":    func() error { _, err := m.now(t.Context(), nil, NowIn{}); return err },
		"cancel": func() error { _, err := m.cancel(t.Context(), nil, CancelIn{}); return err },
	} {
		if err := f(); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "no systemd-logind") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(os.MkdirAll(m.root+"/run", 0o755), os.WriteFile(m.root+"/run/reboot-required", nil, 0o644), os.WriteFile(m.root+"/run/reboot-required.pkgs", []byte("linux\nlibc6\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	got, err := m.status(t.Context(), nil, struct{}{})
	if err != nil || got.BootID != "x" || !got.Wanted || strings.Join(got.For, " ") != "linux libc6" || got.BootedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestNote: a call that cannot be answered later does not begin.
func TestNote(t *testing.T) {
	m := at(t, "first")
	if err := m.note(&module.Env{}, ledger{}); call.CodeOf(err) != call.Failed {
		t.Errorf("without a journal: %v", err)
	}
	var kept []byte
	env := &module.Env{Keep: func(b []byte) error { kept = b; return context.Canceled }}
	if err := m.note(env, ledger{}); !errors.Is(err, context.Canceled) || !strings.Contains(string(kept), `"boot":"first"`) {
		t.Errorf("%s, %v", kept, err)
	}
}
