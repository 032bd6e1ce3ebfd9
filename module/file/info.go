package file

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"dominion/call"
	"dominion/module"
	"dominion/module/names"
	"dominion/module/place"
)

// Info is what is known about something that has a name.
type Info struct {
	Kind     string    `json:"kind" doc:"file, directory, link, fifo, socket or device"`
	Size     int64     `json:"size" doc:"bytes"`
	Mode     string    `json:"mode" doc:"permissions in octal, four digits"`
	User     string    `json:"user" doc:"owner; the number when there is no name"`
	Group    string    `json:"group" doc:"group; the number when there is no name"`
	UID      uint32    `json:"uid" doc:"number of the owner"`
	GID      uint32    `json:"gid" doc:"number of the group"`
	Modified time.Time `json:"modified" doc:"when its content was last changed"`
	Links    uint64    `json:"links" doc:"names that it has"`
	Target   string    `json:"target,omitempty" doc:"of a symbolic link: what it says"`
}

var kinds = map[fs.FileMode]string{0: "file", fs.ModeDir: "directory", fs.ModeSymlink: "link", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket"}

func describe(info fs.FileInfo) Info {
	st := info.Sys().(*syscall.Stat_t)
	kind, ok := kinds[info.Mode().Type()]
	if !ok {
		kind = "device"
	}
	return Info{
		Kind: kind, Size: info.Size(), Mode: octal(info.Mode()), UID: st.Uid, GID: st.Gid,
		Modified: info.ModTime().UTC(), Links: uint64(st.Nlink),
	}
}

type statIn struct {
	Path   string `json:"path" doc:"its absolute path" required:"true" max:"4095"`
	Follow bool   `json:"follow" doc:"of a symbolic link that may be followed: tell about what it leads to"`
}

// Stat is the answer of stat.
type Stat struct {
	Exists bool   `json:"exists" doc:"whether there is anything of that name"`
	Path   string `json:"path,omitempty" doc:"where it is, links on the way resolved"`
	Info   *Info  `json:"info,omitempty" doc:"what it is"`
}

func stat(ctx context.Context, env *module.Env, in statIn) (Stat, error) {
	open := place.Open
	if in.Follow {
		open = place.Follow
	}
	p, err := open(in.Path)
	if missing(err) {
		return Stat{}, nil
	}
	if err != nil {
		return Stat{}, err
	}
	defer p.Close()
	fi, err := p.Lstat()
	if missing(err) {
		return Stat{}, nil
	}
	if err != nil {
		return Stat{}, err
	}
	info := describe(fi)
	if info.Kind == "link" {
		if info.Target, err = p.Dir.Readlink(p.Base); err != nil {
			return Stat{}, err
		}
		info.Target = text(info.Target)
	}
	n := names.Learn(ctx, env, []uint32{info.UID}, []uint32{info.GID})
	info.User, info.Group = n.User(info.UID), n.Group(info.GID)
	return Stat{Exists: true, Path: text(p.Path()), Info: &info}, nil
}

// text makes a name that need not be UTF-8 fit for an answer.
func text(s string) string { return strings.ToValidUTF8(s, string(utf8.RuneError)) }

type listIn struct {
	Path  string `json:"path" doc:"absolute path of the directory" required:"true" max:"4095"`
	Match string `json:"match" doc:"list only names that match this pattern, in which * is any text, ? any character and [a-z] one of these" max:"255"`
	After string `json:"after" doc:"list only names that come after this one, for the next page" max:"255"`
	Limit int    `json:"limit" doc:"most entries to give" default:"500" min:"1" max:"2000"`
}

// Entry is one name in a directory.
type Entry struct {
	Name string `json:"name" doc:"its name"`
	Info
}

// List is the answer of list.
type List struct {
	Entries []Entry `json:"entries" doc:"what is in it, by name"`
	More    bool    `json:"more,omitempty" doc:"there are more names after the last one"`
}

func list(ctx context.Context, env *module.Env, in listIn) (List, error) {
	if _, err := path.Match(in.Match, ""); err != nil {
		return List{}, call.Errorf(call.Invalid, "match %.60q: %v", in.Match, err)
	}
	p, err := place.Follow(in.Path)
	if err != nil {
		return List{}, err
	}
	defer p.Close()
	dir, err := p.Directory()
	if err != nil {
		return List{}, err
	}
	defer dir.Close()
	wanted, more, err := first(ctx, dir, in)
	if err != nil {
		return List{}, err
	}
	out := List{Entries: []Entry{}, More: more}
	size := 0
	for _, name := range wanted {
		e, err := entry(dir, name)
		if missing(err) {
			continue // gone meanwhile
		}
		if err != nil {
			return List{}, err
		}
		if size += 400 + 6*(len(e.Name)+len(e.Target)); size > maxAnswer {
			out.More = true
			break
		}
		out.Entries = append(out.Entries, e)
	}
	named(ctx, env, out.Entries)
	return out, nil
}

// first gives the first names of a directory in their order, and holds no more
// than twice as many as are wanted.
func first(ctx context.Context, dir *os.Root, in listIn) (found []string, more bool, err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	trim := func() {
		slices.Sort(found)
		if len(found) > in.Limit {
			found, more = found[:in.Limit], true
		}
	}
	for {
		batch, err := f.Readdirnames(1024)
		for _, name := range batch {
			if ok, _ := path.Match(in.Match, name); (ok || in.Match == "") && name > in.After {
				found = append(found, name)
			}
		}
		if len(found) > 2*in.Limit {
			trim()
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) {
			trim()
			return found, more, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
}

func entry(dir *os.Root, name string) (Entry, error) {
	fi, err := dir.Lstat(name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Name: text(name), Info: describe(fi)}
	if e.Kind == "link" {
		if e.Target, err = dir.Readlink(name); err != nil {
			return Entry{}, err
		}
		e.Target = text(e.Target)
	}
	return e, nil
}

// named fills in the names of users and groups.
func named(ctx context.Context, env *module.Env, entries []Entry) {
	var uids, gids []uint32
	for _, e := range entries {
		uids, gids = append(uids, e.UID), append(gids, e.GID)
	}
	n := names.Learn(ctx, env, uids, gids)
	for i := range entries {
		e := &entries[i]
		e.User, e.Group = n.User(e.UID), n.Group(e.GID)
	}
}
