package vnfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"dominion/nodescript"
	"dominion/vnfs"
)

// open gives the store of a new directory.
func open(t *testing.T) (*vnfs.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := vnfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// tree makes files of "NAME" (a directory), "NAME=CONTENT" and "NAME->TARGET".
func tree(t *testing.T, dir string, files ...string) string {
	t.Helper()
	for _, f := range files {
		name, content, isFile := strings.Cut(f, "=")
		link, to, isLink := strings.Cut(f, "->")
		at := filepath.Join(dir, name)
		if isLink {
			at = filepath.Join(dir, link)
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(to, at)
		case isFile:
			err = os.WriteFile(at, []byte(content), 0o755)
		default:
			err = os.MkdirAll(at, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func rootFiles() []string {
	return []string{
		"etc/hostname=n", "usr/bin/true=ELF", "bin->usr/bin", "boot/vmlinuz-6.1.0-9-amd64=k", "kernel=not of a capsule", "proc",
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// listed gives what tar(1) lists of an archive.
func listed(t *testing.T, archive string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `gzip -dc <"$1" | tar -tvf - --numeric-owner`, "sh", archive).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestImportRoot(t *testing.T) {
	source := tree(t, t.TempDir(), rootFiles()...)
	if err := os.Link(filepath.Join(source, "usr/bin/true"), filepath.Join(source, "usr/bin/yes")); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(unix.Mkfifo(filepath.Join(source, "etc/pipe"), 0o600), os.Chown(filepath.Join(source, "etc/hostname"), 7, 8),
			os.Chmod(filepath.Join(source, "usr/bin/true"), 0o755|fs.ModeSetuid)); err != nil {
			t.Fatal(err)
		}
	}
	s, dir := open(t)
	var told int64
	c, err := s.Import(t.Context(), "debian12", vnfs.Import{Source: source, Progress: func(n int64) { told = n }})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kernel != "" || c.Initramfs != "" || c.Image != "vnfs/debian12/rootfs.tar.gz" || told == 0 {
		t.Errorf("%+v, %d bytes told", c, told)
	}
	list := listed(t, filepath.Join(dir, c.Image))
	want := []string{" ./bin -> usr/bin", " ./usr/bin/yes link to ./usr/bin/true", " ./proc/"}
	if os.Geteuid() == 0 {
		want = append(want, "7/8 ", "-rwsr-xr-x", "prw-------")
	}
	for _, w := range want {
		if !strings.Contains(list, w) && !strings.Contains(list, strings.Replace(w, "link to ./", "link to ", 1)) {
			t.Errorf("the image has no %q:\n%s", w, list)
		}
	}
	for _, x := range []struct {
		name string
		want error
	}{{"debian12", vnfs.ErrExists}, {"../x", vnfs.ErrName}, {"", vnfs.ErrName}, {".x", vnfs.ErrName}, {strings.Repeat("x", 65), vnfs.ErrName}} {
		if _, err := s.Import(t.Context(), x.name, vnfs.Import{Source: source}); !errors.Is(err, x.want) {
			t.Errorf("import as %q: %v; want %v", x.name, err, x.want)
		}
	}
	kernel := filepath.Join(tree(t, t.TempDir(), "k=mine"), "k")
	c, err = s.Import(t.Context(), "own", vnfs.Import{Source: source, Kernel: kernel})
	if err != nil || read(t, dir, c.Kernel) != "mine" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestCapsule(t *testing.T) {
	s, dir := open(t)
	source := tree(t, t.TempDir(), "kernel=k", "vmlinuz=for kexec", "vnfs.img=image", "nodescripts/init/10-fetch=#!/bin/sh\necho getfile vnfs/$VNFS/vnfs.img\n", "nodescripts/ready/50-x=y", "rootfs/etc/x=y", "mount=#!/bin/sh\nexit 1\n")
	c, err := s.Import(t.Context(), "sles", vnfs.Import{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kernel != "vnfs/sles/kernel" || c.Image != "vnfs/sles/vnfs.img" || !slices.Equal(c.Scripts, []string{"init/10-fetch", "ready/50-x"}) || c.Size == 0 {
		t.Errorf("%+v", c)
	}
	script := func(name string) string {
		t.Helper()
		a, err := nodescript.New(nodescript.Config{Statedir: dir})
		if err != nil {
			t.Fatal(err)
		}
		out, err := a.Assemble(t.Context(), nodescript.Node{Name: "n1", VNFS: name, Enabled: true}, "init")
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Text)
	}
	if got := script("sles"); !strings.Contains(got, "getfile vnfs/sles/vnfs.img") {
		t.Errorf("a node of the capsule runs %q", got)
	}
	if c, err = s.Clone("sles", "sles2"); err != nil || c.Kernel != "vnfs/sles2/kernel" {
		t.Fatalf("%+v, %v", c, err)
	}
	if got := script("sles2"); !strings.Contains(got, "getfile vnfs/sles2/vnfs.img") {
		t.Errorf("a node of the clone runs %q", got)
	}
	own := filepath.Join(dir, "nodescripts/init/vnfs/sles/99-own")
	tree(t, filepath.Dir(own), "99-own=x")
	stays, err := s.Delete("sles")
	if err != nil || !slices.Equal(stays, []string{"nodescripts/init/vnfs/sles/99-own"}) {
		t.Errorf("%q stay, %v", stays, err)
	}
	if _, err := s.Get("sles"); !errors.Is(err, vnfs.ErrNone) {
		t.Errorf("a deleted capsule: %v", err)
	}
	if _, err := s.Delete("sles"); !errors.Is(err, vnfs.ErrNone) {
		t.Errorf("deleted again: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nodescripts/init/vnfs/sles/10-fetch")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link of the deleted capsule: %v", err)
	}
	all, err := s.List()
	if err != nil || len(all) != 1 || all[0].Name != "sles2" {
		t.Errorf("%+v, %v", all, err)
	}
}

// What is exported is imported again, and by hand packed tars, too.
func TestExport(t *testing.T) {
	s, dir := open(t)
	source := tree(t, t.TempDir(), "kernel=k", "rootfs.tar.gz=image", "nodescripts/init/10-x=y", "doc->kernel")
	if _, err := s.Import(t.Context(), "a", vnfs.Import{Source: source}); err != nil {
		t.Fatal(err)
	}
	for i, c := range []vnfs.Compression{vnfs.Zstd, vnfs.Gzip, vnfs.Plain} {
		var b bytes.Buffer
		if err := s.Export(t.Context(), "a", &b, c); err != nil {
			t.Fatal(err)
		}
		file, name := filepath.Join(t.TempDir(), "a.tar"), fmt.Sprintf("b%d", i)
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Import(t.Context(), name, vnfs.Import{Source: file})
		if err != nil {
			t.Fatal(err)
		}
		if got.Image != "vnfs/"+name+"/rootfs.tar.gz" || read(t, dir, got.Kernel) != "k" || read(t, dir, "vnfs", name, "doc") != "k" || len(got.Scripts) != 1 {
			t.Errorf("%+v", got)
		}
	}
	for name, how := range map[string]string{"bz": "-cjf", "gz": "-czf", "none": "-cf"} {
		file := filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("tar", how, file, "-C", source, ".").CombinedOutput(); err != nil {
			if name == "bz" {
				t.Skipf("SKIPPED no bzip2: %s", out)
			}
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := s.Import(t.Context(), name, vnfs.Import{Source: file}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Export(t.Context(), "nosuch", new(bytes.Buffer), vnfs.Plain); !errors.Is(err, vnfs.ErrNone) {
		t.Errorf("export of none: %v", err)
	}
}

// evil gives a tar of entries.
func evil(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Mode = 0o4777
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "evil.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEvilTars(t *testing.T) {
	kernel := tar.Header{Name: "kernel", Typeflag: tar.TypeReg}
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	for _, x := range []struct {
		name    string
		entries []tar.Header
	}{
		{"nothing", nil},
		{"neither", []tar.Header{file("readme")}},
		{"out", []tar.Header{kernel, file("../../x")}},
		{"through a link", []tar.Header{kernel, {Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, file("d/escaped-by-a-capsule")}},
		{"through a relative link", []tar.Header{kernel, {Name: "d", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, file("d/escaped-by-a-capsule")}},
		{"a hard link to the outside", []tar.Header{kernel, {Name: "l", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"}}},
		{"a hard link through a link", []tar.Header{kernel, {Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "l", Typeflag: tar.TypeLink, Linkname: "d/passwd"}}},
		{"twice", []tar.Header{kernel, kernel}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s, dir := open(t)
			if c, err := s.Import(t.Context(), "evil", vnfs.Import{Source: evil(t, x.entries...)}); err == nil {
				t.Errorf("it is a capsule: %+v", c)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "vnfs")); err != nil || len(left) > 0 {
				t.Errorf("%v is left, %v", left, err)
			}
			if _, err := os.Lstat("/tmp/escaped-by-a-capsule"); err == nil {
				t.Error("a file escaped")
			}
		})
	}
	s, dir := open(t)
	c, err := s.Import(t.Context(), "tamed", vnfs.Import{Source: evil(t, file("/kernel"), tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"})})
	if err != nil || c.Kernel == "" {
		t.Fatalf("%+v, %v", c, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, c.Kernel)); err != nil || info.Mode() != 0o755 {
		t.Errorf("the kernel is %v, %v", info.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "vnfs/tamed/dev")); err == nil {
		t.Error("there is a device")
	}
	for _, cut := range []int{1, 100, 700} {
		b, err := os.ReadFile(evil(t, kernel, file("initramfs")))
		if err != nil {
			t.Fatal(err)
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		w.Close()
		at := filepath.Join(t.TempDir(), "cut")
		if err := os.WriteFile(at, z.Bytes()[:min(cut, z.Len()-1)], 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Import(t.Context(), "cut", vnfs.Import{Source: at}); err == nil {
			t.Errorf("cut at %d it is a capsule: %+v", cut, c)
		}
	}
}

// Several imports of one name at a time: one wins, and it is whole.
func TestImportTogether(t *testing.T) {
	s, dir := open(t)
	source := tree(t, t.TempDir(), "kernel=k", "initramfs=i", "nodescripts/init/10-x=y")
	var wg sync.WaitGroup
	won := make(chan bool, 8)
	for range cap(won) {
		wg.Go(func() {
			_, err := s.Import(t.Context(), "one", vnfs.Import{Source: source})
			if err != nil && !errors.Is(err, vnfs.ErrExists) {
				t.Error(err)
			}
			won <- err == nil
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for w := range won {
		if w {
			n++
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "vnfs"))
	if n != 1 || err != nil || len(left) != 1 {
		t.Errorf("%d won, %v are left, %v", n, left, err)
	}
	c, err := s.Get("one")
	if err != nil || c.Kernel == "" || c.Initramfs == "" || len(c.Scripts) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x00"))
	f.Add([]byte("BZh91AY"))
	for _, entries := range [][]tar.Header{
		{{Name: "kernel", Typeflag: tar.TypeReg}, {Name: "nodescripts/init/1-x", Typeflag: tar.TypeReg}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "kernel"}},
		{{Name: "etc/", Typeflag: tar.TypeDir}, {Name: "usr/", Typeflag: tar.TypeDir}, {Name: "boot/vmlinuz-1", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, dir := open(t)
		at := filepath.Join(t.TempDir(), "source")
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), "x", vnfs.Import{Source: at}); err != nil {
			if left, err := os.ReadDir(filepath.Join(dir, "vnfs")); err != nil || len(left) > 0 {
				t.Fatalf("%v is left, %v", left, err)
			}
			return
		}
		if err := s.Export(t.Context(), "x", new(bytes.Buffer), vnfs.Plain); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete("x"); err != nil {
			t.Fatal(err)
		}
	})
}
