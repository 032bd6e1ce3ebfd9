package mount

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own gives this test, alone on its thread, a mount namespace: what it mounts
// nobody else sees. The directory is one that only we can write to.
func own(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("SKIPPED a mount namespace of the test's own needs root: %v", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	t.Cleanup(func() {
		mounts, _ := list(t.Context(), nil, listIn{})
		for _, m := range mounts.Mounts {
			if strings.HasPrefix(m.Path, dir) {
				_ = unix.Unmount(m.Path, unix.MNT_DETACH)
			}
		}
	})
	return dir
}

// on gives what is mounted there, later ones last.
func on(t *testing.T, point string) []Mount {
	t.Helper()
	l, err := list(t.Context(), nil, listIn{Match: point})
	must(t, err)
	return l.Mounts
}

func testMachine(dir string) machine { return machine{fstab: dir + "/fstab"} }

func TestMount(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	must(t, os.Mkdir(dir+"/m", 0o755))
	in := mountIn{Path: dir + "/m", Source: "small", Type: "tmpfs", Options: "size=1m,noexec,x-comment,nofail", DryRun: true}
	if got, err := s.mount(t.Context(), nil, in); err != nil || got != (Changed{true, "kernel"}) || len(on(t, in.Path)) != 0 {
		t.Errorf("dry run: %+v, %v; mounted %v", got, err, on(t, in.Path))
	}
	in.DryRun = false
	if got, err := s.mount(t.Context(), nil, in); err != nil || got != (Changed{true, "kernel"}) {
		t.Fatalf("mount: %+v, %v", got, err)
	}
	m := on(t, in.Path)
	if len(m) != 1 || m[0].Type != "tmpfs" || m[0].Source != "small" || !strings.Contains(m[0].Options, "noexec") || !strings.Contains(m[0].Super, "size=1024k") {
		t.Errorf("mounted %+v", m)
	}
	if got, err := s.mount(t.Context(), nil, in); err != nil || got.Changed || len(on(t, in.Path)) != 1 {
		t.Errorf("mount again: %+v, %v", got, err)
	}
	other := in
	other.Source = "other"
	if _, err := s.mount(t.Context(), nil, other); call.CodeOf(err) != call.Conflict {
		t.Errorf("mount over it: %v; want a conflict", err)
	}
	again := mountIn{Path: in.Path, Source: "small", Options: "remount,ro,noexec"}
	if got, err := s.mount(t.Context(), nil, again); err != nil || !got.Changed {
		t.Errorf("remount: %+v, %v", got, err)
	}
	if err := os.WriteFile(in.Path+"/f", nil, 0o600); err == nil {
		t.Error("remounted ro, and it can be written")
	}
	if got, err := s.mount(t.Context(), nil, again); err != nil || got.Changed {
		t.Errorf("remount again: %+v, %v", got, err)
	}
	testUmount(t, in.Path)
}

func testUmount(t *testing.T, point string) {
	t.Helper()
	busy, err := os.Open(point)
	must(t, err)
	defer busy.Close()
	if _, err := umount(t.Context(), nil, umountIn{Path: point}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("umount of a busy one: %v", err)
	}
	if got, err := umount(t.Context(), nil, umountIn{Path: point, Lazy: true, DryRun: true}); err != nil || !got.Changed || len(on(t, point)) != 1 {
		t.Errorf("dry run: %+v, %v", got, err)
	}
	if got, err := umount(t.Context(), nil, umountIn{Path: point, Lazy: true}); err != nil || !got.Changed || len(on(t, point)) != 0 {
		t.Errorf("umount: %+v, %v; mounted %v", got, err, on(t, point))
	}
	for _, path := range []string{point, point + "/none/at/all"} {
		if got, err := umount(t.Context(), nil, umountIn{Path: path}); err != nil || got.Changed {
			t.Errorf("umount %s: %+v, %v", path, got, err)
		}
	}
	if _, err := umount(t.Context(), nil, umountIn{Path: "/"}); call.CodeOf(err) != call.Denied {
		t.Errorf("umount /: %v; want denied", err)
	}
}

func TestBind(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	for _, d := range []string{"/a", "/b", "/c"} {
		must(t, os.Mkdir(dir+d, 0o755))
	}
	must(t, os.WriteFile(dir+"/a/f", nil, 0o600))
	in := mountIn{Path: dir + "/b", Source: dir + "/a", Options: "bind,ro"}
	if got, err := s.mount(t.Context(), nil, in); err != nil || got != (Changed{true, "kernel"}) {
		t.Fatalf("bind: %+v, %v", got, err)
	}
	if _, err := os.Stat(dir + "/b/f"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir+"/b/g", nil, 0o600); err == nil {
		t.Error("bound ro, and it can be written")
	}
	must(t, os.WriteFile(dir+"/a/g", nil, 0o600))
	if got, err := s.mount(t.Context(), nil, in); err != nil || got.Changed {
		t.Errorf("bind again: %+v, %v", got, err)
	}
	in.Source = dir + "/c"
	if _, err := s.mount(t.Context(), nil, in); call.CodeOf(err) != call.Conflict {
		t.Errorf("bind another: %v; want a conflict", err)
	}
}

func TestMountByTheProgram(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	must(t, os.MkdirAll(dir+"/open/m", 0o755))
	must(t, os.Mkdir(dir+"/m", 0o755))
	must(t, os.Chmod(dir+"/open", 0o777))
	in := mountIn{Path: dir + "/m", Source: "-small", Type: "tmpfs", Options: "size=1m,X-by-the-program"}
	got, err := s.mount(t.Context(), &module.Env{}, in)
	if err != nil || !strings.HasSuffix(got.How, "/mount") || !got.Changed {
		t.Fatalf("mount: %+v, %v", got, err)
	}
	if m := on(t, in.Path); len(m) != 1 || m[0].Source != "-small" {
		t.Errorf("mounted %+v", m)
	}
	in.Path = dir + "/open/m"
	if _, err := s.mount(t.Context(), &module.Env{}, in); call.CodeOf(err) != call.Denied {
		t.Errorf("where others can write: %v; want denied", err)
	}
	if _, err := umount(t.Context(), nil, umountIn{Path: dir + "/m"}); err != nil {
		t.Error(err)
	}
	in = mountIn{Path: dir + "/m", Source: "LABEL=no such label"}
	if _, err := s.mount(t.Context(), &module.Env{}, in); err == nil || !strings.Contains(err.Error(), "mount") {
		t.Errorf("no such label: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	must(t, os.WriteFile(dir+"/f", nil, 0o600))
	must(t, os.Mkdir(dir+"/m", 0o755))
	for _, test := range []struct {
		name string
		in   mountIn
		code call.Code
	}{
		{"no directory", mountIn{Path: dir + "/none", Source: "x", Type: "tmpfs"}, call.Internal},
		{"a file", mountIn{Path: dir + "/f", Source: "x", Type: "tmpfs"}, call.Internal},
		{"no such type", mountIn{Path: dir + "/m", Source: "x", Type: "nosuchfs"}, call.Failed},
		{"remount of nothing", mountIn{Path: dir + "/m", Source: "x", Options: "remount,ro"}, call.Failed},
		{"how mounts spread", mountIn{Path: dir + "/m", Source: "x", Options: "bind,rshared"}, call.Invalid},
		{"bind with data", mountIn{Path: dir + "/m", Source: dir, Options: "bind,size=1"}, call.Invalid},
		{"not in fstab", mountIn{Path: dir + "/m"}, call.Invalid},
		{"line feed", mountIn{Path: dir + "/m", Source: "a\nb"}, call.Invalid},
		{"unknown option", mountIn{Path: dir + "/m", Source: "x", Type: "tmpfs", Options: "colour=red"}, call.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := s.mount(t.Context(), nil, test.in)
			if err == nil || call.CodeOf(err) != test.code {
				t.Errorf("mount = %+v, %v; want %v", got, err, test.code)
			}
		})
	}
	if m := on(t, dir+"/m"); len(m) != 0 {
		t.Errorf("mounted %+v", m)
	}
}

// Whoever changes the mount point to a link gets nothing mounted elsewhere.
func TestMountPointThatChanges(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	must(t, os.Mkdir(dir+"/victim", 0o755))
	must(t, os.MkdirAll(dir+"/his/m", 0o755))
	must(t, os.Chmod(dir+"/his", 0o777))
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for !stop.Load() {
			_ = os.Rename(dir+"/his/m", dir+"/his/moved")
			_ = os.Symlink(dir+"/victim", dir+"/his/m")
			_ = os.Remove(dir + "/his/m")
			_ = os.Rename(dir+"/his/moved", dir+"/his/m")
		}
	})
	mounted := 0
	for range 300 {
		if _, err := s.mount(t.Context(), nil, mountIn{Path: dir + "/his/m", Source: "x", Type: "tmpfs"}); err == nil {
			mounted++
		}
		if m := on(t, dir+"/victim"); len(m) != 0 {
			t.Fatalf("mounted on the victim: %+v", m)
		}
		for _, p := range []string{"/his/m", "/his/moved"} {
			for range on(t, dir+p) {
				_ = unix.Unmount(dir+p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
		}
	}
	stop.Store(true)
	done.Wait()
	t.Logf("%d of 300 mounted", mounted)
}

const fstab = "# a comment\nUUID=1-2 / ext4 defaults 0 1\n/dev/sdb1\t/my\\040data xfs\ttofs\nsw none swap sw 0 0\n"

func TestFstab(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	if got, err := s.list(t.Context(), nil, none{}); err != nil || len(got.Entries) != 0 || got.Entries == nil {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	must(t, os.WriteFile(s.fstab, []byte(fstab), 0o640))
	got, err := s.list(t.Context(), nil, none{})
	must(t, err)
	want := []Listed{
		{Entry{"UUID=1-2", "/", "ext4", "defaults", 0, 1}, 2, true},
		{Entry{"/dev/sdb1", "/my data", "xfs", "tofs", 0, 0}, 3, false},
		{Entry{"sw", "none", "swap", "sw", 0, 0}, 4, false},
	}
	if len(got.Entries) != 3 || got.Entries[0] != want[0] || got.Entries[1] != want[1] || got.Entries[2] != want[2] {
		t.Errorf("entries %+v; want %+v", got.Entries, want)
	}
	e := Entry{"srv:/x", "/mnt/x", "nfs", "ro,soft", 0, 0}
	dry, err := s.add(t.Context(), nil, addIn{e, true})
	if err != nil || !dry.Changed || !strings.Contains(dry.Diff, "+srv:/x\t/mnt/x\tnfs\tro,soft\t0\t0\n") {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	for i, change := range []bool{true, false} {
		if got, err := s.add(t.Context(), nil, addIn{e, false}); err != nil || got.Changed != change {
			t.Errorf("add for the %d. time: %+v, %v", i+1, got, err)
		}
	}
	for _, bad := range []Entry{{"a\nb", "/x", "t", "o", 0, 0}, {"a", "x", "t", "o", 0, 0}} {
		if _, err := s.add(t.Context(), nil, addIn{bad, false}); call.CodeOf(err) != call.Invalid {
			t.Errorf("add %+v: %v; want invalid", bad, err)
		}
	}
	if _, err := s.remove(t.Context(), nil, removeIn{Path: "/my data"}); err != nil {
		t.Error(err)
	}
	if got, err := s.remove(t.Context(), nil, removeIn{Path: "none", Source: "other"}); err != nil || got.Changed {
		t.Errorf("remove of other swap: %+v, %v", got, err)
	}
	b, err := os.ReadFile(s.fstab)
	must(t, err)
	info, err := os.Stat(s.fstab)
	must(t, err)
	if string(b) != "# a comment\nUUID=1-2 / ext4 defaults 0 1\nsw none swap sw 0 0\nsrv:/x\t/mnt/x\tnfs\tro,soft\t0\t0\n" || info.Mode() != fs.FileMode(0o640) {
		t.Errorf("fstab %q, mode %v", b, info.Mode())
	}
	must(t, os.WriteFile(s.fstab, []byte("a /x t\nb /x t\n"), 0o640))
	if _, err := s.remove(t.Context(), nil, removeIn{Path: "/x"}); call.CodeOf(err) != call.Conflict {
		t.Errorf("two entries: %v; want a conflict", err)
	}
}

func TestMountByFstab(t *testing.T) {
	dir := own(t)
	s := testMachine(dir)
	must(t, os.Mkdir(dir+"/m n", 0o755))
	must(t, os.WriteFile(s.fstab, []byte("mine "+strings.ReplaceAll(dir, " ", `\040`)+`/m\040n tmpfs size=2m,ro,noauto 0 0`), 0o644))
	if got, err := s.mount(t.Context(), nil, mountIn{Path: dir + "/m n"}); err != nil || !got.Changed {
		t.Fatalf("mount: %+v, %v", got, err)
	}
	if m := on(t, dir+"/m n"); len(m) != 1 || m[0].Source != "mine" || !strings.HasPrefix(m[0].Options, "ro") {
		t.Errorf("mounted %+v", m)
	}
}

func FuzzReplace(f *testing.F) {
	f.Add([]byte(fstab), "/dev/x y", "/z#")
	f.Fuzz(func(t *testing.T, old []byte, source, path string) {
		if source == "" || path == "" || strings.ContainsAny(source+path, "\x00\n\r") || strings.HasPrefix(source, "#") {
			return
		}
		e := Entry{source, path, "ext4", "defaults", 0, 2}
		got, err := replace(old, e, e.line())
		if err != nil {
			return
		}
		if again, err := replace(got, e, e.line()); err != nil || string(again) != string(got) {
			t.Fatalf("replace(%q) = %q, %v; want it unchanged", got, again, err)
		}
	})
}
