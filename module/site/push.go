package site

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dominion/call"
	"dominion/module"
)

// scratch begins the name of the directory in which a module that is being
// installed describes itself.
const scratch = ".install-"

// Module gives the module "module", with which the modules of the site are listed
// and changed by orders. A nil Set gives one for its schemas alone.
func (s *Set) Module() module.Module {
	return module.Module{
		Name: "module", Doc: "The modules of a site's own on a machine.",
		Methods: []module.Method{
			module.Func("list", "Lists the modules of the site, with those that are disabled and why.", module.Read, s.list, module.MethodOptions{}),
			module.Func("install", "Installs a module of the site, or replaces it, when minion.yaml lets it.", module.Change, s.install, module.MethodOptions{}),
			module.Func("remove", "Removes a module of the site, when minion.yaml lets it.", module.Destroy, s.remove, module.MethodOptions{}),
		},
	}
}

// ListIn is the input of module.list.
type ListIn struct{}

// ListOut is the output of module.list.
type ListOut struct {
	Dir     string   `json:"dir" doc:"where they are"`
	Push    bool     `json:"push" doc:"module.install and module.remove may change them"`
	Problem string   `json:"problem,omitempty" doc:"why none of them can be used"`
	Modules []Listed `json:"modules" doc:"one for each file, sorted by name"`
}

// Listed is one module of the site.
type Listed struct {
	Name    string   `json:"name" doc:"of the file, and of the module"`
	State   string   `json:"state" doc:"offered, or disabled"`
	Reason  string   `json:"reason,omitempty" doc:"why it is disabled"`
	Version string   `json:"version,omitempty" doc:"as it says itself"`
	Digest  string   `json:"digest,omitempty" doc:"of the file, sha256:…"`
	Methods []string `json:"methods,omitempty" doc:"what can be called, without the module's name"`
}

// States of a module.
const (
	offered  = "offered"
	disabled = "disabled"
)

func (s *Set) list(context.Context, *module.Env, ListIn) (ListOut, error) {
	if s == nil {
		return ListOut{}, none()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := ListOut{Dir: s.dir, Push: s.push, Problem: s.whole, Modules: []Listed{}}
	for _, e := range s.entries {
		l := Listed{Name: e.name, State: offered, Reason: e.reason, Digest: e.digest}
		if e.reason != "" {
			l.State = disabled
		} else {
			l.Version = e.description.Version
			for _, m := range e.description.Methods {
				l.Methods = append(l.Methods, m.Name)
			}
		}
		out.Modules = append(out.Modules, l)
	}
	return out, nil
}

func none() error { return call.Errorf(call.Failed, "this agent has no modules of the site") }

// InstallIn is the input of module.install.
type InstallIn struct {
	Name    string       `json:"name" doc:"of the module" required:"true" pattern:"[a-z][a-z0-9_]{0,62}"`
	Content module.Bytes `json:"content" doc:"the program" required:"true" min:"1" max:"491520"`
	Digest  string       `json:"digest" doc:"of the content, which is held against it" required:"true" pattern:"sha256:[0-9a-f]{64}"`
	DryRun  bool         `json:"dry_run" doc:"only say what would change; the program describes itself all the same"`
}

// InstallOut is the output of module.install.
type InstallOut struct {
	Changed bool     `json:"changed" doc:"it was not there, or another"`
	Before  string   `json:"before,omitempty" doc:"digest of the file that was there"`
	Version string   `json:"version,omitempty" doc:"as the module says itself"`
	Methods []string `json:"methods" doc:"what it offers, without the module's name"`
}

func (s *Set) install(ctx context.Context, _ *module.Env, in InstallIn) (InstallOut, error) {
	if err := s.mayPush(); err != nil {
		return InstallOut{}, err
	}
	if why := s.nameTaken(in.Name); why != "" {
		return InstallOut{}, call.Errorf(call.Invalid, "%s", why)
	}
	if in.Digest != DigestOf(in.Content) {
		return InstallOut{}, call.Errorf(call.Invalid, "the content does not have the digest %s", in.Digest)
	}
	out, err := s.put(ctx, in)
	if err == nil && out.Changed && !in.DryRun {
		s.onChange(ctx)
	}
	return out, err
}

// DigestOf gives the digest of a program as module.install wants it.
func DigestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *Set) mayPush() error {
	switch {
	case s == nil:
		return none()
	case !s.push:
		return call.Errorf(call.Denied, "this machine's configuration does not let orders change its modules (modules_push in minion.yaml)")
	}
	return nil
}

