package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"dominion/blob"
	"dominion/call"
)

// pathFiles is where an overlord takes files: see docs/files.md.
const pathFiles = "/files/v1/"

// smallFile is the size up to which a file is read before it is sent, so that one
// request is enough.
const smallFile = 1 << 20

// SendOptions say how a file, or a directory, is sent.
type SendOptions struct {
	// Owner notes who owns the files. Otherwise they are to belong to who writes
	// them, or who owned what they replace, and nobody may run them as another user.
	Owner bool
	// Progress is told, from the goroutine that sends, how many bytes of how many are
	// at the overlord. Nil: nobody is.
	Progress func(sent, all int64)
	// Reconnect is how long a broken connection is tried again without a byte more;
	// zero: DefaultReconnect.
	Reconnect time.Duration
}

// Sent is a file, or a directory, that the overlord has, for an order of copy.put.
type Sent struct {
	Manifest     blob.Digest
	ManifestSize int64
	Files        int      // entries of the manifest
	Bytes        int64    // of the files
	LeftOut      []string // devices, sockets and the like, which are not sent, by their paths
}

// Send gives the overlord a file or what is in a directory, which is read once, and
// goes on where it was when the connection broke. A file whose bytes the overlord has
// already is not sent, but read; the overlord keeps them as long as there is room.
func (c *Conn) Send(ctx context.Context, path string, opt SendOptions) (*Sent, error) {
	if opt.Reconnect == 0 {
		opt.Reconnect = DefaultReconnect
	}
	s := &sender{c: c, opt: opt, out: &Sent{}}
	path, err := filepath.EvalSymlinks(path) // of what is named itself, a link is followed
	if err != nil {
		return nil, err
	}
	if err := s.walk(path); err != nil {
		return nil, err
	}
	if len(s.paths) == 0 {
		return nil, call.Errorf(call.Invalid, "%s is neither a file nor a directory", path)
	}
	for i, p := range s.paths {
		e := &s.m.Entries[i]
		if e.Type != blob.File {
			continue
		}
		if err := s.file(ctx, p, e); err != nil {
			return nil, fmt.Errorf("send %s: %w", p, err)
		}
	}
	text, err := s.m.Append(nil)
	if err != nil {
		return nil, fmt.Errorf("send %s: %w", path, err)
	}
	if len(text) > blob.MaxManifest {
		return nil, call.Errorf(call.Invalid, "send %s: the list of its files has %d bytes, more than %d", path, len(text), blob.MaxManifest)
	}
	s.all += int64(len(text))
	d, err := s.content(ctx, &source{at: bytes.NewReader(text), size: int64(len(text))})
	if err != nil {
		return nil, fmt.Errorf("send the list of files: %w", err)
	}
	s.out.Manifest, s.out.ManifestSize, s.out.Files, s.out.Bytes = d, int64(len(text)), len(s.m.Entries), s.m.Bytes
	return s.out, nil
}

// sender sends the files of one manifest.
type sender struct {
	c     *Conn
	opt   SendOptions
	out   *Sent
	m     blob.Manifest
	paths []string // of the entries

	done, all int64 // bytes
}

// walk makes the manifest, without digests.
func (s *sender) walk(top string) error {
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		e := blob.Entry{Path: filepath.ToSlash(rel)}
		switch {
		case !utf8.ValidString(e.Path):
			return call.Errorf(call.Invalid, "%q: the name is not UTF-8", p)
		case info.Mode().IsRegular():
			e.Type, e.Size, e.Sparse = blob.File, info.Size(), blob.Sparse(info)
		case d.IsDir():
			e.Type = blob.Dir
		case info.Mode()&fs.ModeSymlink != 0:
			e.Type = blob.Link
			if e.Target, err = os.Readlink(p); err != nil {
				return err
			}
		default:
			s.out.LeftOut = append(s.out.LeftOut, p)
			return nil
		}
		if e.Type != blob.Link {
			s.dress(&e, info)
		}
		s.m.Entries, s.paths, s.all = append(s.m.Entries, e), append(s.paths, p), s.all+e.Size
		if len(s.paths) > blob.MaxEntries {
			return call.Errorf(call.Invalid, "%s has more than %d files", top, blob.MaxEntries)
		}
		return nil
	})
}

