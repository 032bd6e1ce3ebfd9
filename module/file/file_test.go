package file

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
	"dominion/module/textdiff"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a directory that only we can write to, with all above it.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func put(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

func get(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}

// table is made once: the attacker's rounds call it often.
var table = sync.OnceValues(func() (*module.Table, error) { return module.NewTable([]module.Module{Module}) })

// run calls a method as an agent does; $D in args is dir.
func run(t *testing.T, dir, name, args string) (string, error) {
	t.Helper()
	tab, err := table()
	must(t, err)
	m, ok := tab.Lookup("file." + name)
	if !ok {
		t.Fatalf("no method %s", name)
	}
	out, err := m.Run(t.Context(), &module.Env{}, []byte(strings.ReplaceAll(args, "$D", dir)))
	return strings.ReplaceAll(string(out), dir, "$D"), err
}

// step is one call and what is expected of it: a part of its answer, or of its
// error.
type step struct{ method, args, want, err string }

func (s step) check(t *testing.T, dir string) {
	t.Helper()
	out, err := run(t, dir, s.method, s.args)
	switch {
	case s.err != "":
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), dir, "$D"), s.err) {
			t.Errorf("%s %s = %s, %v; want error %q", s.method, s.args, out, err, s.err)
		}
	case err != nil || !strings.Contains(out, s.want):
		t.Errorf("%s %s = %s, %v; want %s", s.method, s.args, out, err, s.want)
	}
}

func steps(t *testing.T, dir string, list ...step) {
	t.Helper()
	for _, s := range list {
		s.check(t, dir)
	}
}

func TestStat(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "abc")
	must(t, os.Chmod(dir+"/f", 0o640|fs.ModeSetuid))
	must(t, os.Symlink("f", dir+"/l"))
	must(t, syscall.Mkfifo(dir+"/p", 0o600))
	steps(t, dir,
		step{"stat", `{"path":"$D/f"}`, `{"exists":true,"path":"$D/f","info":{"kind":"file","size":3,"mode":"4640","user":"`, ""},
		step{"stat", `{"path":"$D/l"}`, `"kind":"link"`, ""},
		step{"stat", `{"path":"$D/l"}`, `"target":"f"`, ""},
		step{"stat", `{"path":"$D/l","follow":true}`, `"path":"$D/f"`, ""},
		step{"stat", `{"path":"$D/p"}`, `"kind":"fifo"`, ""},
		step{"stat", `{"path":"/dev/null"}`, `"kind":"device"`, ""},
		step{"stat", `{"path":"/"}`, `"kind":"directory"`, ""},
		step{"stat", `{"path":"$D/none/f"}`, `{"exists":false}`, ""},
		step{"stat", `{"path":"f"}`, "", "not an absolute path"},
	)
}

func TestList(t *testing.T) {
	dir := tree(t)
	for i := range 30 {
		put(t, fmt.Sprintf("%s/d/f%02d", dir, i), "")
	}
	must(t, os.Symlink("\xff", dir+"/d/bad\xfe"))
	var got List
	page := func(args string) []string {
		t.Helper()
		out, err := run(t, dir, "list", args)
		must(t, err)
		got = List{}
		must(t, json.Unmarshal([]byte(out), &got))
		var names []string
		for _, e := range got.Entries {
			names = append(names, e.Name)
		}
		return names
	}
	if names := page(`{"path":"$D/d"}`); len(names) != 31 || names[0] != "bad\ufffd" || names[30] != "f29" || got.More || got.Entries[0].Target != "\ufffd" {
		t.Errorf("list %q, more %v", names, got.More)
	}
	if names := page(`{"path":"$D/d","limit":3,"match":"f*"}`); strings.Join(names, " ") != "f00 f01 f02" || !got.More {
		t.Errorf("first page %q, more %v", names, got.More)
	}
	if names := page(`{"path":"$D/d","limit":3,"after":"f26"}`); strings.Join(names, " ") != "f27 f28 f29" || got.More {
		t.Errorf("last page %q, more %v", names, got.More)
	}
	steps(t, dir,
		step{"list", `{"path":"$D/d","match":"["}`, "", "syntax error"},
		step{"list", `{"path":"$D/d/f00"}`, "", "not a directory"},
		step{"list", `{"path":"$D/none"}`, "", "no such file"},
	)
}

