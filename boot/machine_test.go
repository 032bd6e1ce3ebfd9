//go:build boottest

package boot_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The network of the test, in a namespace of its own.
const (
	bridge  = "br0"
	master  = "10.77.0.1"
	network = "10.77.0.0/24"
)

// insideEnv says to a test binary that it runs in the network namespace.
const insideEnv = "DOMINION_BOOT_INSIDE"

// inside runs the test once more, in a network namespace of its own, and says
// true there. Outside it ends the test with what came out.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	missing(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=6m")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its network namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// missing skips the test, by name, where it cannot run.
func missing(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED only root can make the network of the test")
	}
	for _, name := range []string{"qemu-system-x86_64", "dnsmasq", "busybox", "ip"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("SKIPPED %s is missing; tools/setup-boot.sh installs it", name)
		}
	}
	if kernelRoot(t) == "" {
		t.Skip("SKIPPED there is no kernel; tools/setup-boot.sh brings one")
	}
	if _, err := os.Stat(filepath.Join(firmware(t), "OVMF_CODE_4M.fd")); err != nil {
		t.Skip("SKIPPED there is no firmware for UEFI; tools/setup-boot.sh brings it")
	}
	if err := exec.CommandContext(t.Context(), "unshare", "-n", "ip", "tuntap", "add", "tap0", "mode", "tap").Run(); err != nil {
		t.Skipf("SKIPPED this machine lets nobody make network interfaces: %v", err)
	}
}

// kernelRoot is where tools/setup-boot.sh unpacked a kernel.
func kernelRoot(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("DOMINION_BOOT_KERNEL")
	if dir == "" {
		dir = "../.test/boot/kernel"
	}
	if found, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*")); err != nil || len(found) == 0 {
		return ""
	}
	return dir
}

// firmware is where tools/setup-boot.sh put UEFI's, and iPXE's programs for firmware
// without iPXE.
func firmware(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(kernelRoot(t), "../firmware"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// lab is the overlord's host: its network, the overlord, and the DHCP server.
type lab struct {
	t      *testing.T
	dir    string
	binary string // dominion
	state  string // of the overlord
	files  string // provision.statedir
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), binary: os.Getenv("DOMINION_BINARY")}
	if l.binary == "" {
		t.Fatal("DOMINION_BINARY names no program; make test-boot does")
	}
	l.state, l.files = filepath.Join(l.dir, "state"), filepath.Join(l.dir, "files")
	for _, args := range []string{
		"link set lo up", "link add " + bridge + " type bridge", "addr add " + master + "/24 dev " + bridge, "addr add fd77::1/64 dev " + bridge + " nodad", "link set " + bridge + " up",
	} {
		l.run("ip", strings.Fields(args)...)
	}
	return l
}

// run runs a program that must succeed and gives what it prints.
func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	out, err := l.try(name, args...)
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (l *lab) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// dominion runs a command of an operator on the overlord's host.
func (l *lab) dominion(args ...string) string {
	l.t.Helper()
	return l.run(l.binary, append([]string{"--state", l.state}, args...)...)
}

func (l *lab) write(name, content string, mode os.FileMode) string {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		l.t.Fatal(err)
	}
	return name
}

// start starts a process that lives as long as the test. Its output is shown
// when the test fails.
func (l *lab) start(name string, cmd *exec.Cmd) {
	l.t.Helper()
	log := filepath.Join(l.dir, name+".log")
	f, err := os.Create(log)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("start %s: %v", name, err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = f.Close()
		l.show(log)
	})
}

// show prints the end of a file when the test failed.
func (l *lab) show(log string) {
	if b, err := os.ReadFile(log); err == nil && l.t.Failed() {
		if len(b) > 8<<10 {
			b = b[len(b)-8<<10:]
		}
		l.t.Logf("%s:\n%s", filepath.Base(log), bytes.ToValidUTF8(b, nil))
	}
}

// overlord starts the overlord's process and waits until it answers.
func (l *lab) overlord() {
	l.t.Helper()
	config := l.write(filepath.Join(l.dir, "overlord.yaml"), fmt.Sprintf(`state: %s
name: master
listen: %s:51235
provision:
  enabled: true
  statedir: %s
  listen: %[2]s:51237
  kernel_args: console=ttyS0 panic=5
`, l.state, master, l.files), 0o600)
	l.start("overlord", exec.CommandContext(l.t.Context(), l.binary, "overlord", "--config", config))
	l.await("the overlord to answer", 30*time.Second, func() bool { _, err := l.try(l.binary, "--state", l.state, "status"); return err == nil })
}

