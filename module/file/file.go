// Package file is the module of files and directories.
//
// Every path is opened by package place: no symbolic link that somebody else
// could have put there is followed, nothing but regular files and directories
// is opened, and what is written takes the place of what was there as a whole.
// The one exception is append with in_place, for files that a program holds
// open.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/names"
	"dominion/module/place"
)

// Bounds.
const (
	maxAnswer = 700 << 10 // of what an answer holds of a file, in bytes as written in JSON
	maxText   = 4 << 20   // of a file that is compared or edited in memory
	maxCopy   = 256 << 20 // of a file that append copies
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "file",
	Doc: "Files and directories. A symbolic link is followed only when it and all directories on the way to it belong to root or the agent's user and nobody else can write there. " +
		"Devices, FIFOs and sockets are never opened. A file is replaced as a whole: it keeps owner, group, mode without setuid and setgid, and extended attributes where the file system lets it.",
	Methods: []module.Method{
		module.Func("stat", "Tells about a file, a directory or anything else that has a name.", module.Read, stat, module.MethodOptions{}),
		module.Func("list", "Lists a directory.", module.Read, list, module.MethodOptions{}),
		module.Func("checksum", "Gives the digest of a regular file.", module.Read, checksum, module.MethodOptions{}),
		module.Func("read", "Reads a regular file, or a part of it.", module.Read, read, module.MethodOptions{}),
		module.Func("write", "Puts a file in place, as a whole.", module.Change, write, module.MethodOptions{}),
		module.Func("append", "Adds to the end of a file.", module.Change, appendTo, module.MethodOptions{}),
		module.Func("block", "Keeps a block of lines between two markers in a text file.", module.Change, block, module.MethodOptions{}),
		module.Func("remove", "Removes a file or a directory.", module.Destroy, remove, module.MethodOptions{}),
		module.Func("mkdir", "Makes a directory.", module.Change, mkdir, module.MethodOptions{}),
		module.Func("chmod", "Sets the mode of a file or directory.", module.Change, chmod, module.MethodOptions{}),
		module.Func("chown", "Sets owner and group of a file or directory.", module.Change, chown, module.MethodOptions{}),
		module.Func("link", "Makes a symbolic or hard link.", module.Change, link, module.MethodOptions{}),
	},
}

// Plan is an input of every method that changes something.
type Plan struct {
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

// Access is the input of methods that give a file to somebody.
type Access struct {
	Mode  string `json:"mode" doc:"mode in octal, such as 0644" pattern:"(0?[0-7]{3,4})?"`
	Owner string `json:"owner" doc:"owner, by name or number" max:"256"`
	Group string `json:"group" doc:"group, by name or number" max:"256"`
}

// dress is an Access, looked up.
type dress struct {
	mode     *fs.FileMode
	uid, gid *int
}

func (o Access) look(ctx context.Context, env *module.Env) (dress, error) {
	var d dress
	if o.Mode != "" {
		mode, err := parseMode(o.Mode)
		if err != nil {
			return d, err
		}
		d.mode = &mode
	}
	if o.Owner != "" {
		uid, err := names.UID(ctx, env, o.Owner)
		if err != nil {
			return d, err
		}
		d.uid = &uid
	}
	if o.Group != "" {
		gid, err := names.GID(ctx, env, o.Group)
		if err != nil {
			return d, err
		}
		d.gid = &gid
	}
	return d, nil
}

// differs says whether a file has another mode or owner than is wanted.
func (d dress) differs(info fs.FileInfo) bool {
	st := info.Sys().(*syscall.Stat_t)
	return d.mode != nil && *d.mode != info.Mode()&modeBits || d.uid != nil && uint32(*d.uid) != st.Uid || d.gid != nil && uint32(*d.gid) != st.Gid
}

// apply gives an open file or directory the wanted owner and mode, and keeps
// what is not wanted otherwise: the setuid bit goes with the old owner.
func (d dress) apply(f *os.File) error {
	uid, gid := -1, -1
	if d.uid != nil {
		uid = *d.uid
	}
	if d.gid != nil {
		gid = *d.gid
	}
	if uid >= 0 || gid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if d.mode == nil {
		return nil
	}
	return f.Chmod(*d.mode)
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// parseMode reads three or four octal digits.
func parseMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(text, 8, 16)
	if err != nil || n > 0o7777 {
		return 0, call.Errorf(call.Invalid, "mode %.10q: wants octal digits, such as 0644", text)
	}
	mode := fs.FileMode(n & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			mode |= flag
		}
	}
	return mode, nil
}

// octal is the inverse of parseMode, with four digits.
func octal(mode fs.FileMode) string {
	n := uint32(mode.Perm())
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&flag != 0 {
			n |= bit
		}
	}
	return fmt.Sprintf("%04o", n)
}

// missing says that there is nothing of that name, or no directory for it.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// reader reads a file until ctx ends. Some that look regular, such as
// /proc/kmsg, let a reader wait.
type reader struct {
	ctx  context.Context //nolint:containedctx // it lives as long as one copy
	f    *os.File
	stop func() bool
}

// reading gives a reader of f. The caller calls its stop.
func reading(ctx context.Context, f *os.File) reader {
	return reader{ctx, f, context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })} // an error: none that could wait
}

func (r reader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.f.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(r.ctx)
	}
	return n, err
}

// dirOrFile opens what has its name in p for changing its owner or mode. A
// regular file that has other names too is refused where somebody else could
// have given it this one.
func dirOrFile(p *place.Place) (*os.File, fs.FileInfo, error) {
	info, err := p.Lstat()
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		dir, err := p.Directory()
		if err != nil {
			return nil, nil, err
		}
		defer dir.Close()
		f, err := dir.Open(".")
		if err != nil {
			return nil, nil, err
		}
		info, err = f.Stat()
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		return f, info, nil
	}
	f, info, err := p.File(os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	if err := sole(p, info); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// sole refuses a file with other names where somebody else could have given
// it the one that we know.
func sole(p *place.Place, info fs.FileInfo) error {
	if n := place.Links(info); n > 1 && !p.Trusted {
		return call.Errorf(call.Denied, "%s has %d names, and others can write to directories on the way to this one: it could be anybody's file", p.Path(), n)
	}
	return nil
}
