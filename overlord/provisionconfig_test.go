package overlord

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dominion/config"
)

// Node scripts and files must not be where the keys are, by whatever name.
func TestProvisionStatedirIsNotTheState(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "srv", "state")
	for _, d := range []string{filepath.Join(state, "ca"), filepath.Join(dir, "other")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"tostate": state, "tosrv": filepath.Join(dir, "srv"), "toother": filepath.Join(dir, "other"), "dead": filepath.Join(dir, "none")} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		statedir, want string
	}{
		{"", ""},
		{filepath.Join(state, "perceus"), ""},
		{filepath.Join(dir, "other"), ""},
		{filepath.Join(dir, "toother"), ""},
		{filepath.Join(dir, "new", "deep"), ""},
		{filepath.Join(state, "..", "..", "other"), ""},
		{filepath.Join(dir, "srv", "state2"), ""},
		{filepath.Join(dir, "tostate", "perceus"), ""},
		{state, "contains it"},
		{state + "/", "contains it"},
		{filepath.Join(state, "x", ".."), "contains it"},
		{filepath.Dir(state), "contains it"},
		{dir, "contains it"},
		{"/", "contains it"},
		{filepath.Join(dir, "tostate"), "contains it"},
		{filepath.Join(dir, "tosrv"), "contains it"},
		{filepath.Join(dir, "tosrv", "state"), "contains it"},
		{filepath.Join(state, "ca"), "own files"},
		{filepath.Join(state, "ca", "x"), "own files"},
		{filepath.Join(state, "minion"), "own files"},
		{filepath.Join(dir, "dead"), "leads nowhere"},
	} {
		for _, st := range []string{state, filepath.Join(dir, "tostate")} {
			_, err := Config{State: st, Name: "x", Provision: ProvisionConfig{Enabled: true, Statedir: x.statedir}}.settle()
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("statedir %q, state %q: %v; want %q", x.statedir, st, err, x.want)
			}
		}
	}
	// The daemon looks itself, too: the configuration may have been checked before a link was made.
	cfg := Config{State: state, Name: "x", Listen: "127.0.0.1:0", Provision: ProvisionConfig{Enabled: true, Statedir: filepath.Dir(state)}}
	if err := Run(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "contains it") {
		t.Errorf("the overlord starts: %v", err)
	}
}

func TestProvisionConfig(t *testing.T) {
	for text, want := range map[string]string{
		"provision: {enabled: true}": "",
		"provision: {enabled: true, approve: all, states: [init, ready, halt]}":                                                     "",
		"provision: {approve: [{mac: '52:54:*', network: 10.0.0.0/8}], rules: perceus-1.9.3, on_failure: ignore, shell: /bin/bash}": "",
		"provision: {vnfs: {method: nfs, master: m, prefix: /x}, names: 'node##', first_number: 1, listen: '127.0.0.1:0'}":          "",
		"provision: {rules: perceus}":                                 "provision.rules: ",
		"provision: {on_failure: carry-on}":                           "provision.on_failure: ",
		"provision: {shell: bash}":                                    "provision.shell: ",
		"provision: {states: [ready]}":                                "provision.states: init is missing",
		"provision: {states: [init, ../x]}":                           "provision.states: ",
		"provision: {vnfs: {method: ftp}}":                            "provision.vnfs.method: ",
		"provision: {listen: here}":                                   "provision.listen: ",
		"provision: {legacy_listen: ':987'}":                          "",
		"provision: {legacy_listen: '987'}":                           "provision.legacy_listen: ",
		"provision: {names: node}":                                    "provision.names: ",
		"provision: {approve: some}":                                  `overlord.yaml:1: approve: "some" is neither all`,
		"provision: {approve: [{}]}":                                  "to approve every node say approve: all",
		"provision: {approve: [{mac: '52:[54'}]}":                     "is not a glob",
		"provision: {approve: [{network: 10.0.0.1}]}":                 "is not a network",
		"provision:\n  approve:\n    - {mac: '*'}\n    - {nets: x}\n": `overlord.yaml:4: key "nets": unknown`,
		"provision: {colour: red}":                                    "colour",
	} {
		c, err := config.Parse[Config]("overlord.yaml", []byte(text))
		if err == nil {
			c.State, c.Name = t.TempDir(), "x"
			err = c.Check()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
