package sysctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
)

// own gives this test, alone on its thread, a network namespace: its
// parameters below net are real, and nobody else's.
func own(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("SKIPPED a network namespace of the test's own needs root: %v", err)
	}
}

func testKernel(t *testing.T) kernel {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return kernel{proc: "/proc/sys", kept: dir + "/99-zz-dominion.conf"}
}

const forward = "net.ipv4.ip_forward"

func TestSet(t *testing.T) {
	own(t)
	k := testKernel(t)
	value := func() string {
		t.Helper()
		v, err := k.get(t.Context(), nil, getIn{Names: []string{forward}})
		if err != nil || len(v.Parameters) != 1 || v.Parameters[0].Name != forward {
			t.Fatalf("get = %+v, %v", v, err)
		}
		return v.Parameters[0].Value
	}
	before := value()
	other := map[string]string{"0": "1", "1": "0"}[before]
	dry, err := k.set(t.Context(), nil, setIn{Name: "net/ipv4/ip_forward", Value: other, Persist: true, DryRun: true})
	if err != nil || !dry.Changed || dry.Name != forward || dry.Old != before || dry.Value != other || !strings.Contains(dry.Diff, "+"+forward+" = "+other+"\n") {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	if value() != before {
		t.Errorf("a dry run changed it to %s", value())
	}
	if _, err := os.Stat(k.kept); err == nil {
		t.Error("a dry run kept it")
	}
	got, err := k.set(t.Context(), nil, setIn{Name: forward, Value: other})
	if err != nil || !got.Changed || got.Old != before || got.Value != other || got.Diff != "" || value() != other {
		t.Errorf("set: %+v, %v; the kernel says %s", got, err, value())
	}
	if got, err = k.set(t.Context(), nil, setIn{Name: forward, Value: other}); err != nil || got.Changed {
		t.Errorf("set again: %+v, %v", got, err)
	}
	if got, err = k.set(t.Context(), nil, setIn{Name: forward, Value: other, Persist: true}); err != nil || !got.Changed {
		t.Errorf("keep: %+v, %v", got, err)
	}
	if b, _ := os.ReadFile(k.kept); string(b) != head+forward+" = "+other+"\n" {
		t.Errorf("kept %q", b)
	}
	if got, err = k.forget(t.Context(), nil, forgetIn{Name: forward}); err != nil || !got.Changed {
		t.Errorf("forget: %+v, %v", got, err)
	}
	if got, err = k.forget(t.Context(), nil, forgetIn{Name: forward}); err != nil || got.Changed {
		t.Errorf("forget again: %+v, %v", got, err)
	}
	if b, _ := os.ReadFile(k.kept); string(b) != head || value() != other {
		t.Errorf("kept %q, value %s", b, value())
	}
}

func TestSetOfSeveralNumbers(t *testing.T) {
	own(t)
	k := testKernel(t)
	const ports = "net.ipv4.ip_local_port_range"
	if _, err := k.set(t.Context(), nil, setIn{Name: ports, Value: "20000 30000"}); err != nil {
		t.Fatal(err)
	}
	got, err := k.set(t.Context(), nil, setIn{Name: ports, Value: "20000  30000"})
	if err != nil || got.Changed || got.Value != "20000\t30000" {
		t.Errorf("set again = %+v, %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	own(t)
	k := testKernel(t)
	for _, test := range []struct {
		name, value string
		code        call.Code
		text        string
	}{
		{"net.ipv4.nosuch", "1", call.Failed, `no parameter "net.ipv4.nosuch"`},
		{forward, "many", call.Failed, "refuses that value"},
		{forward, "1\n2", call.Invalid, "one line"},
		{"net..ipv4", "1", call.Invalid, "no name"},
		{"../../etc/passwd", "1", call.Invalid, "no name"},
		{"/etc/passwd", "1", call.Invalid, "no name"},
		{"net/../kernel/x", "1", call.Invalid, "no name"},
		{"net.ipv4", "1", call.Internal, "directory"},
	} {
		_, err := k.set(t.Context(), nil, setIn{Name: test.name, Value: test.value, Persist: true})
		if call.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.text) {
			t.Errorf("set %s=%s: %v; want %v, %s", test.name, test.value, err, test.code, test.text)
		}
	}
	if _, err := os.Stat(k.kept); err == nil {
		t.Error("something was kept")
	}
}

func TestNamesWithDots(t *testing.T) {
	for name, want := range map[string][2]string{
		"a.b.c":                  {"a/b/c", "a.b.c"},
		"a/b/c":                  {"a/b/c", "a.b.c"},
		"net/conf/eth0.100/x":    {"net/conf/eth0.100/x", "net/conf/eth0.100/x"},
		"net.conf.eth0/100.x":    {"net/conf/eth0.100/x", "net/conf/eth0.100/x"},
		"kernel.core_pattern":    {"kernel/core_pattern", "kernel.core_pattern"},
		"net/ipv4/conf/all/x.y.": {"net/ipv4/conf/all/x.y.", "net/ipv4/conf/all/x.y."},
	} {
		if f, shown, err := file(name); err != nil || f != want[0] || shown != want[1] {
			t.Errorf("file(%q) = %q, %q, %v; want %q", name, f, shown, err, want)
		}
	}
}

func TestList(t *testing.T) {
	own(t)
	k := testKernel(t)
	count := func(match string) int {
		t.Helper()
		v, err := k.list(t.Context(), nil, listIn{Match: match})
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(v); len(b) > module.MaxOutput {
			t.Errorf("%s: %d bytes", match, len(b))
		}
		return len(v.Parameters)
	}
	if n := count("net.ipv4.ip_forw*"); n < 1 {
		t.Errorf("%d like net.ipv4.ip_forw*", n)
	}
	if n := count(forward); n != 1 {
		t.Errorf("%d named %s", n, forward)
	}
	if all, dir := count(""), count("net.ipv4"); dir < 10 || all <= dir {
		t.Errorf("%d in all, %d below net.ipv4", all, dir)
	}
	if _, err := k.list(t.Context(), nil, listIn{Match: "["}); call.CodeOf(err) != call.Invalid {
		t.Errorf("bad pattern: %v", err)
	}
}

func TestEdit(t *testing.T) {
	one := "1"
	for _, test := range []struct {
		name, old string
		value     *string
		want      string
	}{
		{"new", "", &one, head + "a.b = 1\n"},
		{"added", "x=2", &one, "x=2\na.b = 1\n"},
		{"in place", "# c\n a.b=0\nx = 2\n-a/b = 3\n", &one, "# c\na.b = 1\nx = 2\n"},
		{"gone", "x=1\na.b=1\n; a.b = 2\n", nil, "x=1\n; a.b = 2\n"},
		{"not there", "x=1", nil, "x=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := string(edit([]byte(test.old), "a/b", test.value)); got != test.want {
				t.Errorf("edit = %q; want %q", got, test.want)
			}
		})
	}
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte("a.b = 1\n# x\n"), "2")
	f.Fuzz(func(t *testing.T, old []byte, value string) {
		if strings.ContainsAny(value, "\n\r\x00") {
			return
		}
		got := edit(old, "a/b", &value)
		if again := edit(got, "a/b", &value); string(again) != string(got) {
			t.Fatalf("edit(%q) = %q; want it unchanged", got, again)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add("net.ipv4.ip_forward")
	f.Add("net/ipv4/conf/eth0.100/x")
	f.Fuzz(func(t *testing.T, name string) {
		path, shown, err := file(name)
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatalf("file(%q): %v", name, err)
			}
			return
		}
		if !filepath.IsLocal(path) || path == "." {
			t.Fatalf("file(%q) = %q, which leads elsewhere", name, path)
		}
		if again, _, err := file(shown); err != nil || again != path {
			t.Fatalf("file(%q) = %q, shown as %q, which is %q, %v", name, path, shown, again, err)
		}
	})
}
