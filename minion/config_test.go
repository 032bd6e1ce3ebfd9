package minion

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.yaml")
	text := "name: Web1.Example.org\nstate: /tmp/m\noverlords: [dc1, 'dc2:7000', '[::1]:8']\npin: sha256:" +
		strings.Repeat("ab", 32) + "\nlisten: ':51234'\nmax_running: 3\nlog_level: debug\nconfd: {listen: off}\n"
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
	if s.name != "web1.example.org" || s.running != 3 || s.queued != defaultQueued || s.listen != ":51234" || s.confd != "off" {
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
		{"bad address of confd", "confd", Config{Name: "web1", Overlords: []string{"dc1"}, Confd: Confd{Listen: "a b"}}},
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
