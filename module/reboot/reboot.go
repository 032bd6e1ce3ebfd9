// Package reboot restarts a machine, through systemd-logind, which knows about
// delays, tells who is logged in, and can take it back.
//
// A call that waits is over when the machine is back. Nothing of it runs
// meanwhile: it leaves a note of which boot this is, and when the agent has
// started again it compares that with the boot it finds itself in
// (module.ErrLater).
package reboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"dominion/call"
	"dominion/module"
	"dominion/module/bus"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "reboot",
	Doc: "Restart the machine, through systemd-logind. " +
		"A call of reboot.now with wait=true is answered when the machine has restarted and its agent is back. While the restart is to come an agent that alone was started again waits on; 25 min after its time the call fails. " +
		"When the restart is taken back, such a call ends by its time-out.",
	Methods: []module.Method{
		module.Func("now", "Restarts the machine, at once or after a delay.", module.Destroy, here.now, module.MethodOptions{Timeout: 30 * time.Minute, Resume: here.resume}),
		module.Func("cancel", "Takes back a restart, or a halt, that has not begun.", module.Change, here.cancel, module.MethodOptions{}),
		module.Func("status", "Tells when the machine started, and whether a restart is planned or wanted.", module.Read, here.status, module.MethodOptions{}),
	},
}

const (
	soonest  = 2 * time.Second  // before a restart, so that the answer gets out
	patience = 25 * time.Minute // after the planned time, for the machine to go down

	login   = "org.freedesktop.login1"
	manager = login + ".Manager."
)

// machine is where logind and the kernel are; tests have some of their own.
type machine struct {
	bus    string // socket
	bootID string // file
	root   string
}

var here = machine{bus: bus.Socket, bootID: "/proc/sys/kernel/random/boot_id", root: "/"}

// NowIn is the input of now.
type NowIn struct {
	Delay   time.Duration `json:"delay" doc:"how long from now; 2s at least, so that the answer gets out" default:"0s" min:"0s" max:"168h"`
	Message string        `json:"message" doc:"what those who are logged in are told" max:"512"`
	Wait    bool          `json:"wait" doc:"let the call end when the machine is back; the call's time-out, 30m unless the order says otherwise, includes the delay"`
	DryRun  bool          `json:"dry_run" doc:"only say what would change"`
}

// Planned is the answer of now, and of a call that waited.
type Planned struct {
	Changed  bool       `json:"changed" doc:"whether the machine restarts, would, or did"`
	At       *time.Time `json:"at,omitempty" doc:"when it restarts"`
	Back     bool       `json:"back,omitempty" doc:"whether it has restarted and is back"`
	BootID   string     `json:"boot_id,omitempty" doc:"of the kernel's start after which it is back"`
	BootedAt *time.Time `json:"booted_at,omitempty" doc:"when that was"`
	Seconds  float64    `json:"seconds,omitempty" doc:"from the call until the agent had started again"`
}

// ledger is the note of a call that waits.
type ledger struct {
	Boot  string    `json:"boot"`  // the one in which the call ran
	Begun time.Time `json:"begun"` // the call
	At    time.Time `json:"at"`    // when the restart is planned
}

func (m machine) now(ctx context.Context, env *module.Env, in NowIn) (Planned, error) {
	l, err := m.dial(ctx)
	if err != nil {
		return Planned{}, err
	}
	defer l.Close()
	begun := time.Now()
	at := begun.Add(max(in.Delay, soonest)).UTC().Truncate(time.Millisecond)
	out := Planned{Changed: true, At: &at}
	if in.DryRun {
		return out, nil
	}
	if in.Wait {
		if err := m.note(env, ledger{Begun: begun, At: at}); err != nil {
			return Planned{}, err
		}
	}
	if err := l.ask(ctx, "SetWallMessage", nil, in.Message, true); err != nil {
		return Planned{}, fmt.Errorf("tell those who are logged in: %w", err)
	}
	if err := l.ask(ctx, "ScheduleShutdown", nil, "reboot", uint64(at.UnixMicro())); err != nil {
		return Planned{}, fmt.Errorf("plan the restart: %w", err)
	}
	if in.Wait {
		return Planned{}, module.ErrLater
	}
	return out, nil
}

