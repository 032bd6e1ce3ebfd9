package copy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"dominion/blob"
	"dominion/call"
	"dominion/module"
	"dominion/module/place"
)

// GetIn is the input of get.
type GetIn struct {
	Path   string            `json:"path" doc:"the file, or the directory" required:"true" pattern:"/.*" max:"4095"`
	Resume map[string]string `json:"resume" doc:"by the machine's name, where it goes on: OFFSET SIZE MTIME PATH of a file of which so many bytes are there; what comes before it is left out" max:"10000"`
}

// GetOut is the output of get.
type GetOut struct {
	Files   int      `json:"files" doc:"files that were sent"`
	Bytes   int64    `json:"bytes" doc:"their bytes"`
	LeftOut []string `json:"left_out,omitempty" doc:"links, devices and the like, which are not sent; the first of them"`
	More    int      `json:"more_left_out,omitempty" doc:"how many others were left out"`
}

// Frame begins each file, or directory, in the live output of get: a varint with the
// length of the JSON, the JSON, of a file the bytes from Offset on, and then 32 bytes:
// the SHA-256 of all of it.
type Frame struct {
	Path   string    `json:"path"` // slash-separated, below the directory; "." for what was asked for
	Type   blob.Type `json:"type"` // file or dir
	Mode   uint32    `json:"mode"` // permissions
	Mtime  int64     `json:"mtime_ns"`
	Size   int64     `json:"size,omitempty"`
	Offset int64     `json:"offset,omitempty"`
	Sparse bool      `json:"sparse,omitempty"`
	// End is set in the last frame, which stands for no file.
	End bool `json:"end,omitempty"`
}

// MaxFrame is the size of the JSON of a Frame in bytes.
const MaxFrame = 32 << 10

// Bounds of what is walked.
const (
	maxDepth   = 200
	maxInDir   = 200_000
	maxLeftOut = 20
)

// Resume says where get goes on, as it stands in GetIn.
type Resume struct {
	Offset, Size, Mtime int64
	Path                string
}

// String is what ParseResume reads.
func (r Resume) String() string {
	return fmt.Sprintf("%d %d %d %s", r.Offset, r.Size, r.Mtime, r.Path)
}

// ParseResume reads the text.
func ParseResume(text string) (r Resume, err error) {
	part := strings.SplitN(text, " ", 4)
	if len(part) != 4 || part[3] == "" {
		return r, call.Errorf(call.Invalid, "resume: %.100q is not OFFSET SIZE MTIME PATH", text)
	}
	for i, to := range []*int64{&r.Offset, &r.Size, &r.Mtime} {
		if *to, err = strconv.ParseInt(part[i], 10, 64); err != nil || i < 2 && *to < 0 {
			return r, call.Errorf(call.Invalid, "resume: %.100q is not OFFSET SIZE MTIME PATH", text)
		}
	}
	r.Path = part[3]
	return r, nil
}

// getter sends files.
type getter struct {
	ctx    context.Context //nolint:containedctx // of the one call that it is for
	to     io.Writer
	resume *Resume // nil: none, or it was come past
	out    GetOut
	buf    []byte
}

func get(ctx context.Context, env *module.Env, in GetIn) (GetOut, error) {
	if env.Stdout == nil {
		return GetOut{}, call.Errorf(call.Invalid, "files are sent as live output, and nobody takes it; use dominion fetch")
	}
	g := &getter{ctx: ctx, to: env.Stdout, buf: make([]byte, 64<<10)}
	if text, ok := in.Resume[env.Machine]; ok {
		r, err := ParseResume(text)
		if err != nil {
			return GetOut{}, err
		}
		g.resume = &r
	}
	at, err := place.Follow(in.Path)
	if err != nil {
		return GetOut{}, err
	}
	defer at.Close()
	info, err := at.Lstat()
	if err != nil {
		return GetOut{}, err
	}
	if info.IsDir() {
		err = g.tree(at, info)
	} else {
		err = g.file(at, ".")
	}
	if err == nil {
		err = g.frame(Frame{Path: ".", End: true})
	}
	return g.out, err
}

func (g *getter) tree(at *place.Place, info fs.FileInfo) error {
	dir, err := at.Directory()
	if err != nil {
		return err
	}
	defer dir.Close()
	return g.dir(dir, ".", info, 0)
}

