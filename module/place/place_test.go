package place

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
)

// tree makes a directory that only we can write to, with all above it.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

// walks makes the directories and links of TestWalk.
func walks(t *testing.T) (dir string) {
	t.Helper()
	dir = tree(t)
	put(t, dir+"/real/sub/f", "here")
	put(t, dir+"/open/f", "there")
	must(t, os.Chmod(dir+"/open", 0o777))
	must(t, os.Mkdir(dir+"/open/ours", 0o755))
	must(t, os.Mkdir(dir+"/sticky", 0o755))
	must(t, os.Chmod(dir+"/sticky", 0o777|fs.ModeSticky))
	must(t, os.Mkdir(dir+"/sticky/ours", 0o755))
	for name, to := range map[string]string{
		"/abs": dir + "/real", "/rel": "real/sub", "/up": "./real/../real//sub/f", "/loop": "loop", "/lost": "nowhere", "/chain": "abs/sub/f",
		"/real/back": "../../../../../../../../../.." + dir + "/real", "/open/bad": dir + "/real", "/open/ours/bad": dir + "/real",
		"/sticky/bad": dir + "/real", "/sticky/ours/good": dir + "/real",
	} {
		must(t, os.Symlink(to, dir+name))
	}
	return dir
}

func TestWalk(t *testing.T) {
	dir := walks(t)
	for _, test := range []struct {
		name, path string
		follow     bool
		want       string // content; empty: an error
		err        error
		trusted    bool
	}{
		{"plain", "/real/sub/f", false, "here", nil, true},
		{"slashes and dots", "//real/./sub//../sub/f", false, "here", nil, true},
		{"absolute link", "/abs/sub/f", false, "here", nil, true},
		{"relative link", "/rel/f", false, "here", nil, true},
		{"link up above the root and down", "/real/back/sub/f", false, "here", nil, true},
		{"link at the end followed", "/up", true, "here", nil, true},
		{"links to links", "/chain", true, "here", nil, true},
		{"link at the end not followed", "/up", false, "", ErrKind, true},
		{"loop", "/loop/f", false, "", syscall.ELOOP, false},
		{"lost", "/lost/f", false, "", fs.ErrNotExist, false},
		{"lost at the end", "/lost", true, "", fs.ErrNotExist, true},
		{"file as directory", "/real/sub/f/g", false, "", syscall.ENOTDIR, false},
		{"directory where others write", "/open/f", false, "there", nil, false},
		{"link there", "/open/bad/sub/f", false, "", ErrLink, false},
		{"link there at the end", "/open/bad", true, "", ErrLink, false},
		{"link in our directory that they could have moved", "/open/ours/bad/sub/f", false, "", ErrLink, false},
		{"link in a sticky directory", "/sticky/bad/sub/f", false, "", ErrLink, false},
		{"link in our directory in a sticky one", "/sticky/ours/good/sub/f", false, "here", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := Open
			if test.follow {
				open = Follow
			}
			p, err := open(dir + test.path)
			if err == nil {
				defer p.Close()
				if p.Trusted != test.trusted {
					t.Errorf("trusted %v; want %v", p.Trusted, test.trusted)
				}
				var f *os.File
				if f, _, err = p.File(os.O_RDONLY); err == nil {
					f.Close()
				}
			}
			var got []byte
			if err == nil {
				got, err = p.Dir.ReadFile(p.Base)
			}
			if string(got) != test.want || !errors.Is(err, test.err) {
				t.Errorf("%s: %q, %v; want %q, %v", test.path, got, err, test.want, test.err)
			}
			if _, ok := errors.AsType[*fs.PathError](err); err != nil && !ok {
				t.Errorf("error %v is no *fs.PathError", err)
			}
		})
	}
}

func TestMalformedPaths(t *testing.T) {
	for _, name := range []string{"", "a", "./a", "/a\x00b", "/" + strings.Repeat("a", 256), strings.Repeat("/a", 2048)} {
		if p, err := Open(name); !errors.Is(err, ErrPath) {
			t.Errorf("Open(%.20q) = %v, %v; want ErrPath", name, p, err)
		}
	}
	for name, base := range map[string]string{"/": ".", "///": ".", "/..": ".", "/nothing/..": "", "/nothing": "nothing"} {
		p, err := Open(name)
		if base == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open(%q) = %v, %v; want ErrNotExist", name, p, err)
			}
			continue
		}
		must(t, err)
		if p.Base != base {
			t.Errorf("Open(%q): base %q; want %q", name, p.Base, base)
		}
		must(t, p.Close())
	}
	root, err := os.OpenRoot("/")
	must(t, err)
	defer root.Close()
	for _, name := range []string{"", "..", "a/b", "a\x00", strings.Repeat("a", 256)} {
		if _, err := In(root, name); !errors.Is(err, ErrPath) {
			t.Errorf("In(%.20q) = %v; want ErrPath", name, err)
		}
	}
}

