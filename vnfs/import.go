package vnfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Limits of what is imported.
const (
	maxEntries = 5_000_000
	maxPath    = 4096     // bytes of one entry's name
	maxTail    = 16 << 20 // bytes behind the last entry: padding to the size of a tape's block
)

// Import is what Store.Import makes a capsule of.
type Import struct {
	// Source is a directory, or a tar, which may be compressed with gzip, bzip2 or
	// zstd: a capsule, or a root file system. Required.
	Source string
	// Kernel and Initramfs are files with which its nodes boot for provisioning, in
	// the place of those of the source; empty: none.
	Kernel, Initramfs string
	// Progress, when not nil, is called now and then with the bytes packed so far.
	Progress func(bytes int64)
}

// Import makes a capsule. Until it is whole nothing of it is to be seen. Errors wrap
// ErrName, ErrExists and ErrSource, besides those of reading and writing.
func (s *Store) Import(ctx context.Context, name string, in Import) (Capsule, error) {
	at, end, err := s.claim(name)
	if err != nil {
		return Capsule{}, err
	}
	if err := s.build(ctx, at, in); err != nil {
		return Capsule{}, errors.Join(fmt.Errorf("import %s: %w", in.Source, err), end(false))
	}
	return s.finish(name, end)
}

// build fills a directory with a capsule.
func (s *Store) build(ctx context.Context, at string, in Import) error {
	p := &packer{s: s, at: at, ctx: ctx, progress: in.Progress}
	if err := p.pack(in.Source); err != nil {
		return err
	}
	switch {
	case p.looksLikeCapsule():
		if err := p.unpack(); err != nil {
			return err
		}
	case p.looksLikeRoot():
		if err := s.root.Rename(p.file(), path.Join(at, imageNames[0])); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: at its top are %s", ErrSource, p.shown())
	}
	for _, given := range []struct{ from, name string }{{in.Kernel, kernelName}, {in.Initramfs, initramfsName}} {
		if given.from == "" {
			continue
		}
		if err := s.takeFile(given.from, path.Join(at, given.name)); err != nil {
			return err
		}
	}
	return nil
}

// takeFile copies a file from outside over one in STATEDIR.
func (s *Store) takeFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.writeFile(to, f, 0o644, time.Time{})
}

// packer reads a source into a tar of our own, and notes what is in it.
type packer struct {
	s        *Store
	at       string
	ctx      context.Context //nolint:containedctx // of one call of Import
	progress func(int64)
	skip     func(name string) bool // files of a directory that are left out; nil: none

	top     map[string]bool // names at the top
	entries int
	bytes   int64
}

func (p *packer) file() string { return path.Join(p.at, temp+"tar.gz") }

// pack writes the source's entries, with cleaned names, to p.file().
func (p *packer) pack(source string) (err error) {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	out, err := p.s.root.OpenFile(p.file(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // a root file system holds secrets
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out) // which a busybox in an initramfs unpacks
	w := tar.NewWriter(z)
	p.top = make(map[string]bool)
	if info.IsDir() {
		var root *os.Root
		if root, err = os.OpenRoot(source); err == nil {
			err = errors.Join(p.fromDir(w, root), root.Close())
		}
	} else {
		err = p.fromTar(w, source)
	}
	for _, done := range []func() error{w.Close, z.Close, out.Sync} {
		if err == nil {
			err = done()
		}
	}
	return err
}

// fromTar copies the entries of a tar.
func (p *packer) fromTar(w *tar.Writer, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	return entries(f, func(h *tar.Header, content io.Reader) error { return p.entry(w, h, content) })
}

// entries gives each entry of a tar, packed or not, to the end of the file.
func entries(f *os.File, take func(h *tar.Header, content io.Reader) error) error {
	in, end, err := decompress(f)
	if err != nil {
		return err
	}
	defer end()
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return ended(in)
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		if err := take(h, r); err != nil {
			return err
		}
	}
}

// ended reads what is behind the last entry, so that a compressed tar is known to be
// whole.
func ended(in io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(in, maxTail+1))
	if err != nil {
		return fmt.Errorf("read the end of the tar: %w", err)
	}
	if n > maxTail {
		return fmt.Errorf("more than %d bytes are behind the end of the tar", maxTail)
	}
	return nil
}

// entry writes one entry, whose name is made relative first.
func (p *packer) entry(w *tar.Writer, h *tar.Header, content io.Reader) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	name, err := within(h.Name)
	if err != nil {
		return err
	}
	if p.entries++; p.entries > maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = within(h.Linkname); err != nil {
			return fmt.Errorf("hard link %s: %w", name, err)
		}
	}
	if name == "." {
		name = ""
	} else {
		first, _, _ := strings.Cut(name, "/")
		p.top[first] = true
	}
	h.Name = "./" + name
	if h.Typeflag == tar.TypeDir && name != "" {
		h.Name += "/"
	}
	h.Format = tar.FormatPAX // names and times of any length
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	n, err := io.Copy(w, content)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if p.bytes += n; p.progress != nil {
		p.progress(p.bytes)
	}
	return nil
}

// within makes a name relative to the top of a tar; one that leads out is refused.
func within(name string) (string, error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("an entry's name of %d bytes: %.80q", len(name), name)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("the entry %.200q leads out of the tar", name)
	}
	return clean, nil
}

// looksLikeRoot says whether the top is that of a root file system.
func (p *packer) looksLikeRoot() bool { return p.top["etc"] && (p.top["usr"] || p.top["bin"]) }

func (p *packer) looksLikeCapsule() bool {
	if p.looksLikeRoot() {
		return false
	}
	return slices.ContainsFunc(slices.Concat([]string{kernelName, initramfsName, scripts, perceusKernel}, imageNames), func(n string) bool { return p.top[n] })
}

// shown names what is at the top, for people.
func (p *packer) shown() string {
	names := make([]string, 0, len(p.top))
	for n := range p.top {
		names = append(names, n)
	}
	slices.Sort(names)
	const most = 8
	if len(names) == 0 {
		return "no files"
	}
	if len(names) > most {
		return fmt.Sprintf("%q and %d more", names[:most], len(names)-most)
	}
	return fmt.Sprintf("%q", names)
}

// read gives each entry of what was packed.
func (p *packer) read(take func(h *tar.Header, content io.Reader) error) error {
	f, err := p.s.root.Open(p.file())
	if err != nil {
		return err
	}
	defer f.Close()
	return entries(f, take)
}

// unpack makes the files of a capsule of what was packed: directories, files and
// links that stay inside. Owners do not matter: nodes fetch contents.
func (p *packer) unpack() error {
	err := p.read(func(h *tar.Header, content io.Reader) error {
		name := strings.Trim(strings.TrimPrefix(h.Name, "./"), "/")
		if name == "" || strings.HasPrefix(name, temp) {
			return nil
		}
		at := path.Join(p.at, name)
		if err := p.s.root.MkdirAll(path.Dir(at), 0o755); err != nil {
			return err
		}
		mode := fs.FileMode(h.Mode).Perm() &^ 0o022
		switch h.Typeflag {
		case tar.TypeDir:
			return p.s.root.MkdirAll(at, mode|0o700)
		case tar.TypeReg:
			return p.s.writeFile(at, content, mode|0o400, h.ModTime)
		case tar.TypeSymlink:
			return p.s.root.Symlink(h.Linkname, at)
		case tar.TypeLink:
			return p.s.root.Link(path.Join(p.at, h.Linkname), at) //nolint:gosec // it is within the tar (entry), and os.Root follows no link out
		}
		return nil // as copyTree
	})
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return p.s.root.Remove(p.file())
}
