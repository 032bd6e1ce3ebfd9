// Package service looks after the units of systemd, over D-Bus and without
// its command line: what runs, starting and stopping, and what is begun at
// boot. A method that starts or stops something waits for the end of the job
// that systemd makes of it.
package service

import (
	"context"
	"time"

	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "service",
	Doc: "Units of systemd. A name without a suffix is that of a service: sshd is sshd.service. What starts or stops something waits until systemd has done it; when the call's time is over before, systemd goes on with it. " +
		"A machine without systemd answers with an error that says so.",
	Methods: []module.Method{
		module.Func("status", "Tells the state of one unit.", module.Read, here.status, module.MethodOptions{}),
		module.Func("list", "Lists units, by name.", module.Read, here.list, module.MethodOptions{}),
		module.Func("start", "Starts a unit if it does not run.", module.Change, here.start, actTime),
		module.Func("stop", "Stops a unit if it runs.", module.Change, here.stop, actTime),
		module.Func("restart", "Stops and starts a unit.", module.Change, here.restart, actTime),
		module.Func("reload", "Makes a unit that runs read its configuration again.", module.Change, here.reload, actTime),
		module.Func("enable", "Has a unit started at boot.", module.Change, here.enable, module.MethodOptions{}),
		module.Func("disable", "Has a unit no longer started at boot.", module.Change, here.disable, module.MethodOptions{}),
	},
}

// actTime is above the 90 s that systemd gives a unit to start, or to stop,
// unless the unit says otherwise.
var actTime = module.MethodOptions{Timeout: 3*time.Minute + 10*time.Second}

// Which is the input of methods about one unit.
type Which struct {
	Name string `json:"name" doc:"the unit; without a suffix a service" required:"true" min:"1" max:"255" pattern:"[A-Za-z0-9:_.\\\\@-]+"`
}

// Status is the state of one unit (org.freedesktop.systemd1(5)).
type Status struct {
	Name        string     `json:"name" doc:"the unit, with its suffix"`
	Description string     `json:"description" doc:"what it is"`
	Running     bool       `json:"running" doc:"whether it is active, or reloads"`
	Active      string     `json:"active" doc:"active, reloading, inactive, failed, activating, deactivating or maintenance"`
	Sub         string     `json:"sub" doc:"the state in words of its kind, such as running or exited"`
	Load        string     `json:"load" doc:"whether its file could be read: loaded, masked, error …"`
	Enabled     string     `json:"enabled" doc:"what becomes of it at boot: enabled, disabled, static, masked …; empty when it has no file"`
	File        string     `json:"file,omitempty" doc:"its file"`
	Since       *time.Time `json:"since,omitempty" doc:"when it came into its present active state"`
	PID         uint32     `json:"pid,omitempty" doc:"the main process of a service"`
	MemoryBytes uint64     `json:"memory_bytes,omitempty" doc:"memory of a service, where the kernel counts it"`
	Tasks       uint64     `json:"tasks,omitempty" doc:"tasks of a service, where the kernel counts them"`
	Restarts    uint32     `json:"restarts,omitempty" doc:"how often systemd restarted it by itself"`
	Result      string     `json:"result,omitempty" doc:"how a service ended that failed: exit-code, signal, timeout …"`
	ExitStatus  int32      `json:"exit_status,omitempty" doc:"exit status, or signal, of the main process of a service that ended with another than 0"`
}

// ListIn is the input of list.
type ListIn struct {
	Pattern string `json:"pattern" doc:"glob that the names match; without a suffix of services" default:"*.service" max:"255"`
	State   string `json:"state" doc:"only units in this state, such as active, failed, running, enabled or disabled" max:"64"`
	Files   bool   `json:"files" doc:"also units that are installed, and not loaded at this time"`
}

// Units is the answer of list.
type Units struct {
	Units []Unit `json:"units" doc:"the units, by name; 3000 at most"`
	Cut   int    `json:"cut,omitempty" doc:"units that were left out"`
}

// Unit is one of a list.
type Unit struct {
	Name        string `json:"name" doc:"the unit, with its suffix"`
	Description string `json:"description,omitempty" doc:"what it is"`
	Load        string `json:"load,omitempty" doc:"whether its file could be read; empty when it is not loaded"`
	Active      string `json:"active,omitempty" doc:"active, inactive, failed …; empty when it is not loaded"`
	Sub         string `json:"sub,omitempty" doc:"the state in words of its kind"`
	Enabled     string `json:"enabled,omitempty" doc:"what becomes of it at boot"`
}

// ActIn is the input of start, stop, restart and reload.
type ActIn struct {
	Which
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

// Acted is the answer of start, stop, restart and reload. With dry_run it has
// the state as it is.
type Acted struct {
	Name    string `json:"name" doc:"the unit, with its suffix"`
	Changed bool   `json:"changed" doc:"whether anything was done, or would be"`
	Active  string `json:"active" doc:"its state afterwards: active, inactive, failed …"`
	Sub     string `json:"sub" doc:"the state in words of its kind"`
	Result  string `json:"result,omitempty" doc:"how a service ended that failed"`
}

// EnableIn is the input of enable and disable.
type EnableIn struct {
	Which
	Now    bool `json:"now" doc:"start it, or stop it, too"`
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

// Enabled is the answer of enable and disable.
type Enabled struct {
	Name    string   `json:"name" doc:"the unit, with its suffix"`
	Changed bool     `json:"changed" doc:"whether anything was done, or would be"`
	Enabled string   `json:"enabled" doc:"what becomes of it at boot, afterwards"`
	Links   []string `json:"links,omitempty" doc:"links that were made or removed; unknown to a dry run"`
	Active  string   `json:"active" doc:"its state afterwards"`
}

func (m machine) status(ctx context.Context, _ *module.Env, in Which) (Status, error) {
	s, err := m.dial(ctx)
	if err != nil {
		return Status{}, err
	}
	defer s.conn.Close()
	u, err := s.load(ctx, in.Name)
	if err != nil {
		return Status{}, err
	}
	return u.status(ctx)
}

func (m machine) list(ctx context.Context, _ *module.Env, in ListIn) (Units, error) {
	s, err := m.dial(ctx)
	if err != nil {
		return Units{}, err
	}
	defer s.conn.Close()
	return s.list(ctx, in)
}

func (m machine) start(ctx context.Context, _ *module.Env, in ActIn) (Acted, error) {
	return m.act(ctx, in, start)
}

func (m machine) stop(ctx context.Context, _ *module.Env, in ActIn) (Acted, error) {
	return m.act(ctx, in, stop)
}

func (m machine) restart(ctx context.Context, _ *module.Env, in ActIn) (Acted, error) {
	return m.act(ctx, in, restart)
}

func (m machine) reload(ctx context.Context, _ *module.Env, in ActIn) (Acted, error) {
	return m.act(ctx, in, reload)
}

func (m machine) enable(ctx context.Context, _ *module.Env, in EnableIn) (Enabled, error) {
	return m.enabling(ctx, in, true)
}

func (m machine) disable(ctx context.Context, _ *module.Env, in EnableIn) (Enabled, error) {
	return m.enabling(ctx, in, false)
}
