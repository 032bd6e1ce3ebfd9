package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

const (
	lockName    = "lock"
	tempPrefix  = ".tmp-"
	maxDirFile  = 16 << 20 // bytes of a file that ReadFile gives
	dirMode     = 0o700
	secretMode  = 0o600
	othersModes = 0o077
)

// ErrLocked is wrapped when another process holds the lock of a state directory.
var ErrLocked = errors.New("the state directory is in use by another process")

// Dir is a state directory: 0700, its files 0600, nothing outside of it ever
// opened through it.
type Dir struct {
	path string
	root *os.Root
	lock *os.File // nil until Lock
}

// OpenDir opens a state directory and creates it if needed. It refuses one
// that belongs to somebody else or that others may enter.
func OpenDir(name string) (*Dir, error) {
	if err := os.MkdirAll(name, dirMode); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	info, err := root.Stat(".")
	if err == nil {
		err = checkPrivate(info, name)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open state directory: %w", err), root.Close())
	}
	return &Dir{path: name, root: root}, nil
}

// checkPrivate refuses what others may open.
func checkPrivate(info fs.FileInfo, name string) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q belongs to user %d, not to %d, who runs this", name, st.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&othersModes != 0 {
		return fmt.Errorf("others may open %q (mode %04o); chmod go= %s", name, mode, name)
	}
	return nil
}

// Path gives the name the directory was opened with.
func (d *Dir) Path() string { return d.path }

// Root gives the directory for what Dir does not offer. It is closed by Close.
func (d *Dir) Root() *os.Root { return d.root }

// Lock keeps other processes out until Close. The error wraps ErrLocked when
// one is in already.
func (d *Dir) Lock() error {
	if d.lock != nil {
		return nil
	}
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, secretMode)
	if err != nil {
		return fmt.Errorf("lock state directory %q: %w", d.path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return errors.Join(fmt.Errorf("lock state directory %q: %w", d.path, err), f.Close())
	}
	d.lock = f
	return d.clearTemps(".")
}

// clearTemps removes what a process that died while writing left in dir.
func (d *Dir) clearTemps(dir string) error {
	names, err := d.list(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix) {
			if err := d.Remove(path.Join(dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close gives the lock back.
func (d *Dir) Close() error {
	var err error
	if d.lock != nil {
		// Closing alone would leave the lock with a child that another
		// goroutine has forked and that has not reached its exec yet.
		err = errors.Join(syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN), d.lock.Close())
	}
	return errors.Join(err, d.root.Close())
}

// ReadFile gives a file of at most 16 MiB. A missing one is fs.ErrNotExist.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	b, _, err := d.read(name)
	return b, err
}

func (d *Dir) read(name string) (b []byte, info fs.FileInfo, err error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, nil, d.wrap("read", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err = f.Stat(); err != nil {
		return nil, nil, d.wrap("read", name, err)
	}
	if b, err = io.ReadAll(io.LimitReader(f, maxDirFile+1)); err != nil {
		return nil, nil, d.wrap("read", name, err)
	}
	if len(b) > maxDirFile {
		return nil, nil, d.wrap("read", name, fmt.Errorf("it is larger than %d bytes", maxDirFile))
	}
	return b, info, nil
}

func (d *Dir) wrap(what, name string, err error) error {
	return fmt.Errorf("%s %s: %w", what, path.Join(d.path, name), err)
}

// WriteFile puts a file in place, 0600, as a whole or not at all, and returns
// when it is on the disk. Missing directories above it are made, 0700.
func (d *Dir) WriteFile(name string, data []byte) error {
	dir := path.Dir(name)
	if dir != "." {
		if err := d.root.MkdirAll(dir, dirMode); err != nil {
			return d.wrap("write", name, err)
		}
	}
	if err := d.ReplaceFile(name, data); err != nil {
		return err
	}
	// Every directory up to ours: one of them may be new.
	for {
		if err := d.syncDir(dir); err != nil {
			return d.wrap("write", name, err)
		}
		if dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

// ReplaceFile is WriteFile for what need not be the newest after a power cut: then
// the file has the new content or one that was there before, whole. The directory must
// be there.
func (d *Dir) ReplaceFile(name string, data []byte) error {
	temp := path.Join(path.Dir(name), tempPrefix+rand.Text())
	if err := d.writeTemp(temp, data); err != nil {
		return d.wrap("write", name, err)
	}
	if err := d.root.Rename(temp, name); err != nil {
		return d.wrap("write", name, errors.Join(err, d.root.Remove(temp)))
	}
	return nil
}

// writeTemp writes and syncs a new file, and removes it when that fails.
func (d *Dir) writeTemp(temp string, data []byte) error {
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, secretMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.root.Remove(temp))
	}
	return nil
}

func (d *Dir) syncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove removes a file; one that is not there is no error.
func (d *Dir) Remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.wrap("remove", name, err)
	}
	return d.syncDir(path.Dir(name))
}

// List gives the sorted names in a directory below this one; none when it does
// not exist.
func (d *Dir) List(dir string) ([]string, error) {
	names, err := d.list(dir)
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, tempPrefix) }), err
}

func (d *Dir) list(dir string) (names []string, err error) {
	f, err := d.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, d.wrap("list", dir, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if names, err = f.Readdirnames(-1); err != nil {
		return nil, d.wrap("list", dir, err)
	}
	slices.Sort(names)
	return names, nil
}

// LoadKey reads an ECDSA P-256 key, and refuses one that others may read. A
// missing one is fs.ErrNotExist.
func (d *Dir) LoadKey(name string) (*ecdsa.PrivateKey, error) {
	return loadKey(d, name, ParseKey)
}

// LoadOrCreateKey is LoadKey, but makes and keeps a key where there is none.
func (d *Dir) LoadOrCreateKey(name string) (*ecdsa.PrivateKey, error) {
	return loadOrCreate(d, name, ParseKey, NewKey)
}

// LoadOrCreateLogKey is LoadOrCreateKey for the Ed25519 key of an audit log.
func (d *Dir) LoadOrCreateLogKey(name string) (ed25519.PrivateKey, error) {
	return loadOrCreate(d, name, ParseLogKey, func() (ed25519.PrivateKey, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
}

func loadKey[K crypto.Signer](d *Dir, name string, parse func([]byte) (K, error)) (K, error) {
	var none K
	b, info, err := d.read(name)
	if err != nil {
		return none, err
	}
	if err := checkPrivate(info, path.Join(d.path, name)); err != nil {
		return none, fmt.Errorf("read key: %w", err)
	}
	key, err := parse(b)
	if err != nil {
		return none, d.wrap("read", name, err)
	}
	return key, nil
}

func loadOrCreate[K crypto.Signer](d *Dir, name string, parse func([]byte) (K, error), create func() (K, error)) (K, error) {
	var none K
	key, err := loadKey(d, name, parse)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = create(); err != nil {
		return none, fmt.Errorf("make key %s: %w", path.Join(d.path, name), err)
	}
	pem, err := MarshalKey(key)
	if err != nil {
		return none, err
	}
	if err := d.WriteFile(name, pem); err != nil {
		return none, err
	}
	return key, nil
}