func TestRead(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "hällo wörld")
	put(t, dir+"/bin", "\xff\x00")
	put(t, dir+"/empty", "")
	put(t, dir+"/ctl", strings.Repeat("\x01", 400_000))
	put(t, dir+"/noise", strings.Repeat("\xfe", 524_288))
	steps(t, dir,
		step{"read", `{"path":"$D/f"}`, `{"content":"hällo wörld","offset":0,"next":13,"size":13,"end":true}`, ""},
		step{"read", `{"path":"$D/f","limit":2}`, `{"content":"h","offset":0,"next":1,"size":13,"end":false}`, ""},
		step{"read", `{"path":"$D/f","offset":-3}`, `{"content":"rld","offset":10,"next":13`, ""},
		step{"read", `{"path":"$D/f","offset":100}`, `{"content":"","offset":100,"next":100,"size":13,"end":true}`, ""},
		step{"read", `{"path":"$D/bin"}`, `{"content":{"base64":"/wA="}`, ""},
		step{"read", `{"path":"$D/empty","offset":-5}`, `"content":"","offset":0`, ""},
		step{"read", `{"path":"$D/ctl","limit":524288}`, `"next":119466,"size":400000,"end":false`, ""},
		step{"read", `{"path":"$D/noise","limit":524288}`, `"next":524288,"size":524288,"end":true`, ""},
		step{"read", `{"path":"/proc/self/status"}`, `"content":"Name:`, ""},
		step{"read", `{"path":"$D"}`, "", "not a regular file but a directory"},
		step{"read", `{"path":"/dev/zero"}`, "", "not a regular file but a device"},
		step{"read", `{"path":"$D/f","limit":524289}`, "", "invalid"},
	)
}

func TestChecksum(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "abc")
	steps(t, dir, // FIPS 180-4 and RFC 1321, their examples for abc
		step{"checksum", `{"path":"$D/f"}`, `{"digest":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3}`, ""},
		step{"checksum", `{"path":"$D/f","algorithm":"sha1"}`, `a9993e364706816aba3e25717850c26c9cd0d89d`, ""},
		step{"checksum", `{"path":"$D/f","algorithm":"md5"}`, `900150983cd24fb0d6963f7d28e17f72`, ""},
		step{"checksum", `{"path":"$D/f","algorithm":"sha512"}`, `ddaf35a193617abacc417349ae204131`, ""},
		step{"checksum", `{"path":"$D/f","algorithm":"crc"}`, "", "invalid"},
	)
}

