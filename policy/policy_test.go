package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/target"
)

const example = `
- {operators: "alice", methods: "*", targets: "*"}
- {operators: "web-*,root", methods: "service.*,test.[a-p]*", targets: "web*!web-db1"}
- {operators: "bob", methods: "cert.*,token.create", targets: "*"}
- {operators: "carol", methods: "*", targets: "@dbs,web1"}
- {operators: "dave", methods: "*", targets: "*!@dbs"}
- operators: erin
  methods: "groups.set, Cert.Sign"
  targets: web*
- {operators: "op[01-20]", methods: "test.add", targets: "web[01-20]"}
- {operators: "frank", methods: "cluster.*", targets: "*"}
- {operators: "grace", methods: "Cluster.key.*", targets: "*"}
`

func groups(name string) ([]string, bool) {
	if name == "dbs" {
		return []string{"db1", "db2", "gone"}, true
	}
	return nil, false
}

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAllow(t *testing.T) {
	p := parse(t, example)
	for _, test := range []struct {
		operator, method, machine string
		minion, overlord          bool // without groups, and with them
	}{
		{"alice", "service.stop", "db1", true, true},
		{"Alice", "service.stop", "db1", true, true},
		{"alice", "groups.set", "", true, true},
		{"alice", "cert.sign", "", false, false}, // only by a pattern that begins with the word
		{"alice", "token.create", "", false, false},
		{"alice", "operator.add", "", false, false},
		{"alice", "operator", "", false, false},
		{"alice", "Operator.add", "", false, false},
		{"alice", "operators.list", "web1", true, true},
		{"alice", "cluster.set", "", true, true},
		{"alice", "cluster.keys", "", true, true},
		{"alice", "cluster.key.show", "", false, false},
		{"alice", "Cluster.Key.rotate", "", false, false},
		{"alice", "cluster.key", "", false, false},
		{"frank", "cluster.key.show", "", false, false},
		{"frank", "cluster.set", "", true, true},
		{"grace", "cluster.key.show", "", true, true},
		{"grace", "cluster.set", "", false, false},
		{"mallory", "test.ping", "web1", false, false},
		{"", "test.ping", "web1", false, false},
		{"web-1", "service.stop", "web7", true, true},
		{"web-1", "service.stop", "web-db1", false, false},
		{"web-1", "service.stop", "db1", false, false},
		{"web-1", "services.stop", "web7", false, false},
		{"web-1", "test.ping", "web7", true, true},
		{"web-1", "test.sleep", "web7", false, false},
		{"web-1", "service.stop", "", false, false},
		{"root", "service.stop", "web7", true, true},
		{"bob", "cert.sign", "", true, true},
		{"bob", "cert.revoke", "", true, true},
		{"bob", "token.create", "", true, true},
		{"bob", "token.revoke", "", false, false},
		{"bob", "operator.add", "", false, false},
		{"carol", "test.ping", "db1", false, true},
		{"carol", "test.ping", "web1", false, true}, // the whole line waits for groups
		{"carol", "test.ping", "gone", false, true},
		{"carol", "test.ping", "db3", false, false},
		{"dave", "test.ping", "web1", false, true},
		{"dave", "test.ping", "db1", false, false},
		{"dave", "groups.set", "", false, false},
		{"erin", "groups.set", "", false, false}, // its targets are not "*"
		{"erin", "cert.sign", "web1", true, true},
		{"op07", "test.add", "web20", true, true},
		{"op21", "test.add", "web20", false, false},
		{"op07", "test.add", "web21", false, false},
		{"op07", "test.add", "web2", false, false},
	} {
		t.Run(test.operator+" "+test.method+" "+test.machine, func(t *testing.T) {
			if got := p.Allow(test.operator, test.method, test.machine); got != test.minion {
				t.Errorf("without groups %v; want %v", got, test.minion)
			}
			if got := p.WithGroups(groups).Allow(test.operator, test.method, test.machine); got != test.overlord {
				t.Errorf("with groups %v; want %v", got, test.overlord)
			}
		})
	}
}

func TestNilAndEmpty(t *testing.T) {
	var none *Policy
	if !none.Allow("x", "cert.sign", "") || none.AllowAll("x", "y.z", []string{"a"}) != nil || none.WithGroups(groups) != nil {
		t.Error("no policy does not allow everything")
	}
	for _, text := range []string{"", "\n# nothing\n", "---\n", "[]", "~"} {
		p := parse(t, text)
		if p.Allow("x", "test.ping", "a") || p.Allow("x", "groups.set", "") {
			t.Errorf("the policy %q allows something", text)
		}
	}
}

