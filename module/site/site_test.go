package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
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

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// nap gives a time for sleep(1) that nobody else uses, and finds who sleeps so long.
func nap(t *testing.T) (seconds string, sleeping func() []int) {
	t.Helper()
	seconds = fmt.Sprintf("100.%09d", time.Now().UnixNano()%1e9)
	sleeping = func() (pids []int) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && string(b) == "sleep\x00"+seconds+"\x00" {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				pids = append(pids, pid)
			}
		}
		return pids
	}
	t.Cleanup(func() {
		for _, pid := range sleeping() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	return seconds, sleeping
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
	s.write(t, "bad_key", strings.Replace(script("bad_key", ""), `"effect"`, `"requried": true, "effect"`, 1))
	must(t, syscall.Mkfifo(filepath.Join(s.dir, "fifo"), 0o755))
	must(t, os.Mkdir(filepath.Join(s.dir, "lib"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.dir, "lib", "linked-1.2"), []byte(script("linked", `echo '{}'`)), 0o755)) //nolint:gosec // it is a program
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
		"is_killed": "killed by SIGKILL", "bad_effect": `effect is "harmless"`, "bad_key": `unknown field "requried"`,
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

func TestCall(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "echo", script("echo", `
[ "$1 $2" = "call do" ] || exit 9
args=$(cat)
echo "args $args" >&2
echo "env $(env | cut -d= -f1 | grep -v '^_$\|PWD\|SHLVL' | sort | tr '\n' ' ')" >&2
printf '{ "n": %s, "text" : "x" }\n' "$#"
`))
	s.Load(t.Context(), false)
	var live strings.Builder
	m := s.method(t, "echo.do")
	if m.Effect() != module.Change || m.Timeout() != 20*time.Second {
		t.Errorf("effect %s, time-out %s", m.Effect(), m.Timeout())
	}
	out, err := m.Run(t.Context(), &module.Env{Machine: "web1", Operator: "alice", Stderr: &live}, []byte(`{"text":"a b"}`))
	if err != nil || string(out) != `{"text":"x","n":2}` {
		t.Errorf("%s, %v", out, err)
	}
	want := "args {\"text\":\"a b\"}\nenv ARG_text DOMINION_JOB DOMINION_MACHINE DOMINION_OPERATOR DOMINION_RUN HOME LC_ALL PATH \n"
	if live.String() != want {
		t.Errorf("live output %q; want %q", live.String(), want)
	}
	live.Reset()
	if _, err := m.Run(t.Context(), &module.Env{Stderr: &live}, nil); err != nil || !strings.HasPrefix(live.String(), `args {"text":"none"}`) {
		t.Errorf("%q, %v; want the default", live.String(), err)
	}
	if _, err := m.Run(t.Context(), nil, []byte(`{"other":1}`)); call.CodeOf(err) != call.Invalid {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestVariables(t *testing.T) {
	d, err := module.ParseDescription([]byte(`{"name":"a","doc":"b","methods":[{"name":"c","doc":"d","effect":"read","fields":[
{"name":"text","type":"string","doc":"x"},{"name":"nul","type":"string","doc":"x"},{"name":"long","type":"string","doc":"x"},
{"name":"secret","type":"string","doc":"x","secret":true},{"name":"yes","type":"bool","doc":"x"},{"name":"n","type":"int","doc":"x"},
{"name":"f","type":"float","doc":"x"},{"name":"wait","type":"duration","doc":"x"},{"name":"list","type":"[]string","doc":"x"},
{"name":"left_out","type":"string","doc":"x"}]}]}`))
	must(t, err)
	got := variables(d, "c", []byte(`{"text":"a\nb \"c\"","nul":"\u0000","long":"`+strings.Repeat("x", maxVariable+1)+`","secret":"s","yes":true,"n":-3,"f":1.5,"wait":"1m30.5s","list":["a"]}`))
	want := []string{"ARG_text=a\nb \"c\"", "ARG_yes=true", "ARG_n=-3", "ARG_f=1.5", "ARG_wait=90.5"}
	if !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
}

// TestBrokenCalls: whatever a program does, its call fails with the reason, it does
// not take long, and nothing is left of it.
func TestBrokenCalls(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         string // in the error
		code         call.Code
		limit        time.Duration // of the call; zero: none
	}{
		{"garbage", "head -c 300 /dev/urandom", "the answer", call.Failed, 0},
		{"text", "echo hello", `the answer "hello": not JSON`, call.Failed, 0},
		{"nothing", ":", "there is no answer", call.Failed, 0},
		{"no object", "echo '[1]'", "want a JSON object", call.Failed, 0},
		{"two", "echo '{}{}'", "not JSON", call.Failed, 0},
		{"field unknown", `echo '{"texts":"a"}'`, `field "texts" is not in the schema's output`, call.Failed, 0},
		{"field twice", `echo '{"n":1,"n":2}'`, `"n" is there twice`, call.Failed, 0},
		{"type", `echo '{"n":"1"}'`, `field n: got "\"1\""; wants int`, call.Failed, 0},
		{"fails", `echo '{}'; echo one >&2; echo 'no disk' >&2; exit 7`, "exit 7: no disk", call.Failed, 0},
		{"fails silently", `exit 1`, "exit 1", call.Failed, 0},
		{"vanishes", `sleep NAP & kill -9 $$`, "killed by SIGKILL", call.Failed, 0},
		{"1 GB", "head -c 1073741824 /dev/zero | tr '\\0' x", "printed more than 1048576 bytes", call.Failed, 0},
		{"1 GB, deaf, in the background", "trap '' TERM; (yes xxxxxxxxxxxxxxxxxxxx & yes & sleep NAP) ; wait", "printed more than 1048576 bytes", call.Failed, 0},
		{"1 GB aside", "head -c 1073741824 /dev/zero >&2; exit 4", "exit 4", call.Failed, 0},
		{"never ends", "sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"never ends, deaf", "trap '' TERM; sleep NAP; sleep NAP; sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"forks", "sleep NAP & sleep NAP & wait", "time-out", call.Timeout, 300 * time.Millisecond},
		{"forks twice", "(setsid sh -c 'sleep NAP & exit' &); sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"a session of its own, without output", "setsid sleep NAP >/dev/null 2>&1 </dev/null & sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"memory", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo \"{\\\"n\\\": ${#x}}\"", "module bad: ", call.Failed, 0},
	} {
		for _, cgroup := range []bool{true, false} {
			if !cgroup && test.limit == 0 && test.name != "vanishes" {
				continue
			}
			t.Run(fmt.Sprintf("%s, cgroup %t", test.name, cgroup), func(t *testing.T) {
				runner := quick
				if !cgroup {
					runner.Cgroup = nil
				}
				seconds, sleeping := nap(t)
				s := newSet(t, func(o *Options) { o.Runner, o.Memory = &runner, 64<<20 })
				s.write(t, "bad", script("bad", strings.ReplaceAll(test.script, "NAP", seconds)))
				s.write(t, "good", script("good", `echo '{"n":1}'`))
				s.Load(t.Context(), false)
				ctx := t.Context()
				if test.limit > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeoutCause(ctx, test.limit, call.Errorf(call.Timeout, "time-out"))
					defer stop()
				}
				begun := time.Now()
				_, err := s.method(t, "bad.do").Run(ctx, nil, nil)
				if call.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) || test.code == call.Failed && !strings.Contains(err.Error(), "bad") {
					t.Errorf("%v; want %s and %q", err, test.code, test.want)
				}
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("it took %s", took)
				}
				if left := sleeping(); len(left) > 0 {
					t.Errorf("processes %v still sleep", left)
				}
				if out, err := s.method(t, "good.do").Run(t.Context(), nil, nil); err != nil || string(out) != `{"n":1}` {
					t.Errorf("the other one: %s, %v", out, err)
				}
			})
		}
	}
}

