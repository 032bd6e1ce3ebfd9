package site

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/module"
	"dominion/module/run"
	"dominion/module/run/runtest"
)

// describes begins a program in shell that describes one method, do, with an input
// text and an output text.
const describes = `#!/bin/sh
[ "$1" = describe ] && { cat <<'EOF'
{"name": "NAME", "doc": "A test.", "version": "1", "methods": [
  {"name": "do", "doc": "Does it.", "effect": "change", "timeout": "20s",
   "fields": [{"name": "text", "type": "string", "doc": "said back", "default": "none"}],
   "output": [{"name": "text", "type": "string", "doc": "what was given"}, {"name": "n", "type": "int", "doc": "a number"}]}]}
EOF
exit; }
`

// quick has less patience than the agent.
var quick = run.Runner{Grace: 200 * time.Millisecond, Cancel: 200 * time.Millisecond, Idle: 20 * time.Millisecond, Cgroup: run.Cgroup}

// newSet makes a Set of a directory of the test's own.
func newSet(t *testing.T, change func(*Options)) *Set {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	opt := Options{Dir: dir, Push: true, Runner: &quick, Taken: func(name string) bool { return name == "test" }}
	if change != nil {
		change(&opt)
	}
	s := New(opt)
	s.wait = time.Second
	return s
}

func (s *Set) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path+".new", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// script is a module whose call is a script.
func script(name, body string) string {
	return strings.ReplaceAll(describes, "NAME", name) + body
}

func (s *Set) table(t *testing.T) *module.Table {
	t.Helper()
	table, err := module.NewTable(append(s.Modules(), s.Module()))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func (s *Set) method(t *testing.T, name string) module.Method {
	t.Helper()
	m, ok := s.table(t).Lookup(name)
	if !ok {
		t.Fatalf("there is no method %s; entries: %s", name, s.reasons())
	}
	return m
}

func (s *Set) reasons() string {
	var b strings.Builder
	for _, e := range s.all() {
		fmt.Fprintf(&b, "%s: %s\n", e.name, e.reason)
	}
	return b.String()
}

// TestDisabled: what is broken is disabled with its reason, and nothing else is.
func TestDisabled(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "good", script("good", `echo '{}'`))
	s.write(t, "not_executable", script("not_executable", ""))
	must(t, os.Chmod(filepath.Join(s.dir, "not_executable"), 0o644))
	s.write(t, "open_to_others", script("open_to_others", ""))
	must(t, os.Chmod(filepath.Join(s.dir, "open_to_others"), 0o775))
	s.write(t, "ending.sh", script("ending", ""))
	s.write(t, "test", script("test", ""))
	s.write(t, "token", script("token", ""))
	s.write(t, "other_name", script("another", ""))
	s.write(t, "garbage", "\x01\x02\x03")
	s.write(t, "no_interpreter", "#!/no/such/program\n")
	s.write(t, "prints_garbage", "#!/bin/sh\necho hello there\n")
	s.write(t, "prints_nothing", "#!/bin/sh\n")
	s.write(t, "prints_much", "#!/bin/sh\nyes '{'\n")
	s.write(t, "fails", "#!/bin/sh\necho first >&2; echo 'python is missing' >&2; exit 3\n")
	s.write(t, "hangs", "#!/bin/sh\nsleep 1000\n")
	s.write(t, "hangs_deaf", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n")
	s.write(t, "is_killed", "#!/bin/sh\nkill -9 $$\n")
	s.write(t, "bad_effect", strings.Replace(script("bad_effect", ""), `"change"`, `"harmless"`, 1))
	s.write(t, "bad_key", strings.Replace(script("bad_key", ""), `"effect"`, `"needed": true, "effect"`, 1))
	must(t, syscall.Mkfifo(filepath.Join(s.dir, "fifo"), 0o755))
	must(t, os.Mkdir(filepath.Join(s.dir, "lib"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.dir, "lib", "linked-1.2"), []byte(script("linked", `echo '{}'`)), 0o755))
	must(t, os.Symlink("lib/linked-1.2", filepath.Join(s.dir, "linked")))
	must(t, os.Symlink("/bin/true", filepath.Join(s.dir, "leads_out")))
	must(t, os.Symlink("nowhere", filepath.Join(s.dir, "dangling")))
	must(t, os.WriteFile(filepath.Join(s.dir, ".hidden"), nil, 0o600))
	want := map[string]string{
		"good": "", "linked": "",
		"not_executable": "not executable", "open_to_others": "others can write it (mode 0775)", "ending.sh": "its name is no module's",
		"test": "the agent has a module", "token": "reserved", "other_name": `it describes the module "another"`,
		"garbage": "exec format error", "no_interpreter": "no such file", "prints_garbage": `it begins with "hello there"`,
		"prints_nothing": "it printed nothing", "prints_much": "printed more than 65536 bytes",
		"fails": "fails describe: exit 3: python is missing", "hangs": "did not end within 1s", "hangs_deaf": "did not end within 1s",
		"is_killed": "killed by SIGKILL", "bad_effect": `effect is "harmless"`, "bad_key": `unknown field "needed"`,
		"fifo": "not a regular file", "leads_out": "leads out of its directory", "dangling": "no such file",
	}
	if os.Geteuid() == 0 {
		s.write(t, "of_another", script("of_another", ""))
		must(t, os.Chown(filepath.Join(s.dir, "of_another"), 65534, 65534))
		want["of_another"] = "belongs to uid 65534"
	}
	if !s.Load(t.Context(), false) {
		t.Error("nothing changed")
	}
	got := map[string]string{}
	for _, e := range s.all() {
		got[e.name] = e.reason
	}
	for name, reason := range want {
		r, ok := got[name]
		if !ok || (reason == "") != (r == "") || !strings.Contains(r, reason) {
			t.Errorf("%s: %t, reason %q; want %q", name, ok, r, reason)
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d: %s", len(got), s.reasons())
	}
	if out, err := s.method(t, "good.do").Run(t.Context(), nil, nil); string(out) != "{}" || err != nil {
		t.Errorf("good.do: %s, %v", out, err)
	}
	checkOffer(t, s, len(want)-2)
}

func checkOffer(t *testing.T, s *Set, disabled int) {
	t.Helper()
	b, err := s.Offer().Encode()
	if err != nil {
		t.Fatal(err)
	}
	o, err := module.ParseOffer(b)
	if err != nil || len(o.Methods) != 2 || len(o.Disabled) != disabled {
		t.Errorf("the offer: %v, %d methods, %d disabled; want 2 and %d", err, len(o.Methods), len(o.Disabled), disabled)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDirectory: a directory that others can change offers nothing.
func TestDirectory(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, dir string)
		reason string // empty: it is used
	}{
		{"plain", func(*testing.T, string) {}, ""},
		{"writable", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777)) }, "others can write in directory"},
		{"sticky", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777|os.ModeSticky)) }, "others can write in directory"},
		{"below a writable one", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Dir(dir), 0o777)) }, "others can write in directory"},
		{"below a sticky one", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky)) }, ""},
		{"of another", func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED: only root can give a directory away")
			}
			must(t, os.Chown(dir, 65534, 65534))
		}, "belongs to uid 65534"},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := t.TempDir()
			must(t, os.Chmod(top, 0o755))
			s := newSet(t, func(o *Options) { o.Dir = filepath.Join(top, "modules.d") })
			must(t, os.Mkdir(s.dir, 0o755))
			s.write(t, "good", script("good", `echo '{}'`))
			test.change(t, s.dir)
			s.Load(t.Context(), false)
			if test.reason == "" {
				s.method(t, "good.do")
				return
			}
			o := s.Offer()
			if len(o.Methods) > 0 || len(o.Disabled) != 1 || !strings.Contains(o.Disabled[0].Reason, test.reason) {
				t.Errorf("offer %+v; want no methods and %q", o, test.reason)
			}
		})
	}
	s := newSet(t, func(o *Options) { o.Dir = filepath.Join(t.TempDir(), "none") })
	if s.Load(t.Context(), false) || len(s.Offer().Disabled) > 0 {
		t.Error("a directory that is not there is a problem")
	}
}

