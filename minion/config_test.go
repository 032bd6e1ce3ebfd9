package minion

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.yaml")
	text := "name: Web1.Example.org\nstate: /tmp/m\noverlords: [dc1, 'dc2:7000', '[::1]:8']\npin: sha256:" +
		strings.Repeat("ab", 32) + "\nlisten: ':51234'\nmax_running: 3\nlog_level: debug\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.check()
	if err != nil {
		t.Fatal(err)
	}
	if s.name != "web1.example.org" || s.running != 3 || s.queued != defaultQueued || s.listen != ":51234" {
		t.Errorf("settings = %+v", s)
	}
	want := []string{"dc1:51235", "dc2:7000", "[::1]:8"}
	if !reflect.DeepEqual(s.overlords, want) {
		t.Errorf("overlords = %q; want %q", s.overlords, want)
	}
	if s.policy != "/tmp/m/policy.yaml" || s.policyMust {
		t.Errorf("policy = %q, must exist %v; want the one in the state directory, if it is there", s.policy, s.policyMust)
	}
}

func TestConfigFileRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text, key string
		line            int
	}{
		{"unknown key", "name: web1\npinn: x\n", "pinn", 2},
		{"wrong type", "name: web1\nmax_running: many\n", "", 2},
		{"a list for a name", "name: [a]\n", "", 1},
		{"no YAML", "name: web1\n\t- x\n", "", 2},
		{"a key twice", "name: a\nname: b\n", "", 2},
		{"two documents", "name: a\n---\nname: b\n", "", 2},
		{"too long", "name: " + strings.Repeat("a", maxConfig), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("minion.yaml", []byte(tt.text))
			ce, ok := errors.AsType[*ConfigError](err)
			if !ok {
				t.Fatalf("parseConfig = %v; want a *ConfigError", err)
			}
			if ce.Key != tt.key || ce.Line != tt.line {
				t.Errorf("error %q names key %q in line %d; want %q, %d", ce, ce.Key, ce.Line, tt.key, tt.line)
			}
		})
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v; want ErrNotExist", err)
	}
}

func TestConfigCheck(t *testing.T) {
	for _, tt := range []struct {
		name, key string
		c         Config
	}{
		{"bad name", "name", Config{Name: "../x", Overlords: []string{"dc1"}}},
		{"no overlord", "overlords", Config{Name: "web1"}},
		{"bad address", "overlords", Config{Name: "web1", Overlords: []string{"dc1:x:y:"}}},
		{"bad port", "overlords", Config{Name: "web1", Overlords: []string{"dc1:70000"}}},
		{"a URL", "overlords", Config{Name: "web1", Overlords: []string{"https://dc1"}}},
		{"bad pin", "pin", Config{Name: "web1", Overlords: []string{"dc1"}, Pin: "sha256:12"}},
		{"bad level", "log_level", Config{Name: "web1", Overlords: []string{"dc1"}, LogLevel: "loud"}},
		{"negative bound", "max_running", Config{Name: "web1", Overlords: []string{"dc1"}, MaxRunning: -1}},
		{"huge bound", "max_queued", Config{Name: "web1", Overlords: []string{"dc1"}, MaxQueued: 1 << 30}},
		{"bad listen", "listen", Config{Name: "web1", Listen: ":x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Check()
			if err == nil || !strings.HasPrefix(err.Error(), tt.key+": ") {
				t.Errorf("Check = %v; want an error that begins with the key %s", err, tt.key)
			}
		})
	}
	if err := (Config{Overlords: []string{"dc1"}}).Check(); err != nil {
		t.Errorf("a configuration with only an overlord: %v", err)
	}
}

// Each key of the file has a comment in the source: the documentation is made from it.
func TestConfigKeysAreListed(t *testing.T) {
	_, err := parseConfig("f", []byte("nosuch: 1"))
	for f := range reflect.TypeFor[Config]().Fields() {
		key := f.Tag.Get("yaml")
		if key == "" {
			t.Errorf("field %s has no yaml tag", f.Name)
		}
		if key != "-" && !strings.Contains(err.Error(), key) {
			t.Errorf("the error about an unknown key does not list %s: %v", key, err)
		}
	}
}
