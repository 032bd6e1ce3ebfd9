package vnfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxWindow bounds the memory that a zstd stream may ask for, in bytes; zstd --ultra
// -22 asks for 128 MiB.
const maxWindow = 128 << 20

// decompress reads a tar that may be compressed, by its first bytes. end frees what
// the reading took.
func decompress(in io.Reader) (out io.Reader, end func(), err error) {
	b := bufio.NewReaderSize(in, 1<<16)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	end = func() {}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		out, err = gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte("BZh")):
		out = bzip2.NewReader(b)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1)); err == nil {
			out, end = z, z.Close
		}
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		err = errors.New("it is compressed with xz, which is not read here; use: xz -dc FILE > FILE.tar")
	default:
		out = b
	}
	return out, end, err
}

// inode is a file that may have several names.
type inode struct{ dev, ino uint64 }

// fromDir packs a directory, without what is mounted below it.
func (p *packer) fromDir(w *tar.Writer, root *os.Root) error {
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	device := statOf(top).Dev
	links := make(map[inode]string)
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSocket != 0 || p.skip != nil && !e.IsDir() && p.skip(name) {
			return nil // a socket belongs to a process
		}
		if err := p.fromFile(w, root, name, info, links); err != nil {
			return err
		}
		if e.IsDir() && statOf(info).Dev != device { // the mount point itself is there
			return fs.SkipDir
		}
		return nil
	})
}

func statOf(info fs.FileInfo) *syscall.Stat_t {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st
	}
	return new(syscall.Stat_t)
}

// fromFile packs one file of a directory.
func (p *packer) fromFile(w *tar.Writer, root *os.Root, name string, info fs.FileInfo, links map[inode]string) error {
	link := ""
	var err error
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = root.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = name, "", "" // the numbers are those of the node
	st := statOf(info)
	id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // Dev is narrower on some machines
	if first, ok := links[id]; ok {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return p.entry(w, h, bytes.NewReader(nil))
	}
	if st.Nlink > 1 && !info.IsDir() {
		links[id] = name
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return p.entry(w, h, bytes.NewReader(nil))
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if h.PAXRecords, err = attributes(int(f.Fd())); err != nil {
		return fmt.Errorf("read the attributes of %s: %w", name, err)
	}
	if info.IsDir() {
		return p.entry(w, h, bytes.NewReader(nil))
	}
	// A file that grows meanwhile is cut, one that shrinks is an error.
	return p.entry(w, h, io.LimitReader(f, h.Size))
}

// attributes gives an open file's extended attributes as tar's PAX records.
func attributes(fd int) (map[string]string, error) {
	list := make([]byte, 64<<10) // as large as Linux lets it be
	n, err := unix.Flistxattr(fd, list)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	value := make([]byte, 64<<10)
	for attr := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		n, err := unix.Fgetxattr(fd, string(attr), value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out["SCHILY.xattr."+string(attr)] = string(value[:n])
	}
	return out, nil
}

// Compression is how Export compresses.
type Compression int

// The compressions.
const (
	Zstd Compression = iota
	Gzip
	Plain
)

// Export writes a capsule as a tar that Import reads.
func (s *Store) Export(ctx context.Context, name string, to io.Writer, c Compression) error {
	return s.export(ctx, name, to, c, nil)
}

// ExportPerceus writes a capsule as the tar that Perceus compresses with bzip2: without
// vnfs.img, when there is the rootfs that it is made of.
func (s *Store) ExportPerceus(ctx context.Context, name string, to io.Writer) error {
	var skip func(string) bool
	if info, err := s.root.Lstat(path.Join(folder, name, "rootfs")); err == nil && info.IsDir() {
		skip = func(file string) bool { return !strings.Contains(file, "/") && strings.HasPrefix(file, perceusImage) }
	}
	return s.export(ctx, name, to, Plain, skip)
}

// export is Export without the files at the top for which skip, if not nil, says so.
func (s *Store) export(ctx context.Context, name string, to io.Writer, c Compression, skip func(string) bool) (err error) {
	if _, err := s.Get(name); err != nil {
		return err
	}
	var out io.WriteCloser
	switch c {
	case Gzip:
		out = gzip.NewWriter(to)
	case Plain:
		out = plain{to}
	default:
		z, err := zstd.NewWriter(to)
		if err != nil {
			return fmt.Errorf("export capsule %q: %w", name, err)
		}
		out = z
	}
	root, err := s.root.OpenRoot(path.Join(folder, name))
	if err != nil {
		return fmt.Errorf("export capsule %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := tar.NewWriter(out)
	p := &packer{s: s, ctx: ctx, top: make(map[string]bool), skip: skip}
	if err = p.fromDir(w, root); err == nil {
		err = w.Close()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("export capsule %q: %w", name, err)
	}
	return nil
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }
