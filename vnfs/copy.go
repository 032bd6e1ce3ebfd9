package vnfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// randomText is part of a name that nobody else uses.
func randomText() string { return strings.ToLower(rand.Text()) }

// copyTree copies the directories, files and links below one directory to another,
// which is there.
func (s *Store) copyTree(from, to string) error {
	return fs.WalkDir(s.root.FS(), from, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == from {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		at := path.Join(to, strings.TrimPrefix(p, from+"/"))
		switch {
		case e.IsDir():
			return s.root.MkdirAll(at, info.Mode().Perm())
		case e.Type() == fs.ModeSymlink:
			link, err := s.root.Readlink(p)
			if err != nil {
				return err
			}
			return s.root.Symlink(link, at)
		case !e.Type().IsRegular():
			return nil // sockets, pipes and devices are nothing that a node could fetch
		}
		f, err := s.root.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		return s.writeFile(at, f, info.Mode().Perm(), info.ModTime())
	})
}

// writeFile makes a file, durable.
func (s *Store) writeFile(at string, from io.Reader, mode fs.FileMode, modified time.Time) error {
	f, err := s.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if modified.IsZero() {
		return nil
	}
	if err := s.root.Chtimes(at, modified, modified); err != nil {
		return fmt.Errorf("set the time of %s: %w", at, err)
	}
	return nil
}