// dir sends a directory and what is in it, in the order of a manifest.
func (g *getter) dir(dir *os.Root, path string, info fs.FileInfo, depth int) error {
	if depth > maxDepth {
		return call.Errorf(call.Failed, "%s: directories are nested more than %d deep", path, maxDepth)
	}
	if !g.past(path) || path == "." {
		if err := g.frame(Frame{Path: path, Type: blob.Dir, Mode: unixMode(info.Mode()), Mtime: info.ModTime().UnixNano()}); err != nil {
			return err
		}
	}
	names, err := list(dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for _, name := range names {
		sub := name
		if path != "." {
			sub = path + "/" + name
		}
		if err := g.one(dir, name, sub, depth); err != nil {
			return err
		}
	}
	return nil
}

func (g *getter) one(dir *os.Root, name, path string, depth int) error {
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	at, err := place.In(dir, name)
	if err != nil {
		return err
	}
	info, err := at.Lstat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // it went away meanwhile
	case err != nil:
		return err
	case strings.HasPrefix(name, place.DraftPrefix): // somebody writes it
		return nil
	case info.IsDir() && utf8.ValidString(name):
		sub, err := at.Directory()
		if err != nil {
			return err
		}
		defer sub.Close()
		return g.dir(sub, path, info, depth+1)
	case info.Mode().IsRegular() && utf8.ValidString(name):
		return g.file(at, path)
	}
	if len(g.out.LeftOut) < maxLeftOut {
		g.out.LeftOut = append(g.out.LeftOut, strings.ToValidUTF8(path, "\ufffd"))
	} else {
		g.out.More++
	}
	return nil
}

// list gives the names in a directory, sorted.
func list(dir *os.Root) ([]string, error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxInDir + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxInDir {
		return nil, call.Errorf(call.Failed, "more than %d files", maxInDir)
	}
	slices.Sort(names)
	return names, nil
}

// past says whether a path comes before that where it goes on.
func (g *getter) past(path string) bool {
	return g.resume != nil && blob.Compare(path, g.resume.Path) < 0
}

// file sends a file.
func (g *getter) file(at *place.Place, path string) error {
	if g.past(path) {
		return nil
	}
	f, info, err := at.File(os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) && path != "." {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fr := Frame{Path: path, Type: blob.File, Mode: unixMode(info.Mode()), Mtime: info.ModTime().UnixNano(), Size: info.Size(), Sparse: blob.Sparse(info)}
	if r := g.resume; r != nil && r.Path == path && r.Size == fr.Size && r.Mtime == fr.Mtime && r.Offset <= fr.Size {
		fr.Offset = r.Offset
	}
	if err := g.frame(fr); err != nil {
		return err
	}
	sum := sha256.New()
	for at := int64(0); at < fr.Size; {
		if g.ctx.Err() != nil {
			return context.Cause(g.ctx)
		}
		n, err := f.Read(g.buf[:min(int64(len(g.buf)), fr.Size-at)])
		sum.Write(g.buf[:n])
		if from := max(fr.Offset-at, 0); from < int64(n) {
			if _, err := g.to.Write(g.buf[from:n]); err != nil {
				return err
			}
		}
		at += int64(n)
		if n == 0 || err != nil {
			return fmt.Errorf("read %s: it has become shorter: %w", path, noEOF(err))
		}
	}
	if now, err := f.Stat(); err != nil || now.Size() != fr.Size || !now.ModTime().Equal(info.ModTime()) {
		return call.Errorf(call.Conflict, "%s changed while it was read", path)
	}
	g.out.Files++
	g.out.Bytes += fr.Size
	_, err = g.to.Write(sum.Sum(nil))
	return err
}

func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (g *getter) frame(f Frame) error {
	b, err := json.Marshal(f)
	if err != nil || len(b) > MaxFrame {
		return call.Errorf(call.Failed, "%.200q: its path is too long: %v", f.Path, err)
	}
	_, err = g.to.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	return err
}

// unixMode gives the permissions, which are all that is told of a mode.
func unixMode(m fs.FileMode) uint32 { return uint32(m.Perm()) }
