package blob

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"
)

// Limits of a manifest.
const (
	MaxManifest = 32 << 20 // bytes
	MaxEntries  = 100_000
	maxPath     = 4096 // bytes of an entry's path
	maxName     = 255  // bytes of one component
	maxTarget   = 4095 // bytes of where a link leads
	maxOwner    = 64   // bytes of a user's or a group's name
	maxLine     = 64 << 10
)

// ErrManifest is wrapped by every error about what a manifest says.
var ErrManifest = errors.New("malformed manifest")

// Type is what an entry is.
type Type string

// The types of entries.
const (
	File Type = "file"
	Dir  Type = "dir"
	Link Type = "link"
)

// Entry is one file of a manifest.
type Entry struct {
	// Path is slash-separated and relative; "." for what the manifest is about itself.
	Path   string  `json:"path"`
	Type   Type    `json:"type"`
	Mode   uint32  `json:"mode,omitempty"`     // permissions and 04000, 02000, 01000; not of links
	Mtime  int64   `json:"mtime_ns,omitempty"` // Unix time in nanoseconds; not of links
	Owner  *Owner  `json:"owner,omitempty"`    // nil: that of who writes it
	Size   int64   `json:"size,omitempty"`     // bytes of a file
	Digest *Digest `json:"digest,omitempty"`   // of a file
	Sparse bool    `json:"sparse,omitempty"`   // a file with holes
	Target string  `json:"target,omitempty"`   // of a link
}

// Owner is a user and a group, which are meant by their names where those are known,
// and by their numbers elsewhere.
type Owner struct {
	User  string `json:"user,omitempty"`
	UID   uint32 `json:"uid"`
	Group string `json:"group,omitempty"`
	GID   uint32 `json:"gid"`
}

// Manifest lists the files of a tree, each directory before what is in it: by their
// paths, component by component. A manifest of a single file, or link, has one entry,
// whose path is ".".
type Manifest struct {
	Entries []Entry
	Bytes   int64 // of all files
}

// header is the first line of an encoded manifest.
type header struct {
	Version int   `json:"dominion_manifest"`
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// Append appends the encoded manifest: lines of JSON, a header and each entry. The
// same manifest has one encoding. The error wraps ErrManifest.
func (m *Manifest) Append(b []byte) ([]byte, error) {
	h := header{Version: 1, Entries: len(m.Entries)}
	c := checker{}
	for i := range m.Entries {
		if err := c.take(&m.Entries[i]); err != nil {
			return nil, err
		}
		h.Bytes += m.Entries[i].Size
	}
	m.Bytes = h.Bytes
	b, err := appendLine(b, h)
	for i := 0; i < len(m.Entries) && err == nil; i++ {
		b, err = appendLine(b, &m.Entries[i])
	}
	if err != nil {
		return nil, err
	}
	return b, c.end(h)
}

func appendLine(b []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	return append(b, buf.Bytes()...), nil
}

// ReadManifest reads an encoded manifest; every error of what it says wraps
// ErrManifest. What it accepts Append encodes to the same bytes.
func ReadManifest(r io.Reader) (*Manifest, error) {
	in := bufio.NewReaderSize(io.LimitReader(r, MaxManifest+1), maxLine)
	var h header
	if err := readLine(in, &h); err != nil {
		return nil, noEOF(err)
	}
	if h.Version != 1 || h.Entries < 1 || h.Entries > MaxEntries || h.Bytes < 0 {
		return nil, fmt.Errorf("%w: version %d, %d entries", ErrManifest, h.Version, h.Entries)
	}
	m, c := &Manifest{}, checker{}
	for range h.Entries {
		var e Entry
		if err := readLine(in, &e); err != nil {
			return nil, noEOF(err)
		}
		if err := c.take(&e); err != nil {
			return nil, err
		}
		m.Entries = append(m.Entries, e)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%w: something after its end", ErrManifest)
		}
		return nil, err
	}
	m.Bytes = h.Bytes
	return m, c.end(h)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it is cut", ErrManifest)
	}
	return err
}