// dnsmasq starts the real one with the configuration that we print.
func (l *lab) dnsmasq() {
	l.t.Helper()
	config := l.write(filepath.Join(l.dir, "dnsmasq.conf"), l.dominion("boot", "dhcp-config",
		"--network", network, "--range", "10.77.0.100-10.77.0.199", "--interface", bridge, "--tftp-root", firmware(l.t)), 0o644)
	l.run("dnsmasq", "--test", "-C", config)
	// iPXE waits 13 s for a router of IPv6 where there is none; so there is one.
	l.start("dnsmasq", exec.CommandContext(l.t.Context(), "dnsmasq", "--keep-in-foreground", "--port=0", "--user=root", "--log-facility=-", "--enable-ra", "--dhcp-range=fd77::,ra-only,64,1h",
		"--dhcp-leasefile="+filepath.Join(l.dir, "leases"), "-C", config))
}

// machine starts a virtual machine, which boots from the network by the iPXE of
// its card, and gives the file with what it prints on its serial port. A bare one
// has no disk.
func (l *lab) machine(tap, mac, disk string) (serial string) {
	l.t.Helper()
	args := []string{"-M", "pc", "-m", "640", "-device", "virtio-net-pci,netdev=n,bootindex=1,mac=" + mac}
	if disk != "" {
		args = append(args, "-drive", "if=none,id=d,format=raw,file="+disk, "-device", "ide-hd,drive=d,bootindex=2")
	}
	return l.power(tap, args...)
}

// uefi starts a virtual machine whose firmware is UEFI's: without iPXE in its card it
// loads that by TFTP.
func (l *lab) uefi(tap, mac string) (serial string) {
	l.t.Helper()
	vars, err := os.ReadFile(filepath.Join(firmware(l.t), "OVMF_VARS_4M.fd"))
	if err != nil {
		l.t.Fatal(err)
	}
	return l.power(tap, "-M", "q35", "-m", "768", "-device", "virtio-net-pci,netdev=n,bootindex=1,romfile=,mac="+mac,
		"-drive", "if=pflash,format=raw,readonly=on,file="+filepath.Join(firmware(l.t), "OVMF_CODE_4M.fd"),
		"-drive", "if=pflash,format=raw,file="+l.write(filepath.Join(l.dir, tap+".vars"), string(vars), 0o600))
}

// power starts a virtual machine whose network card n is connected to the bridge.
func (l *lab) power(tap string, args ...string) (serial string) {
	l.t.Helper()
	l.run("ip", "tuntap", "add", tap, "mode", "tap")
	l.run("ip", "link", "set", tap, "master", bridge, "up")
	serial = filepath.Join(l.dir, tap+".serial")
	args = append([]string{
		"-accel", "tcg", "-display", "none", "-serial", "file:" + serial, "-netdev", "tap,id=n,ifname=" + tap + ",script=no,downscript=no",
	}, args...)
	l.start("qemu-"+tap, exec.CommandContext(l.t.Context(), "qemu-system-x86_64", args...))
	l.t.Cleanup(func() { l.show(serial) })
	return serial
}

// disk makes a disk whose boot sector writes a text to the serial port.
func (l *lab) disk(text string) string {
	l.t.Helper()
	sector := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
		0xbe, 0x15, 0x7c, // mov si, text
		0xac, 0x84, 0xc0, 0x74, 0x06, // next: lodsb; test al, al; jz end
		0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // mov dx, 0x3f8; out dx, al; jmp next
		0xf4, 0xeb, 0xfd, // end: hlt; jmp end
	}
	disk := make([]byte, 1<<20)
	copy(disk, append(sector, text...))
	disk[510], disk[511] = 0x55, 0xaa
	return l.write(filepath.Join(l.dir, "disk"), string(disk), 0o600)
}

// printed says whether a machine wrote a text to its serial port.
func (l *lab) printed(serial, text string) bool {
	b, err := os.ReadFile(serial)
	return err == nil && bytes.Contains(b, []byte(text))
}

// await polls until something holds.
func (l *lab) await(what string, patience time.Duration, holds func() bool) {
	l.t.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			l.t.Fatalf("%s: not within %s", what, patience)
		}
		<-tick.C
	}
}

// capsule writes the root of a small system: busybox, and our own program, which
// its init starts as the minion.
func (l *lab) capsule(name string) {
	l.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		l.t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	add := func(name string, mode int64, content []byte) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			l.t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "sbin/", "etc/", "usr/", "usr/bin/", "proc/", "sys/", "dev/", "run/", "tmp/", "var/lib/"} {
		add(d, 0o755, nil)
	}
	for file, to := range map[string]string{busybox: "bin/busybox", l.binary: "usr/bin/dominion"} {
		content, err := os.ReadFile(file)
		if err != nil {
			l.t.Fatal(err)
		}
		add(to, 0o755, content)
	}
	add("sbin/init", 0o755, []byte(`#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin
/bin/busybox --install -s /bin
hostname "$(cat /etc/hostname)"
echo "the new system runs"
while :; do
	dominion minion
	sleep 1
done
`))
	for _, c := range []interface{ Close() error }{w, z} {
		if err := c.Close(); err != nil {
			l.t.Fatal(err)
		}
	}
	l.write(filepath.Join(l.files, "vnfs", name, "rootfs.tar.gz"), b.String(), 0o644)
}
