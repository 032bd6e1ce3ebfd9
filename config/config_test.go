package config_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"dominion/config"
)

type daemon struct {
	Name  string `yaml:"name"`
	Count int    `yaml:"count"`
	Rules []rule `yaml:"rules"`
	Gone  string `yaml:"-"`
}

type rule struct {
	Glob string `yaml:"glob"`
}

func TestParse(t *testing.T) {
	got, err := config.Parse[daemon]("d.yaml", []byte("name: a\nrules:\n- glob: x*\n"))
	if err != nil || got.Name != "a" || len(got.Rules) != 1 || got.Rules[0].Glob != "x*" {
		t.Errorf("Parse = %+v, %v", got, err)
	}
	if got, err := config.Parse[daemon]("d.yaml", nil); err != nil || got.Name != "" {
		t.Errorf("Parse of an empty file = %+v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "name: a\ncolour: red\n", `d.yaml:2: key "colour": unknown, or given twice; the keys are name, count, rules`},
		{"unknown key below", "rules:\n- glub: x\n", `d.yaml:2: key "glub": unknown, or given twice; the keys are glob`},
		{"wrong type", "count: many\n", "d.yaml:1: cannot unmarshal"},
		{"key twice", "name: a\nname: b\n", "already defined"},
		{"no YAML", "name: [\n", "d.yaml:"},
		{"two documents", "name: a\n---\nname: b\n", "a second document"},
		{"too long", strings.Repeat("#", config.MaxSize+1), "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse[daemon]("d.yaml", []byte(tt.text))
			if _, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestLoadMissing(t *testing.T) {
	if _, err := config.Load[daemon](filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v; want ErrNotExist", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: a\nrules:\n- glob: x*\n"))
	f.Add([]byte("rules:\n- glub: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := config.Parse[daemon]("d.yaml", b); err != nil {
			if _, ok := errors.AsType[*config.Error](err); !ok {
				t.Fatalf("error %v is no *config.Error", err)
			}
		}
	})
}
