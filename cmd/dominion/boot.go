package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/boot"
)

func (a *app) bootCmd() *cobra.Command {
	return parent("boot", "Make what machines boot with",
		`Machines boot by iPXE: the DHCP server of the site names the overlord's script,
which loads a kernel and an initramfs, whose provisiond asks for the node's
script. These commands make the initramfs, without an overlord, and the
configuration of the DHCP server.`,
		`  dominion boot build-initramfs initramfs --root /srv/kernel --copy-kernel kernel
  dominion boot dhcp-config --network 192.0.2.0/24 --range 192.0.2.100-192.0.2.199 --files 192.0.2.1:51237`,
		a.bootInitramfsCmd(), a.bootDHCPCmd())
}

// initramfsFlags say of what an initramfs is made.
type initramfsFlags struct {
	root, version, busybox, provisiond, pin, kernel string
	modules                                         []string
}

func (a *app) bootInitramfsCmd() *cobra.Command {
	var f initramfsFlags
	var statedir statedirFlag
	cmd := &cobra.Command{
		Use:   "build-initramfs [FILE]",
		Short: "Build the initial file system that provisions a machine",
		Long: `Build-initramfs writes FILE: busybox, provisiond, and the modules of network
cards that a stock Debian kernel has. --root is where that kernel is, "/" or a
folder into which its package was unpacked:

  apt-get download linux-image-… && dpkg-deb -x linux-image-*.deb DIR

Without FILE it is what all nodes boot, STATEDIR/boot/initramfs, and the kernel is
copied beside it, to STATEDIR/boot/kernel. The two belong together.

With --pin the root's pin is in the initramfs, and the kernel's command line
cannot say another.`,
		Example: `  dominion boot build-initramfs --root DIR
  dominion boot build-initramfs initramfs --root DIR --copy-kernel kernel --pin "$(dominion pin)"
  dominion boot build-initramfs --root DIR --module bnxt_en --module nvme`,
		Args: args(0, 1, "the file to write, at most"),
	}
	cmd.RunE = a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
		if len(words) == 1 {
			return a.buildInitramfs(ctx, words[0], &f)
		}
		return a.buildForAll(ctx, &statedir, &f)
	})
	statedir.on(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.root, "root", "/", "`DIR` with lib/modules/VERSION and boot/vmlinuz-VERSION")
	fl.StringVar(&f.version, "kernel-version", "", "`VERSION` of the kernel, when there are several below --root")
	fl.StringVar(&f.busybox, "busybox", "/bin/busybox", "static busybox `FILE` (Debian: busybox-static)")
	fl.StringVar(&f.provisiond, "provisiond", "", "provisiond's `FILE` (default: beside this program; else this program, which is larger)")
	fl.StringArrayVar(&f.modules, "module", nil, "one `NAME` more of a module; may be repeated")
	fl.StringVar(&f.pin, "pin", "", "`PIN` of the fleet's root, sha256:…")
	fl.StringVar(&f.kernel, "copy-kernel", "", "copy the kernel to `FILE`")
	return cmd
}

// buildForAll writes the initramfs and the kernel of all nodes.
func (a *app) buildForAll(ctx context.Context, statedir *statedirFlag, f *initramfsFlags) error {
	dir, err := statedir.find(ctx, a)
	if err != nil {
		return err
	}
	s, err := a.openCapsules(dir) // it is there, then
	if err != nil {
		return err
	}
	defer s.Close()
	dir = filepath.Join(dir, "boot")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // nodes may read all of it
		return fmt.Errorf("make the folder of what nodes boot: %w", err)
	}
	if f.kernel == "" {
		f.kernel = filepath.Join(dir, "kernel")
	}
	return a.buildInitramfs(ctx, filepath.Join(dir, "initramfs"), f)
}

