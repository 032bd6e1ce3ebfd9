package boot

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// object makes the least ELF file that has a section .modinfo.
func object(t testing.TB, info ...string) []byte {
	t.Helper()
	text := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	h.Shoff = uint64(64 + len(text) + len(names))
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(text))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(text)), Size: uint64(len(names))},
	}
	var b bytes.Buffer
	for _, v := range []any{h, text, names, sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// static makes an ELF file that check takes for a static program.
func static(t testing.TB) []byte { return object(t, "x=y") }

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func kernel(t testing.TB) fstest.MapFS {
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b, Mode: 0o644} }
	return fstest.MapFS{
		"kernel/drivers/net/virtio_net.ko":                    file(object(t, "alias=virtio:d00000001v*", "depends=net-failover,virtio,virtio_ring")),
		"kernel/drivers/net/net_failover.ko":                  file(object(t, "depends=failover")),
		"kernel/net/core/failover.ko.gz":                      file(zipped(t, object(t, "depends="))),
		"kernel/drivers/virtio/virtio.ko":                     file(object(t, "depends=virtio_ring")),
		"kernel/drivers/virtio/virtio_ring.ko":                file(object(t, "depends=")),
		"kernel/drivers/virtio/virtio_pci.ko":                 file(object(t, "depends=virtio,virtio_ring,builtin_thing", "alias=pci:v00001AF4d*", "alias=bad alias", "softdep=pre: helper missing post: x")),
		"kernel/lib/helper.ko":                                file(object(t)),
		"kernel/drivers/net/ethernet/intel/igb/igb.ko":        file(object(t, "alias=pci:v00008086d*")),
		"kernel/drivers/net/ethernet/unknown/unknown.ko":      file(object(t)),
		"kernel/drivers/md/raid-thing.ko":                     file(object(t)),
		"modules.builtin":                                     file([]byte("kernel/lib/builtin-thing.ko\n")),
		"modules.order":                                       file(nil),
		"kernel/drivers/net/ethernet/intel/igb/notes.ko.orig": file(nil),
	}
}

