package boot

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// networkModules are the modules that an initramfs gets as far as the kernel has
// them: the buses and drivers of the network cards of virtual machines and of
// common servers. A name that ends in / means all modules of that folder below
// kernel/.
var networkModules = []string{
	"virtio_pci", "virtio_mmio", "virtio_net", "virtio_rng", "af_packet", "vmxnet3", "xen-netfront", "hv_netvsc", "ena", "gve", "e1000", "8139cp", "8139too", "pcnet32", "ne2k-pci",
	"drivers/net/ethernet/intel/", "drivers/net/ethernet/broadcom/", "drivers/net/ethernet/realtek/",
	"drivers/net/ethernet/mellanox/", "drivers/net/ethernet/emulex/", "drivers/net/ethernet/qlogic/", "drivers/net/ethernet/amazon/", "drivers/net/ethernet/google/",
	"drivers/net/ethernet/atheros/", "drivers/net/ethernet/marvell/", "drivers/net/ethernet/aquantia/", "drivers/net/ethernet/amd/",
}

// ErrModule is wrapped by every error about a kernel module that cannot be read.
var ErrModule = errors.New("not a kernel module")

// Bounds of what is read of modules.
const (
	maxModule  = 64 << 20
	maxModules = 20_000
)

// module is one kernel module.
type module struct {
	name    string // as the kernel calls it: _ for -
	file    string // below lib/modules/VERSION/, without what compresses it
	content []byte // the object itself
	needs   []string
	likes   []string // to be loaded before, where there are any
	aliases []string
}

// canonical gives a module's name as the kernel has it.
func canonical(s string) string { return strings.ReplaceAll(s, "-", "_") }

// catalog is where the modules of a kernel are.
type catalog struct {
	fsys    fs.FS
	files   map[string]string // canonical name to path below the tree
	builtin map[string]bool
	taken   map[string]*module
	order   []*module // each after those that it needs
}

// readCatalog finds the modules below the folder of one kernel.
func readCatalog(fsys fs.FS) (*catalog, error) {
	c := &catalog{fsys: fsys, files: map[string]string{}, builtin: map[string]bool{}, taken: map[string]*module{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, ok := moduleName(p)
		if !ok || !d.Type().IsRegular() {
			return nil
		}
		if len(c.files) >= maxModules {
			return fmt.Errorf("%w: more than %d of them", ErrModule, maxModules)
		}
		c.files[name] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the kernel's modules: %w", err)
	}
	if len(c.files) == 0 {
		return nil, errors.New("find the kernel's modules: there are none")
	}
	b, err := fs.ReadFile(fsys, "modules.builtin")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find the kernel's modules: %w", err)
	}
	for line := range strings.FieldsSeq(string(b)) {
		if name, ok := moduleName(line); ok {
			c.builtin[name] = true
		}
	}
	return c, nil
}

// moduleName gives the module that a file holds.
func moduleName(p string) (string, bool) {
	base := path.Base(p)
	for _, end := range []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"} {
		if name, ok := strings.CutSuffix(base, end); ok && name != "" {
			return canonical(name), true
		}
	}
	return "", false
}

// match gives the modules that a word of the list means: one, or those of a folder.
func (c *catalog) match(word string) []string {
	if !strings.HasSuffix(word, "/") {
		if name := canonical(word); c.files[name] != "" {
			return []string{name}
		}
		return nil
	}
	var names []string
	for name, p := range c.files {
		if strings.HasPrefix(p, "kernel/"+word) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// take adds a module and what it needs.
func (c *catalog) take(ctx context.Context, name string) error {
	if _, ok := c.taken[name]; ok || c.builtin[name] {
		return nil
	}
	p, ok := c.files[name]
	if !ok {
		return fmt.Errorf("the module %s is needed, and the kernel has none", name)
	}
	b, err := c.read(ctx, p)
	if err != nil {
		return err
	}
	m, err := parseModule(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	m.name, m.content = name, b
	m.file = p[:strings.LastIndex(p, ".ko")] + ".ko"
	c.taken[name] = m
	for _, n := range m.likes {
		if c.files[n] != "" {
			m.need([]string{n})
		}
	}
	for _, n := range m.needs {
		if err := c.take(ctx, n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	c.order = append(c.order, m)
	return nil
}

// read gives a module's object. What xz or zstd compressed is read with their
// programs.
func (c *catalog) read(ctx context.Context, p string) ([]byte, error) {
	b, err := fs.ReadFile(c.fsys, p)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	switch path.Ext(p) {
	case ".gz":
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrModule, p, err)
		}
		if b, err = io.ReadAll(io.LimitReader(z, maxModule+1)); err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrModule, p, err)
		}
	case ".xz", ".zst":
		tool := map[string]string{".xz": "xz", ".zst": "zstd"}[path.Ext(p)]
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, tool, "-dc")
		cmd.Stdin = bytes.NewReader(b)
		if b, err = cmd.Output(); err != nil {
			return nil, fmt.Errorf("read module %s with %s: %w", p, tool, err)
		}
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrModule, p, maxModule)
	}
	return b, nil
}

// parseModule reads the section .modinfo, texts NAME=VALUE that end with a zero
// byte: what the module needs, and the devices that it is for. Errors wrap
// ErrModule.
func parseModule(b []byte) (*module, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrModule, err)
	}
	s := f.Section(".modinfo")
	if s == nil || s.Type == elf.SHT_NOBITS || s.Size > 16<<20 {
		return nil, fmt.Errorf("%w: it has no section .modinfo", ErrModule)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrModule, err)
	}
	m := &module{}
	for text := range bytes.SplitSeq(info, []byte{0}) {
		name, v, ok := strings.Cut(string(text), "=")
		if !ok {
			continue
		}
		switch name {
		case "depends":
			m.need(strings.Split(v, ","))
		case "softdep":
			if pre, ok := strings.CutPrefix(v, "pre:"); ok {
				pre, _, _ = strings.Cut(pre, "post:")
				for _, n := range strings.Fields(pre) {
					m.likes = append(m.likes, canonical(n))
				}
			}
		case "alias":
			if plainLine(v) {
				m.aliases = append(m.aliases, v)
			}
		}
	}
	return m, nil
}

func (m *module) need(names []string) {
	for _, n := range names {
		if n = canonical(n); word(n, "_") && !slices.Contains(m.needs, n) {
			m.needs = append(m.needs, n)
		}
	}
}

func plainLine(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

// dep gives the file modules.dep, which busybox's modprobe reads: each file, and
// those that it needs, at any depth, to be loaded from the last one on.
func (c *catalog) dep() []byte {
	var out []byte
	for _, m := range c.order {
		out = append(out, m.file...)
		out = append(out, ':')
		all := map[*module]bool{m: true}
		c.below(m, all)
		for _, d := range slices.Backward(c.order) {
			if d != m && all[d] {
				out = append(out, ' ')
				out = append(out, d.file...)
			}
		}
		out = append(out, '\n')
	}
	return out
}

// below adds what a module needs, at any depth.
func (c *catalog) below(m *module, all map[*module]bool) {
	for _, n := range m.needs {
		if d := c.taken[n]; d != nil && !all[d] {
			all[d] = true
			c.below(d, all)
		}
	}
}

// alias gives the file modules.alias.
func (c *catalog) alias() []byte {
	var out []byte
	for _, m := range c.order {
		for _, a := range m.aliases {
			out = fmt.Appendf(out, "alias %s %s\n", a, m.name)
		}
	}
	return out
}
