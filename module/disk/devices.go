package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"dominion/module"
	"dominion/module/mountinfo"
)

type devicesIn struct {
	All bool `json:"all" doc:"loop devices and RAM disks without anything in them too"`
}

// Devices is the answer of devices.
type Devices struct {
	Devices []Device `json:"devices" doc:"disks, each before its partitions, by name"`
}

// Device is a block device.
type Device struct {
	Name       string   `json:"name" doc:"its name below /dev"`
	Type       string   `json:"type" doc:"disk, partition, rom, loop, ram, raid, mapped or zram"`
	Parent     string   `json:"parent,omitempty" doc:"of a partition: its disk"`
	SizeBytes  uint64   `json:"size_bytes" doc:"its size"`
	Sector     uint64   `json:"sector,omitempty" doc:"bytes of a logical sector"`
	ReadOnly   bool     `json:"read_only,omitempty" doc:"it cannot be written"`
	Removable  bool     `json:"removable,omitempty" doc:"its medium can be taken out"`
	Rotational bool     `json:"rotational,omitempty" doc:"it says that it turns; virtual disks often say so"`
	Model      string   `json:"model,omitempty" doc:"its model"`
	Serial     string   `json:"serial,omitempty" doc:"its serial number, where the kernel knows it"`
	Label      string   `json:"label,omitempty" doc:"of a mapped device: its name below /dev/mapper"`
	Holders    []string `json:"holders,omitempty" doc:"devices that are made of it"`
	Mounts     []string `json:"mounts,omitempty" doc:"where it is mounted; at most 20"`
}

func devices(ctx context.Context, _ *module.Env, in devicesIn) (Devices, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return Devices{}, err
	}
	sys, err := os.OpenRoot("/sys")
	if err != nil {
		return Devices{}, fmt.Errorf("read block devices: %w", err)
	}
	defer sys.Close()
	return scan(ctx, sys, in.All, mounts)
}

// scan reads /sys/block, whose links lead to places within /sys.
func scan(ctx context.Context, sys *os.Root, all bool, mounts []mountinfo.Mount) (Devices, error) {
	where := map[string][]string{}
	for _, m := range mounts {
		if list := where[m.Device]; len(list) < 20 && !slices.Contains(list, clip(m.Point)) {
			where[m.Device] = append(list, clip(m.Point))
		}
	}
	out := Devices{Devices: []Device{}}
	disks, err := names(sys, "block")
	if err != nil {
		return Devices{}, fmt.Errorf("read block devices: %w", err)
	}
	for _, name := range disks[:min(len(disks), maxDevices)] {
		if err := context.Cause(ctx); err != nil {
			return Devices{}, err
		}
		s := source{sys, "block/" + name}
		d := s.device(name, where)
		if d.SizeBytes == 0 && !all && (d.Type == "loop" || d.Type == "ram") {
			continue
		}
		d.Model, d.Serial, d.Label = s.text("device/model"), s.first("device/serial", "serial"), s.text("dm/name")
		out.Devices = append(out.Devices, d)
		parts, err := names(sys, s.dir)
		if err != nil {
			continue // pulled out meanwhile
		}
		for _, part := range parts {
			if p := (source{sys, s.dir + "/" + part}); strings.HasPrefix(part, name) && p.text("partition") != "" {
				d := p.device(part, where)
				d.Type, d.Parent = "partition", name
				out.Devices = append(out.Devices, d)
			}
		}
	}
	return out, nil
}

// names lists a directory, by name.
func names(sys *os.Root, dir string) ([]string, error) {
	f, err := sys.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a machine, or a container, without any
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

// source is the directory of a device below /sys.
type source struct {
	sys *os.Root
	dir string
}

// text reads a file of one line; empty when there is none.
func (s source) text(name string) string {
	f, err := s.sys.Open(s.dir + "/" + name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return ""
	}
	return clip(strings.TrimSpace(string(b)))
}

func (s source) first(files ...string) string {
	for _, f := range files {
		if t := s.text(f); t != "" {
			return t
		}
	}
	return ""
}

func (s source) number(name string) uint64 {
	n, err := strconv.ParseUint(s.text(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s source) device(name string, where map[string][]string) Device {
	d := Device{
		Name: clip(name), Type: kind(name), SizeBytes: s.number("size") * 512, // in units of 512 bytes whatever the sector
		Sector: s.number("queue/logical_block_size"), ReadOnly: s.number("ro") == 1, Removable: s.number("removable") == 1,
		Rotational: s.number("queue/rotational") == 1, Mounts: where[s.text("dev")],
	}
	if d.Holders, _ = names(s.sys, s.dir+"/holders"); len(d.Holders) > 20 {
		d.Holders = d.Holders[:20]
	}
	return d
}

// kind is told by the name, as the kernel gives it (Documentation/admin-guide/devices.txt).
func kind(name string) string {
	for prefix, k := range map[string]string{"loop": "loop", "ram": "ram", "zram": "zram", "sr": "rom", "md": "raid", "dm-": "mapped"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && strings.Trim(rest, "0123456789_dp") == "" {
			return k
		}
	}
	return "disk"
}
