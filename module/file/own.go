package file

import (
	"context"
	"fmt"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
)

type chmodIn struct {
	Path string `json:"path" doc:"absolute path of a file or directory" required:"true" max:"4095"`
	Mode string `json:"mode" doc:"mode in octal, such as 0644" required:"true" pattern:"0?[0-7]{3,4}"`
	Plan
}

func chmod(ctx context.Context, env *module.Env, in chmodIn) (Made, error) {
	return own(ctx, env, in.Path, Access{Mode: in.Mode}, in.DryRun)
}

type chownIn struct {
	Path  string `json:"path" doc:"absolute path of a file or directory" required:"true" max:"4095"`
	Owner string `json:"owner" doc:"owner, by name or number" max:"256"`
	Group string `json:"group" doc:"group, by name or number" max:"256"`
	Plan
}

func chown(ctx context.Context, env *module.Env, in chownIn) (Made, error) {
	if in.Owner == "" && in.Group == "" {
		return Made{}, call.Errorf(call.Invalid, "file.chown: give an owner, a group, or both")
	}
	return own(ctx, env, in.Path, Access{Owner: in.Owner, Group: in.Group}, in.DryRun)
}

func own(ctx context.Context, env *module.Env, path string, o Access, dry bool) (Made, error) {
	d, err := o.look(ctx, env)
	if err != nil {
		return Made{}, err
	}
	p, err := place.Follow(path)
	if err != nil {
		return Made{}, err
	}
	defer p.Close()
	f, info, err := dirOrFile(p)
	if err != nil {
		return Made{}, err
	}
	defer f.Close()
	changed := d.differs(info)
	if !changed || dry {
		return Made{Changed: changed}, nil
	}
	if err := d.keep(info).apply(f); err != nil {
		return Made{}, fmt.Errorf("change %s: %w", p.Path(), err)
	}
	return Made{Changed: true}, nil
}
