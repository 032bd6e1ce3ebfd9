package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
)

// maxDepth is how deep remove goes; each level holds a descriptor.
const maxDepth = 512

type removeIn struct {
	Path      string `json:"path" doc:"absolute path; of a symbolic link, the link itself is removed" required:"true" max:"4095"`
	Recursive bool   `json:"recursive" doc:"remove a directory with all that is in it, unless something is mounted in it"`
	Plan
}

// Removed is the answer of remove.
type Removed struct {
	Changed bool `json:"changed" doc:"whether anything was removed, or would be"`
	Removed int  `json:"removed" doc:"number of names that were removed, or would be"`
}

func remove(ctx context.Context, _ *module.Env, in removeIn) (Removed, error) {
	p, err := place.Open(in.Path)
	if missing(err) {
		return Removed{}, nil
	}
	if err != nil {
		return Removed{}, err
	}
	defer p.Close()
	if p.Base == "." {
		return Removed{}, call.Errorf(call.Denied, "%s: the root directory is not removed, nor what is named by . or .. at the end", in.Path)
	}
	if _, err := p.Lstat(); missing(err) {
		return Removed{}, nil
	}
	home, err := mountOf(p.Dir)
	if err != nil {
		return Removed{}, err
	}
	// What is mounted somewhere below is found before anything is removed.
	dry := remover{mount: home, recursive: in.Recursive, dry: true}
	if err := dry.remove(ctx, p, 0); err != nil {
		return Removed{}, err
	}
	if in.DryRun {
		return Removed{Changed: true, Removed: dry.removed}, nil
	}
	r := remover{mount: home, recursive: in.Recursive}
	if err = r.remove(ctx, p, 0); err == nil {
		err = p.Sync()
	}
	return Removed{Changed: r.removed > 0, Removed: r.removed}, err
}

// mount tells mounts apart: by the kernel's number of it where that is known
// (Linux 5.8), and else by the device, which another directory of the same one
// has too.
type mount struct {
	id, device uint64
}

func mountOf(dir *os.Root) (mount, error) {
	f, err := dir.Open(".")
	if err != nil {
		return mount{}, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return mount{}, err
	}
	var st unix.Statx_t
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	}); err != nil {
		return mount{}, err
	}
	if failed != nil {
		return mount{}, fmt.Errorf("look at %s: %w", dir.Name(), failed)
	}
	return mount{st.Mnt_id, unix.Mkdev(st.Dev_major, st.Dev_minor)}, nil
}

// remover removes a tree, or counts what it would remove.
type remover struct {
	mount          mount // of the directory that all of it lies in
	recursive, dry bool
	removed        int
}

func (r *remover) remove(ctx context.Context, p *place.Place, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%d names removed: %w", r.removed, err)
	}
	info, err := p.Lstat()
	if missing(err) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := r.contents(ctx, p, depth); err != nil {
			return err
		}
	}
	if !r.dry {
		if err := p.Dir.Remove(p.Base); err != nil && !missing(err) {
			return fmt.Errorf("remove %s: %w", p.Path(), bare(err))
		}
	}
	r.removed++
	return nil
}

// bare takes the path off, which is not the whole one.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// contents removes what is in a directory.
func (r *remover) contents(ctx context.Context, p *place.Place, depth int) error {
	if depth > maxDepth {
		return call.Errorf(call.Failed, "%s: directories lie deeper than %d", p.Path(), maxDepth)
	}
	dir, err := p.Directory()
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	here, err := mountOf(dir)
	if err != nil {
		return err
	}
	if here != r.mount {
		return call.Errorf(call.Denied, "something is mounted on %s, which is not removed", p.Path())
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(512)
		if len(names) > 0 && !r.recursive {
			return call.Errorf(call.Failed, "%s is not empty; recursive=true removes what is in it", p.Path())
		}
		for _, name := range names {
			child, err := place.In(dir, name)
			if err == nil {
				err = r.remove(ctx, child, depth+1)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type mkdirIn struct {
	Path string `json:"path" doc:"absolute path of the directory" required:"true" max:"4095"`
	Access
	Parents bool `json:"parents" doc:"make the directories above it too, with mode 0755"`
	Plan
}

// Made is the answer of mkdir, chmod, chown and link.
type Made struct {
	Changed bool `json:"changed" doc:"whether anything was changed, or would be"`
}

func mkdir(ctx context.Context, env *module.Env, in mkdirIn) (Made, error) {
	d, err := in.Access.look(ctx, env)
	if err != nil {
		return Made{}, err
	}
	if in.Parents {
		made, err := parents(ctx, path.Dir(path.Clean(in.Path)), in.DryRun)
		if err != nil || made && in.DryRun {
			return Made{Changed: made}, err
		}
	}
	changed, err := directory(in.Path, d, in.DryRun)
	return Made{Changed: changed}, err
}

// parents makes the directories of a path that are missing.
func parents(ctx context.Context, name string, dry bool) (changed bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	p, err := place.Follow(name)
	if err == nil {
		defer p.Close()
		_, err = p.Lstat()
	}
	if !missing(err) || name == "/" {
		return false, err
	}
	above, err := parents(ctx, path.Dir(name), dry)
	if err != nil || above && dry {
		return above, err
	}
	_, err = directory(name, dress{}, dry)
	return true, err
}

// directory makes a directory, or gives the one that is there owner and mode.
func directory(name string, d dress, dry bool) (changed bool, err error) {
	p, err := place.Follow(name)
	if err != nil {
		return false, err
	}
	defer p.Close()
	info, err := p.Lstat()
	switch {
	case missing(err):
		if dry {
			return true, nil
		}
		return true, makeDirectory(p, d)
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, call.Errorf(call.Conflict, "%s is %s", p.Path(), place.Kind(info.Mode()))
	case !d.differs(info) || dry:
		return d.differs(info), nil
	}
	f, info, err := dirOrFile(p)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, d.keep(info).apply(f)
}

// makeDirectory gives nobody a way in before it is as it shall be.
func makeDirectory(p *place.Place, d dress) error {
	if err := p.Dir.Mkdir(p.Base, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", p.Path(), bare(err))
	}
	f, info, err := dirOrFile(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if st := info.Sys().(*syscall.Stat_t); st.Uid != uint32(os.Geteuid()) {
		return call.Errorf(call.Conflict, "make %s: somebody put something else there at the same time", p.Path())
	}
	if d.mode == nil {
		d.mode = new(0o755 | info.Mode()&fs.ModeSetgid)
	}
	if err := d.apply(f); err != nil {
		return fmt.Errorf("make %s: %w", p.Path(), err)
	}
	return p.Sync()
}

// keep is d with the mode that a file has when none is wanted: the kernel
// takes bits away when the owner changes.
func (d dress) keep(info fs.FileInfo) dress {
	if d.mode == nil && info.IsDir() {
		d.mode = new(info.Mode() & modeBits)
	}
	return d
}
