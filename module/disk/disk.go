// Package disk is the module of file systems and block devices: how full they
// are, and what there is. Health by SMART is not here.
package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
	"dominion/module/mountinfo"
	"dominion/module/place"
)

// Bounds.
const (
	maxMounts  = 1000
	maxDevices = 1000
	maxText    = 256       // bytes of one text of a device
	maxAnswer  = 700 << 10 // bytes of all
	patience   = 2 * time.Second
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "disk",
	Doc:  "File systems and block devices.",
	Methods: []module.Method{
		module.Func("usage", "Tells how full file systems are.", module.Read, usage, module.MethodOptions{}),
		module.Func("devices", "Lists block devices and their partitions.", module.Read, devices, module.MethodOptions{}),
	},
}

type usageIn struct {
	Path string `json:"path" doc:"only the file system that this file or directory lies on" max:"4095"`
	All  bool   `json:"all" doc:"those of the kernel too, which have no size"`
	Over int    `json:"over" doc:"only file systems of which at least so much is used, of bytes or of inodes, in per cent" min:"0" max:"100"`
}

// Usage is the answer of usage.
type Usage struct {
	Filesystems []Filesystem `json:"filesystems" doc:"one mount of each file system, by mount point; at most 1000, and what fits into an answer"`
	Problems    []string     `json:"problems,omitempty" doc:"file systems that did not say within 2 s, or said what was wrong"`
}

// Filesystem is a file system that is mounted.
type Filesystem struct {
	Mount          string `json:"mount" doc:"where it is mounted"`
	Device         string `json:"device" doc:"what is mounted"`
	Type           string `json:"type" doc:"its type"`
	ReadOnly       bool   `json:"read_only,omitempty" doc:"nothing can be written there"`
	SizeBytes      uint64 `json:"size_bytes" doc:"its size"`
	UsedBytes      uint64 `json:"used_bytes" doc:"what is used"`
	AvailableBytes uint64 `json:"available_bytes" doc:"what is left for users"`
	UsedPercent    int    `json:"used_percent" doc:"used of what users could have, rounded up, as by df(1)"`
	Inodes         uint64 `json:"inodes" doc:"its inodes; 0 when it makes them as it needs them"`
	UsedInodes     uint64 `json:"used_inodes" doc:"inodes that are used"`
	InodesPercent  int    `json:"inodes_percent" doc:"the same in per cent, rounded up"`
}

// stuck bounds the goroutines that may hang in statfs(2), which cannot be
// interrupted, in the whole process. It is the one thing here that outlives a
// call.
var stuck = make(chan struct{}, 4)

// statter asks a file system; tests have one that hangs.
type statter func(point string) (unix.Statfs_t, error)

func statfs(point string) (s unix.Statfs_t, err error) {
	for {
		if err = unix.Statfs(point, &s); !errors.Is(err, unix.EINTR) {
			return s, err
		}
	}
}

func usage(ctx context.Context, _ *module.Env, in usageIn) (Usage, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return Usage{}, err
	}
	if in.Path != "" {
		if mounts, err = holding(in.Path, mounts); err != nil {
			return Usage{}, err
		}
		in.All = true
	}
	return measure(ctx, in, mounts, statfs, patience)
}

// holding gives the mount that a path lies on.
func holding(name string, mounts []mountinfo.Mount) ([]mountinfo.Mount, error) {
	p, err := place.Follow(name)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if _, err := p.Lstat(); err != nil {
		return nil, err
	}
	best := -1
	for i, m := range mounts {
		in := m.Point == "/" || p.Path() == m.Point || strings.HasPrefix(p.Path(), m.Point+"/")
		if in && (best < 0 || len(m.Point) >= len(mounts[best].Point)) { // of those on one point the last is on top
			best = i
		}
	}
	if best < 0 {
		return nil, call.Errorf(call.Failed, "%s lies on no mount that can be seen here", p.Path())
	}
	return mounts[best : best+1], nil
}