func TestWrite(t *testing.T) {
	dir := tree(t)
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	must(t, os.Symlink("f", dir+"/l"))
	steps(t, dir,
		step{"write", `{"path":"$D/f","content":"abc","dry_run":true}`, `{"changed":true,"created":true,"size":3,"sha256":"` + abc + `","diff":"--- $D/f\n+++ $D/f\n@@ -0,0 +1,1 @@\n+abc\n\\ No newline at end of file\n"}`, ""},
		step{"stat", `{"path":"$D/f"}`, `{"exists":false}`, ""},
		step{"write", `{"path":"$D/f","content":"abc","mode":"0600"}`, `{"changed":true,"created":true,"size":3,"sha256":"` + abc + `"}`, ""},
		step{"stat", `{"path":"$D/f"}`, `"mode":"0600"`, ""},
		step{"write", `{"path":"$D/f","content":"abc"}`, `{"changed":false,"size":3,"sha256":"` + abc + `"}`, ""},
		step{"write", `{"path":"$D/f","content":"abc","new":true}`, "", "conflict: $D/f exists"},
		step{"write", `{"path":"$D/f","content":"abc","mode":"644","dry_run":true}`, `"changed":true`, ""},
		step{"stat", `{"path":"$D/f"}`, `"mode":"0600"`, ""},
		step{"write", `{"path":"$D/f","content":"x\n","sha256":"` + strings.Repeat("0", 64) + `"}`, "", "conflict"},
		step{"write", `{"path":"$D/l","content":"x\n","sha256":"` + abc + `","diff":true}`, `"diff":"--- $D/f\n+++ $D/f\n@@ -1,1 +1,1 @@\n-abc`, ""},
		step{"stat", `{"path":"$D/f"}`, `"mode":"0600"`, ""},
		step{"write", `{"path":"$D/f","content":{"base64":"AP8="},"dry_run":true}`, `"size":2`, ""},
		step{"write", `{"path":"$D","content":""}`, "", "a directory"},
		step{"write", `{"path":"$D/none/f","content":""}`, "", "no such file"},
		step{"write", `{"path":"$D/f"}`, "", `field "content" is missing`},
		step{"write", `{"path":"$D/f","content":"","mode":"999"}`, "", "invalid"},
		step{"write", `{"path":"$D/f","content":"","owner":"no such user"}`, "", "no user"},
		step{"write", `{"path":"/dev/null","content":"x"}`, "", "a device"},
		step{"write", `{"path":"/proc/dominion","content":"x"}`, "", "write beside /proc/dominion"},
	)
	if got := get(t, dir+"/l"); got != "x\n" {
		t.Errorf("through the link: %q", got)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 2 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

func TestLargeDiffIsCut(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", strings.Repeat("old\n", 50_000))
	out, err := run(t, dir, "write", `{"path":"$D/f","content":"`+strings.Repeat("n\\n", 50_000)+`","dry_run":true}`)
	must(t, err)
	var r Result
	must(t, json.Unmarshal([]byte(out), &r))
	if len(r.Diff) > textdiff.Max || r.DiffCut == 0 || !r.Changed {
		t.Errorf("diff of %d bytes, %d cut", len(r.Diff), r.DiffCut)
	}
}

func TestAppend(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/big", strings.Repeat("x", maxText+1))
	steps(t, dir,
		step{"append", `{"path":"$D/f","content":"one"}`, `"changed":true,"created":true,"size":3`, ""},
		step{"append", `{"path":"$D/f","content":"\ntwo","dry_run":true}`, `"size":7`, ""},
		step{"append", `{"path":"$D/f","content":"\ntwo"}`, `"changed":true,"size":7`, ""},
		step{"append", `{"path":"$D/f","content":"two","once":true}`, `"changed":false,"size":7`, ""},
		step{"append", `{"path":"$D/f","content":"tw","once":true}`, `"changed":true,"size":11`, ""},
		step{"append", `{"path":"$D/f","content":"two\ntw\n","once":true}`, `"changed":false,"size":11`, ""},
		step{"append", `{"path":"$D/f","content":""}`, `"changed":false`, ""},
		step{"append", `{"path":"$D/f","content":"!","in_place":true}`, `{"changed":true,"size":12}`, ""},
		step{"append", `{"path":"$D/f","content":"!","in_place":true,"dry_run":true}`, `{"changed":true,"size":13}`, ""},
		step{"append", `{"path":"$D/none","content":"!","in_place":true}`, "", "does not exist"},
		step{"append", `{"path":"$D/f","content":"!","in_place":true,"once":true}`, "", "only one of them"},
		step{"append", `{"path":"$D/big","content":"yz"}`, `"changed":true,"size":4194307,"sha256":"`, ""},
		step{"append", `{"path":"$D/big","content":"yz","once":true}`, "", "too large"},
	)
	if got := get(t, dir+"/f"); got != "one\ntwo\ntw\n!" {
		t.Errorf("content %q", got)
	}
	if got := get(t, dir+"/big"); len(got) != maxText+3 || !strings.HasSuffix(got, "xyz") {
		t.Errorf("%d bytes ending in %q", len(got), got[len(got)-4:])
	}
}

func TestInPlaceKeepsTheFile(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/log", "a\n")
	f, err := os.Open(dir + "/log")
	must(t, err)
	defer f.Close()
	steps(t, dir, step{"append", `{"path":"$D/log","content":"b\n","in_place":true}`, `"changed":true`, ""})
	b := make([]byte, 10)
	if n, _ := f.Read(b); string(b[:n]) != "a\nb\n" {
		t.Errorf("who holds the file reads %q", b[:n])
	}
}

func TestBlock(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "first\nlast")
	steps(t, dir,
		step{"block", `{"path":"$D/f","content":"a\nb","diff":true}`, `+# BEGIN dominion\n+a\n+b\n+# END dominion\n`, ""},
		step{"block", `{"path":"$D/f","content":"a\nb\n"}`, `"changed":false`, ""},
		step{"block", `{"path":"$D/f","content":"c","name":"other","comment":"<!--","comment_end":"-->"}`, `"changed":true`, ""},
		step{"block", `{"path":"$D/f","content":"d"}`, `"changed":true`, ""},
	)
	const want = "first\nlast\n# BEGIN dominion\nd\n# END dominion\n<!-- BEGIN other -->\nc\n<!-- END other -->\n"
	if got := get(t, dir+"/f"); got != want {
		t.Errorf("content %q; want %q", got, want)
	}
	steps(t, dir,
		step{"block", `{"path":"$D/f","absent":true,"dry_run":true}`, `"changed":true`, ""},
		step{"block", `{"path":"$D/f","absent":true}`, `"changed":true`, ""},
		step{"block", `{"path":"$D/f","absent":true}`, `"changed":false`, ""},
		step{"block", `{"path":"$D/none","absent":true}`, `"changed":false`, ""},
		step{"block", `{"path":"$D/new","content":"x","mode":"0600"}`, `"created":true`, ""},
		step{"block", `{"path":"$D/f","content":"# END dominion"}`, "", "is a marker"},
		step{"block", `{"path":"$D/f","name":"a\nb"}`, "", "cannot be in a marker"},
		step{"block", `{"path":"$D/f","absent":true,"content":"x"}`, "", "only one of them"},
	)
	for name, text := range map[string]string{
		"open": "# BEGIN dominion\n", "closed": "# END dominion\n", "twice": "# BEGIN dominion\n# BEGIN dominion\n# END dominion\n",
		"two": "# BEGIN dominion\n# END dominion\n# BEGIN dominion\n# END dominion\n",
	} {
		put(t, dir+"/"+name, text)
		steps(t, dir, step{"block", `{"path":"$D/` + name + `","content":"x"}`, "", "the block"})
		if got := get(t, dir+"/"+name); got != text {
			t.Errorf("%s: content %q", name, got)
		}
	}
}

func FuzzSplice(f *testing.F) {
	f.Add([]byte("a\n# BEGIN x\nold\n# END x\nb"), []byte("new\n"))
	f.Add([]byte("# END x\n"), []byte(""))
	f.Fuzz(func(t *testing.T, old, content []byte) {
		lines := [][]byte{[]byte("# BEGIN x\n"), ended(content), []byte("# END x\n")}
		got, err := splice(old, "# BEGIN x", "# END x", lines)
		if err != nil {
			return
		}
		for _, l := range strings.Split(string(content), "\n") {
			if l = strings.TrimSpace(l); l == "# BEGIN x" || l == "# END x" {
				return
			}
		}
		again, err := splice(got, "# BEGIN x", "# END x", lines)
		if err != nil || string(again) != string(got) {
			t.Fatalf("splice(%q) = %q, %v; want it unchanged", got, again, err)
		}
		gone, err := splice(got, "# BEGIN x", "# END x", nil)
		if err != nil || strings.Contains(string(gone), "# BEGIN x\n") && !strings.Contains(string(old), "# BEGIN x\n") {
			t.Fatalf("without the block: %q, %v", gone, err)
		}
	})
}

func TestRemove(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/d/a/b", "")
	put(t, dir+"/keep", "kept")
	must(t, os.Symlink(dir+"/keep", dir+"/d/l"))
	must(t, syscall.Mkfifo(dir+"/d/p", 0o600))
	must(t, os.Symlink(dir+"/d", dir+"/tod"))
	steps(t, dir,
		step{"remove", `{"path":"$D/d"}`, "", "not empty"},
		step{"remove", `{"path":"$D/d","recursive":true,"dry_run":true}`, `{"changed":true,"removed":5}`, ""},
		step{"remove", `{"path":"$D/tod","recursive":true}`, `{"changed":true,"removed":1}`, ""},
		step{"remove", `{"path":"$D/d","recursive":true}`, `{"changed":true,"removed":5}`, ""},
		step{"remove", `{"path":"$D/d","recursive":true}`, `{"changed":false,"removed":0}`, ""},
		step{"remove", `{"path":"/","recursive":true}`, "", "denied"},
		step{"remove", `{"path":"$D/..","recursive":true}`, "", "denied"},
	)
	if got := get(t, dir+"/keep"); got != "kept" {
		t.Errorf("content %q", got)
	}
	put(t, dir+strings.Repeat("/d", maxDepth+2)+"/f", "")
	steps(t, dir, step{"remove", `{"path":"$D/d","recursive":true}`, "", "deeper"})
}

// Neither a mount point nor what lies behind one is removed, be it a directory
// of the same file system.
func TestRemoveOfMounts(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/victim/f", "kept")
	put(t, dir+"/d/a/x", "")
	must(t, os.MkdirAll(dir+"/d/m", 0o755))
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its mounts with it
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("SKIPPED a mount namespace of the test's own needs root: %v", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount(dir+"/victim", dir+"/d/m", "", unix.MS_BIND, ""))
	for _, path := range []string{"/d", "/d/m"} {
		steps(t, dir,
			step{"remove", `{"path":"$D` + path + `","recursive":true,"dry_run":true}`, "", "denied: something is mounted on $D/d/m"},
			step{"remove", `{"path":"$D` + path + `","recursive":true}`, "", "denied: something is mounted on $D/d/m"},
		)
	}
	must(t, unix.Unmount(dir+"/d/m", unix.MNT_DETACH))
	if get(t, dir+"/victim/f") != "kept" {
		t.Error("the victim was removed")
	}
	get(t, dir+"/d/a/x")
	steps(t, dir, step{"remove", `{"path":"$D/d","recursive":true}`, `"removed":4`, ""})
}

// A reader that waits ends with its context.
func TestReadingEnds(t *testing.T) {
	name := t.TempDir() + "/p"
	must(t, syscall.Mkfifo(name, 0o600))
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, call.Errorf(call.Timeout, "late"))
	defer cancel()
	r := reading(ctx, f)
	defer r.stop()
	if n, err := r.Read(make([]byte, 1)); n != 0 || call.CodeOf(err) != call.Timeout {
		t.Errorf("read %d bytes, %v; want the end of its context", n, err)
	}
	if _, err := r.Read(make([]byte, 1)); call.CodeOf(err) != call.Timeout {
		t.Errorf("read again: %v", err)
	}
}

