package facts

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/mem"
	"golang.org/x/sys/unix"
)

const (
	maxDisks      = 128
	maxInterfaces = 256
	maxAddresses  = 32              // of one interface
	maxText       = 512             // bytes of one text
	mountLimit    = 2 * time.Second // of each statfs
)

// stuck bounds the goroutines that may hang in statfs(2), which cannot be
// interrupted, in the whole process: gathering again and again beside a dead
// device must not pile them up. It is the one thing here that outlives a call.
var stuck = make(chan struct{}, 2)

// Gather finds out the facts. What fails is left out and named in Problems;
// the error is that of ctx. Each mount that
// hangs costs two seconds.
func Gather(ctx context.Context, version string) (Facts, error) {
	f := Facts{AgentVersion: version}
	part := func(what string, err error) {
		if err != nil {
			f.Problems = append(f.Problems, clip(fmt.Sprintf("%s: %v", what, err)))
		}
	}
	part("kernel", f.kernel())
	part("os", f.release("/etc/os-release", "/usr/lib/os-release"))
	part("cpu", f.cpu(ctx))
	part("memory", f.memory(ctx))
	part("virtualisation", f.virtualisation(ctx))
	part("boot time", f.booted(ctx))
	part("addresses", f.network())
	mounts, err := disk.PartitionsWithContext(ctx, true)
	part("disks", err)
	part("disks", f.disks(ctx, mountLimit, mounts, size))
	if ctx.Err() != nil {
		return Facts{}, fmt.Errorf("gather facts: %w", context.Cause(ctx))
	}
	return f, nil
}

func (f *Facts) kernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	f.Hostname = clip(unix.ByteSliceToString(u.Nodename[:]))
	f.Kernel = clip(unix.ByteSliceToString(u.Release[:]))
	f.Architecture = clip(unix.ByteSliceToString(u.Machine[:]))
	return nil
}

// release reads the first of the files that is there (os-release(5)).
func (f *Facts) release(files ...string) error {
	for _, name := range files {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f.OS, f.Version = parseRelease(b)
		if f.OS == "" {
			f.OS = "linux" // the default that os-release(5) names
		}
		return nil
	}
	f.OS = "linux"
	return errors.New("no os-release")
}

func parseRelease(b []byte) (id, version string) {
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		switch key {
		case "ID":
			id = clip(strings.ToLower(value))
		case "VERSION_ID":
			version = clip(value)
		}
	}
	return id, version
}

func (f *Facts) cpu(ctx context.Context) error {
	f.CPU.Count = runtime.NumCPU()
	list, err := cpu.InfoWithContext(ctx)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		f.CPU = CPU{Model: clip(list[0].ModelName), Count: len(list)}
	}
	return nil
}

func (f *Facts) memory(ctx context.Context) error {
	m, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return err
	}
	f.MemoryBytes, f.MemoryGB, f.SwapBytes = m.Total, m.Total/1e9, m.SwapTotal
	return nil
}

func (f *Facts) virtualisation(ctx context.Context) error {
	f.Virtualisation = "none"
	system, role, err := host.VirtualizationWithContext(ctx)
	if err != nil {
		return err
	}
	if role == "guest" && system != "" {
		f.Virtualisation = clip(system)
	}
	return nil
}

func (f *Facts) booted(ctx context.Context) error {
	seconds, err := host.BootTimeWithContext(ctx)
	if err != nil {
		return err
	}
	f.BootedAt = time.Unix(int64(seconds), 0).UTC()
	return nil
}

func (f *Facts) network() error {
	list, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range list {
		addresses, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		iface := Interface{Name: clip(i.Name), MAC: i.HardwareAddr.String()}
		for _, a := range addresses {
			n, ok := a.(*net.IPNet)
			if !ok || !n.IP.IsGlobalUnicast() || len(iface.Addresses) == maxAddresses {
				continue
			}
			ones, _ := n.Mask.Size()
			iface.Addresses = append(iface.Addresses, n.IP.String()+"/"+strconv.Itoa(ones))
			f.Addresses = append(f.Addresses, n.IP.String())
		}
		if len(iface.Addresses) > 0 && len(f.Interfaces) < maxInterfaces {
			slices.Sort(iface.Addresses)
			f.Interfaces = append(f.Interfaces, iface)
		}
	}
	slices.SortFunc(f.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(f.Addresses)
	f.Addresses = slices.Compact(f.Addresses)
	return nil
}

// disks asks each local file system for its size.
func (f *Facts) disks(ctx context.Context, limit time.Duration, mounts []disk.PartitionStat, size func(string) (uint64, error)) error {
	f.Disks = local(mounts)
	var late []string
	for i := range f.Disks {
		d := &f.Disks[i]
		n, err := bounded(ctx, limit, func() (uint64, error) { return size(d.Mount) })
		if err != nil {
			late = append(late, d.Mount+": "+err.Error())
		}
		d.SizeBytes = n
	}
	if len(late) > 0 {
		return errors.New(strings.Join(late, ", "))
	}
	return nil
}

// local picks the file systems that lie on this machine, one mount of each:
// those of other machines and of programs may hang, and are none of its disks.
func local(mounts []disk.PartitionStat) []Disk {
	best := map[string]Disk{}
	for _, m := range mounts {
		own := strings.HasPrefix(m.Device, "/dev/") && !strings.HasPrefix(m.Fstype, "fuse") || m.Fstype == "zfs"
		if !own && m.Mountpoint != "/" {
			continue
		}
		d := Disk{Mount: clip(m.Mountpoint), Device: clip(m.Device), Filesystem: clip(m.Fstype)}
		if old, ok := best[d.Device]; !ok || len(d.Mount) < len(old.Mount) {
			best[d.Device] = d
		}
	}
	out := make([]Disk, 0, len(best))
	for _, d := range best {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Disk) int { return cmp.Compare(a.Mount, b.Mount) })
	return out[:min(len(out), maxDisks)]
}

func size(mount string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(mount, &s); err != nil {
		return 0, err
	}
	return s.Blocks * uint64(s.Frsize), nil
}

var errLate = errors.New("no answer within its time")

// bounded gives fn a time limit, the wait for its turn among others included.
func bounded(ctx context.Context, limit time.Duration, fn func() (uint64, error)) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLate)
	defer cancel()
	select {
	case stuck <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	type answer struct {
		n   uint64
		err error
	}
	done := make(chan answer, 1) // one: a late answer is dropped
	go func() {
		defer func() { <-stuck }()
		n, err := fn()
		done <- answer{n, err}
	}()
	select {
	case a := <-done:
		return a.n, a.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// clip makes a text from the machine short and valid.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "\ufffd")
}