// put tries a program and, unless it is a dry run, puts it into its place.
func (s *Set) put(ctx context.Context, in InstallIn) (InstallOut, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	if err := s.home(); err != nil {
		return InstallOut{}, err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return InstallOut{}, fmt.Errorf("install module %s: %w", in.Name, err)
	}
	defer root.Close()
	out := InstallOut{Changed: true}
	found, err := s.identify(filepath.Join(s.dir, in.Name))
	if err == nil {
		if out.Before, err = digestOf(found.path); err != nil {
			return InstallOut{}, fmt.Errorf("install module %s: %w", in.Name, err)
		}
		out.Changed = out.Before != in.Digest
	}
	if info, err := root.Lstat(in.Name); err == nil && info.IsDir() {
		return InstallOut{}, call.Errorf(call.Failed, "%s is a directory", filepath.Join(s.dir, in.Name))
	}
	place, d, err := s.try(ctx, root, in)
	defer func() { _ = root.RemoveAll(place) }() // what is left is removed at the next start
	if err != nil {
		return InstallOut{}, err
	}
	out.Version, out.Methods = d.Version, []string{}
	for _, m := range d.Methods {
		out.Methods = append(out.Methods, m.Name)
	}
	if in.DryRun || !out.Changed {
		return out, nil
	}
	if err := root.Rename(filepath.Join(place, in.Name), in.Name); err != nil {
		return InstallOut{}, fmt.Errorf("install module %s: %w", in.Name, err)
	}
	if err := syncDir(root); err != nil {
		return InstallOut{}, fmt.Errorf("install module %s: %w", in.Name, err)
	}
	s.load(ctx, false)
	s.log.Info("module of the site installed by an order", "module", in.Name, "digest", in.Digest, "before", out.Before)
	return out, nil
}

// home makes the directory if only that is missing, and says why it cannot be used.
func (s *Set) home() error {
	if err := os.Mkdir(s.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // the modules' names are no secret
		return fmt.Errorf("make the directory of modules: %w", err)
	}
	if err := safeDir(s.dir); err != nil {
		return call.Errorf(call.Failed, "%v", err)
	}
	return nil
}

// try writes the program into a directory of its own, where it describes itself.
// The caller removes that directory.
func (s *Set) try(ctx context.Context, root *os.Root, in InstallIn) (place string, d module.Description, err error) {
	place = scratch + rand.Text()
	fail := func(err error) (string, module.Description, error) {
		return place, d, fmt.Errorf("install module %s: %w", in.Name, err)
	}
	if err := root.Mkdir(place, 0o700); err != nil {
		return fail(err)
	}
	file := filepath.Join(place, in.Name)
	f, err := root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(in.Content)
	if err == nil {
		err = f.Chmod(0o700)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	if d, err = s.describe(ctx, filepath.Join(s.dir, file), in.Name); err != nil {
		if ctx.Err() != nil {
			return fail(context.Cause(ctx))
		}
		return place, d, call.Errorf(call.Failed, "module %s is not installed: %v", in.Name, err)
	}
	return place, d, nil
}

// syncDir makes what was renamed or removed in a directory durable.
func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// tidy removes what an installation left that was cut off.
func (s *Set) tidy() {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return // there is none
	}
	for _, f := range list {
		if !strings.HasPrefix(f.Name(), scratch) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, f.Name())); err != nil {
			s.log.Warn("what an installation left is not removed", "dir", f.Name(), "err", err)
		}
	}
}

// RemoveIn is the input of module.remove.
type RemoveIn struct {
	Name   string `json:"name" doc:"of the file in the directory of modules, be it disabled or not" required:"true" min:"1" max:"255" pattern:"[^/.][^/]*"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

// RemoveOut is the output of module.remove.
type RemoveOut struct {
	Changed bool   `json:"changed" doc:"it was there"`
	Before  string `json:"before,omitempty" doc:"digest of the file that was there"`
}

func (s *Set) remove(ctx context.Context, _ *module.Env, in RemoveIn) (RemoveOut, error) {
	if err := s.mayPush(); err != nil {
		return RemoveOut{}, err
	}
	out, err := s.drop(ctx, in)
	if err == nil && out.Changed && !in.DryRun {
		s.onChange(ctx)
	}
	return out, err
}

func (s *Set) drop(ctx context.Context, in RemoveIn) (RemoveOut, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	if err := safeDir(s.dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return RemoveOut{}, nil
		}
		return RemoveOut{}, call.Errorf(call.Failed, "%v", err)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return RemoveOut{}, fmt.Errorf("remove module %s: %w", in.Name, err)
	}
	defer root.Close()
	info, err := root.Lstat(in.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return RemoveOut{}, nil
	case err != nil:
		return RemoveOut{}, fmt.Errorf("remove module %s: %w", in.Name, err)
	case info.IsDir():
		return RemoveOut{}, call.Errorf(call.Failed, "%s is a directory", filepath.Join(s.dir, in.Name))
	}
	out := RemoveOut{Changed: true}
	if info.Mode().IsRegular() {
		out.Before, _ = digestOf(filepath.Join(s.dir, in.Name)) // one that cannot be read can be removed
	}
	if in.DryRun {
		return out, nil
	}
	if err := root.Remove(in.Name); err != nil {
		return RemoveOut{}, fmt.Errorf("remove module %s: %w", in.Name, err)
	}
	if err := syncDir(root); err != nil {
		return RemoveOut{}, fmt.Errorf("remove module %s: %w", in.Name, err)
	}
	s.load(ctx, false)
	s.log.Info("module of the site removed by an order", "module", in.Name, "digest", out.Before)
	return out, nil
}