func TestMkdir(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "")
	steps(t, dir,
		step{"mkdir", `{"path":"$D/a/b/c"}`, "", "no such file"},
		step{"mkdir", `{"path":"$D/a/b/c","parents":true,"dry_run":true}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/a"}`, `{"exists":false}`, ""},
		step{"mkdir", `{"path":"$D/a/b/c","parents":true,"mode":"2750"}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/a/b/c"}`, `"mode":"2750"`, ""},
		step{"stat", `{"path":"$D/a/b"}`, `"mode":"0755"`, ""},
		step{"mkdir", `{"path":"$D/a/b/c","parents":true,"mode":"2750"}`, `{"changed":false}`, ""},
		step{"mkdir", `{"path":"$D/a/b/c","mode":"0700","dry_run":true}`, `{"changed":true}`, ""},
		step{"mkdir", `{"path":"$D/a/b/c","mode":"0700"}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/a/b/c"}`, `"mode":"0700"`, ""},
		step{"mkdir", `{"path":"$D/f"}`, "", "conflict: $D/f is a regular file"},
		step{"mkdir", `{"path":"$D/f/d","parents":true}`, "", "not a directory"},
	)
}

func TestOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED giving files away needs root")
	}
	dir := tree(t)
	put(t, dir+"/f", "")
	must(t, os.Mkdir(dir+"/d", 0o755|fs.ModeSticky))
	must(t, os.Symlink("f", dir+"/l"))
	must(t, syscall.Mkfifo(dir+"/p", 0o600))
	steps(t, dir,
		step{"chmod", `{"path":"$D/l","mode":"4711","dry_run":true}`, `{"changed":true}`, ""},
		step{"chmod", `{"path":"$D/l","mode":"4711"}`, `{"changed":true}`, ""},
		step{"chmod", `{"path":"$D/f","mode":"4711"}`, `{"changed":false}`, ""},
		step{"chown", `{"path":"$D/f","owner":"daemon","group":"54321"}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/f"}`, `"mode":"0711","user":"daemon","group":"54321","uid":1,"gid":54321`, ""},
		step{"chown", `{"path":"$D/f","owner":"1"}`, `{"changed":false}`, ""},
		step{"chmod", `{"path":"$D/d","mode":"1777"}`, `{"changed":true}`, ""},
		step{"chown", `{"path":"$D/d","group":"daemon"}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/d"}`, `"mode":"1777"`, ""},
		step{"chown", `{"path":"$D/f"}`, "", "invalid"},
		step{"chmod", `{"path":"$D/p","mode":"0777"}`, "", "a FIFO"},
		step{"chmod", `{"path":"/dev/null","mode":"0777"}`, "", "a device"},
		step{"chmod", `{"path":"$D/none","mode":"0777"}`, "", "no such file"},
	)
}

