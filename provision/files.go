package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"
)

// file is GET and HEAD files/PATH.
func (s *Service) file(w http.ResponseWriter, r *http.Request) error {
	patient(w)
	from, err := source(r)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.URL.Path, Path+filesPath)
	n, session, err := s.mayRead(r, from)
	if err != nil {
		if f, ok := errors.AsType[*Refusal](err); ok {
			f.why = cut(name, 200) + ": " + f.why
		}
		return err
	}
	leave, err := s.admit(r, n.Name)
	if err != nil {
		return err
	}
	defer leave()
	return s.serveFile(w, r, n, fileAsk{root: s.root, below: name, name: name, session: session, from: from})
}

// fileAsk is a file that a node asks for, and may have.
type fileAsk struct {
	root    *os.Root
	below   string // its path in root
	name    string // its path in the directory of files
	session string // what tells this boot, or this certificate, from others
	from    netip.Addr
	how     string // for the audit log
}

// serveFile answers with a file, or a part of it.
func (s *Service) serveFile(w http.ResponseWriter, r *http.Request, n Node, a fileAsk) error {
	info, f, err := s.open(r.Context(), n.Name, a)
	if err != nil {
		return err
	}
	defer f.Close()
	if a.how != "" && r.URL.RawQuery == sumQuery {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, "%s  %s\n", hex.EncodeToString(info.Sum[:]), path.Base(a.name)) // who left does not need it
		return nil
	}
	if err := s.handFile(r, n, a, info); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Etag", `"sha256:`+hex.EncodeToString(info.Sum[:])+`"`)
	h.Set("Digest", digestHeader(info.Sum[:]))
	h.Set("Dominion-Node", n.Name)
	h.Set("Cache-Control", "no-store")
	s.serve(w, r, f)
	return nil
}

// mayRead gives the node that asks for a file, and what tells this boot, or
// this certificate, from others.
func (s *Service) mayRead(r *http.Request, from netip.Addr) (n Node, session string, err error) {
	auth := r.Header.Get("Authorization")
	if auth == "" {
		err = s.cfg.Store.View(r.Context(), func(v View) error {
			n, err = s.running(v, r)
			return err
		})
		return n, "", err
	}
	c, err := parseAuthorization(auth)
	if err != nil {
		return n, "", denied("", err.Error())
	}
	err = s.cfg.Store.View(r.Context(), func(v View) error {
		n, _, err = s.bootingNow(v, proof{hwaddrs: []string{c.hwaddr}, nonce: c.nonce, source: from})
		return err
	})
	return n, c.nonce, err
}

// scriptsFolder holds what makes the scripts of all nodes, and no node reads.
const scriptsFolder = "nodescripts"

// openFile opens a regular file below the directory of files, without ever
// leaving that.
func (s *Service) openFile(node string, a fileAsk) (*os.File, fs.FileInfo, error) {
	name := a.name
	clean := path.Clean("/" + name)[1:]
	switch {
	case !fs.ValidPath(name) || clean != name || clean == "." || strings.ContainsAny(name, "\x00\\"):
		return nil, nil, denied(node, "not a path of a file: "+cut(name, 200))
	case clean == scriptsFolder || strings.HasPrefix(clean, scriptsFolder+"/"):
		return nil, nil, denied(node, "node scripts are not for nodes: "+cut(name, 200))
	}
	// What is no file, such as a pipe, must not be waited for.
	f, err := a.root.OpenFile(a.below, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return nil, nil, noFile(node, name)
	case err != nil: // it leads out, is no file, or may not be read
		return nil, nil, denied(node, fmt.Sprintf("%s: %v", cut(name, 200), err))
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		f.Close()
		return nil, nil, noFile(node, name)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, st, nil
}

func noFile(node, name string) *Refusal {
	return &Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: fmt.Sprintf("there is no file %.200q here", name), node: node}
}

