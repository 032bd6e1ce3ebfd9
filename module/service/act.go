package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"

	"dominion/call"
)

// action is what can be done to a unit.
type action struct {
	verb, method string
	// idle says that there is nothing to do. It is asked for the state of the
	// unit, and whether a job of systemd waits for it.
	idle func(u *unit) bool
}

var (
	start = action{"start", "StartUnit", func(u *unit) bool { return u.text("ActiveState") == "active" }}
	stop  = action{"stop", "StopUnit", func(u *unit) bool {
		a := u.text("ActiveState")
		return a == "inactive" || a == "failed"
	}}
	restart = action{"restart", "RestartUnit", func(*unit) bool { return false }}
	reload  = action{"reload", "ReloadUnit", func(*unit) bool { return false }}
)

func (m machine) act(ctx context.Context, in ActIn, a action) (Acted, error) {
	s, err := m.dial(ctx)
	if err != nil {
		return Acted{}, err
	}
	defer s.conn.Close()
	u, err := s.load(ctx, in.Name)
	if err != nil {
		return Acted{}, err
	}
	if err := u.allows(a); err != nil {
		return Acted{}, err
	}
	out := Acted{Name: u.name, Changed: !u.idle(a)}
	if out.Changed && !in.DryRun {
		if err = u.act(ctx, a); err != nil {
			out.Changed = false // unless the state says otherwise
		}
	}
	before := u.text("ActiveState") + string(get[[]byte](u.props, "InvocationID"))
	if ctx.Err() == nil {
		if again := u.refresh(ctx); again != nil && err == nil {
			err = again
		}
	}
	if err == nil && out.Changed && !in.DryRun && a.method != stop.method && u.text("ActiveState") == "failed" {
		err = u.failed(ctx, a, "failed") // the job is done when a simple service has begun
	}
	out.Active, out.Sub = u.text("ActiveState"), u.text("SubState")
	if err != nil {
		out.Changed = before != out.Active+string(get[[]byte](u.props, "InvocationID"))
	}
	if p, e := u.service(ctx); e == nil {
		if r := get[string](p, "Result"); r != "success" {
			out.Result = r
		}
	}
	return out, err
}

// idle says that there is nothing to do: the unit is as it should be and no
// job of systemd is about to change that.
func (u *unit) idle(a action) bool {
	job := get[[]any](u.props, "Job") // number and path; the number is 0 when there is none
	if len(job) == 2 && job[0] != uint32(0) {
		return false
	}
	return a.idle(u)
}

// allows names what systemd would refuse, before a dry run promises it.
func (u *unit) allows(a action) error {
	load := u.text("LoadState")
	switch {
	case a.method == stop.method:
	case load == "masked":
		return call.Errorf(call.Failed, "%s %s: it is masked", a.verb, u.name)
	case load != "loaded":
		return call.Errorf(call.Failed, "%s %s: its file could not be read (%s)", a.verb, u.name, load)
	case a.method == reload.method && !u.runs():
		return call.Errorf(call.Failed, "reload %s: it does not run", u.name)
	case a.method == reload.method && !get[bool](u.props, "CanReload"):
		return call.Errorf(call.Failed, "reload %s: it cannot be reloaded; restart it", u.name)
	}
	return nil
}

// act has systemd make a job, and waits for its end.
func (u *unit) act(ctx context.Context, a action) error {
	if err := u.conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(dest+".Manager"), dbus.WithMatchMember("JobRemoved")); err != nil && !direct(err) {
		return fmt.Errorf("%s %s: %w", a.verb, u.name, err)
	}
	signals := make(chan *dbus.Signal, 16) // a unit may pull in some; the library keeps what does not fit
	u.conn.Signal(signals)
	defer u.conn.RemoveSignal(signals)
	if err := u.ask(ctx, u.root, manager+"Subscribe", nil); err != nil && !direct(err) {
		return fmt.Errorf("%s %s: %w", a.verb, u.name, err)
	}
	var job dbus.ObjectPath
	// "replace": a job that waits and says otherwise gives way, as for systemctl.
	if err := u.ask(ctx, u.root, manager+a.method, []any{&job}, u.name, "replace"); err != nil {
		return fmt.Errorf("%s %s: %w", a.verb, u.name, err)
	}
	result, err := await(ctx, signals, job)
	if err != nil {
		return fmt.Errorf("%s %s, which systemd goes on with: %w", a.verb, u.name, err)
	}
	switch result {
	case "done", "skipped": // skipped: it does not apply to the unit's state
		return nil
	}
	return u.failed(ctx, a, result)
}

// direct says that the other side is systemd itself, which has no bus to ask
// for signals and sends them all.
func direct(err error) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && (e.Name == "org.freedesktop.DBus.Error.UnknownMethod" || e.Name == "org.freedesktop.DBus.Error.UnknownObject" ||
		e.Name == "org.freedesktop.systemd1.AlreadySubscribed" || e.Name == "org.freedesktop.DBus.Error.UnknownInterface")
}

// await gives the result of a job.
func await(ctx context.Context, signals <-chan *dbus.Signal, job dbus.ObjectPath) (string, error) {
	for {
		select {
		case sig, ok := <-signals:
			if !ok {
				if cause := context.Cause(ctx); cause != nil {
					return "", cause
				}
				return "", errors.New("the connection to systemd ended")
			}
			var id uint32
			var path dbus.ObjectPath
			var name, result string
			if sig.Name == manager+"JobRemoved" && dbus.Store(sig.Body, &id, &path, &name, &result) == nil && path == job {
				return result, nil
			}
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// failed says why a job did not end as it should.
func (u *unit) failed(ctx context.Context, a action, result string) error {
	why := map[string]string{
		"canceled": "another job took its place", "timeout": "it was not done in the time that systemd gives it",
		"dependency": "a unit that it needs failed", "collected": "systemd forgot it", "once": "it may be started only once",
	}[result]
	if why == "" {
		why = "systemd says " + result
	}
	if p, err := u.service(ctx); err == nil && result == "failed" {
		if r := get[string](p, "Result"); r != "" && r != "success" {
			why = "it ended with " + r
			if status := get[int32](p, "ExecMainStatus"); status != 0 {
				why += fmt.Sprintf(" %d", status)
			}
		}
	}
	return call.Errorf(call.Failed, "%s %s: %s", a.verb, u.name, why)
}
