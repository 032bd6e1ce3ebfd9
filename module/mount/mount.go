// Package mount is the module of mounts and of /etc/fstab.
//
// A file system is mounted with mount(2), on a directory that package place
// opened: nobody can make it another one meanwhile. Where that is not enough
// the program mount(8) does it: for types that have a helper, such as nfs, whose
// options are not the kernel's; for sources to be looked up, such as
// UUID=…; for loop devices. It goes by a path, and so only where nobody else
// could change that. umount2(2) is enough for all.
package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
	"dominion/module/mountinfo"
	"dominion/module/place"
	"dominion/module/run"
)

// Bounds of an answer.
const (
	maxMounts = 2000
	maxAnswer = 700 << 10
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "mount",
	Doc: "Mounts, and the entries of /etc/fstab. Types that have a helper program (nfs, cifs), sources such as UUID=… and loop devices are mounted by the program mount, all others by the kernel directly. " +
		"Where systemd runs it reads fstab again when it is told to (systemctl daemon-reload).",
	Methods: []module.Method{
		module.Func("list", "Lists what is mounted.", module.Read, list, module.MethodOptions{}),
		module.Func("mount", "Mounts a file system.", module.Change, system.mount, module.MethodOptions{}),
		module.Func("umount", "Takes a mount away.", module.Change, umount, module.MethodOptions{}),
		module.Func("fstab", "Lists the entries of fstab.", module.Read, system.list, module.MethodOptions{}),
		module.Func("fstab_add", "Adds an entry to fstab, or puts it in place of the one for the same directory.", module.Change, system.add, module.MethodOptions{}),
		module.Func("fstab_remove", "Takes an entry out of fstab.", module.Change, system.remove, module.MethodOptions{}),
	},
}

// machine is where things are; tests have an fstab of their own.
type machine struct{ fstab string }

var system = machine{fstab: "/etc/fstab"}

type listIn struct {
	Type  string `json:"type" doc:"only file systems of this type" max:"64"`
	Match string `json:"match" doc:"only mount points that match this pattern, in which * is any text without a slash" max:"4095"`
}

// List is the answer of list.
type List struct {
	Mounts []Mount `json:"mounts" doc:"what is mounted, in the order in which it was; of two on one directory the later one is seen"`
	More   bool    `json:"more,omitempty" doc:"there are more than fit into an answer"`
}

// Mount is one mount.
type Mount struct {
	Path    string `json:"path" doc:"where"`
	Source  string `json:"source" doc:"what"`
	Type    string `json:"type" doc:"type of the file system"`
	Options string `json:"options" doc:"options of the mount"`
	Super   string `json:"super" doc:"options of the file system"`
	Root    string `json:"root,omitempty" doc:"the directory of the file system that is mounted, when that is not its root"`
}

func list(_ context.Context, _ *module.Env, in listIn) (List, error) {
	if _, err := path.Match(in.Match, ""); err != nil {
		return List{}, call.Errorf(call.Invalid, "match %.100q: %v", in.Match, err)
	}
	mounts, err := mountinfo.Read()
	if err != nil {
		return List{}, err
	}
	out := List{Mounts: []Mount{}}
	size := 0
	for _, m := range mounts {
		if ok, _ := path.Match(in.Match, m.Point); in.Match != "" && !ok || in.Type != "" && in.Type != m.Type {
			continue
		}
		e := Mount{text(m.Point), text(m.Source), text(m.Type), text(m.Options), text(m.Super), ""}
		if m.Root != "/" {
			e.Root = text(m.Root)
		}
		size += 200 + 6*(len(e.Path)+len(e.Source)+len(e.Type)+len(e.Options)+len(e.Super)+len(e.Root))
		if len(out.Mounts) == maxMounts || size > maxAnswer {
			out.More = true
			break
		}
		out.Mounts = append(out.Mounts, e)
	}
	return out, nil
}

func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

type mountIn struct {
	Path    string `json:"path" doc:"absolute path of the directory; it must exist" required:"true" max:"4095"`
	Source  string `json:"source" doc:"what to mount: a device, UUID=…, server:/directory, or a directory with the option bind; as fstab says when it is left out" max:"4095"`
	Type    string `json:"type" doc:"type of the file system; found out by the program mount when it is left out" pattern:"[A-Za-z0-9_.-]*" max:"64"`
	Options string `json:"options" doc:"options, separated by commas, as in fstab" max:"4000"`
	DryRun  bool   `json:"dry_run" doc:"only say what would change"`
}