// TestNothingIsLeft: what a program starts and leaves behind ends with it.
func TestNothingIsLeft(t *testing.T) {
	for _, cgroup := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup %t", cgroup), func(t *testing.T) {
			runner := quick
			if !cgroup {
				runner.Cgroup = nil
			}
			seconds, sleeping := nap(t)
			s := newSet(t, func(o *Options) { o.Runner = &runner })
			s.write(t, "leaves", strings.ReplaceAll(script("leaves", `
sleep NAP &
setsid sleep NAP &
(setsid sh -c 'trap "" TERM; sleep NAP >/dev/null 2>&1 & exit' &)
while [ "$(pgrep -cxf 'sleep NAP')" -lt 3 ]; do :; done
echo '{"n":1}'`), "NAP", seconds))
			s.Load(t.Context(), false)
			begun := time.Now()
			out, err := s.method(t, "leaves.do").Run(t.Context(), nil, nil)
			if err != nil || string(out) != `{"n":1}` {
				t.Errorf("%s, %v", out, err)
			}
			if left := sleeping(); len(left) > 0 {
				t.Errorf("processes %v still sleep", left)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestChanged: a program that is replaced, or removed, between the acceptance of a
// call and its start.
func TestChanged(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "moving", script("moving", `echo '{"n":1}'`))
	s.Load(t.Context(), false)
	m := s.method(t, "moving.do")
	s.write(t, "moving", script("moving", `echo '{"n":2}'`))
	if out, err := m.Run(t.Context(), nil, nil); string(out) != `{"n":2}` || err != nil {
		t.Errorf("the same method of a newer file: %s, %v", out, err)
	}
	s.write(t, "moving", strings.Replace(script("moving", `echo '{"n":3}'`), `"change"`, `"destroy"`, 1))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "not the same method") {
		t.Errorf("another method: %s, %v", out, err)
	}
	must(t, os.Chmod(filepath.Join(s.dir, "moving"), 0o777))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "others can write it") {
		t.Errorf("writable: %s, %v", out, err)
	}
	must(t, os.Remove(filepath.Join(s.dir, "moving")))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "not there any more") {
		t.Errorf("gone: %s, %v", out, err)
	}
	if s.Load(t.Context(), false); len(s.all()) != 0 {
		t.Errorf("left: %s", s.reasons())
	}
}