// dress notes mode, time and, if wanted, owner.
func (s *sender) dress(e *blob.Entry, info fs.FileInfo) {
	e.Mode, e.Mtime = uint32(info.Mode().Perm()), info.ModTime().UnixNano()
	if info.Mode()&fs.ModeSticky != 0 {
		e.Mode |= 0o1000
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !s.opt.Owner || !ok {
		return
	}
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid} {
		if info.Mode()&m != 0 {
			e.Mode |= bit
		}
	}
	e.Owner = &blob.Owner{UID: st.Uid, GID: st.Gid}
	if u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil && len(u.Username) <= 64 {
		e.Owner.User = u.Username
	}
	if g, err := user.LookupGroupId(strconv.FormatUint(uint64(st.Gid), 10)); err == nil && len(g.Name) <= 64 {
		e.Owner.Group = g.Name
	}
}

// file sends a file and notes its digest.
func (s *sender) file(ctx context.Context, path string, e *blob.Entry) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := s.content(ctx, &source{at: f, size: e.Size})
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != e.Size || info.ModTime().UnixNano() != e.Mtime {
		return errors.New("it changed while it was sent")
	}
	e.Digest = &d
	return nil
}

// source is what is sent.
type source struct {
	at   io.ReaderAt
	size int64
	sum  hash.Hash // of the bytes before summed
	read int64
}

// section gives the bytes from an offset on; those that were not read before are summed.
func (s *source) section(offset int64) io.Reader {
	return &section{s: s, at: offset}
}

type section struct {
	s  *source
	at int64
}

// Read implements io.Reader.
func (r *section) Read(p []byte) (int, error) {
	if r.at >= r.s.size {
		return 0, io.EOF
	}
	n, err := r.s.at.ReadAt(p[:min(int64(len(p)), r.s.size-r.at)], r.at)
	if from := r.s.read - r.at; n > 0 && from >= 0 && from < int64(n) {
		r.s.sum.Write(p[from:n])
		r.s.read += int64(n) - from
	}
	r.at += int64(n)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it has become shorter")
	}
	return 0, err
}

// content sends bytes and gives their digest.
func (s *sender) content(ctx context.Context, src *source) (d blob.Digest, err error) {
	src.sum = sha256.New()
	if src.size > smallFile {
		have, err := s.c.ask(ctx, http.MethodGet, "sizes/"+strconv.FormatInt(src.size, 10), nil, nil)
		if err != nil {
			return d, err
		}
		if !have.Some {
			return s.upload(ctx, src)
		}
	}
	// It may be there: reading it costs less than sending it.
	if _, err := io.Copy(struct{ io.Writer }{io.Discard}, src.section(0)); err != nil {
		return d, err
	}
	d = blob.Digest(src.sum.Sum(nil))
	have, err := s.c.ask(ctx, http.MethodGet, "blobs/"+d.String(), nil, nil)
	if err != nil {
		return d, err
	}
	if have.All && have.Have == src.size {
		s.progress(src.size)
		s.done += src.size
		return d, nil
	}
	return s.upload(ctx, src)
}

// upload sends bytes, over breaks of the connection.
func (s *sender) upload(ctx context.Context, src *source) (d blob.Digest, err error) {
	var number [16]byte
	rand.Read(number[:])
	at := "uploads/" + hex.EncodeToString(number[:])
	have, wait, last := int64(0), s.c.patience.first, time.Now()
	for {
		err := s.rest(ctx, at, src, have)
		if err == nil {
			break
		}
		now, askErr := s.c.ask(ctx, http.MethodGet, at, nil, nil)
		switch {
		case ctx.Err() != nil:
			return d, context.Cause(ctx)
		case askErr == nil && now.Have > have:
			have, wait, last = now.Have, s.c.patience.first, time.Now()
		case askErr == nil:
			have = now.Have
		}
		if !isBroken(err) && call.CodeOf(err) != call.Conflict && call.CodeOf(err) != call.Busy || time.Since(last) > s.opt.Reconnect {
			return d, err
		}
		if err := pause(ctx, wait); err != nil {
			return d, err
		}
		wait = min(2*wait, s.c.patience.most)
	}
	d = blob.Digest(src.sum.Sum(nil))
	s.done += src.size
	return d, s.commit(ctx, at, d, src.size)
}