// A file that anybody may have given a second name to is not changed by it.
func TestForeignHardLinks(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/shadow", "secret")
	must(t, os.Mkdir(dir+"/open", 0o777))
	must(t, os.Chmod(dir+"/open", 0o777))
	must(t, os.Link(dir+"/shadow", dir+"/open/f"))
	steps(t, dir,
		step{"chmod", `{"path":"$D/open/f","mode":"0666"}`, "", "denied"},
		step{"chown", `{"path":"$D/open/f","owner":"1"}`, "", "denied"},
		step{"append", `{"path":"$D/open/f","content":"x","in_place":true}`, "", "denied"},
		step{"append", `{"path":"$D/open/f","content":"x"}`, `"changed":true`, ""},
		step{"link", `{"path":"$D/l","target":"$D/open/f","hard":true}`, `"changed":true`, ""},
	)
	if got := get(t, dir+"/shadow"); got != "secret" {
		t.Errorf("content %q", got)
	}
}

func TestLink(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "f")
	put(t, dir+"/g", "g")
	steps(t, dir,
		step{"link", `{"path":"$D/l","target":"any/thing","dry_run":true}`, `{"changed":true}`, ""},
		step{"link", `{"path":"$D/l","target":"any/thing"}`, `{"changed":true}`, ""},
		step{"link", `{"path":"$D/l","target":"any/thing"}`, `{"changed":false}`, ""},
		step{"link", `{"path":"$D/l","target":"f"}`, "", "conflict"},
		step{"link", `{"path":"$D/l","target":"f","replace":true}`, `{"changed":true}`, ""},
		step{"stat", `{"path":"$D/l"}`, `"target":"f"`, ""},
		step{"link", `{"path":"$D/h","target":"$D/f","hard":true}`, `{"changed":true}`, ""},
		step{"link", `{"path":"$D/h","target":"$D/f","hard":true}`, `{"changed":false}`, ""},
		step{"stat", `{"path":"$D/f"}`, `"links":2`, ""},
		step{"link", `{"path":"$D/h","target":"$D/g","hard":true}`, "", "conflict"},
		step{"link", `{"path":"$D/h","target":"$D/g","hard":true,"replace":true}`, `{"changed":true}`, ""},
		step{"link", `{"path":"$D","target":"f","replace":true}`, "", "conflict"},
		step{"link", `{"path":"$D/x","target":"$D","hard":true}`, "", "a directory"},
		step{"link", `{"path":"$D/x","target":"$D/none","hard":true}`, "", "no such file"},
	)
	if got := get(t, dir+"/h"); got != "g" {
		t.Errorf("content %q", got)
	}
	if names, _ := os.ReadDir(dir); len(names) != 4 {
		t.Errorf("names %v", names)
	}
}

func TestSecretsStaySecret(t *testing.T) {
	_, err := run(t, "", "write", `{"path":"/x","content":["hunter2"]}`)
	if call.CodeOf(err) != call.Invalid || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}
