//go:build fleet

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shellModule is a module in shell whose method do is a script.
func shellModule(name, fields, script string) string {
	return fmt.Sprintf(`#!/bin/sh
[ "$1" = describe ] && { cat <<'EOF'
{"name": "%s", "doc": "A test.", "methods": [{"name": "do", "doc": "Does it.", "effect": "change", "timeout": "30s",
  "fields": [%s], "output": [{"name": "text", "type": "string", "doc": "what it says"}]}]}
EOF
exit; }
%s
`, name, fields, script)
}

const noTime = `{"name": "times", "type": "int", "doc": "how often", "default": "1", "max": "%d"}`

// modules makes a directory of modules for a machine, and its configuration.
func (s *site) modules(name string, push bool) (dir, config string) {
	s.t.Helper()
	dir = filepath.Join(s.dir, name+".modules")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return dir, s.write(name+".yaml", fmt.Sprintf("modules_dir: %s\nmodules_push: %t\n", dir, push))
}

// module puts a module into a directory.
func (s *site) module(dir, name, text string) {
	s.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		s.t.Fatal(err)
	}
}

// calls waits until the overlord knows a method.
func (s *site) calls(method string) {
	s.t.Helper()
	s.until("the overlord knows "+method, func() bool {
		c := s.root.run("modules", method)
		return c.cmd.ProcessState.ExitCode() == 0 && strings.Contains(c.out.String(), "effect ")
	})
}

// sleepers gives those who run sleep(1) with these words.
func sleepers(seconds string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == "sleep\x00"+seconds+"\x00" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// Modules of a site on two machines: whatever they do, their calls fail with the
// reason, others are unharmed, and nothing is left running.
func testSiteModules(t *testing.T, binary string) {
	s := newSite(t, binary)
	s.up("--autosign", "m*")
	dir, config := s.modules("m01", false)
	nap := fmt.Sprintf("100.%09d", time.Now().UnixNano()%1e9)
	t.Cleanup(func() {
		for _, pid := range sleepers(nap) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	for name, script := range map[string]string{
		"good":      `echo '{"text": "I am fine"}'`,
		"talks":     `echo one >&2; echo two >&2; echo '{"text": "done"}'`,
		"garbage":   "head -c 300 /dev/urandom",
		"never":     "sleep NAP",
		"deaf":      "trap '' TERM; sleep NAP; sleep NAP; sleep NAP",
		"forks":     "sleep NAP & sleep NAP & wait",
		"daemons":   "(setsid sh -c 'sleep NAP & exit' &); setsid sleep NAP >/dev/null 2>&1 & sleep NAP",
		"leaves":    "setsid sleep NAP >/dev/null 2>&1 & echo '{}'",
		"gigabyte":  "head -c 1073741824 /dev/zero | tr '\\0' x",
		"vanishes":  "sleep NAP & kill -9 $$",
		"is_gone":   "rm -- \"$0\"; sleep 0.1; echo '{\"text\": \"still here\"}'",
		"says_why":  "echo 'no disk here' >&2; exit 5",
		"unlisted":  `echo '{"texts": "x"}'`,
		"not_valid": `echo '{"text": 1}'`,
	} {
		s.module(dir, name, shellModule(name, "", strings.ReplaceAll(script, "NAP", nap)))
	}
	s.module(dir, "broken", "#!/bin/sh\necho 'python3: not found' >&2\nexit 127\n")
	s.module(dir, "hangs", "#!/bin/sh\nsleep "+nap+"\n")
	m01 := s.minion("m01", "--config", config)
	s.minion("m02")
	s.await(2)
	s.calls("good.do")

	knownModules(s)
	brokenModules(s, nap)
	if m01.hasEnded() {
		t.Error("the agent ended")
	}
}

// knownModules: what a user sees of them.
func knownModules(s *site) {
	s.root.run("modules").exits(0).prints("good.do ", "test.ping", "broken", "exit 127: python3: not found", "did not end within 5s")
	s.root.run("modules", "--disabled", "-o", "json").exits(0).prints(`"name": "hangs"`, `"machines": "m01"`)
	s.root.run("modules", "good.do").exits(0).prints("what it says", "1: m01")
	s.root.run("__complete", "call", "m01", "go").exits(0).prints("good.do\tDoes it.")
	s.root.run("call", "m01", "good.do").exits(0).prints("text: I am fine")
	s.root.run("call", "m01", "talks.do", "--live").exits(0).prints("text: done").tells("m01: one", "m01: two")
	s.root.run("call", "m01", "talks.do", "--live", "-o", "jsonl").exits(0).prints(`"result":{"text":"done"}`).tells("m01: one")
	s.root.run("call", "*", "good.do").exits(3).prints("m01: text: I am fine").tells("this machine has no method good.do")
	s.root.run("call", "m01", "broken.do").exits(2).tells("there is no method")
}

// brokenModules calls those that do not behave.
func brokenModules(s *site, nap string) {
	t := s.t
	var running []*command
	for name, reason := range map[string]string{
		"garbage": "garbage.do: the answer", "never": "not done within 3s", "deaf": "not done within 3s", "forks": "not done within 3s", "daemons": "not done within 3s",
		"gigabyte": "printed more than 1048576 bytes", "vanishes": "killed by SIGKILL", "says_why": "exit 5: no disk here",
		"unlisted": `field "texts" is not in the schema's output`, "not_valid": "wants string",
	} {
		c := s.root.start("call", "m01", name+".do", "--timeout", "3s")
		running = append(running, c)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %s%s", name, c.out, c.err)
			}
		})
		defer func() { c.exits(3).tells("m01: ", reason) }()
	}
	// Others meanwhile.
	for range 5 {
		s.root.run("call", "*", "test.ping").exits(0).within(3 * time.Second)
		s.root.run("call", "m01", "good.do").exits(0).prints("I am fine").within(3 * time.Second)
	}
	for _, c := range running {
		<-c.done
	}
	s.root.run("call", "m01", "leaves.do").exits(0)
	s.root.run("call", "m01", "is_gone.do").exits(0).prints("still here")
	s.until("nothing is left running", func() bool { return len(sleepers(nap)) == 0 })
	s.until("the one that removed itself is gone", func() bool { return s.root.run("modules", "is_gone").cmd.ProcessState.ExitCode() == 1 })
	// One that is withdrawn ends, too.
	c := s.root.start("call", "m01", "never.do")
	s.until("it runs", func() bool { return len(sleepers(nap)) == 1 })
	c.signal(syscall.SIGINT)
	c.exits(130)
	s.until("nothing is left running", func() bool { return len(sleepers(nap)) == 0 })
}

