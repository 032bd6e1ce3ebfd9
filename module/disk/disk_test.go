package disk

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
	"dominion/module/mountinfo"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mounted gives this test, alone on its thread, a mount namespace with a tmpfs
// of 1 MiB and 100 inodes.
func mounted(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("SKIPPED a mount namespace of the test's own needs root: %v", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("small", dir, "tmpfs", 0, "size=1m,nr_inodes=100"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// here reads the mounts of the thread, not of the process.
func here(t *testing.T) []mountinfo.Mount {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	mounts, err := mountinfo.Parse(b)
	must(t, err)
	return mounts
}

func TestUsageOfASmallDisk(t *testing.T) {
	dir := mounted(t)
	must(t, os.WriteFile(dir+"/f", make([]byte, 512<<10), 0o600))
	mounts := here(t)
	at := slices.IndexFunc(mounts, func(m mountinfo.Mount) bool { return m.Point == dir })
	if at < 0 {
		t.Fatal("the mount is not in the table")
	}
	// statfs has to run on this thread, which alone has the mount.
	var s unix.Statfs_t
	must(t, unix.Statfs(dir, &s))
	stat := func(string) (unix.Statfs_t, error) { return s, nil }
	got, err := measure(t.Context(), usageIn{Over: 50}, mounts[at:at+1], stat, time.Minute)
	must(t, err)
	want := Filesystem{
		Mount: dir, Device: "small", Type: "tmpfs", SizeBytes: 1 << 20, UsedBytes: 512 << 10, AvailableBytes: 512 << 10,
		UsedPercent: 50, Inodes: 100, UsedInodes: 2, InodesPercent: 2,
	}
	if len(got.Filesystems) != 1 || got.Filesystems[0] != want {
		t.Errorf("usage %+v; want %+v", got, want)
	}
	if got, err := measure(t.Context(), usageIn{Over: 51}, mounts[at:at+1], stat, time.Minute); err != nil || len(got.Filesystems) != 0 {
		t.Errorf("over 51: %+v, %v", got, err)
	}
	if held, err := holding(dir+"/f", mounts); err != nil || len(held) != 1 || held[0].Point != dir {
		t.Errorf("the mount of %s/f: %+v, %v", dir, held, err)
	}
}

// df(1) is the oracle for this machine's own file systems.
func TestUsageIsThatOfDf(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "df", "--block-size=1", "--output=target,size,used,avail,pcent,itotal,iused", "/").Output()
	if err != nil {
		t.Skipf("SKIPPED this machine has no df: %v", err)
	}
	f := strings.Fields(strings.Split(string(out), "\n")[1])
	got, err := usage(t.Context(), nil, usageIn{Path: "/"})
	if err != nil || len(got.Filesystems) != 1 {
		t.Fatalf("usage = %+v, %v", got, err)
	}
	g := got.Filesystems[0]
	// Others write meanwhile, so only what stays is compared exactly.
	if f[0] != g.Mount || f[1] != fmt.Sprint(g.SizeBytes) || f[5] != fmt.Sprint(g.Inodes) {
		t.Errorf("df says %q; usage %+v", f, g)
	}
	var used uint64
	_, err = fmt.Sscan(f[2], &used)
	must(t, err)
	if d := int64(used) - int64(g.UsedBytes); d > 1<<30 || d < -1<<30 {
		t.Errorf("df says %d bytes used; usage %d", used, g.UsedBytes)
	}
}

func TestUsageOfEverything(t *testing.T) {
	some, err := usage(t.Context(), nil, usageIn{})
	must(t, err)
	all, err := usage(t.Context(), nil, usageIn{All: true})
	must(t, err)
	if len(some.Filesystems) == 0 || len(all.Filesystems) <= len(some.Filesystems) {
		t.Errorf("%d of %d file systems", len(some.Filesystems), len(all.Filesystems))
	}
	if _, err := usage(t.Context(), nil, usageIn{Path: "/nowhere/at/all"}); err == nil {
		t.Error("usage of nothing: no error")
	}
}

func TestUsageOfADeadDisk(t *testing.T) {
	release := make(chan struct{})
	dead := func(point string) (unix.Statfs_t, error) {
		if point == "/dead" {
			<-release
		}
		return unix.Statfs_t{Blocks: 1, Frsize: 4096}, nil
	}
	mounts := []mountinfo.Mount{{Device: "1:1", Root: "/", Point: "/dead"}, {Device: "1:2", Root: "/", Point: "/alive"}}
	got, err := measure(t.Context(), usageIn{}, mounts, dead, 20*time.Millisecond)
	if err != nil || len(got.Filesystems) != 1 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "/dead: no answer within 20ms") {
		t.Errorf("usage = %+v, %v", got, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(call.Errorf(call.Cancelled, "enough"))
	if _, err := measure(ctx, usageIn{}, mounts, dead, time.Hour); call.CodeOf(err) != call.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	close(release)
	for range cap(stuck) { // nobody hangs any more
		stuck <- struct{}{}
	}
	for range cap(stuck) {
		<-stuck
	}
}

func TestVisible(t *testing.T) {
	got := visible([]mountinfo.Mount{
		{ID: 1, Root: "/part", Point: "/a"}, {ID: 2, Root: "/", Point: "/b"}, {ID: 3, Root: "/", Point: "/c"}, {ID: 4, Root: "/", Point: "/b"},
	})
	var ids []int
	for _, m := range got {
		ids = append(ids, m.ID)
	}
	if !slices.Equal(ids, []int{3, 4, 1}) {
		t.Errorf("visible %v; want 3, 4, 1", ids)
	}
}

// TestDevices reads a /sys of the test's own, laid out as the kernel's.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"sda/size": "2000", "sda/dev": "8:0", "sda/ro": "0", "sda/removable": "1", "sda/queue/rotational": "1", "sda/queue/logical_block_size": "512",
		"sda/device/model": "DISK  ", "sda/device/serial": "S1", "sda/sda1/size": "1000", "sda/sda1/partition": "1", "sda/sda1/dev": "8:1", "sda/sda1/ro": "1",
		"sda/sda1/holders/dm-0/x": "", "dm-0/size": "1000", "dm-0/dm/name": "vg-root", "dm-0/dev": "253:0", "loop0/size": "0", "sr0/size": "0", "sdb/size": "x",
	} {
		file := dir + "/devices/" + name
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(text+"\n"), 0o644))
	}
	must(t, os.Mkdir(dir+"/block", 0o755))
	for _, name := range []string{"sda", "dm-0", "loop0", "sr0", "sdb"} {
		must(t, os.Symlink("../devices/"+name, dir+"/block/"+name))
	}
	must(t, os.Symlink("/etc", dir+"/block/evil"))
	sys, err := os.OpenRoot(dir)
	must(t, err)
	defer sys.Close()
	got, err := scan(t.Context(), sys, false, []mountinfo.Mount{{Device: "253:0", Point: "/"}, {Device: "253:0", Point: "/x"}})
	must(t, err)
	b, err := json.Marshal(got)
	must(t, err)
	const want = `{"devices":[{"name":"dm-0","type":"mapped","size_bytes":512000,"label":"vg-root","mounts":["/","/x"]},` +
		`{"name":"evil","type":"disk","size_bytes":0},` +
		`{"name":"sda","type":"disk","size_bytes":1024000,"sector":512,"removable":true,"rotational":true,"model":"DISK","serial":"S1"},` +
		`{"name":"sda1","type":"partition","parent":"sda","size_bytes":512000,"read_only":true,"holders":["dm-0"]},` +
		`{"name":"sdb","type":"disk","size_bytes":0},{"name":"sr0","type":"rom","size_bytes":0}]}`
	if string(b) != want {
		t.Errorf("devices\n%s\nwant\n%s", b, want)
	}
}

func TestRealDevices(t *testing.T) {
	tab, err := module.NewTable([]module.Module{Module})
	must(t, err)
	m, _ := tab.Lookup("disk.devices")
	out, err := m.Run(t.Context(), nil, nil)
	must(t, err)
	var got Devices
	must(t, json.Unmarshal(out, &got))
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Skipf("SKIPPED this machine has no /sys/block: %v", err)
	}
	for _, e := range entries {
		if kind(e.Name()) == "disk" && !slices.ContainsFunc(got.Devices, func(d Device) bool { return d.Name == e.Name() }) {
			t.Errorf("%s is not in %s", e.Name(), out)
		}
	}
}
