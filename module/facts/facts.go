// Package facts gathers what is known about a machine without changing it:
// for the method facts.all, and for the inventory that an overlord keeps.
//
// It works inside containers too; there memory, CPUs and boot time are mostly
// those of the host, as the kernel shows them.
package facts

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"time"

	"dominion/call"
	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "facts",
	Doc:  "What a machine is.",
	Methods: []module.Method{
		module.Func("all", "Gathers the machine's facts now.", module.Read, all, module.MethodOptions{}),
	},
}

// Facts describe a machine. They do not change from one second to the next.
// At most 128 disks and 256 interfaces are listed.
type Facts struct {
	Hostname       string      `json:"hostname" doc:"the host name that the kernel knows"`
	OS             string      `json:"os" doc:"ID of os-release, such as debian"`
	Version        string      `json:"version" doc:"VERSION_ID of os-release, such as 13; empty for a rolling release"`
	Kernel         string      `json:"kernel" doc:"release of the kernel"`
	Architecture   string      `json:"architecture" doc:"machine type as uname says it, such as x86_64"`
	CPU            CPU         `json:"cpu" doc:"the processors"`
	MemoryBytes    uint64      `json:"memory_bytes" doc:"memory that the kernel manages"`
	MemoryGB       uint64      `json:"memory_gb" doc:"the same in units of 10^9 bytes, rounded down"`
	SwapBytes      uint64      `json:"swap_bytes" doc:"swap space"`
	Disks          []Disk      `json:"disks,omitempty" doc:"mounted local file systems, one mount of each, by mount point"`
	Addresses      []string    `json:"addresses,omitempty" doc:"addresses by which others may reach the machine, sorted"`
	Interfaces     []Interface `json:"interfaces,omitempty" doc:"interfaces that have such addresses, by name"`
	Virtualisation string      `json:"virtualisation" doc:"what the machine is a guest of, such as kvm or docker; none for hardware"`
	BootedAt       time.Time   `json:"booted_at" doc:"when the kernel started, to the second"`
	AgentVersion   string      `json:"agent_version" doc:"version of the agent"`
	Problems       []string    `json:"problems,omitempty" doc:"what could not be found out, and why"`
}

// CPU describes the processors.
type CPU struct {
	Model string `json:"model" doc:"model of the first one"`
	Count int    `json:"count" doc:"logical processors"`
}

// Disk is a mounted local file system.
type Disk struct {
	Mount      string `json:"mount" doc:"mount point"`
	Device     string `json:"device" doc:"device, or the data set"`
	Filesystem string `json:"filesystem" doc:"type of the file system"`
	SizeBytes  uint64 `json:"size_bytes" doc:"its size; 0 when it did not say within its time"`
}

// Interface is a network interface.
type Interface struct {
	Name      string   `json:"name" doc:"name"`
	MAC       string   `json:"mac,omitempty" doc:"hardware address"`
	Addresses []string `json:"addresses" doc:"addresses with the length of their prefix"`
}

// Digest is the SHA-256 of the facts as JSON. The boot time counts to the
// minute only: the kernel calculates it anew and may be a second off.
func (f Facts) Digest() [sha256.Size]byte {
	f.BootedAt = f.BootedAt.Round(time.Minute).UTC()
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // strings, numbers and a time of this age always encode
	}
	return sha256.Sum256(b)
}

// All is the answer of facts.all.
type All struct {
	Facts
	UptimeSeconds int64 `json:"uptime_seconds" doc:"since the kernel started"`
}

type none struct{}

func all(ctx context.Context, env *module.Env, _ none) (All, error) {
	f, err := Gather(ctx, env.Version)
	if err != nil {
		return All{}, err
	}
	up := int64(time.Since(f.BootedAt) / time.Second)
	if f.BootedAt.IsZero() || up < 0 {
		return All{}, call.Errorf(call.Failed, "the time of the kernel's start is not known")
	}
	return All{Facts: f, UptimeSeconds: up}, nil
}

// Schema describes the fields of Facts: what a machine tells its overlord of itself.
func Schema() []module.Field {
	out := Module.Methods[0].Schema().Output
	return slices.DeleteFunc(out, func(f module.Field) bool { return f.Name == "uptime_seconds" })
}