func TestAllowAll(t *testing.T) {
	p := parse(t, example).WithGroups(groups)
	machines := []string{"web2", "db1", "web-db1", "web1"}
	for _, test := range []struct {
		operator, method string
		denied           []string
	}{
		{"alice", "test.ping", nil},
		{"root", "service.status", []string{"db1", "web-db1"}},
		{"carol", "test.ping", []string{"web2", "web-db1"}},
		{"dave", "test.ping", []string{"db1"}},
		{"mallory", "test.ping", machines},
	} {
		t.Run(test.operator, func(t *testing.T) {
			if d := cmp.Diff(test.denied, p.AllowAll(test.operator, test.method, machines)); d != "" {
				t.Errorf("denied (-want +got):\n%s", d)
			}
		})
	}
	if d := p.AllowAll("mallory", "test.ping", nil); d != nil {
		t.Errorf("of no machines %q are denied", d)
	}
	if p.WithGroups(nil).Allow("carol", "test.ping", "db1") {
		t.Error("without groups, a group's line allows")
	}
}

func TestParseRefuses(t *testing.T) {
	const good = `- {operators: "a", methods: "*", targets: "*"}` + "\n"
	for _, test := range []struct{ name, text, want string }{
		{"unknown key", good + `- {operators: a, methods: b, target: c}`, `line 2: key "target" is unknown; wants operators, methods and targets`},
		{"twice", `- {operators: a, operators: b, methods: b, targets: c}`, `line 1: key "operators" is there twice`},
		{"missing", good + good + `- {operators: a, methods: b}`, `line 3: key "targets" is missing; write "*" for all`},
		{"group of a program", `- {operators: a, methods: b, targets: "*!@batch/idle"}`, `group of a program, which no policy can name`},
		{"number", `- {operators: 1, methods: b, targets: c}`, `line 1: wants a text; put "1" in quotes`},
		{"bool", `- {operators: a, methods: true, targets: c}`, `line 1: wants a text; put "true" in quotes if it is meant as one (key "methods")`},
		{"null", `- {operators: a, methods: , targets: c}`, `wants a text`},
		{"list", `- {operators: [a, b], methods: b, targets: c}`, `wants a text`},
		{"binary", `- {operators: !!binary YQ==, methods: b, targets: c}`, `wants a text`},
		{"key is a number", `- {1: a, methods: b, targets: c}`, `wants a text`},
		{"alias", `- {operators: &x a, methods: *x , targets: c}`, `wants a text`},
		{"merge", good + `- {<<: {operators: a}, methods: b, targets: c}`, `line 2: `},
		{"map", `operators: a`, `line 1: wants a list of lines such as`},
		{"text", `alice`, `line 1: wants a list of lines`},
		{"list of texts", `- alice`, `line 1: wants a line with the keys`},
		{"bad operators", "-\n  operators: 'a]'\n  methods: b\n  targets: c", `line 2: key "operators": pattern "a]"`},
		{"bad methods", `- {operators: a, methods: "test.*,,x", targets: c}`, `line 1: key "methods": pattern "test.*,,x"`},
		{"empty methods", `- {operators: a, methods: "", targets: c}`, `line 1: key "methods"`},
		{"bad targets", `- {operators: a, methods: b, targets: "web[01-"}`, `line 1: key "targets": target "web[01-"`},
		{"empty targets", `- {operators: a, methods: b, targets: ""}`, `line 1: key "targets"`},
		{"second document", good + "---\n" + good, "second document"},
		{"rubbish behind", good + "---\n{", "second document"},
		{"no YAML", "- {", "line 1"},
		{"tab", "\t- x", "bad policy: "},
		{"not UTF-8", "- \xff", "bad policy: "},
		{"long", strings.Repeat(" ", MaxFile+1), "1048577 bytes are more than 1048576"},
		{"many", strings.Repeat("- 1\n", MaxLines+1), "10001 lines are more than 10000"},
		{"deep", strings.Repeat("[", 100000), "bad policy: "},
		{"alias bomb", "- &a [x,x]\n- &b [*a,*a]\n- [*b,*b]", "line 1: wants a line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := Parse([]byte(test.text))
			if !errors.Is(err, ErrPolicy) || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("Parse = %v, %v; want %q", p, err, test.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	if p, err := Load(path); p != nil || err != nil {
		t.Errorf("without a file: %v, %v", p, err)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(example)
	if p, err := Load(path); err != nil || !p.Allow("alice", "test.ping", "x") {
		t.Errorf("with the example: %v, %v", p, err)
	}
	write("")
	if p, err := Load(path); err != nil || p == nil {
		t.Errorf("with an empty file: %v, %v; want a policy that denies", p, err)
	}
	write("- x")
	if _, err := Load(path); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), path) {
		t.Errorf("with a bad file: %v", err)
	}
	write(strings.Repeat("#", MaxFile+1))
	if _, err := Load(path); !errors.Is(err, ErrPolicy) {
		t.Errorf("with a long file: %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read")
	}
	if _, err := Load(path + "/x"); err == nil {
		t.Error("a file in a file was read")
	}
}

// A policy that others may change, or that is not there although something is in
// its place, neither binds nor is taken for none.
func TestLoadIsNotFooled(t *testing.T) {
	for _, test := range []struct {
		name  string
		make  func(path string) error
		words string // empty: it is loaded
	}{
		{"a file", func(p string) error { return nil }, ""},
		{"a link to a file", func(p string) error { return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p)) }, ""},
		{"a link to nothing", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("nowhere", p)) }, "a link to nothing"},
		{"others may write", func(p string) error { return os.Chmod(p, 0o646) }, "chmod go-w"},
		{"the group may write", func(p string) error { return os.Chmod(p, 0o660) }, "chmod go-w"},
		{"a pipe", func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) }, "no file"},
		{"somebody else's", func(p string) error { return os.Chown(p, 12345, -1) }, "belongs to user 12345"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.yaml")
			if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := test.make(path); err != nil {
				if errors.Is(err, os.ErrPermission) {
					t.Skipf("SKIPPED %s: it needs root: %v", t.Name(), err)
				}
				t.Fatal(err)
			}
			p, err := Load(path)
			if test.words == "" {
				if err != nil || p == nil {
					t.Errorf("Load = %v, %v; want a policy", p, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("Load = %v, %v; want an error with %q", p, err, test.words)
			}
		})
	}
}