func TestWatch(t *testing.T) {
	top := t.TempDir()
	must(t, os.Chmod(top, 0o755))
	changes := make(chan struct{}, 100)
	s := newSet(t, func(o *Options) {
		o.Dir = filepath.Join(top, "etc", "modules.d")
		o.OnChange = func(context.Context) { changes <- struct{}{} }
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	reload := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx, reload)
	}()
	offers := func(names ...string) func() bool {
		return func() bool {
			var got []string
			for _, e := range s.all() {
				if e.reason == "" {
					got = append(got, e.name)
				}
			}
			return slices.Equal(got, names)
		}
	}
	must(t, os.Mkdir(filepath.Join(top, "etc"), 0o755))
	must(t, os.Mkdir(s.dir, 0o755))
	s.write(t, "a", script("a", ""))
	runtest.Until(t, "the first is offered", offers("a"))
	s.write(t, "b", script("b", ""))
	runtest.Until(t, "the second is offered", offers("a", "b"))
	must(t, os.Chmod(filepath.Join(s.dir, "a"), 0o777))
	runtest.Until(t, "one that others can write is not", offers("b"))
	must(t, os.Rename(s.dir, s.dir+".old"))
	runtest.Until(t, "none is offered", offers())
	must(t, os.Rename(s.dir+".old", s.dir))
	runtest.Until(t, "it is back", offers("b"))
	// What a program needs may come later, and only SIGHUP tells.
	must(t, os.Mkdir(filepath.Join(s.dir, "lib"), 0o755))
	s.write(t, "c", "#!/bin/sh\n. "+s.dir+"/lib/c\n")
	runtest.Until(t, "it is disabled", func() bool { e := s.find("c"); return e != nil && e.reason != "" })
	must(t, os.WriteFile(filepath.Join(s.dir, "lib", "c"), []byte(script("c", "")), 0o600))
	reload <- struct{}{}
	runtest.Until(t, "it is offered", offers("b", "c"))
	runtest.Until(t, "somebody was told", func() bool { return len(changes) > 4 })
	stop()
	<-ended
}
