package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"dominion/provisiond"
)

// unitSections are the keys that may stand in each section of our units. It is
// short on purpose: a key more is looked up before it is listed.
var unitSections = map[string][]string{
	"Unit": {"Description", "Documentation", "After", "Wants", "ConditionPathExists"},
	"Service": {
		"Type", "ExecStart", "ExecReload", "EnvironmentFile", "Restart", "RestartSec", "TimeoutStopSec", "KillMode", "Delegate", "LimitNOFILE",
		"NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectSystem",
	},
	"Timer":   {"OnCalendar", "RandomizedDelaySec", "Persistent"},
	"Install": {"WantedBy"},
}

// readUnit gives "Section.Key" with its values; what systemd would not take is an error
// of the test.
func readUnit(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	section, out := "", make(map[string]string)
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		switch key, value, ok := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case !ok || value == "" || !slices.Contains(unitSections[section], key):
			t.Errorf("%s:%d: %q in section %q", file, i+1, line, section)
		default:
			out[section+"."+key] = value
		}
	}
	return out
}

// The units run a command that exists, and systemd takes them.
func TestUnits(t *testing.T) {
	files, err := filepath.Glob("../../packaging/systemd/*")
	if err != nil || len(files) < 5 {
		t.Fatalf("units %q, %v", files, err)
	}
	dir := t.TempDir()
	var copies []string
	for _, file := range files {
		unit := readUnit(t, file)
		name := filepath.Base(file)
		switch filepath.Ext(name) {
		case ".service":
			words := strings.Fields(unit["Service.ExecStart"])
			if len(words) < 2 || words[0] != "/usr/local/bin/dominion" {
				t.Fatalf("%s runs %q", name, words)
			}
			checkWords(t, name, words[1:])
		case ".timer":
			if unit["Timer.OnCalendar"] != "daily" || unit["Timer.Persistent"] != "true" || unit["Timer.RandomizedDelaySec"] == "" || unit["Install.WantedBy"] != "timers.target" {
				t.Errorf("%s: %v", name, slices.Sorted(maps.Keys(unit)))
			}
			if _, err := os.Stat(strings.TrimSuffix(file, ".timer") + ".service"); err != nil {
				t.Errorf("%s starts nothing: %v", name, err)
			}
		default:
			t.Errorf("%s is neither a service nor a timer", name)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// systemd-analyze wants the program to be there, and has no man pages of ours.
		b = bytes.ReplaceAll(b, []byte("/usr/local/bin/dominion"), []byte(os.Args[0]))
		b = bytes.ReplaceAll(b, []byte("Documentation=man:"), []byte("# "))
		copies = append(copies, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return // what is above has to do
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", append([]string{"verify", "--man=no"}, copies...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning", "XDG_RUNTIME_DIR="+dir)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) || strings.Contains(line, "dominion-") {
			t.Errorf("systemd-analyze: %s", line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// checkWords wants a command line of ours that is right, flags and all.
func checkWords(t *testing.T, name string, words []string) {
	t.Helper()
	root := newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv).root()
	cmd, rest, err := root.Find(words)
	if err != nil || cmd == root {
		t.Fatalf("%s runs %q: %v", name, words, err)
	}
	if cmd.Name() == provisiond.Name { // it reads its words itself; -h stops it after that
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		if code := provisiond.Main(t.Context(), provisiond.Invocation{Name: provisiond.Name, Args: append([]string{"-h"}, words[1:]...), Stdout: null, Stderr: os.Stderr}); code != 0 {
			t.Errorf("%s runs %q: exit code %d", name, words, code)
		}
	}
	cmd.RunE = func(*cobra.Command, []string) error { return nil }
	root.SetArgs(words)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Errorf("%s runs %q (%q): %v", name, words, rest, err)
	}
}
