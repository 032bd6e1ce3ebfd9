//go:build fleet

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Every module that looks after a machine is called over a real fleet, and
// does to it what it says.
func testMachineModules(t *testing.T, binary string) {
	s := startSite(t, binary, 2)
	dir, err := filepath.EvalSymlinks(filepath.Join(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	s.root.run("__complete", "call", "m01", "file.w").exits(0).prints("file.write")
	s.root.run("__complete", "call", "m01", "process.kill", "").exits(0).prints("signal=")
	t.Run("File", func(t *testing.T) { fileModule(t, s, dir) })
	t.Run("Process", func(t *testing.T) { processModule(t, s) })
	t.Run("Mount", func(t *testing.T) { mountModule(t, s, dir) })
	t.Run("DiskAndSysctl", func(t *testing.T) {
		s.root.run("call", "*", "disk.usage", "path=/").exits(0).prints("mount: /")
		s.root.run("call", "m01", "disk.devices").exits(0)
		s.root.run("call", "*", "sysctl.get", "kernel.ostype").exits(0).prints("m[01-02] (2)", "Linux")
		s.root.run("call", "m01", "sysctl.list", "kernel.os*").exits(0).prints("kernel.osrelease")
		s.root.run("call", "m01", "sysctl.set", "vm.swappiness", "17", "persist=true", "dry_run=true").exits(0).
			prints("changed: true", "+vm.swappiness = 17")
		s.root.run("call", "m01", "sysctl.set", "kernel.nosuch", "1").exits(3).tells(`this kernel has no parameter "kernel.nosuch"`)
		s.root.run("call", "m01", "sysctl.forget", "kernel.nosuch", "dry_run=true").exits(0).prints("changed: false")
	})
}

func fileModule(t *testing.T, s *site, dir string) {
	f := dir + "/motd"
	s.root.run("call", "m01", "file.write", f, "hello\n", "mode=0640", "dry_run=true").exits(0).prints("changed: true", "+hello")
	s.root.run("call", "*", "file.stat", f).exits(0).prints("m[01-02] (2): exists: false")
	s.root.run("call", "m01", "file.write", f, "hello\n", "mode=0640").exits(0).prints("changed: true", "created: true")
	s.root.run("call", "*", "file.write", f, "hello\n").exits(0).prints("m[01-02] (2)", "changed: false")
	s.root.run("call", "m01", "file.append", f, "more\n").exits(0).prints("changed: true")
	s.root.run("call", "m01", "file.block", f, "kept", "diff=true").exits(0).prints("+# BEGIN dominion")
	if b, err := os.ReadFile(f); err != nil || string(b) != "hello\nmore\n# BEGIN dominion\nkept\n# END dominion\n" {
		t.Errorf("%s has %q, %v", f, b, err)
	}
	s.root.run("call", "*", "file.read", f, "limit=5").exits(0).prints("m[01-02] (2)", "hello")
	s.root.run("call", "*", "file.checksum", f).exits(0).prints("m[01-02] (2)", "digest: ")
	large := s.write("large", strings.Repeat("a line of a large file\n", 22_000))
	row := s.root.run("call", "m01", "file.read", large, "limit=524288", "-o", "jsonl").exits(0).lines("m01")["m01"]
	if !strings.Contains(string(row.Result), `"next":506000,"size":506000,"end":true`) {
		t.Errorf("read of a large file: %d bytes of an answer, %.100s", len(row.Result), row.Reason)
	}
	s.root.run("call", "m01", "file.mkdir", dir+"/a/b", "parents=true").exits(0).prints("changed: true")
	s.root.run("call", "m01", "file.chmod", dir+"/a/b", "0700").exits(0).prints("changed: true")
	s.root.run("call", "m01", "file.chown", dir+"/a/b", "owner=0").exits(0).prints("changed: false")
	s.root.run("call", "m01", "file.link", dir+"/a/l", "b").exits(0).prints("changed: true")
	s.root.run("call", "m01", "file.list", dir+"/a").exits(0).prints("l", "b")
	s.root.run("call", "m01", "file.read", "/dev/zero").exits(3).tells("not a regular file but a device")
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	s.root.run("call", "m01", "file.write", dir+"/fifo", "x").exits(3).tells("not a regular file but a FIFO")
	s.root.run("call", "m01", "file.remove", dir+"/a", "recursive=true", "dry_run=true", "--yes-count", "1").exits(0).prints("removed: 3")
	s.root.run("call", "m01", "file.remove", dir+"/a", "recursive=true", "--yes-count", "1").exits(0).prints("removed: 3")
	if _, err := os.Lstat(dir + "/a"); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func processModule(t *testing.T, s *site) {
	victim := exec.CommandContext(t.Context(), "sleep", "4242")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- victim.Wait() }()
	row := s.root.run("call", "m01", "process.list", "command=^sleep 4242", "-o", "jsonl").exits(0).lines("m01")["m01"]
	var found struct {
		Processes []struct {
			PID   int
			Start uint64
		}
	}
	if err := json.Unmarshal(row.Result, &found); err != nil || len(found.Processes) != 1 || found.Processes[0].PID != victim.Process.Pid {
		t.Fatalf("list: %s, %v", row.Result, err)
	}
	pid := fmt.Sprint(victim.Process.Pid)
	s.root.run("call", "m01", "process.tree", "pid="+pid).exits(0).prints("sleep 4242")
	s.root.run("call", "m01", "process.match", "name=sleep", "command=4242$", "dry_run=true", "--yes-count", "1").exits(0).prints("signalled: 1")
	s.root.run("call", "m01", "process.kill", pid, "start=1", "--yes-count", "1").exits(3).tells("it is another one")
	s.root.run("call", "m01", "process.kill", pid, fmt.Sprintf("start=%d", found.Processes[0].Start), "--yes-count", "1").exits(0).prints("changed: true")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("it ended with %v", err)
	}
}

func mountModule(t *testing.T, s *site, dir string) {
	point := dir + "/small"
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(point, syscall.MNT_DETACH) })
	s.root.run("call", "m01", "mount.mount", point, "small", "type=tmpfs", "options=size=1m").exits(0).prints("changed: true", "how: kernel")
	s.root.run("call", "m02", "mount.list", "match="+point).exits(0).prints("source: small")
	s.root.run("call", "m02", "disk.usage", point).exits(0).prints("size_bytes: 1048576")
	s.root.run("call", "m01", "mount.umount", point).exits(0).prints("changed: true")
	s.root.run("call", "m02", "mount.umount", point).exits(0).prints("changed: false")
	s.root.run("call", "m01", "mount.fstab").exits(0)
	s.root.run("call", "m01", "mount.fstab_add", "srv:/x", "/mnt/x", "nfs", "dry_run=true").exits(0).prints("changed: true", "+srv:/x")
	s.root.run("call", "m01", "mount.fstab_remove", "/mnt/x", "dry_run=true").exits(0).prints("changed: false")
}
