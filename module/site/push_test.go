package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dominion/call"
	"dominion/module"
)

func TestInstall(t *testing.T) {
	told := 0
	s := newSet(t, func(o *Options) {
		o.Dir = filepath.Join(t.TempDir(), "modules.d")
		o.OnChange = func(context.Context) { told++ }
	})
	install := func(name, text, digest string, dry bool) (string, error) {
		t.Helper()
		if digest == "" {
			digest = DigestOf([]byte(text))
		}
		out, err := s.method(t, "module.install").Run(t.Context(), nil, []byte(fmt.Sprintf(`{"name":%q,"content":%s,"digest":%q,"dry_run":%t}`, name, jsonText(t, text), digest, dry)))
		return string(out), err
	}
	first, second := script("pushed", `echo '{"n":1}'`), script("pushed", `echo '{"n":2}'`)
	for _, step := range []struct {
		name, module, text, digest string
		dry                        bool
		out, err                   string
		told                       int
	}{
		{"dry", "pushed", first, "", true, `{"changed":true,"version":"1","methods":["do"]}`, "", 0},
		{"first", "pushed", first, "", false, `{"changed":true,"version":"1","methods":["do"]}`, "", 1},
		{"again", "pushed", first, "", false, `{"changed":false,"before":"` + DigestOf([]byte(first)) + `","version":"1","methods":["do"]}`, "", 1},
		{"false digest", "pushed", second, DigestOf([]byte(first)), false, "", "does not have the digest", 1},
		{"broken", "pushed", "#!/bin/sh\necho no", "", false, "", `it begins with "no"`, 1},
		{"built in", "test", script("test", ""), "", false, "", "the agent has a module", 1},
		{"reserved", "cert", script("cert", ""), "", false, "", "reserved", 1},
		{"second", "pushed", second, "", false, `{"changed":true,"before":"` + DigestOf([]byte(first)) + `","version":"1","methods":["do"]}`, "", 2},
	} {
		out, err := install(step.module, step.text, step.digest, step.dry)
		if out != step.out || (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) || told != step.told {
			t.Errorf("%s: %s, %v, told %d times; want %s, %q, %d", step.name, out, err, told, step.out, step.err, step.told)
		}
		if left, _ := filepath.Glob(filepath.Join(s.dir, scratch+"*")); len(left) > 0 {
			t.Errorf("%s: %q is left", step.name, left)
		}
	}
	if out, err := s.method(t, "pushed.do").Run(t.Context(), nil, nil); string(out) != `{"n":2}` || err != nil {
		t.Errorf("%s, %v", out, err)
	}
	remove := func(args string) string {
		t.Helper()
		out, err := s.method(t, "module.remove").Run(t.Context(), nil, []byte(args))
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	for _, step := range []struct{ args, want string }{
		{`{"name":"pushed","dry_run":true}`, `{"changed":true,"before":"` + DigestOf([]byte(second)) + `"}`},
		{`{"name":"pushed"}`, `{"changed":true,"before":"` + DigestOf([]byte(second)) + `"}`},
		{`{"name":"pushed"}`, `{"changed":false}`},
		{`{"name":"../x"}`, `invalid: module.remove: field "name": got "\"../x\""; wants a text, 1 to 255 bytes, of the form [^/.][^/]*`},
	} {
		if got := remove(step.args); got != step.want {
			t.Errorf("remove %s: %s; want %s", step.args, got, step.want)
		}
	}
	if told != 3 || len(s.all()) != 0 {
		t.Errorf("told %d times, left: %s", told, s.reasons())
	}
	s.push = false
	if _, err := install("pushed", first, "", false); call.CodeOf(err) != call.Denied || !strings.Contains(err.Error(), "modules_push") {
		t.Errorf("without modules_push: %v", err)
	}
	if got := remove(`{"name":"pushed"}`); !strings.Contains(got, "modules_push") {
		t.Errorf("without modules_push: %s", got)
	}
}

func TestList(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "good", script("good", ""))
	s.write(t, "bad", "#!/bin/sh\nexit 1\n")
	s.Load(t.Context(), false)
	out, err := s.method(t, "module.list").Run(t.Context(), nil, nil)
	want := fmt.Sprintf(`{"dir":%q,"push":true,"modules":[{"name":"bad","state":"disabled","reason":"bad describe: exit 1","digest":%q},{"name":"good","state":"offered","version":"1","digest":%q,"methods":["do"]}]}`,
		s.dir, DigestOf([]byte("#!/bin/sh\nexit 1\n")), DigestOf([]byte(script("good", ""))))
	if err != nil || string(out) != want {
		t.Errorf("%s, %v; want %s", out, err, want)
	}
	var no *Set
	table, err := module.NewTable([]module.Module{no.Module()})
	must(t, err)
	for name, args := range map[string]string{"module.list": "{}", "module.remove": `{"name":"x"}`} {
		m, _ := table.Lookup(name)
		if _, err := m.Run(t.Context(), nil, []byte(args)); call.CodeOf(err) != call.Failed {
			t.Errorf("%s without a set: %v", name, err)
		}
	}
}

// TestCutOff: a scratch directory that a killed agent left is removed.
func TestCutOff(t *testing.T) {
	s := newSet(t, nil)
	left := filepath.Join(s.dir, scratch+"X", "deep")
	must(t, os.MkdirAll(left, 0o700))
	s.Load(t.Context(), false)
	if _, err := os.Stat(filepath.Dir(left)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

func jsonText(t *testing.T, s string) string {
	t.Helper()
	b, err := module.Bytes(s).MarshalJSON()
	must(t, err)
	return string(b)
}
