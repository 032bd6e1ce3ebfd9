package boot

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"dominion/pki"
)

//go:embed initramfs/init
var initScript []byte

//go:embed initramfs/udhcpc.script
var dhcpScript []byte

// Initramfs says what an initial file system is made of.
type Initramfs struct {
	Busybox    []byte // a static busybox with modprobe, ip, udhcpc and switch_root; required
	Provisiond []byte // the static program; required
	// Modules is the folder of one kernel's modules, lib/modules/VERSION of a
	// Debian kernel package, unpacked or installed; Version its name. Without it
	// the kernel must have its drivers built in.
	Modules fs.FS
	Version string
	Extra   []string // more modules, by name
	Pin     string   // of the fleet's root, kept as /etc/dominion/pin, which wins over the kernel's command line; empty: none
}

// Built is what was put into an initial file system.
type Built struct {
	Modules []string // names, each after those that it needs
	Size    int64    // bytes before compression
}

// Write writes the archive, compressed by gzip, which every kernel reads. The
// same parts give the same bytes.
func (i Initramfs) Write(ctx context.Context, w io.Writer) (Built, error) {
	var built Built
	if err := i.check(); err != nil {
		return built, fmt.Errorf("build the initramfs: %w", err)
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return built, fmt.Errorf("build the initramfs: %w", err)
	}
	a := newArchive(z)
	a.device("dev/console", 0o600, 5, 1)
	a.device("dev/null", 0o666, 1, 3)
	for _, d := range []string{"proc", "sys", "run", "tmp", "newroot", "root", "usr/bin", "usr/sbin"} {
		a.dir(d, 0o755)
	}
	a.file("init", 0o755, initScript)
	a.file("bin/busybox", 0o755, i.Busybox)
	a.link("bin/sh", "busybox")
	a.file("sbin/provisiond", 0o755, i.Provisiond)
	a.file("etc/udhcpc.script", 0o755, dhcpScript)
	if i.Pin != "" {
		a.file("etc/dominion/pin", 0o644, []byte(i.Pin+"\n"))
	}
	if i.Modules != nil {
		if built.Modules, err = i.modules(ctx, a); err != nil {
			return built, fmt.Errorf("build the initramfs: %w", err)
		}
	}
	if err := errors.Join(a.close(), z.Close()); err != nil {
		return built, fmt.Errorf("build the initramfs: %w", err)
	}
	built.Size = a.at
	return built, nil
}

func (i Initramfs) check() error {
	for _, p := range []struct {
		what    string
		content []byte
	}{{"busybox", i.Busybox}, {"provisiond", i.Provisiond}} {
		if err := checkStatic(p.content); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	if i.Modules != nil && !word(i.Version, ".-_+~") {
		return fmt.Errorf("%.80q is no kernel's version", i.Version)
	}
	if i.Pin != "" {
		return pki.CheckPin(i.Pin)
	}
	return nil
}

// checkStatic refuses a program that needs a loader: there is none.
func checkStatic(b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("it is no program for Linux: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically; wanted is a static one (Debian: busybox-static; Go: CGO_ENABLED=0)")
		}
	}
	return nil
}

func (i Initramfs) modules(ctx context.Context, a *archive) ([]string, error) {
	c, err := readCatalog(i.Modules)
	if err != nil {
		return nil, err
	}
	for _, w := range networkModules {
		for _, name := range c.match(w) {
			if err := c.take(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range i.Extra {
		if err := c.take(ctx, canonical(name)); err != nil {
			return nil, err
		}
	}
	dir := "lib/modules/" + i.Version + "/"
	var names []string
	for _, m := range c.order {
		a.file(dir+m.file, 0o644, m.content)
		names = append(names, m.name)
	}
	a.file(dir+"modules.dep", 0o644, c.dep())
	a.file(dir+"modules.alias", 0o644, c.alias())
	return slices.Clip(names), nil
}