// note leaves one for after the restart.
func (m machine) note(env *module.Env, n ledger) error {
	if env.Keep == nil {
		return call.Errorf(call.Failed, "this agent keeps no journal of its calls on disk, so that it cannot answer after a restart; leave wait out")
	}
	var err error
	if n.Boot, err = m.boot(); err != nil {
		return err
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return env.Keep(b)
}

// boot is the id of this start of the kernel (random(4)).
func (m machine) boot() (string, error) {
	b, err := os.ReadFile(m.bootID)
	if err != nil {
		return "", fmt.Errorf("read the id of this boot: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// resume answers a call that waited, when the agent has started again.
func (m machine) resume(_ context.Context, _ *module.Env, note []byte) (any, error) {
	var n ledger
	if err := json.Unmarshal(note, &n); err != nil || n.Boot == "" {
		return nil, call.Errorf(call.Unknown, "the note of the call cannot be read: whether the machine restarted for it is not known")
	}
	boot, err := m.boot()
	if err != nil {
		return nil, err
	}
	if boot == n.Boot {
		if time.Now().Before(n.At.Add(patience)) {
			return nil, module.ErrLater // the agent alone was started again; the restart is still planned
		}
		return nil, call.Errorf(call.Failed, "the machine has not restarted: it was planned for %s and the agent has started again in the same boot", n.At.UTC().Format(time.RFC3339))
	}
	out := Planned{Changed: true, Back: true, BootID: boot, Seconds: max(0, time.Since(n.Begun).Round(time.Millisecond).Seconds())}
	if at, err := m.bootedAt(); err == nil {
		out.BootedAt = &at
	}
	return out, nil
}

// bootedAt reads the kernel's own word (proc(5)).
func (m machine) bootedAt() (time.Time, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return time.Unix(n, 0).UTC(), err
		}
	}
	return time.Time{}, errors.New("/proc/stat has no btime")
}

// CancelIn is the input of cancel.
type CancelIn struct {
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

// Cancelled is the answer of cancel.
type Cancelled struct {
	Changed bool       `json:"changed" doc:"whether one was planned"`
	Kind    string     `json:"kind,omitempty" doc:"what was planned: reboot, poweroff or halt"`
	At      *time.Time `json:"at,omitempty" doc:"when it was planned for"`
}

func (m machine) cancel(ctx context.Context, _ *module.Env, in CancelIn) (Cancelled, error) {
	l, err := m.dial(ctx)
	if err != nil {
		return Cancelled{}, err
	}
	defer l.Close()
	kind, at, err := l.planned(ctx)
	if err != nil || at == nil {
		return Cancelled{}, err
	}
	out := Cancelled{Changed: true, Kind: kind, At: at}
	if !in.DryRun {
		if err := l.ask(ctx, "CancelScheduledShutdown", []any{&out.Changed}); err != nil {
			return Cancelled{}, fmt.Errorf("take the restart back: %w", err)
		}
	}
	return out, nil
}

// Status is the answer of status.
type Status struct {
	BootID   string     `json:"boot_id" doc:"of this start of the kernel"`
	BootedAt time.Time  `json:"booted_at" doc:"when it was"`
	Planned  string     `json:"planned,omitempty" doc:"what is planned: reboot, poweroff or halt"`
	At       *time.Time `json:"at,omitempty" doc:"when"`
	Wanted   bool       `json:"wanted" doc:"whether packages were changed that want a restart, as Debian notes it in /run/reboot-required"`
	For      []string   `json:"for,omitempty" doc:"those packages"`
}

func (m machine) status(ctx context.Context, _ *module.Env, _ struct{}) (Status, error) {
	var out Status
	var err error
	if out.BootID, err = m.boot(); err != nil {
		return Status{}, err
	}
	if out.BootedAt, err = m.bootedAt(); err != nil {
		return Status{}, fmt.Errorf("read when the machine started: %w", err)
	}
	if _, err := os.Stat(filepath.Join(m.root, "run/reboot-required")); err == nil {
		out.Wanted = true
		b, _ := os.ReadFile(filepath.Join(m.root, "run/reboot-required.pkgs"))
		out.For = strings.Fields(string(b[:min(len(b), 64<<10)]))
	}
	l, err := m.dial(ctx)
	if errors.As(err, new(*call.Error)) {
		return out, nil // without logind nothing can be planned with it
	}
	if err != nil {
		return Status{}, err
	}
	defer l.Close()
	out.Planned, out.At, err = l.planned(ctx)
	return out, err
}

// logind is a connection to it.
type logind struct {
	*dbus.Conn
	root dbus.BusObject
}

func (m machine) dial(ctx context.Context) (*logind, error) {
	conn, err := bus.Dial(ctx, m.bus)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, call.Errorf(call.Failed, "this machine has no systemd-logind: there is no bus at %s", m.bus)
	case err != nil:
		return nil, fmt.Errorf("connect to systemd-logind: %w", err)
	}
	l := &logind{conn, conn.Object(login, "/org/freedesktop/login1")}
	if _, _, err := l.planned(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

// ask calls a method of its manager. logind is started by the bus if need be.
func (l *logind) ask(ctx context.Context, method string, to []any, args ...any) error {
	c := l.root.CallWithContext(ctx, manager+method, 0, args...)
	if c.Err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return c.Err
	}
	if len(to) == 0 {
		return nil
	}
	return c.Store(to...)
}

// planned gives what is planned, and when; nil: nothing.
func (l *logind) planned(ctx context.Context) (kind string, at *time.Time, err error) {
	var v dbus.Variant
	c := l.root.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, login+".Manager", "ScheduledShutdown")
	if err := c.Store(&v); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return "", nil, cause
		}
		if e, ok := errors.AsType[dbus.Error](err); ok && (strings.HasSuffix(e.Name, ".ServiceUnknown") || strings.Contains(e.Name, ".Spawn.")) {
			return "", nil, call.Errorf(call.Failed, "this machine has no systemd-logind")
		}
		return "", nil, fmt.Errorf("ask systemd-logind what is planned: %w", err)
	}
	pair, ok := v.Value().([]any)
	if !ok || len(pair) != 2 {
		return "", nil, call.Errorf(call.Failed, "systemd-logind answers %s when asked what is planned", v)
	}
	kind, _ = pair[0].(string)
	us, _ := pair[1].(uint64)
	if kind == "" || us == 0 || us == ^uint64(0) {
		return "", nil, nil
	}
	return kind, new(time.UnixMicro(int64(us)).UTC()), nil
}
