package boot

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// The types of what a cpio archive holds, as in st_mode.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
	typeChar = 0o020000
)

// archive writes cpio "newc". Everything belongs to root and is of no time, so
// that the same content gives the same bytes.
type archive struct {
	w     io.Writer
	inode uint32
	at    int64
	dirs  map[string]bool
	err   error // the first one
}

func newArchive(w io.Writer) *archive {
	return &archive{w: w, dirs: map[string]bool{".": true, "": true}}
}

// dir makes a folder and those above it.
func (a *archive) dir(name string, mode uint32) {
	name = strings.Trim(name, "/")
	if a.dirs[name] {
		return
	}
	a.parents(name)
	a.dirs[name] = true
	a.entry(name, typeDir|mode, 0, 0, nil)
}

func (a *archive) parents(name string) {
	if up := path.Dir(name); up != "." {
		a.dir(up, 0o755)
	}
}

func (a *archive) file(name string, mode uint32, content []byte) {
	a.parents(name)
	a.entry(name, typeFile|mode, 0, 0, content)
}

func (a *archive) link(name, to string) {
	a.parents(name)
	a.entry(name, typeLink|0o777, 0, 0, []byte(to))
}

// device makes a character device.
func (a *archive) device(name string, mode, major, minor uint32) {
	a.parents(name)
	a.entry(name, typeChar|mode, major, minor, nil)
}

// close writes the end, and gives the first error.
func (a *archive) close() error {
	a.inode = 0
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

const maxEntry = 1<<32 - 1

func (a *archive) entry(name string, mode, major, minor uint32, content []byte) {
	if a.err != nil {
		return
	}
	if int64(len(content)) > maxEntry || name == "" || strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		a.err = errors.New("cpio: a name or a size that the format does not have")
		return
	}
	a.inode++
	links := 1
	if mode&typeDir == typeDir {
		links = 2
	}
	a.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name))
	a.pad()
	a.write(content)
	a.pad()
}

func (a *archive) pad() {
	var zero [4]byte
	a.write(zero[:(4-a.at%4)%4])
}

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.at += int64(n)
	if err != nil {
		a.err = fmt.Errorf("write the archive: %w", err)
	}
}
