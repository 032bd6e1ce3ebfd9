package site

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
)

// examples gives a Set with the modules in examples/modules.
func examples(t *testing.T) *Set {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("SKIPPED: one of the examples needs python3")
	}
	s := newSet(t, nil)
	for _, name := range []string{"backups", "stale_libs"} {
		b, err := os.ReadFile(filepath.Join("../../examples/modules", name))
		must(t, err)
		s.write(t, name, string(b))
	}
	s.Load(t.Context(), false)
	for _, e := range s.all() {
		if e.reason != "" {
			t.Fatalf("%s is disabled: %s", e.name, e.reason)
		}
	}
	return s
}

// ask calls a method and gives its answer, or its error.
func ask(t *testing.T, s *Set, method, args string) (out map[string]any, failure string) {
	t.Helper()
	b, err := s.method(t, method).Run(t.Context(), nil, []byte(args))
	if err != nil {
		return nil, err.Error()
	}
	must(t, json.Unmarshal(b, &out))
	return out, ""
}

func TestExampleBackups(t *testing.T) {
	s := examples(t)
	dir := t.TempDir()
	now := time.Now()
	for i, name := range []string{"db-1.gz", "db-2.gz", "db-3.gz", "other", "db-\xff.gz", ".db-hidden.gz"} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, make([]byte, 100*(i+1)), 0o600))
		at := now.Add(time.Duration(i-10) * time.Hour)
		must(t, os.Chtimes(path, at, at))
	}
	must(t, os.Symlink("other", filepath.Join(dir, "db-link.gz")))
	args := func(more string) string { return fmt.Sprintf(`{"dir":%q,"pattern":"db-*.gz"%s}`, dir, more) }
	out, failure := ask(t, s, "backups.check", args(""))
	if failure != "" || out["newest"] != "db-\ufffd.gz" || out["count"] != 4.0 || out["size"] != 500.0 || out["total"] != 1100.0 {
		t.Errorf("check: %v, %s", out, failure)
	}
	for _, test := range []struct{ args, want string }{
		{args(`,"max_age":"1h30m"`), "is 6.0 hours old"},
		{args(`,"min_size":501`), "has 500 bytes"},
		{fmt.Sprintf(`{"dir":%q,"pattern":"no*"}`, dir), "has no file no*"},
		{`{"dir":"/no/such"}`, "/no/such: No such file or directory"},
		{`{"dir":"relative"}`, `field "dir": got "\"relative\""`},
	} {
		if _, failure := ask(t, s, "backups.check", test.args); !strings.Contains(failure, test.want) {
			t.Errorf("check %s: %s; want %s", test.args, failure, test.want)
		}
	}
	left := func() string {
		list, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		for i := range list {
			list[i] = filepath.Base(list[i])
		}
		return strings.Join(list, " ")
	}
	before := left()
	for _, dry := range []bool{true, false} {
		out, failure := ask(t, s, "backups.prune", args(fmt.Sprintf(`,"keep":2,"dry_run":%t`, dry)))
		if failure != "" || out["changed"] != true || fmt.Sprint(out["removed"]) != "[db-1.gz db-2.gz]" || out["freed"] != 300.0 {
			t.Errorf("prune: %v, %s", out, failure)
		}
		if dry && left() != before {
			t.Errorf("a dry run left %s", left())
		}
	}
	if got := left(); strings.Contains(got, "db-1") || strings.Contains(got, "db-2.") || !strings.Contains(got, "db-3.gz") || !strings.Contains(got, "other") {
		t.Errorf("left: %s", got)
	}
	if out, _ := ask(t, s, "backups.prune", args(`,"keep":2`)); out["changed"] != false {
		t.Errorf("again: %v", out)
	}
}

func TestExampleStaleLibs(t *testing.T) {
	s := examples(t)
	file := filepath.Join(t.TempDir(), `lib "x" 1.so`)
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", `
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o700)
os.write(f, b"\0" * 4096)
m = mmap.mmap(f, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
os.unlink(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()`, file)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		in.Close()
		_ = cmd.Wait() // it ends with its input
	}()
	_, err = out.Read(make([]byte, 6))
	must(t, err)
	type answer struct {
		Count     int `json:"count"`
		Processes []struct {
			PID     int      `json:"pid"`
			Program string   `json:"program"`
			Files   []string `json:"files"`
		} `json:"processes"`
	}
	b, err := s.method(t, "stale_libs.list").Run(t.Context(), nil, nil)
	var got answer
	must(t, err)
	must(t, json.Unmarshal(b, &got))
	i := slices.IndexFunc(got.Processes, func(p struct {
		PID     int      `json:"pid"`
		Program string   `json:"program"`
		Files   []string `json:"files"`
	},
	) bool {
		return p.PID == cmd.Process.Pid
	})
	if i < 0 || !strings.HasPrefix(got.Processes[i].Program, "python3") || !slices.Equal(got.Processes[i].Files, []string{file}) {
		t.Errorf("%s; want process %d with %s", b, cmd.Process.Pid, file)
	}
	if out, failure := ask(t, s, "stale_libs.list", `{"program":"no-such-program"}`); failure != "" || out["count"] != 0.0 {
		t.Errorf("of no program: %v, %s", out, failure)
	}
	if _, err := s.method(t, "stale_libs.list").Run(t.Context(), nil, []byte(`{"limit":0}`)); call.CodeOf(err) != call.Invalid {
		t.Errorf("limit 0: %v", err)
	}
}