// FuzzParse: no panic, one sentinel, and what is decided for many machines is
// decided the same for each of them alone.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example), "alice", "cert.sign")
	f.Add([]byte("- {operators: \"*\", methods: \"c*,t?st.[!a]*\", targets: \"web[01-20]&web*;db1!@x\"}"), "bob", "test.ping")
	f.Add([]byte("- &a {operators: &b x, methods: *b, <<: *a}"), "x", "x.y")
	f.Add([]byte("- ? [x]\n  : y\n--- !!str z"), "", "")
	f.Fuzz(func(t *testing.T, text []byte, operator, method string) {
		p, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrPolicy) || p != nil {
				t.Fatalf("error %v does not wrap ErrPolicy, or comes with a policy", err)
			}
			return
		}
		machines := []string{"db1", "web01", "web02", "x"}
		for _, p := range []*Policy{p, p.WithGroups(groups)} {
			denied := p.AllowAll(operator, method, machines)
			for _, m := range machines {
				if p.Allow(operator, method, m) == slices.Contains(denied, m) {
					t.Fatalf("machine %s alone and among others differ", m)
				}
			}
			if p.Allow(operator, method, "") && len(denied) > 0 {
				t.Fatal("an administrative action is allowed to whom some machine is denied")
			}
		}
	})
}

// FuzzAlternatives: split patterns match what the whole pattern does.
func FuzzAlternatives(f *testing.F) {
	f.Add("test.*,web[01,02],[a-c]x", "web02")
	f.Fuzz(func(t *testing.T, text, name string) {
		whole, err := target.Glob(text)
		parts, partsErr := parseMethods(text)
		if (err == nil) != (partsErr == nil) {
			t.Fatalf("the whole says %v, its parts %v", err, partsErr)
		}
		if err != nil {
			return
		}
		any := slices.ContainsFunc(parts, func(m method) bool { return m.pattern.Match(name) })
		if any != whole.Match(name) {
			t.Fatalf("the whole matches %q: %v, its parts: %v", name, whole.Match(name), any)
		}
	})
}