// rest sends what is missing from have on.
func (s *sender) rest(ctx context.Context, at string, src *source, have int64) error {
	if have >= src.size && src.size > 0 {
		return nil
	}
	body := &counted{r: src.section(have), tell: func(n int64) { s.progress(have + n) }}
	got, err := s.c.ask(ctx, http.MethodPut, at, url.Values{"offset": {strconv.FormatInt(have, 10)}}, body)
	if err == nil && got.Have != src.size {
		err = &brokenError{call.Errorf(call.Unavailable, "the overlord has %d of %d bytes", got.Have, src.size)}
	}
	if body.err != nil {
		return body.err // ours
	}
	return err
}

// commit says what was sent; the answer to a first try may have been lost.
func (s *sender) commit(ctx context.Context, at string, d blob.Digest, size int64) error {
	var err error
	for try := range 5 {
		if try > 0 {
			if err := pause(ctx, s.c.patience.most); err != nil {
				return err
			}
		}
		q := url.Values{"digest": {d.String()}, "size": {strconv.FormatInt(size, 10)}}
		if _, err = s.c.ask(ctx, http.MethodPost, at, q, nil); err == nil {
			return nil
		}
		if have, askErr := s.c.ask(ctx, http.MethodGet, "blobs/"+d.String(), nil, nil); askErr == nil && have.All {
			return nil
		}
		if !isBroken(err) {
			break
		}
	}
	return err
}

// progress tells how much of the file at hand is there.
func (s *sender) progress(n int64) {
	if s.opt.Progress != nil {
		s.opt.Progress(s.done+n, s.all)
	}
}

// counted counts what is read.
type counted struct {
	r    io.Reader
	n    int64
	err  error
	tell func(n int64)
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.tell(c.n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// haveFile is what an overlord says of a file.
type haveFile struct {
	Have int64 `json:"have"`
	All  bool  `json:"all"`
	Some bool  `json:"some"`
}

// maxAnswer is the size of such an answer in bytes.
const maxAnswer = 16 << 10

// ask makes one request about files. An error is a *call.Error of the overlord, or says
// that the way to it broke.
func (c *Conn) ask(ctx context.Context, method, what string, query url.Values, body io.Reader) (have haveFile, err error) {
	where := c.base + pathFiles + what
	if len(query) > 0 {
		where += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return have, fmt.Errorf("ask the overlord: %w", err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return have, context.Cause(ctx)
		}
		if e, ok := errors.AsType[*call.Error](err); ok {
			return have, &brokenError{e}
		}
		return have, &brokenError{call.Errorf(call.Unavailable, "the overlord at %s: %v", c.where, err)}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return have, &brokenError{call.Errorf(call.Unavailable, "the overlord at %s closed the connection: %v", c.where, err)}
	case resp.StatusCode == http.StatusNotFound:
		return have, call.Errorf(call.Unavailable, "the overlord at %s takes no files: its program is too old", c.where)
	case resp.StatusCode == http.StatusOK && json.Unmarshal(b, &have) == nil:
		return have, nil
	}
	var e struct {
		Code   uint32 `json:"code"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(b, &e) != nil || e.Code == 0 {
		return have, call.Errorf(call.Denied, "the overlord at %s answers %s: %.300s", c.where, resp.Status, strings.TrimSpace(string(b)))
	}
	return have, &call.Error{Code: call.Code(e.Code), Detail: e.Detail}
}

// LeftOutText names what was left out, for people; empty: nothing.
func (s *Sent) LeftOutText() string {
	if len(s.LeftOut) == 0 {
		return ""
	}
	list := slices.Clone(s.LeftOut)
	if more := len(list) - 5; more > 0 {
		list = append(list[:5], fmt.Sprintf("and %d others", more))
	}
	return strings.Join(list, ", ")
}