func (a *app) buildInitramfs(ctx context.Context, out string, f *initramfsFlags) error {
	version, err := f.kernelVersion()
	if err != nil {
		return err
	}
	i := boot.Initramfs{Version: version, Extra: f.modules, Pin: f.pin, Modules: os.DirFS(filepath.Join(f.root, "lib/modules", version))}
	if i.Busybox, err = os.ReadFile(f.busybox); err != nil {
		return fmt.Errorf("read busybox: %w; Debian has it in busybox-static", err)
	}
	if i.Provisiond, err = f.program(); err != nil {
		return err
	}
	var b bytes.Buffer
	built, err := i.Write(ctx, &b)
	if err != nil {
		return err
	}
	if err := replaceFile(out, b.Bytes()); err != nil {
		return err
	}
	if f.kernel != "" {
		kernel, err := os.ReadFile(filepath.Join(f.root, "boot", "vmlinuz-"+version))
		if err == nil {
			err = replaceFile(f.kernel, kernel)
		}
		if err != nil {
			return fmt.Errorf("copy the kernel: %w", err)
		}
	}
	if a.output != outText {
		return a.document(struct {
			File    string   `json:"file"`
			Kernel  string   `json:"kernel_version"`
			Bytes   int      `json:"bytes"`
			Modules []string `json:"modules"`
		}{out, version, b.Len(), built.Modules})
	}
	return a.text("%s: kernel %s, %d modules, %.1f MB\n", out, version, len(built.Modules), float64(b.Len())/1e6)
}

// kernelVersion is the one named, or the only one that is there.
func (f *initramfsFlags) kernelVersion() (string, error) {
	dir := filepath.Join(f.root, "lib/modules")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("find the kernel: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && (f.version == "" || e.Name() == f.version) {
			names = append(names, e.Name())
		}
	}
	switch {
	case len(names) == 0:
		return "", usagef("there is no kernel %q in %s", f.version, dir)
	case len(names) > 1:
		return "", usagef("there are several kernels in %s; name one: --kernel-version %s", dir, strings.Join(names, "|"))
	}
	return names[0], nil
}

func (f *initramfsFlags) program() ([]byte, error) {
	names := []string{f.provisiond}
	if f.provisiond == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find provisiond: %w", err)
		}
		names = []string{filepath.Join(filepath.Dir(self), "provisiond"), self}
	}
	for i, name := range names {
		b, err := os.ReadFile(name)
		if err == nil {
			return b, nil
		}
		if i == len(names)-1 || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read provisiond: %w", err)
		}
	}
	return nil, errors.New("find provisiond: it is nowhere")
}

// replaceFile puts a file that everybody may read in the place of another, whole.
func replaceFile(name string, content []byte) (err error) {
	t, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(t.Name()))
		}
	}()
	_, err = t.Write(content)
	if err = errors.Join(err, t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), name)
}

// dhcpFlags are what a DHCP server is to know.
type dhcpFlags struct {
	server, network, pool, files, iface, router, domain, tftpRoot, tftp, hosts string
	dns                                                                        []string
}