func build(t *testing.T, i Initramfs) ([]byte, Built) {
	t.Helper()
	var b bytes.Buffer
	built, err := i.Write(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil || int64(len(plain)) != built.Size {
		t.Fatalf("%d bytes, %v; want %d", len(plain), err, built.Size)
	}
	return plain, built
}

// The archive is what busybox's cpio reads, with all that it should hold.
func TestWrite(t *testing.T) {
	i := Initramfs{Busybox: static(t), Provisiond: static(t), Modules: kernel(t), Version: "6.1.0-1-cloud", Extra: []string{"raid_thing"}, Pin: testPin}
	plain, built := build(t, i)
	again, _ := build(t, i)
	if !bytes.Equal(plain, again) {
		t.Error("the same parts give other bytes")
	}
	want := []string{"helper", "virtio_ring", "virtio", "virtio_pci", "failover", "net_failover", "virtio_net", "igb", "raid_thing"}
	if got := slices.Sorted(slices.Values(built.Modules)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("modules %v; want %v", got, want)
	}
	for _, pair := range [][2]string{{"virtio_ring", "virtio"}, {"failover", "net_failover"}, {"net_failover", "virtio_net"}, {"helper", "virtio_pci"}} {
		if slices.Index(built.Modules, pair[0]) > slices.Index(built.Modules, pair[1]) {
			t.Errorf("%s comes after %s, which needs it: %v", pair[0], pair[1], built.Modules)
		}
	}
	cpio, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIPPED busybox is missing; tools/setup.sh installs it")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), cpio, append([]string{"cpio"}, args...)...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(plain)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cpio: %v: %s", err, out)
		}
		return string(out)
	}
	out := run("-t")
	run("-i", "-d", "lib/*", "init") // devices are root's to make
	for _, name := range []string{"init", "bin/busybox", "sbin/provisiond", "dev/console", "newroot", "etc/dominion/pin", "lib/modules/6.1.0-1-cloud/kernel/net/core/failover.ko"} {
		if !slices.Contains(strings.Fields(out), name) {
			t.Errorf("the archive has no %s:\n%s", name, out)
		}
	}
	dep, err := os.ReadFile(dir + "/lib/modules/6.1.0-1-cloud/modules.dep")
	if err != nil {
		t.Fatal(err)
	}
	line := "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
	if !strings.Contains(string(dep), line) {
		t.Errorf("modules.dep is\n%s\nwithout\n%s", dep, line)
	}
	alias, err := os.ReadFile(dir + "/lib/modules/6.1.0-1-cloud/modules.alias")
	if err != nil || !strings.Contains(string(alias), "alias pci:v00001AF4d* virtio_pci\n") || strings.Contains(string(alias), "bad alias") {
		t.Errorf("modules.alias is %q, %v", alias, err)
	}
	if init, err := os.Stat(dir + "/init"); err != nil || init.Mode().Perm() != 0o755 {
		t.Errorf("init: %v, %v", init, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	self, err := os.ReadFile("/bin/sh") // needs a loader
	if err != nil {
		t.Fatal(err)
	}
	full := func() Initramfs {
		return Initramfs{Busybox: static(t), Provisiond: static(t), Modules: kernel(t), Version: "6.1"}
	}
	tests := map[string]struct {
		change func(*Initramfs)
		want   string
	}{
		"no busybox":           {func(i *Initramfs) { i.Busybox = nil }, "busybox: it is no program"},
		"a dynamic provisiond": {func(i *Initramfs) { i.Provisiond = self }, "provisiond: it is linked dynamically"},
		"no version":           {func(i *Initramfs) { i.Version = "../x" }, "no kernel's version"},
		"a bad pin":            {func(i *Initramfs) { i.Pin = "x" }, "pin"},
		"an unknown module":    {func(i *Initramfs) { i.Extra = []string{"nothing"} }, "the module nothing is needed"},
		"no modules":           {func(i *Initramfs) { i.Modules = fstest.MapFS{} }, "there are none"},
		"a module that is none": {func(i *Initramfs) {
			i.Modules.(fstest.MapFS)["kernel/drivers/net/virtio_net.ko"].Data = []byte("x")
		}, "not a kernel module"},
		"one that needs what is missing": {func(i *Initramfs) {
			delete(i.Modules.(fstest.MapFS), "kernel/net/core/failover.ko.gz")
		}, "virtio_net: net_failover: the module failover is needed"},
		"one whose gzip is broken": {func(i *Initramfs) {
			i.Modules.(fstest.MapFS)["kernel/net/core/failover.ko.gz"].Data = []byte("x")
		}, "not a kernel module"},
	}
	for name, tt := range tests {
		i := full()
		tt.change(&i)
		if _, err := i.Write(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	if _, err := full().Write(t.Context(), broken{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func FuzzParseModule(f *testing.F) {
	f.Add(object(f, "depends=a,b-c", "alias=pci:*", "softdep=pre: x"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseModule(b)
		if err != nil {
			if !errors.Is(err, ErrModule) {
				t.Fatalf("error %v does not wrap ErrModule", err)
			}
			return
		}
		for _, n := range m.needs {
			if !word(n, "_") {
				t.Fatalf("it needs %q", n)
			}
		}
		for _, a := range m.aliases {
			if strings.ContainsAny(a, " \n\r\t\x00") {
				t.Fatalf("alias %q", a)
			}
		}
	})
}

// Our scripts are what a POSIX shell reads.
func TestShell(t *testing.T) {
	for name, text := range map[string][]byte{"init": initScript, "udhcpc.script": dhcpScript} {
		for _, shell := range [][]string{{"sh", "-n"}, {"busybox", "sh", "-n"}} {
			if _, err := exec.LookPath(shell[0]); err != nil {
				t.Skipf("SKIPPED %s is missing; tools/setup.sh installs it", shell[0])
			}
			cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
			cmd.Stdin = bytes.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v: %s", name, shell[0], err, out)
			}
		}
	}
}

// Newer Debian compresses its modules.
func TestCompressedModules(t *testing.T) {
	for tool, end := range map[string]string{"xz": ".xz", "zstd": ".zst"} {
		t.Run(tool, func(t *testing.T) {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("SKIPPED %s is missing", tool)
			}
			cmd := exec.CommandContext(t.Context(), tool, "-c")
			cmd.Stdin = bytes.NewReader(object(t, "depends=virtio"))
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			tree := kernel(t)
			tree["kernel/drivers/net/virtio_net.ko"+end] = &fstest.MapFile{Data: packed}
			delete(tree, "kernel/drivers/net/virtio_net.ko")
			plain, built := build(t, Initramfs{Busybox: static(t), Provisiond: static(t), Modules: tree, Version: "6.1"})
			if !slices.Contains(built.Modules, "virtio_net") || !bytes.Contains(plain, []byte("kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio.ko")) {
				t.Errorf("modules %v", built.Modules)
			}
			tree["kernel/drivers/net/virtio_net.ko"+end].Data = []byte("x")
			if _, err := (Initramfs{Busybox: static(t), Provisiond: static(t), Modules: tree, Version: "6.1"}).Write(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "with "+tool) {
				t.Errorf("what %s cannot read: %v", tool, err)
			}
		})
	}
}