// measure asks one mount of each file system. What hangs costs a while each.
func measure(ctx context.Context, in usageIn, mounts []mountinfo.Mount, stat statter, patience time.Duration) (Usage, error) {
	out := Usage{Filesystems: []Filesystem{}}
	seen := map[string]bool{}
	size := 0
	for _, m := range visible(mounts) {
		if seen[m.Device] || len(out.Filesystems) == maxMounts || size > maxAnswer {
			continue
		}
		seen[m.Device] = true
		s, err := ask(ctx, m.Point, stat, patience)
		if ctx.Err() != nil {
			return Usage{}, fmt.Errorf("measure %s: %w", m.Point, context.Cause(ctx))
		}
		if err != nil {
			if len(out.Problems) < 20 && !errors.Is(err, unix.EACCES) {
				out.Problems = append(out.Problems, clip(fmt.Sprintf("%s: %v", m.Point, err)))
			}
			continue
		}
		f := filesystem(m, s)
		if (s.Blocks > 0 || in.All) && max(f.UsedPercent, f.InodesPercent) >= in.Over {
			out.Filesystems = append(out.Filesystems, f)
			size += 400 + 6*(len(f.Mount)+len(f.Device)+len(f.Type))
		}
	}
	slices.SortFunc(out.Filesystems, func(a, b Filesystem) int { return strings.Compare(a.Mount, b.Mount) })
	return out, nil
}

// visible leaves out what another mount on the same point hides, and puts
// roots of file systems before their directories that are mounted elsewhere.
func visible(mounts []mountinfo.Mount) []mountinfo.Mount {
	top := map[string]int{}
	for i, m := range mounts {
		top[m.Point] = i
	}
	var roots, parts []mountinfo.Mount
	for i, m := range mounts {
		switch {
		case top[m.Point] != i:
		case m.Root == "/":
			roots = append(roots, m)
		default:
			parts = append(parts, m)
		}
	}
	return append(roots, parts...)
}

// ask waits for an answer no longer than patience.
func ask(ctx context.Context, point string, stat statter, patience time.Duration) (unix.Statfs_t, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case stuck <- struct{}{}:
	case <-late.C:
		return unix.Statfs_t{}, errors.New("not asked: too many file systems hang")
	case <-ctx.Done():
		return unix.Statfs_t{}, context.Cause(ctx)
	}
	type said struct {
		s   unix.Statfs_t
		err error
	}
	answer := make(chan said, 1) // one: whoever hung leaves his word there and goes
	go func() {
		defer func() { <-stuck }()
		s, err := stat(point)
		answer <- said{s, err}
	}()
	select {
	case a := <-answer:
		return a.s, a.err
	case <-late.C:
		return unix.Statfs_t{}, fmt.Errorf("no answer within %v", patience)
	case <-ctx.Done():
		return unix.Statfs_t{}, context.Cause(ctx)
	}
}

func filesystem(m mountinfo.Mount, s unix.Statfs_t) Filesystem {
	unit := uint64(max(s.Frsize, 0))
	if unit == 0 {
		unit = uint64(max(s.Bsize, 0))
	}
	used := s.Blocks - min(s.Bfree, s.Blocks)
	f := Filesystem{
		Mount: clip(m.Point), Device: clip(m.Source), Type: clip(m.Type), ReadOnly: s.Flags&unix.ST_RDONLY != 0,
		SizeBytes: s.Blocks * unit, UsedBytes: used * unit, AvailableBytes: s.Bavail * unit,
		UsedPercent: percent(used, used+s.Bavail),
		Inodes:      s.Files, UsedInodes: s.Files - min(s.Ffree, s.Files),
	}
	f.InodesPercent = percent(f.UsedInodes, f.Inodes)
	return f
}

// percent rounds up, so that only nothing is 0.
func percent(part, whole uint64) int {
	if whole == 0 {
		return 0
	}
	p := float64(part) / float64(whole) * 100
	n := int(p)
	if float64(n) < p {
		n++
	}
	return min(n, 100)
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
