package service

import (
	"context"
	"fmt"

	"dominion/call"
)

// link is what EnableUnitFiles and DisableUnitFiles give of each change.
type link struct{ Type, File, Source string }

func (m machine) enabling(ctx context.Context, in EnableIn, on bool) (Enabled, error) {
	s, err := m.dial(ctx)
	if err != nil {
		return Enabled{}, err
	}
	defer s.conn.Close()
	u, err := s.load(ctx, in.Name)
	if err != nil {
		return Enabled{}, err
	}
	out := Enabled{Name: u.name}
	if out.Enabled, err = u.fileState(ctx); err != nil {
		return Enabled{}, err
	}
	todo, err := u.toEnable(out.Enabled, on)
	if err != nil {
		return out, err
	}
	act := start
	if !on {
		act = stop
	}
	run := in.Now && !u.idle(act)
	if run {
		if err := u.allows(act); err != nil {
			return out, err
		}
	}
	if !in.DryRun {
		if todo {
			if out.Links, err = u.setEnabled(ctx, on, out.Enabled == "enabled-runtime"); err != nil {
				return out, err
			}
			todo = len(out.Links) > 0
		}
		if run {
			err = u.act(ctx, act)
		}
	}
	out.Changed = todo || run
	if e := u.refresh(ctx); e == nil {
		out.Active = u.text("ActiveState")
	}
	if state, e := u.fileState(ctx); e == nil {
		out.Enabled = state
	}
	return out, err
}

// fileState is asked for anew: the unit's property is kept until a reload.
func (u *unit) fileState(ctx context.Context) (string, error) {
	var state string
	if err := u.ask(ctx, u.root, manager+"GetUnitFileState", []any{&state}, u.name); err != nil {
		return "", fmt.Errorf("file of %s: %w", u.name, err)
	}
	return state, nil
}

// toEnable says whether something is to be done in this state of a unit's
// file (systemctl(1), is-enabled); what cannot be is an error.
func (u *unit) toEnable(state string, on bool) (bool, error) {
	switch state {
	case "enabled", "enabled-runtime", "linked", "linked-runtime", "disabled", "indirect", "alias":
		if !on {
			return state == "enabled" || state == "enabled-runtime", nil
		}
		return state != "enabled", nil
	case "static":
		return false, call.Errorf(call.Failed, "%s is static: its file does not say what would start it at boot", u.name)
	case "masked", "masked-runtime":
		if !on {
			return false, nil
		}
		return false, call.Errorf(call.Failed, "%s is masked", u.name)
	case "generated":
		return false, call.Errorf(call.Failed, "%s is made by a generator, from an init script or a table such as fstab: what that says decides", u.name)
	}
	return false, call.Errorf(call.Failed, "%s is %s, and neither enabled nor disabled", u.name, state)
}

func (u *unit) setEnabled(ctx context.Context, on, runtime bool) ([]string, error) {
	var links []link
	var err error
	if on {
		var carries bool
		err = u.ask(ctx, u.root, manager+"EnableUnitFiles", []any{&carries, &links}, []string{u.name}, false, false)
	} else {
		err = u.ask(ctx, u.root, manager+"DisableUnitFiles", []any{&links}, []string{u.name}, runtime)
	}
	verb := map[bool]string{true: "enable", false: "disable"}[on]
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, u.name, err)
	}
	names := make([]string, 0, len(links))
	for _, l := range links {
		names = append(names, l.File)
	}
	if err := u.ask(ctx, u.root, manager+"Reload", nil); err != nil {
		return names, fmt.Errorf("%s %s: it is done, and systemd did not read its files again: %w", verb, u.name, err)
	}
	return names, nil
}