// Changed is the answer of mount and umount.
type Changed struct {
	Changed bool   `json:"changed" doc:"whether anything was changed, or would be"`
	How     string `json:"how,omitempty" doc:"kernel, or the program that does it"`
}

func (s machine) mount(ctx context.Context, env *module.Env, in mountIn) (Changed, error) {
	if in.Source == "" {
		if err := s.complete(&in); err != nil {
			return Changed{}, err
		}
	}
	if strings.ContainsAny(in.Source+in.Options, "\x00\n") {
		return Changed{}, call.Errorf(call.Invalid, "a zero byte or a line feed in the source or the options")
	}
	o, err := parseOptions(in.Options)
	if err != nil {
		return Changed{}, err
	}
	p, err := place.Follow(in.Path)
	if err != nil {
		return Changed{}, err
	}
	defer p.Close()
	there, err := present(p.Path())
	if err != nil {
		return Changed{}, err
	}
	if err := settled(p, there, in, o); err != nil || there != nil && o.flags&unix.MS_REMOUNT == 0 {
		return Changed{}, err
	}
	program, err := helper(in, o)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Changed: true, How: "kernel"}
	if program != "" {
		out.How = program
	}
	if in.DryRun {
		return out, nil
	}
	if program != "" {
		return out, byProgram(ctx, env, p, program, in)
	}
	if err := byKernel(p, in, o); err != nil {
		return Changed{}, err
	}
	if there != nil { // mounted again: with what effect, the table says
		now, err := present(p.Path())
		return Changed{Changed: err != nil || now == nil || now.Options != there.Options || now.Super != there.Super, How: out.How}, err
	}
	return out, nil
}

// present gives what is mounted on a directory; nil: nothing.
func present(point string) (*mountinfo.Mount, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Point == point {
			return &m, nil
		}
	}
	return nil, nil
}

// settled refuses to mount over something else, and to mount again what is
// not there.
func settled(p *place.Place, there *mountinfo.Mount, in mountIn, o options) error {
	again := o.flags&unix.MS_REMOUNT != 0
	switch {
	case again && there == nil:
		return call.Errorf(call.Failed, "nothing is mounted on %s", p.Path())
	case again || there == nil:
		return nil
	case o.flags&unix.MS_BIND != 0:
		return bound(p, in)
	case there.Source != in.Source && !looked(in.Source) || in.Type != "" && in.Type != "auto" && in.Type != there.Type:
		return call.Errorf(call.Conflict, "%s (%s) is mounted on %s", there.Source, there.Type, p.Path())
	}
	return nil
}

// bound says whether what is mounted on a directory is the one to be bound
// there.
func bound(p *place.Place, in mountIn) error {
	s, err := place.Follow(in.Source)
	if err != nil {
		return err
	}
	defer s.Close()
	want, err := s.Lstat()
	if err != nil {
		return err
	}
	if is, err := p.Lstat(); err != nil || !os.SameFile(is, want) {
		return call.Errorf(call.Conflict, "something else is mounted on %s", p.Path())
	}
	return nil
}

// looked says that a source is a tag, which the program mount looks up.
func looked(source string) bool {
	tag, _, found := strings.Cut(source, "=")
	return found && slices.Contains([]string{"LABEL", "UUID", "PARTLABEL", "PARTUUID", "ID"}, tag)
}

// helper gives the program mount when it is needed.
func helper(in mountIn, o options) (string, error) {
	needed := in.Type == "" || in.Type == "auto" || looked(in.Source) || o.program
	if o.flags&(unix.MS_BIND|unix.MS_REMOUNT) != 0 && !o.program {
		needed = false
	}
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if _, err := os.Stat(dir + "/mount." + in.Type); in.Type != "" && err == nil {
			needed = true
		}
	}
	if !needed {
		return "", nil
	}
	return run.Find("mount")
}

