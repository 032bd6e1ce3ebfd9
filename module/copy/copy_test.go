package copy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/blob"
	"dominion/call"
	"dominion/module"
)

// overlordOf is an overlord that has files, and gives at most cut bytes in an answer.
type overlordOf struct {
	mu    sync.Mutex
	files map[blob.Digest][]byte
	cut   int // 0: no limit
	lie   bool
	gave  int64
	fail  error
}

func (o *overlordOf) add(b []byte) blob.Digest {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.files == nil {
		o.files = make(map[blob.Digest][]byte)
	}
	d := blob.Digest(sha256.Sum256(b))
	o.files[d] = b
	return d
}

func (o *overlordOf) blob(_ context.Context, digest string, offset int64) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d, err := blob.ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	b, ok := o.files[d]
	if !ok {
		return nil, call.Errorf(call.NotFound, "no such file")
	}
	if o.fail != nil {
		return nil, o.fail
	}
	b = b[offset:]
	if o.cut > 0 && len(b) > o.cut {
		b = b[:o.cut]
	}
	if o.lie && len(b) > 0 {
		b = bytes.Clone(b)
		b[0]++
	}
	o.gave += int64(len(b))
	return io.NopCloser(bytes.NewReader(b)), nil
}

// order makes the arguments of put for some entries.
func (o *overlordOf) order(t testing.TB, path string, entries ...blob.Entry) PutIn {
	t.Helper()
	text, err := (&blob.Manifest{Entries: entries}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return PutIn{Path: path, Manifest: o.add(text).String(), ManifestSize: int64(len(text))}
}

func (o *overlordOf) file(path, text string, mode uint32) blob.Entry {
	d := o.add([]byte(text))
	return blob.Entry{Path: path, Type: blob.File, Mode: mode, Mtime: 1_700_000_000_000_000_001, Size: int64(len(text)), Digest: &d}
}

func (o *overlordOf) put(t testing.TB, in PutIn) (PutOut, error) {
	t.Helper()
	return put(t.Context(), &module.Env{Blob: o.blob}, in)
}

func dirOf(path string) blob.Entry {
	return blob.Entry{Path: path, Type: blob.Dir, Mode: 0o755, Mtime: 1_700_000_000_000_000_001}
}

func TestPutFile(t *testing.T) {
	dir := t.TempDir()
	o := &overlordOf{cut: 1000}
	text := strings.Repeat("0123456789", 1000)
	path := filepath.Join(dir, "f")
	in := o.order(t, path, o.file(".", text, 0o4755))
	dry := in
	dry.DryRun = true
	want := PutOut{Changed: true, Written: 1, Bytes: int64(len(text))}
	if out, err := o.put(t, dry); err != nil || out != want {
		t.Fatalf("dry run: %+v, %v", out, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a dry run wrote: %v", err)
	}
	if out, err := o.put(t, in); err != nil || out != want {
		t.Fatalf("%+v, %v", out, err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o755 || st.ModTime().UnixNano() != 1_700_000_000_000_000_001 {
		t.Errorf("without an owner nobody else's rights: %v %v, %v", st.Mode(), st.ModTime(), err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != text {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, checksum := range []bool{false, true} {
		in.Checksum = checksum
		if out, err := o.put(t, in); err != nil || out != (PutOut{}) {
			t.Errorf("again: %+v, %v", out, err)
		}
	}
	// Another mode, another time, another name of the same file: what to do is said
	// beforehand, and then done.
	for name, spoil := range map[string]func() error{
		"mode": func() error { return os.Chmod(path, 0o600) },
		"time": func() error { return os.Chtimes(path, time.Now(), time.Now()) },
		"link": func() error { return errors.Join(os.Chmod(path, 0o600), os.Link(path, path+"2")) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		dry.Checksum = true
		said, err := o.put(t, dry)
		if err != nil || !said.Changed || said.Written != 1 {
			t.Errorf("%s: dry run: %+v, %v", name, said, err)
		}
		if out, err := o.put(t, in); err != nil || out != said {
			t.Errorf("%s: %+v, %v; said was %+v", name, out, err, said)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o755 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
}

// What breaks off is kept, and not asked for again; a full disk and other bytes leave
// nothing.
func TestPutResumes(t *testing.T) {
	dir := t.TempDir()
	o := &overlordOf{}
	text := strings.Repeat("0123456789", 100_000)
	in := o.order(t, filepath.Join(dir, "f"), o.file(".", text, 0o644))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	env := &module.Env{Blob: func(ctx context.Context, digest string, offset int64) (io.ReadCloser, error) {
		r, err := o.blob(ctx, digest, offset)
		if digest == in.Manifest {
			return r, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(r, 400_000), readFunc(func([]byte) (int, error) { cancel(why); return 0, errors.New("cut") })), r}, err
	}}
	if _, err := put(ctx, env, in); !errors.Is(err, why) {
		t.Fatalf("put = %v", err)
	}
	parts, err := filepath.Glob(filepath.Join(dir, ".dominion-copy-*.part"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	if st, err := os.Stat(parts[0]); err != nil || st.Size() != 400_000 || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	o.gave = 0
	if _, err := o.put(t, in); err != nil {
		t.Fatal(err)
	}
	if o.gave > 600_000+in.ManifestSize {
		t.Errorf("%d bytes were asked for; 600,000 were missing", o.gave)
	}
	names := inDir(t, dir)
	if len(names) != 1 {
		t.Errorf("left: %q", names)
	}
	o.lie = true
	other := o.order(t, filepath.Join(dir, "g"), o.file(".", "other bytes", 0o644))
	if _, err := o.put(t, other); call.CodeOf(err) != call.Failed {
		t.Errorf("a lying overlord: %v", err)
	}
	o.lie = false
	o.files[mustDigest(t, other.Manifest)] = append(o.files[mustDigest(t, other.Manifest)][:len(o.files[mustDigest(t, other.Manifest)])-2], ' ', '\n')
	if _, err := o.put(t, other); call.CodeOf(err) != call.Failed {
		t.Errorf("another manifest: %v", err)
	}
	if got := inDir(t, dir); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func mustDigest(t *testing.T, s string) blob.Digest {
	t.Helper()
	d, err := blob.ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func inDir(t *testing.T, dir string) (names []string) {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l {
		names = append(names, e.Name())
	}
	return names
}

func TestPutTree(t *testing.T) {
	dir := t.TempDir()
	o := &overlordOf{}
	link := blob.Entry{Path: "d/link", Type: blob.Link, Target: "../x"}
	in := o.order(t, filepath.Join(dir, "top"), dirOf("."), dirOf("d"), o.file("d/f", "f", 0o644), link, dirOf("e"), o.file("x", "x", 0o600))
	dry := in
	dry.DryRun = true
	said, err := o.put(t, dry)
	if err != nil || said.Written != 6 {
		t.Fatalf("dry run: %+v, %v", said, err)
	}
	if out, err := o.put(t, in); err != nil || out != said {
		t.Fatalf("%+v, %v; said was %+v", out, err, said)
	}
	if out, err := o.put(t, in); err != nil || out != (PutOut{}) {
		t.Errorf("again: %+v, %v", out, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "top/d/link")); err != nil || to != "../x" {
		t.Errorf("link to %q, %v", to, err)
	}
	// What is there beside stays; a top directory that is there keeps its mode.
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "top/own"), nil, 0o600), os.Chmod(filepath.Join(dir, "top"), 0o700), os.Chmod(filepath.Join(dir, "top/d"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := o.put(t, in); err != nil || out.Written != 1 {
		t.Errorf("another mode of d: %+v, %v", out, err)
	}
	for name, want := range map[string]fs.FileMode{"top": 0o700, "top/d": 0o755, "top/own": 0o600} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	// Something else is where a file, or a directory, should be.
	for name, x := range map[string]struct {
		make func(path string) error
		at   string
	}{
		"a directory for a file":   {func(p string) error { return os.Mkdir(p, 0o755) }, "x"},
		"a FIFO for a file":        {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "d/f"},
		"a link for a file":        {func(p string) error { return os.Symlink("/etc/passwd", p) }, "d/f"},
		"a file for a directory":   {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "e"},
		"a link for a directory":   {func(p string) error { return os.Symlink(dir, p) }, "e"},
		"a FIFO for a link":        {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "d/link"},
		"a FIFO for a directory":   {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "e"},
		"a directory for the link": {func(p string) error { return os.Mkdir(p, 0o755) }, "d/link"},
	} {
		path := filepath.Join(dir, "top", x.at)
		if err := errors.Join(os.RemoveAll(path), x.make(path)); err != nil {
			t.Fatal(err)
		}
		if out, err := o.put(t, in); err == nil {
			t.Errorf("%s: %+v", name, out)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if _, err := o.put(t, in); err != nil {
			t.Errorf("%s: after it is gone: %v", name, err)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	dir := t.TempDir()
	o := &overlordOf{}
	in := o.order(t, filepath.Join(dir, "none", "f"), o.file(".", "x", 0o644))
	if _, err := o.put(t, in); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the directory above: %v", err)
	}
	if _, err := put(t.Context(), &module.Env{}, in); call.CodeOf(err) != call.Unavailable {
		t.Errorf("without an overlord: %v", err)
	}
	in.ManifestSize--
	if _, err := o.put(t, in); err == nil {
		t.Error("a manifest of another size was taken")
	}
	in = o.order(t, filepath.Join(dir, "f"), o.file(".", "x", 0o644))
	o.fail = call.Errorf(call.Invalid, "no")
	if _, err := o.put(t, in); call.CodeOf(err) != call.Invalid {
		t.Errorf("refused: %v", err)
	}
}

// Progress is told as live output.
func TestPutProgress(t *testing.T) {
	o := &overlordOf{}
	in := o.order(t, filepath.Join(t.TempDir(), "f"), o.file(".", "12345", 0o644))
	var out bytes.Buffer
	if _, err := put(t.Context(), &module.Env{Blob: o.blob, Stdout: &out}, in); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var p Progress
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &p); err != nil || p.Have != 5 {
		t.Errorf("%q: %+v, %v", out.String(), p, err)
	}
}

// Two copies of the same file to the same place: one waits for the other.
func TestPutTwice(t *testing.T) {
	dir := t.TempDir()
	o := &overlordOf{cut: 5000}
	in := o.order(t, filepath.Join(dir, "f"), o.file(".", strings.Repeat("0123456789", 10_000), 0o644))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := o.put(t, in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := inDir(t, dir); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}

// A file that somebody left in a directory of his does not become one that runs with
// another's rights, however much it looks like the one that is copied.
func TestPutSetuidIsWrittenAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "his")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	o := &overlordOf{}
	path := filepath.Join(dir, "f")
	e := o.file(".", "good", 0o4755)
	e.Owner = &blob.Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if err := os.WriteFile(path, []byte("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	if at := time.Unix(0, e.Mtime); os.Chtimes(path, at, at) != nil {
		t.Fatal("no time is set")
	}
	if _, err := o.put(t, o.order(t, path, e)); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	b, readErr := os.ReadFile(path)
	if err != nil || readErr != nil || string(b) != "good" || st.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("%q, %v, %v", b, st.Mode(), err)
	}
}
