package nodescript

import (
	"bytes"
	_ "embed" // the scripts of our own
	"errors"
	"fmt"
	"io/fs"
	"os"
)

var (
	//go:embed init/00-init
	initBegin []byte
	//go:embed init/90-finish
	initFinish []byte
)

// Installed is a script of our own, and what Install did with it.
type Installed struct {
	Path string // relative to nodescripts/
	Did  Did
}

// Did is what Install did with a script.
type Did string

// What Install can do.
const (
	Wrote     Did = "wrote"     // it was missing
	Unchanged Did = "unchanged" // it is there already, as it should be
	Replaced  Did = "replaced"  // another was there, and replacing it was asked for
	Kept      Did = "kept"      // another is there
)

// Install writes the scripts of our own, init/all/00-init and
// init/all/90-finish, below STATEDIR, which it makes if it is missing. Another
// file of such a name is kept, unless replace is set. Each file takes its place
// as a whole.
func Install(statedir string, replace bool) ([]Installed, error) {
	if err := os.MkdirAll(statedir, 0o700); err != nil {
		return nil, fmt.Errorf("install node scripts: %w", err)
	}
	t, err := Open(statedir)
	if err != nil {
		return nil, fmt.Errorf("install node scripts: %w", err)
	}
	defer t.Close()
	const folder = scripts + "/init/all"
	if err := t.root.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("install node scripts: %w", err)
	}
	var all []Installed
	for _, s := range []struct {
		name string
		text []byte
	}{{"00-init", initBegin}, {"90-finish", initFinish}} {
		did, err := install(t.root, folder+"/"+s.name, s.text, replace)
		if err != nil {
			return all, fmt.Errorf("install node script %s: %w", s.name, err)
		}
		all = append(all, Installed{"init/all/" + s.name, did})
	}
	return all, nil
}

// install writes one script.
func install(root *os.Root, path string, text []byte, replace bool) (Did, error) {
	did := Wrote
	info, err := root.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	case info.Mode().IsRegular() && info.Size() == int64(len(text)) && info.Mode().Perm() == 0o755:
		old, err := root.ReadFile(path)
		if err != nil {
			return "", err
		}
		if bytes.Equal(old, text) {
			return Unchanged, nil
		}
		fallthrough
	default:
		if !replace {
			return Kept, nil
		}
		did = Replaced
	}
	fresh := path + ".new~" // a name that never runs, should it be left
	if err := root.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	f, err := root.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(fresh, path)
	}
	if err != nil {
		return "", errors.Join(err, root.Remove(fresh))
	}
	return did, nil
}
