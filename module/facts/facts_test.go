package facts

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shirou/gopsutil/v4/disk"

	"dominion/call"
	"dominion/module"
)

func TestAll(t *testing.T) {
	tab, err := module.NewTable([]module.Module{Module})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := tab.Lookup("facts.all")
	out, err := m.Run(t.Context(), &module.Env{Version: "1.2.3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got All
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	name, _ := os.Hostname()
	if got.Hostname != name || got.AgentVersion != "1.2.3" || got.OS == "" || got.Kernel == "" || got.Architecture == "" ||
		got.CPU.Count < 1 || got.MemoryBytes < 1<<20 || got.UptimeSeconds < 1 || got.Virtualisation == "" ||
		got.BootedAt.Before(time.Unix(1e9, 0)) || got.BootedAt.After(time.Now()) {
		t.Errorf("facts %s", out)
	}
	if len(got.Problems) > 0 {
		t.Logf("problems on this machine: %q", got.Problems)
	}
}

func TestGatherIsStable(t *testing.T) {
	a, err := Gather(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Gather(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	a.BootedAt, b.BootedAt = time.Time{}, time.Time{}
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("two gatherings differ:\n%s", d)
	}
}

func TestGatherEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := Gather(ctx, "1"); !errors.Is(err, cause) {
		t.Errorf("error %v; want %v", err, cause)
	}
	tab, err := module.NewTable([]module.Module{Module})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := tab.Lookup("facts.all")
	if _, err := m.Run(ctx, nil, nil); call.CodeOf(err) != call.Cancelled {
		t.Errorf("error %v; want cancelled", err)
	}
}

func TestDigest(t *testing.T) {
	f := Facts{Hostname: "web1", BootedAt: time.Unix(6010, 0)}
	same, other, later := f, f, f
	same.BootedAt = time.Unix(6011, 0).UTC()
	other.OS = "debian"
	later.BootedAt = time.Unix(6200, 0)
	if f.Digest() != same.Digest() {
		t.Error("a second more since the boot changes the digest")
	}
	if f.Digest() == other.Digest() || f.Digest() == later.Digest() {
		t.Error("another system, or another boot, has the same digest")
	}
}

func TestRelease(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ name, file, os, version, err string }{
		{"debian", file("debian", "PRETTY_NAME=\"Debian\"\nVERSION_ID=\"13\"\n# x\nID=debian\n"), "debian", "13", ""},
		{"quotes", file("quotes", "ID='Alpine'\nVERSION_ID=3.22"), "alpine", "3.22", ""},
		{"rolling", file("rolling", "ID=arch"), "arch", "", ""},
		{"half a quote", file("half", "ID=\"\nVERSION_ID=\""), `"`, `"`, ""},
		{"empty", file("empty", ""), "linux", "", ""},
		{"garbage", file("garbage", "ID=\xff\x00"+strings.Repeat("x", 5000)), "\ufffd\x00" + strings.Repeat("x", 508), "", ""},
		{"absent", filepath.Join(dir, "absent"), "linux", "", "no os-release"},
		{"a directory", dir, "", "", "is a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f Facts
			err := f.release(filepath.Join(dir, "nothing"), test.file)
			if f.OS != test.os || f.Version != test.version {
				t.Errorf("os %q, version %q; want %q, %q", f.OS, f.Version, test.os, test.version)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v; want %q", err, test.err)
			}
		})
	}
}

func TestLocal(t *testing.T) {
	mounts := []disk.PartitionStat{
		{Device: "overlay", Mountpoint: "/", Fstype: "overlay"},
		{Device: "proc", Mountpoint: "/proc", Fstype: "proc"},
		{Device: "/dev/sda1", Mountpoint: "/etc/hosts", Fstype: "ext4"},
		{Device: "/dev/sda1", Mountpoint: "/srv", Fstype: "ext4"},
		{Device: "nas:/home", Mountpoint: "/home", Fstype: "nfs4"},
		{Device: "/dev/sdb1", Mountpoint: "/media", Fstype: "fuseblk"},
		{Device: "tank/data", Mountpoint: "/data", Fstype: "zfs"},
	}
	want := []Disk{{"/", "overlay", "overlay", 0}, {"/data", "tank/data", "zfs", 0}, {"/srv", "/dev/sda1", "ext4", 0}}
	if d := cmp.Diff(want, local(mounts)); d != "" {
		t.Errorf("local (-want +got):\n%s", d)
	}
	mounts = nil
	for i := range 1000 {
		mounts = append(mounts, disk.PartitionStat{Device: "/dev/x" + strings.Repeat("y", i%400+i/400), Mountpoint: "/m" + strings.Repeat("z", i), Fstype: "xfs"})
	}
	if n := len(local(mounts)); n != maxDisks {
		t.Errorf("%d disks; want %d", n, maxDisks)
	}
}

// TestHungMount: mounts that hang cost their time, are named, and do not pile
// up goroutines however often one asks.
func TestHungMount(t *testing.T) {
	mounts := []disk.PartitionStat{
		{Device: "/dev/a", Mountpoint: "/a", Fstype: "xfs"},
		{Device: "/dev/b", Mountpoint: "/b", Fstype: "xfs"},
		{Device: "/dev/c", Mountpoint: "/c", Fstype: "xfs"},
		{Device: "/dev/d", Mountpoint: "/d", Fstype: "xfs"},
	}
	release := make(chan struct{})
	started := make(chan struct{}, 100)
	hang := func(mount string) (uint64, error) {
		switch mount {
		case "/a":
			return 7, nil
		case "/d":
			return 0, errors.New("broken")
		}
		started <- struct{}{}
		<-release
		return 9, nil
	}
	const limit = 500 * time.Millisecond // a loaded machine answers for /a within it
	var f Facts
	err := f.disks(t.Context(), limit, mounts, hang)
	// b and c hold both places, so that d's turn does not come.
	want := "/b: no answer within its time, /c: no answer within its time, /d: no answer within its time"
	if err == nil || err.Error() != want || f.Disks[0].SizeBytes != 7 || f.Disks[1].SizeBytes != 0 {
		t.Errorf("error %v, disks %+v", err, f.Disks)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.disks(short, limit, mounts, hang); err == nil {
		t.Error("no error while both places are held")
	}
	if n := len(started); n != cap(stuck) {
		t.Errorf("%d calls hang; want %d", n, cap(stuck))
	}
	close(release)
	for range cap(stuck) { // both places come free again
		stuck <- struct{}{}
	}
	for range cap(stuck) {
		<-stuck
	}
	if err := f.disks(t.Context(), time.Minute, mounts, hang); err == nil || err.Error() != "/d: broken" || f.Disks[2].SizeBytes != 9 {
		t.Errorf("after the end of the fault: error %v, disks %+v", err, f.Disks)
	}
}