// readLine reads one line that is what appendLine writes of v.
func readLine(in *bufio.Reader, v any) error {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("%w: a line of more than %d bytes", ErrManifest, maxLine)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %v", ErrManifest, err)
	}
	again, err := appendLine(nil, v)
	if err != nil || !bytes.Equal(again, line) {
		return fmt.Errorf("%w: it is not in the one form that it has: %.100q", ErrManifest, line)
	}
	return nil
}

// checker holds entries against each other, in their order.
type checker struct {
	n     int
	bytes int64
	last  string
	dirs  []string // that the last entry lies in, or is
	only  bool     // the first is no directory
}

// Compare orders paths as in a manifest: component by component.
func Compare(a, b string) int {
	return strings.Compare(key(a), key(b))
}

func key(p string) string {
	if p == "." {
		return ""
	}
	return strings.ReplaceAll(p, "/", "\x00")
}

func (c *checker) take(e *Entry) error {
	if err := e.check(); err != nil {
		return fmt.Errorf("%w: %.300q: %v", ErrManifest, e.Path, err)
	}
	switch {
	case (c.n == 0) != (e.Path == "."):
		return fmt.Errorf("%w: the first entry, and no other, is %q", ErrManifest, ".")
	case c.only:
		return fmt.Errorf("%w: something below a %s", ErrManifest, "file")
	case c.n > 0 && Compare(c.last, e.Path) >= 0:
		return fmt.Errorf("%w: %.300q comes after %.300q", ErrManifest, e.Path, c.last)
	}
	if c.n > 0 {
		up := path.Dir(e.Path)
		for len(c.dirs) > 0 && c.dirs[len(c.dirs)-1] != up {
			c.dirs = c.dirs[:len(c.dirs)-1]
		}
		if len(c.dirs) == 0 {
			return fmt.Errorf("%w: %.300q is in no directory of it", ErrManifest, e.Path)
		}
	}
	if e.Type == Dir {
		c.dirs = append(c.dirs, e.Path)
	}
	c.only = c.n == 0 && e.Type != Dir
	c.n++
	c.last = e.Path
	if c.bytes += e.Size; c.bytes < 0 {
		return fmt.Errorf("%w: more bytes than can be counted", ErrManifest)
	}
	return nil
}

func (c *checker) end(h header) error {
	if c.n != h.Entries || c.bytes != h.Bytes || c.n == 0 || c.n > MaxEntries {
		return fmt.Errorf("%w: %d entries with %d bytes", ErrManifest, c.n, c.bytes)
	}
	return nil
}

func (e *Entry) check() error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	file, link := e.Type == File, e.Type == Link
	switch {
	case !file && !link && e.Type != Dir:
		return fmt.Errorf("type %.20q", string(e.Type))
	case e.Mode > 0o7777, link && (e.Mode != 0 || e.Mtime != 0 || e.Owner != nil):
		return fmt.Errorf("mode %o", e.Mode)
	case file != (e.Digest != nil), !file && (e.Size != 0 || e.Sparse), e.Size < 0:
		return errors.New("it has no bytes, or no digest")
	case link != (e.Target != ""), len(e.Target) > maxTarget, strings.ContainsRune(e.Target, 0), !utf8.ValidString(e.Target):
		return errors.New("it leads nowhere")
	}
	if o := e.Owner; o != nil && (len(o.User) > maxOwner || len(o.Group) > maxOwner || !utf8.ValidString(o.User+o.Group)) {
		return errors.New("its owner is nobody")
	}
	return nil
}

// CheckPath says whether a path is one that an entry can have.
func CheckPath(p string) error {
	if p == "." {
		return nil
	}
	if len(p) > maxPath || !utf8.ValidString(p) || strings.ContainsRune(p, 0) {
		return fmt.Errorf("not a path of at most %d bytes of UTF-8", maxPath)
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." || len(name) > maxName {
			return errors.New("not a relative path in its shortest form")
		}
	}
	return nil
}
