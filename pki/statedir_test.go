package pki_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"dominion/fleettest/smalldisk"
	"dominion/pki"
)

func openDir(t *testing.T) *pki.Dir {
	t.Helper()
	d, err := pki.OpenDir(filepath.Join(t.TempDir(), "state", "minion"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDirFiles(t *testing.T) {
	d := openDir(t)
	if _, err := d.ReadFile("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of nothing = %v; want ErrNotExist", err)
	}
	for _, text := range []string{"one", "two"} {
		if err := d.WriteFile("certs/deep/dc1.crt", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := d.ReadFile("certs/deep/dc1.crt"); err != nil || string(b) != text {
			t.Errorf("ReadFile = %q, %v; want %q", b, err, text)
		}
	}
	for name, want := range map[string]fs.FileMode{".": 0o700, "certs": 0o700, "certs/deep": 0o700, "certs/deep/dc1.crt": 0o600} {
		info, err := os.Stat(filepath.Join(d.Path(), name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if names, err := d.List("certs/deep"); err != nil || !slices.Equal(names, []string{"dc1.crt"}) {
		t.Errorf("List = %q, %v", names, err)
	}
	if names, err := d.List("nothing"); err != nil || len(names) != 0 {
		t.Errorf("List(nothing) = %q, %v", names, err)
	}
	for range 2 {
		if err := d.Remove("certs/deep/dc1.crt"); err != nil {
			t.Error(err)
		}
	}
}

// Nothing outside is reached, by name or by symbolic link.
func TestDirConfines(t *testing.T) {
	d := openDir(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(d.Path(), "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "/etc/x", "..", "a/../../x", "link", ""} {
		if _, err := d.ReadFile(name); err == nil {
			t.Errorf("ReadFile(%q) succeeded", name)
		}
		if name != "link" { // which is replaced, not followed
			if err := d.WriteFile(name, nil); err == nil {
				t.Errorf("WriteFile(%q) succeeded", name)
			}
		}
	}
	if err := d.WriteFile("link", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "x" {
		t.Errorf("the file outside holds %q, %v", b, err)
	}
	if names, err := os.ReadDir(d.Path()); err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
}

func TestDirRefusesOpenModes(t *testing.T) {
	for _, mode := range []fs.FileMode{0o750, 0o701, 0o777} {
		path := t.TempDir()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if d, err := pki.OpenDir(path); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("OpenDir with mode %v = %v, %v; want a hint", mode, d, err)
		}
	}
	if os.Geteuid() == 0 {
		path := t.TempDir()
		if err := errors.Join(os.Chmod(path, 0o700), os.Chown(path, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.OpenDir(path); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("OpenDir of another's = %v", err)
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.OpenDir(file); err == nil {
		t.Error("OpenDir of a file succeeded")
	}
}

func TestDirLock(t *testing.T) {
	d := openDir(t)
	// What a process that was killed left behind.
	if err := os.WriteFile(filepath.Join(d.Path(), ".tmp-left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Lock(); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := os.ReadDir(d.Path()); err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
	second, err := pki.OpenDir(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(); !errors.Is(err, pki.ErrLocked) {
		t.Errorf("a second Lock = %v; want ErrLocked", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestDirKeys(t *testing.T) {
	d := openDir(t)
	if _, err := d.LoadKey("ca/root.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadKey of nothing = %v; want ErrNotExist", err)
	}
	key, err := d.LoadOrCreateKey("ca/root.key")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.LoadOrCreateKey("ca/root.key"); err != nil || !again.Equal(key) {
		t.Errorf("the key was not kept: %v", err)
	}
	logKey, err := d.LoadOrCreateLogKey("log.key")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.LoadOrCreateLogKey("log.key"); err != nil || !again.Equal(logKey) {
		t.Errorf("the log key was not kept: %v", err)
	}
	// A damaged or open key is an error, and never replaced.
	if err := d.WriteFile("bad.key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LoadOrCreateKey("bad.key"); !errors.Is(err, pki.ErrKey) {
		t.Errorf("a damaged key = %v; want ErrKey", err)
	}
	if err := os.Chmod(filepath.Join(d.Path(), "ca/root.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LoadOrCreateKey("ca/root.key"); err == nil || !strings.Contains(err.Error(), "others may open") {
		t.Errorf("a key that others may read = %v", err)
	}
}

// A full disk leaves the old file and nothing beside it.
func TestDirFullDisk(t *testing.T) {
	path := smalldisk.New(t, "64k")
	d, err := pki.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.WriteFile("f", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("f", make([]byte, 1<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteFile on a full disk = %v; want ENOSPC", err)
	}
	if b, err := d.ReadFile("f"); err != nil || string(b) != "old" {
		t.Errorf("ReadFile = %q, %v; want the old one", b, err)
	}
	if names, err := os.ReadDir(path); err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
}