// Modules that come by orders, in several versions, and how the overlord chooses.
func testModulePush(t *testing.T, binary string) {
	s := newSite(t, binary)
	s.up("--autosign", "m*")
	dirs := map[string]string{}
	for i, push := range []bool{true, true, true, false} {
		name := fmt.Sprintf("m%02d", i+1)
		dir, config := s.modules(name, push)
		dirs[name] = dir
		s.minion(name, "--config", config)
	}
	s.await(4)
	file := s.write("hello.sh", shellModule("hello", fmt.Sprintf(noTime, 3), `echo "{\"text\": \"$ARG_times\"}"`))
	s.root.run("module", "push", "m01", file, "--dry-run").exits(0).prints("changed: true")
	s.root.run("modules", "hello").exits(1)
	s.root.run("module", "push", "*", file).exits(3).prints("m[01-03] (3)", "changed: true").tells("m04: denied", "modules_push in minion.yaml")
	// It can be called as soon as the order is done.
	s.root.run("call", "m[01-03]", "hello.do").exits(0).prints(`m[01-03] (3): text: 1`)
	s.root.run("module", "push", "m[01-03]", file).exits(0).prints("m[01-03] (3)", "changed: false")
	s.root.run("module", "list", "m01").exits(0).prints("offered", "sha256:")
	bad := s.write("bad.sh", "#!/bin/sh\necho oh\n")
	s.root.run("module", "push", "m01", bad).exits(3).tells("module bad is not installed", `it begins with "oh"`)
	s.root.run("module", "push", "m01", bad, "--name", "test").exits(3).tells("the agent has a module")
	s.root.run("module", "push", "m01", "hello", "--dir", s.dir).exits(2).tells("hello")
	for _, name := range []string{"m01", "m04"} {
		if left, _ := os.ReadDir(dirs[name]); len(left) != map[string]int{"m01": 1, "m04": 0}[name] {
			t.Errorf("%s has %v", name, left)
		}
	}

	// A newer version on one machine: it takes more, and one more field.
	newer := s.write("newer.sh", shellModule("hello", fmt.Sprintf(noTime, 5)+`, {"name": "loud", "type": "bool", "doc": "louder"}`, `echo "{\"text\": \"$ARG_times $ARG_loud\"}"`))
	s.root.run("module", "push", "m03", newer, "--name", "hello").exits(0)
	s.root.run("modules", "hello.do").exits(0).prints("2: m[01-02]", "another version", "1: m03", "loud")
	s.root.run("call", "m[01-03]", "hello.do", "2").exits(0).prints("m[01-02] (2): text: 2")
	s.root.run("call", "m[01-03]", "hello.do", "times=4", "loud=true").exits(3).prints("m03: text: 4 true").tells("m[01-02]: invalid: hello.do")
	s.root.run("call", "m[01-03]", "hello.do", "5").exits(3).prints("m03: text: 5").tells("m[01-02]: invalid", "at most 3")
	s.root.run("call", "m[01-03]", "hello.do", "6").exits(2).tells("times")

	// What is known of machines comes back after a restart of the overlord.
	s.overlord.kill()
	s.up()
	s.await(4)
	s.calls("hello.do")
	s.root.run("call", "m[01-03]", "hello.do").exits(0)
	s.root.run("module", "remove", "m[01-03]", "hello").exits(2).tells("--yes-count 3")
	s.root.run("module", "remove", "m[01-03]", "hello", "--yes-count", "3").exits(0).prints("changed: true")
	s.root.run("modules", "hello").exits(1)
	s.root.run("audit", "verify").exits(0)
}

// A module of a machine two overlords below is called from the top.
func testModulesBelow(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	mid := top.sub(top, "mid")
	low := mid.sub(top, "low")
	for _, s := range []*site{top, low} {
		name := map[*site]string{top: "top-1", low: "low-1"}[s]
		dir, config := s.modules(name, true)
		s.module(dir, "deep", shellModule("deep", fmt.Sprintf(noTime, 3), `echo "{\"text\": \"$DOMINION_MACHINE $ARG_times\"}"`))
		s.minion(name, "--config", config)
	}
	top.await(2)
	low.await(1)
	top.until("the top knows of the one below", func() bool {
		return strings.Contains(top.root.run("modules", "deep.do").out.String(), "2: top-1")
	})
	top.root.run("map", "build").exits(0)
	top.root.run("call", "--delegate", "*-1", "deep.do", "2").exits(0).prints("low-1: text: low-1 2", "top-1: text: top-1 2")
	file := low.write("other.sh", shellModule("other", "", `echo "{\"text\": \"pushed\"}"`))
	top.root.run("module", "push", "--delegate", "low-1", file).exits(0)
	top.calls("other.do")
	top.root.run("modules", "other.do").exits(0).prints("1: behind sub-overlords")
	top.root.run("call", "--delegate", "low-1", "other.do").exits(0).prints("text: pushed")
}