// handFile notes that a node gets a file: once for each boot, or for each hour,
// and content, however many parts it asks for.
func (s *Service) handFile(r *http.Request, n Node, a fileAsk, info FileInfo) error {
	if r.Method == http.MethodHead {
		return nil
	}
	key := seenKey{node: n.Name, session: a.session, path: a.name, sum: info.Sum, from: a.from}
	return s.noteFile(r.Context(), "node/"+n.Name, n.Name, key, fmt.Sprintf("%s to %s, %d bytes%s", cut(a.name, 1000), a.from, info.Size, a.how))
}

// sums keeps the digests of files, as long as they look unchanged.
type sums struct {
	mu   sync.Mutex
	done map[string]*sum
}

// sum is the digest of one file; ready is closed when it is known.
type sum struct {
	dev, ino uint64
	size     int64
	mod      time.Time
	ready    chan struct{}
	sum      [sha256.Size]byte
	err      error
}

// maxSums is how many digests are kept.
const maxSums = 4096

// settled is how long a file must not have changed before its digest is kept:
// times of files are not exact.
const settled = 2 * time.Second

func (d *sum) is(st fs.FileInfo) bool {
	dev, ino := inode(st)
	return d.dev == dev && d.ino == ino && d.size == st.Size() && d.mod.Equal(st.ModTime())
}

func inode(st fs.FileInfo) (dev, ino uint64) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Dev), sys.Ino //nolint:unconvert // of another size on other machines
	}
	return 0, 0
}

// of gives the digest of an open file. Those that ask while it is being read
// wait for the one that reads; f is left at its beginning.
func (c *sums) of(ctx context.Context, name string, f *os.File, st fs.FileInfo) ([sha256.Size]byte, error) {
	for {
		c.mu.Lock()
		d := c.done[name]
		if d == nil || !d.is(st) {
			d = c.addLocked(name, st)
			c.mu.Unlock()
			d.sum, d.err = digest(ctx, f, st)
			if d.err != nil || time.Since(st.ModTime()) < settled {
				c.drop(name, d)
			}
			close(d.ready)
			return d.sum, d.err
		}
		c.mu.Unlock()
		select {
		case <-d.ready:
		case <-ctx.Done():
			return [sha256.Size]byte{}, context.Cause(ctx)
		}
		if d.err == nil {
			return d.sum, nil
		}
		if ctx.Err() != nil { // d's reader left, or failed: this one reads itself
			return [sha256.Size]byte{}, context.Cause(ctx)
		}
	}
}

func (c *sums) addLocked(name string, st fs.FileInfo) *sum {
	if c.done == nil || len(c.done) >= maxSums {
		c.done = make(map[string]*sum)
	}
	d := &sum{size: st.Size(), mod: st.ModTime(), ready: make(chan struct{})}
	d.dev, d.ino = inode(st)
	c.done[name] = d
	return d
}

func (c *sums) drop(name string, d *sum) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done[name] == d {
		delete(c.done, name)
	}
}

// errChanged is for a file that changed while it was read.
var errChanged = errors.New("the file changed while it was read")

// digest reads a file and goes back to its beginning.
func digest(ctx context.Context, f *os.File, st fs.FileInfo) (out [sha256.Size]byte, err error) {
	h, buf := sha256.New(), make([]byte, 1<<20)
	var read int64
	for {
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		read += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return out, err
		}
	}
	now, err := f.Stat()
	if err != nil {
		return out, err
	}
	if read != st.Size() || now.Size() != st.Size() || !now.ModTime().Equal(st.ModTime()) {
		return out, errChanged
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	h.Sum(out[:0])
	return out, nil
}

// seenKey is one file in the hands of one node.
type seenKey struct {
	node, session, path string
	sum                 [sha256.Size]byte
	from                netip.Addr
}

// seen is what the audit log says already.
type seen struct {
	mu sync.Mutex
	at map[seenKey]time.Time
}

// Bounds of seen: it forgets everything when it is full, and one by one.
const (
	maxSeen = 16384
	seenFor = time.Hour
)

func (s *seen) has(k seenKey, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.at[k]
	return ok && now.Sub(at) < seenFor
}

func (s *seen) add(k seenKey, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil || len(s.at) >= maxSeen {
		s.at = make(map[seenKey]time.Time)
	}
	s.at[k] = now
}