func (a *app) bootDHCPCmd() *cobra.Command {
	var f dhcpFlags
	cmd := &cobra.Command{
		Use:   "dhcp-config --network NET --range FIRST-LAST",
		Short: "Print the configuration of a DHCP server",
		Long: `Dhcp-config prints what dnsmasq, ISC dhcpd or Kea needs so that machines boot
from an overlord: by iPXE if they have it, and with --tftp-root by loading iPXE
first. The overlord's approved nodes get their names. Instead of them --hosts
gives machines that are to have fixed names and perhaps addresses, one on a line:
HARDWARE-ADDRESS NAME [ADDRESS]; the overlord is not asked then.`,
		Example: `  dominion boot dhcp-config --network 192.0.2.0/24 --range 192.0.2.100-192.0.2.199 --files 192.0.2.1:51237
  dominion boot dhcp-config --for kea --network 192.0.2.0/24 --range 192.0.2.100-192.0.2.199 --files dc1:51237 --hosts machines`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
		d, err := f.read(ctx, a)
		if err != nil {
			return err
		}
		text, err := d.Config(f.server)
		if errors.Is(err, boot.ErrText) {
			return usagef("%v", err)
		}
		if err != nil {
			return err
		}
		if a.output != outText {
			return a.document(map[string]string{"for": f.server, "config": string(text)})
		}
		return a.write(text)
	})
	fl := cmd.Flags()
	fl.StringVar(&f.server, "for", boot.Dnsmasq, "the `SERVER`: dnsmasq, isc, kea")
	fl.StringVar(&f.network, "network", "", "the `NET`work, such as 192.0.2.0/24")
	fl.StringVar(&f.pool, "range", "", "the addresses to give, `FIRST-LAST`")
	fl.StringVar(&f.files, "files", "", "`HOST:PORT` of the overlord's boot files (default: what provision.listen names, if that is an address)")
	fl.StringVar(&f.iface, "interface", "", "`NAME` of the network interface to listen on")
	fl.StringVar(&f.router, "router", "", "`ADDR` of the router")
	fl.StringSliceVar(&f.dns, "dns", nil, "`ADDR` of a name server; may be repeated")
	fl.StringVar(&f.domain, "domain", "", "the `DOMAIN` of the machines")
	fl.StringVar(&f.tftpRoot, "tftp-root", "", "`DIR` with undionly.kpxe and ipxe.efi, for machines without iPXE")
	fl.StringVar(&f.tftp, "tftp", "", "`ADDR` of the TFTP server, for isc (default: its own host) and kea")
	fl.StringVar(&f.hosts, "hosts", "", "`FILE` with machines, or - for standard input (default: the overlord's nodes)")
	if err := cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{boot.Dnsmasq, boot.ISC, boot.Kea}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a bug here
	}
	return cmd
}

func (f *dhcpFlags) read(ctx context.Context, a *app) (boot.DHCP, error) {
	d := boot.DHCP{Files: f.files, Interface: f.iface, Domain: f.domain, TFTPRoot: f.tftpRoot}
	var bad error
	addr := func(flag, text string) netip.Addr {
		x, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil && bad == nil {
			bad = usagef("--%s %q is no address", flag, text)
		}
		return x
	}
	network, err := netip.ParsePrefix(f.network)
	if err != nil {
		return d, usagef("--network %q is no network", f.network)
	}
	first, last, _ := strings.Cut(f.pool, "-")
	d.Network, d.First, d.Last = network, addr("range", first), addr("range", last)
	if f.router != "" {
		d.Router = addr("router", f.router)
	}
	if f.tftp != "" {
		d.TFTP = addr("tftp", f.tftp)
	}
	for _, s := range f.dns {
		d.DNS = append(d.DNS, addr("dns", s))
	}
	if bad != nil {
		return d, bad
	}
	if f.hosts == "" {
		return d, f.nodes(ctx, a, &d)
	}
	if d.Hosts, err = f.machines(a); errors.Is(err, boot.ErrText) {
		return d, usagef("--hosts: %v", err)
	}
	return d, err
}

// nodes takes from the overlord the nodes that are approved, and where it serves
// what they boot.
func (f *dhcpFlags) nodes(ctx context.Context, a *app, d *boot.DHCP) error {
	conn, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is asked of it any more
	resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
	if err != nil {
		a.note("without an overlord --hosts FILE names the machines")
		return err
	}
	for _, n := range resp.Msg.GetNodes() {
		if n.GetApprovedMs() != 0 {
			d.Hosts = append(d.Hosts, boot.Host{HWAddr: n.GetHwaddr(), Name: n.GetName()})
		}
	}
	if d.Files == "" {
		d.Files = resp.Msg.GetProvision().GetBootAddress()
		host, _, _ := net.SplitHostPort(d.Files) // none: no address either
		if ip, err := netip.ParseAddr(host); err != nil || ip.IsUnspecified() {
			return usagef("give --files: the overlord serves at %q, and machines need an address", d.Files)
		}
	}
	return nil
}

func (f *dhcpFlags) machines(a *app) ([]boot.Host, error) {
	var text []byte
	var err error
	if f.hosts == "-" {
		text, err = io.ReadAll(io.LimitReader(a.in, boot.MaxHosts+1))
	} else {
		text, err = os.ReadFile(f.hosts)
	}
	if err != nil {
		return nil, fmt.Errorf("read the machines: %w", err)
	}
	return boot.ParseHosts(text)
}