func TestKinds(t *testing.T) {
	dir := tree(t)
	must(t, syscall.Mkfifo(dir+"/fifo", 0o644))
	must(t, os.Mkdir(dir+"/dir", 0o755))
	must(t, os.Symlink("fifo", dir+"/link"))
	must(t, os.Symlink("file", dir+"/tofile"))
	put(t, dir+"/file", "x")
	for name, text := range map[string]string{
		dir + "/fifo": "a FIFO", dir + "/dir": "a directory", dir + "/link": "a symbolic link", dir + "/tofile": "a symbolic link", "/dev/null": "a device",
	} {
		p, err := Open(name)
		must(t, err)
		_, _, err = p.File(os.O_RDONLY)
		if !errors.Is(err, ErrKind) || !strings.HasSuffix(err.Error(), "but "+text) {
			t.Errorf("File of %s: %v; want ErrKind, %s", name, err, text)
		}
		if d, err := p.Create(); !errors.Is(err, ErrKind) {
			t.Errorf("Create of %s = %v, %v; want ErrKind", name, d, err)
		}
		if _, err := p.Directory(); (err == nil) != (text == "a directory") {
			t.Errorf("Directory of %s: %v", name, err)
		}
		must(t, p.Close())
	}
	if names := list(t, dir); len(names) != 5 {
		t.Errorf("left over: %q", names)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDraft(t *testing.T) {
	for _, test := range []struct {
		name string
		old  fs.FileMode // zero: there is none
		as   As
		mode fs.FileMode
		err  error
	}{
		{"new", 0, As{}, 0o644, nil},
		{"new with a mode", 0, As{Mode: new(fs.FileMode(0o600)), New: true}, 0o600, nil},
		{"keeps the mode", 0o751, As{}, 0o751, nil},
		{"does not keep setuid", 0o755 | fs.ModeSetuid, As{}, 0o755, nil},
		{"setuid when told", 0o755, As{Mode: new(0o711 | fs.ModeSetuid)}, 0o711 | fs.ModeSetuid, nil},
		{"fresh", 0o600, As{Fresh: true}, 0o644, nil},
		{"taken", 0o640, As{New: true}, 0o640, fs.ErrExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := tree(t)
			if test.old != 0 {
				put(t, dir+"/f", "old")
				must(t, os.Chmod(dir+"/f", test.old))
			}
			p, err := Open(dir + "/f")
			must(t, err)
			defer p.Close()
			d, err := p.Create()
			must(t, err)
			defer d.Discard()
			if info, err := d.File.Stat(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("a draft has mode %v", info.Mode())
			}
			_, err = d.File.WriteString("new")
			must(t, err)
			if b, _ := os.ReadFile(dir + "/f"); string(b) == "new" {
				t.Error("seen before it was committed")
			}
			at := time.Unix(1234567890, 123456789)
			test.as.ModTime = &at
			err = d.Commit(test.as)
			if !errors.Is(err, test.err) {
				t.Fatalf("Commit = %v; want %v", err, test.err)
			}
			info, err2 := os.Stat(dir + "/f")
			must(t, err2)
			b, _ := os.ReadFile(dir + "/f")
			if err == nil && (string(b) != "new" || !info.ModTime().Equal(at)) || err != nil && string(b) != "old" || info.Mode() != test.mode {
				t.Errorf("%q of %v, mode %v; want mode %v", b, info.ModTime(), info.Mode(), test.mode)
			}
			if names := list(t, dir); len(names) != 1 {
				t.Errorf("left over: %q", names)
			}
		})
	}
}

func TestDraftKeepsAttributes(t *testing.T) {
	dir := tree(t)
	put(t, dir+"/f", "old")
	if err := syscall.Setxattr(dir+"/f", "user.colour", []byte("red"), 0); err != nil {
		t.Skipf("SKIPPED the file system has no attributes for users: %v", err)
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir+"/f", 12345, 23456))
	}
	p, err := Open(dir + "/f")
	must(t, err)
	defer p.Close()
	d, err := p.Create()
	must(t, err)
	must(t, d.Commit(As{}))
	v := make([]byte, 10)
	n, err := syscall.Getxattr(dir+"/f", "user.colour", v)
	if err != nil || string(v[:n]) != "red" {
		t.Errorf("attribute %q, %v", v[:max(n, 0)], err)
	}
	info, err := os.Stat(dir + "/f")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (st.Uid != 12345 || st.Gid != 23456) {
		t.Errorf("owner %d:%d; want 12345:23456", st.Uid, st.Gid)
	}
}

func TestResume(t *testing.T) {
	dir := tree(t)
	p, err := Open(dir + "/f")
	must(t, err)
	defer p.Close()
	d, err := p.Resume(".part")
	must(t, err)
	_, err = d.File.WriteString("half")
	must(t, err)
	must(t, d.Keep())
	d.Discard()
	if d, err = p.Resume(".part"); err != nil {
		t.Fatal(err)
	}
	if info, _ := d.File.Stat(); info.Size() != 4 {
		t.Errorf("size %d of what was kept; want 4", info.Size())
	}
	must(t, d.Commit(As{}))
	if names := list(t, dir); len(names) != 1 || names[0] != "f" {
		t.Errorf("left over: %q", names)
	}
	put(t, dir+"/foreign", "x")
	must(t, syscall.Mkfifo(dir+"/pipe", 0o600))
	must(t, os.Symlink("f", dir+"/link"))
	for _, name := range []string{"foreign", "pipe", "link", "..", "a/b"} {
		if d, err := p.Resume(name); err == nil {
			d.Discard()
			t.Errorf("Resume(%q) took it", name)
		}
	}
}

func TestDraftThatWasMoved(t *testing.T) {
	dir := tree(t)
	p, err := Open(dir + "/f")
	must(t, err)
	defer p.Close()
	d, err := p.Create()
	must(t, err)
	must(t, os.Rename(dir+"/"+d.Name, dir+"/moved"))
	put(t, dir+"/"+d.Name, "somebody else's")
	if err := d.Commit(As{}); call.CodeOf(err) != call.Conflict {
		t.Errorf("Commit = %v; want a conflict", err)
	}
	if names := list(t, dir); len(names) != 2 {
		t.Errorf("names %q; want the two of the other", names)
	}
}