func byProgram(ctx context.Context, env *module.Env, p *place.Place, program string, in mountIn) error {
	if !p.Trusted {
		return call.Errorf(call.Denied, "others can write to directories on the way to %s, and the program %s goes by its path", p.Path(), program)
	}
	args := []string{}
	if in.Type != "" {
		args = append(args, "-t", in.Type)
	}
	if in.Options != "" {
		args = append(args, "-o", in.Options)
	}
	if _, err := run.Output(ctx, env, program, append(args, "--", in.Source, p.Path())...); err != nil {
		return err
	}
	return nil
}

// byKernel mounts on the directory that is open.
func byKernel(p *place.Place, in mountIn, o options) error {
	dir, err := p.Directory()
	if err != nil {
		return err
	}
	defer dir.Close()
	source := in.Source
	if o.flags&(unix.MS_BIND|unix.MS_REMOUNT) == unix.MS_BIND {
		s, err := place.Follow(in.Source)
		if err != nil {
			return err
		}
		defer s.Close()
		from, err := s.Directory()
		if err != nil {
			return err
		}
		defer from.Close()
		return through(from, func(source string) error { return at(dir, p, source, in.Type, o) })
	}
	return at(dir, p, source, in.Type, o)
}

func at(dir *os.Root, p *place.Place, source, kind string, o options) error {
	err := through(dir, func(target string) error {
		return unix.Mount(source, target, kind, o.flags, strings.Join(o.data, ","))
	})
	if err == nil && o.flags&unix.MS_BIND != 0 && o.flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) != 0 && o.flags&unix.MS_REMOUNT == 0 {
		err = again(p, o)
	}
	if errors.Is(err, unix.ENODEV) {
		return call.Errorf(call.Failed, "mount on %s: this kernel has no file system %q", p.Path(), kind)
	}
	if err != nil {
		return fmt.Errorf("mount on %s: %w", p.Path(), err)
	}
	return nil
}

// again gives a bound directory its flags, which the kernel takes in a second
// call, through the mount that is there now. Without them it does not stay.
func again(p *place.Place, o options) error {
	dir, err := p.Directory()
	if err != nil {
		return err
	}
	defer dir.Close()
	err = through(dir, func(target string) error {
		return unix.Mount("", target, "", o.flags&^unix.MS_REC|unix.MS_REMOUNT, "")
	})
	if err != nil {
		dir.Close()
		_ = detach(p, unix.MNT_DETACH) // what is wrong is told already
	}
	return err
}

// through lends a path of an open directory that the kernel cannot lead
// elsewhere.
func through(dir *os.Root, do func(path string) error) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(fmt.Sprintf("/proc/thread-self/fd/%d", fd)) }); err != nil {
		return err
	}
	return failed
}

type umountIn struct {
	Path   string `json:"path" doc:"absolute path of the mount point" required:"true" max:"4095"`
	Lazy   bool   `json:"lazy" doc:"take it away from the tree at once, and end it when nobody uses it any more"`
	Force  bool   `json:"force" doc:"of a network file system whose server is gone: what was not written is lost"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

func umount(_ context.Context, _ *module.Env, in umountIn) (Changed, error) {
	p, err := place.Follow(in.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Changed{}, nil
	}
	if err != nil {
		return Changed{}, err
	}
	defer p.Close()
	if p.Base == "." {
		return Changed{}, call.Errorf(call.Denied, "%s: the root is not taken away, nor what is named by . or .. at the end", in.Path)
	}
	there, err := present(p.Path())
	if err != nil || there == nil {
		return Changed{}, err
	}
	if in.DryRun {
		return Changed{Changed: true, How: "kernel"}, nil
	}
	flags := 0
	if in.Lazy {
		flags |= unix.MNT_DETACH
	}
	if in.Force {
		flags |= unix.MNT_FORCE
	}
	if err := detach(p, flags); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return Changed{}, call.Errorf(call.Failed, "umount %s: it is in use; lazy=true takes it away all the same", p.Path())
		}
		return Changed{}, fmt.Errorf("umount %s: %w", p.Path(), err)
	}
	return Changed{Changed: true, How: "kernel"}, nil
}

// detach takes away what is mounted on the place, by its name in a directory
// that is held.
func detach(p *place.Place, flags int) error {
	return through(p.Dir, func(dir string) error { return unix.Unmount(dir+"/"+p.Base, flags|unix.UMOUNT_NOFOLLOW) })
}