// TestRemovedWhileItRuns: the call goes on with the file that it began with.
func TestRemovedWhileItRuns(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "goes", script("goes", `rm -- "$0"; sleep 0.05; echo '{"n":1}'`))
	s.Load(t.Context(), false)
	if out, err := s.method(t, "goes.do").Run(t.Context(), nil, nil); err != nil || string(out) != `{"n":1}` {
		t.Errorf("%s, %v", out, err)
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
	until(t, "the first is offered", offers("a"))
	s.write(t, "b", script("b", ""))
	until(t, "the second is offered", offers("a", "b"))
	must(t, os.Chmod(filepath.Join(s.dir, "a"), 0o777))
	until(t, "one that others can write is not", offers("b"))
	must(t, os.Rename(s.dir, s.dir+".old"))
	until(t, "none is offered", offers())
	must(t, os.Rename(s.dir+".old", s.dir))
	until(t, "it is back", offers("b"))
	// What a program needs may come later, and only SIGHUP tells.
	must(t, os.Mkdir(filepath.Join(s.dir, "lib"), 0o755))
	s.write(t, "c", "#!/bin/sh\n. "+s.dir+"/lib/c\n")
	until(t, "it is disabled", func() bool { e := s.find("c"); return e != nil && e.reason != "" })
	must(t, os.WriteFile(filepath.Join(s.dir, "lib", "c"), []byte(script("c", "")), 0o600))
	reload <- struct{}{}
	until(t, "it is offered", offers("b", "c"))
	until(t, "somebody was told", func() bool { return len(changes) > 4 })
	stop()
	<-ended
}

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
