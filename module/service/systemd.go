package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"dominion/call"
	"dominion/module/bus"
)

const (
	dest     = "org.freedesktop.systemd1"
	manager  = dest + ".Manager."
	maxUnits = 3000 // in one list, which leaves some 300 bytes for each
)

// machine is where systemd is; tests have one of their own.
type machine struct {
	bus, systemd string // sockets
}

var here = machine{bus: bus.Socket, systemd: bus.Systemd}

// systemd is a connection to it.
type systemd struct {
	conn *dbus.Conn
	root dbus.BusObject
}

// dial connects by the system bus, which may be used by any agent, and where
// there is none by systemd's own socket, which is root's.
func (m machine) dial(ctx context.Context) (*systemd, error) {
	conn, err := bus.Dial(ctx, m.bus)
	if absent(err) {
		conn, err = bus.Direct(ctx, m.systemd)
	}
	switch {
	case absent(err):
		return nil, call.Errorf(call.Failed, "this machine does not run systemd, or not as its first process: nothing answers at %s or %s", m.bus, m.systemd)
	case err != nil:
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	s := &systemd{conn: conn, root: conn.Object(dest, "/org/freedesktop/systemd1")}
	var version dbus.Variant
	if err := s.ask(ctx, s.root, "org.freedesktop.DBus.Properties.Get", []any{&version}, dest+".Manager", "Version"); err != nil {
		conn.Close()
		if e, ok := errors.AsType[dbus.Error](err); ok && (strings.HasSuffix(e.Name, ".ServiceUnknown") || strings.Contains(e.Name, ".Spawn.")) {
			return nil, call.Errorf(call.Failed, "this machine does not run systemd, or not as its first process: nobody on %s is %s", m.bus, dest)
		}
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return s, nil
}

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// ask calls a method and stores what it gives.
func (s *systemd) ask(ctx context.Context, o dbus.BusObject, method string, to []any, args ...any) error {
	c := o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
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

// unit is a unit that systemd has loaded.
type unit struct {
	*systemd
	name   string
	object dbus.BusObject
	props  map[string]dbus.Variant // of the interface Unit
}

// fullName adds the suffix of a service to a name that has no other.
func fullName(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		switch name[i+1:] {
		case "service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope":
			return name
		}
	}
	return name + ".service"
}

// load finds a unit, and has its file read if it is not loaded.
func (s *systemd) load(ctx context.Context, name string) (*unit, error) {
	u := &unit{systemd: s, name: fullName(name)}
	var p dbus.ObjectPath
	if err := s.ask(ctx, s.root, manager+"LoadUnit", []any{&p}, u.name); err != nil {
		return nil, fmt.Errorf("find %s: %w", u.name, err)
	}
	u.object = s.conn.Object(dest, p)
	if err := u.refresh(ctx); err != nil {
		return nil, err
	}
	if u.text("LoadState") == "not-found" {
		return nil, call.Errorf(call.Failed, "there is no unit %s on this machine", u.name)
	}
	if id := u.text("Id"); id != "" {
		u.name = id // it was named by an alias, under which it cannot be enabled
	}
	return u, nil
}

func (u *unit) refresh(ctx context.Context) error {
	u.props = nil
	if err := u.ask(ctx, u.object, "org.freedesktop.DBus.Properties.GetAll", []any{&u.props}, dest+".Unit"); err != nil {
		return fmt.Errorf("state of %s: %w", u.name, err)
	}
	return nil
}

// get gives a property, or the zero value where this systemd has none of the
// name and type.
func get[T any](props map[string]dbus.Variant, name string) T {
	v, _ := props[name].Value().(T)
	return v
}

func (u *unit) text(name string) string { return get[string](u.props, name) }

// runs says whether a start would find it started.
func (u *unit) runs() bool {
	a := u.text("ActiveState")
	return a == "active" || a == "reloading"
}

func (u *unit) status(ctx context.Context) (Status, error) {
	st := Status{
		Name: u.name, Description: u.text("Description"), Running: u.runs(),
		Active: u.text("ActiveState"), Sub: u.text("SubState"), Load: u.text("LoadState"),
		Enabled: u.text("UnitFileState"), File: u.text("FragmentPath"),
	}
	if us := get[uint64](u.props, "StateChangeTimestamp"); us > 0 {
		st.Since = new(time.UnixMicro(int64(us)).UTC().Truncate(time.Second))
	}
	p, err := u.service(ctx)
	if err != nil {
		return Status{}, err
	}
	st.PID, st.Restarts = get[uint32](p, "MainPID"), get[uint32](p, "NRestarts")
	st.MemoryBytes, st.Tasks = counted(p, "MemoryCurrent"), counted(p, "TasksCurrent")
	if r := get[string](p, "Result"); r != "success" {
		st.Result = r
	}
	st.ExitStatus = get[int32](p, "ExecMainStatus")
	return st, nil
}

// service gives the properties of a service; of other kinds none.
func (u *unit) service(ctx context.Context) (map[string]dbus.Variant, error) {
	if !strings.HasSuffix(u.name, ".service") {
		return nil, nil
	}
	var p map[string]dbus.Variant
	if err := u.ask(ctx, u.object, "org.freedesktop.DBus.Properties.GetAll", []any{&p}, dest+".Service"); err != nil {
		return nil, fmt.Errorf("state of %s: %w", u.name, err)
	}
	return p, nil
}

// counted gives a number that is the largest of its type when nobody counts.
func counted(p map[string]dbus.Variant, name string) uint64 {
	if n := get[uint64](p, name); n != ^uint64(0) {
		return n
	}
	return 0
}

// loadedUnit is what ListUnits gives of each.
type loadedUnit struct {
	Name, Description, Load, Active, Sub, Following string
	Object                                          dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	Job                                             dbus.ObjectPath
}

type unitFile struct{ Path, State string }

func (s *systemd) list(ctx context.Context, in ListIn) (Units, error) {
	pattern := in.Pattern
	if _, err := path.Match(pattern, ""); err != nil {
		return Units{}, call.Errorf(call.Invalid, "pattern %q: %v", pattern, err)
	}
	if !strings.Contains(path.Ext(pattern), ".") {
		pattern += ".service"
	}
	var loaded []loadedUnit
	if err := s.ask(ctx, s.root, manager+"ListUnitsByPatterns", []any{&loaded}, []string{}, []string{pattern}); err != nil {
		return Units{}, fmt.Errorf("list units: %w", err)
	}
	var files []unitFile
	if err := s.ask(ctx, s.root, manager+"ListUnitFilesByPatterns", []any{&files}, []string{}, []string{pattern}); err != nil {
		return Units{}, fmt.Errorf("list files of units: %w", err)
	}
	all := map[string]Unit{}
	for _, u := range loaded {
		if u.Load != "not-found" { // somebody names it, and it is not there
			all[u.Name] = Unit{Name: u.Name, Description: u.Description, Load: u.Load, Active: u.Active, Sub: u.Sub}
		}
	}
	for _, f := range files {
		name := path.Base(f.Path)
		u, ok := all[name]
		if !ok && !in.Files {
			continue
		}
		u.Name, u.Enabled = name, f.State
		all[name] = u
	}
	out := Units{Units: []Unit{}}
	for _, u := range slices.SortedFunc(maps.Values(all), func(a, b Unit) int { return cmp.Compare(a.Name, b.Name) }) {
		if in.State != "" && in.State != u.Active && in.State != u.Sub && in.State != u.Load && in.State != u.Enabled {
			continue
		}
		if len(out.Units) == maxUnits {
			out.Cut++
			continue
		}
		u.Description = u.Description[:min(len(u.Description), 160)]
		out.Units = append(out.Units, u)
	}
	return out, nil
}
