package file

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
)

type linkIn struct {
	Path    string `json:"path" doc:"absolute path of the new link" required:"true" max:"4095"`
	Target  string `json:"target" doc:"what it leads to: any text for a symbolic link, the absolute path of a regular file for a hard one" required:"true" min:"1" max:"4095"`
	Hard    bool   `json:"hard" doc:"make a hard link"`
	Replace bool   `json:"replace" doc:"take the place of another link or a regular file"`
	Plan
}

func link(_ context.Context, _ *module.Env, in linkIn) (Made, error) {
	if strings.ContainsRune(in.Target, 0) {
		return Made{}, call.Errorf(call.Invalid, "field target: a zero byte")
	}
	p, err := place.Open(in.Path)
	if err != nil {
		return Made{}, err
	}
	defer p.Close()
	var to *place.Place
	if in.Hard {
		if to, err = place.Follow(in.Target); err != nil {
			return Made{}, err
		}
		defer to.Close()
	}
	there, taken, err := present(p, to, in)
	if err != nil || there {
		return Made{}, err
	}
	if taken && !in.Replace {
		return Made{}, call.Errorf(call.Conflict, "%s exists; replace=true takes its place", p.Path())
	}
	if in.DryRun {
		return Made{Changed: true}, nil
	}
	return Made{Changed: true}, establish(p, to, in, taken)
}

// present says whether the link is there already, or something else is.
func present(p, to *place.Place, in linkIn) (there, taken bool, err error) {
	var target fs.FileInfo
	if to != nil {
		f, info, err := to.File(os.O_RDONLY)
		if err != nil {
			return false, false, err
		}
		f.Close()
		if err := sole(to, info); err != nil {
			return false, false, err
		}
		target = info
	}
	info, err := p.Lstat()
	if missing(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if mode := info.Mode(); !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return false, false, call.Errorf(call.Conflict, "%s is %s", p.Path(), place.Kind(mode))
	}
	if to != nil {
		return os.SameFile(info, target), true, nil
	}
	if info.Mode().IsRegular() {
		return false, true, nil
	}
	now, err := p.Dir.Readlink(p.Base)
	return now == in.Target, true, err
}

// establish makes the link, beside its place when that is taken.
func establish(p, to *place.Place, in linkIn, taken bool) error {
	at := p
	if taken {
		beside, err := place.In(p.Dir, place.DraftPrefix+strings.ToLower(rand.Text()))
		if err != nil {
			return err
		}
		at = beside
	}
	var err error
	if to == nil {
		err = p.Dir.Symlink(in.Target, at.Base)
	} else {
		err = at.Link(to)
	}
	if err == nil && taken {
		if err = p.Dir.Rename(at.Base, p.Base); err != nil {
			_ = p.Dir.Remove(at.Base) // what it is named says what it was
		}
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", p.Path(), bare(err))
	}
	return p.Sync()
}
