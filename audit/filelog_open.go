package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"dominion/call"
)

// load finds the files, and reads the last one to its end.
func (l *FileLog) load() error {
	if err := l.list(); err != nil {
		return err
	}
	for len(l.files) > 0 {
		last := l.files[len(l.files)-1]
		begun, err := l.loadLast(last)
		if err != nil || begun {
			return err
		}
		// The crash came while the file was begun: it has not even a header.
		l.note("the newest file of the audit log was never finished and is removed", fileName(last.first), 0, last.size)
		if err := l.dir.Remove(fileName(last.first)); err != nil {
			return err
		}
		l.files = l.files[:len(l.files)-1]
	}
	l.id, l.tree = newLogID(), new(Tree)
	return l.begin(l.tree)
}

// list finds the files of the log, oldest first.
func (l *FileLog) list() error {
	d, err := l.dir.Open(".")
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	name := regexp.MustCompile(`^[0-9]{20}\.log$`)
	l.files = nil
	for _, e := range entries {
		if !name.MatchString(e.Name()) {
			continue
		}
		first, err := strconv.ParseInt(e.Name()[:20], 10, 64)
		if err != nil {
			return &DamageError{File: e.Name(), What: "its name is no record number"}
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		l.files = append(l.files, segment{first: first, size: info.Size()})
	}
	slices.SortFunc(l.files, func(a, b segment) int { return int(min(max(a.first-b.first, -1), 1)) })
	return nil
}

// loadLast opens the newest file for writing; false when it never got a header.
func (l *FileLog) loadLast(last segment) (bool, error) {
	name := fileName(last.first)
	f, err := l.dir.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	s, err := scan(f, last.size, nil)
	if err == nil && s.tree == nil {
		err = l.headless(f, last, s.bad)
		return false, errors.Join(err, f.Close())
	}
	if err == nil && s.tree.Size() < last.first {
		err = &DamageError{File: name, Index: last.first, What: "its header and its name do not agree"}
	}
	if err == nil && s.bad != nil {
		err = l.cutTail(f, last, s)
	}
	if err != nil {
		return false, errors.Join(err, f.Close())
	}
	l.id, l.tree, l.file, l.offset = s.id, s.tree, f, s.end
	l.files[len(l.files)-1].size = s.end
	return true, nil
}

// headless says whether a file without a header may be removed.
func (l *FileLog) headless(f *os.File, last segment, bad error) error {
	at, found, err := frameAfter(f, 0, last.size, -1)
	if err != nil {
		return err
	}
	if found {
		return &DamageError{File: fileName(last.first), Index: last.first, What: fmt.Sprintf("%v, and a good frame follows at byte %d", bad, at)}
	}
	return nil
}

// cutTail removes what a crash left unfinished, and refuses to when a good
// frame follows: then it was no crash.
func (l *FileLog) cutTail(f *os.File, last segment, s scanned) error {
	at, found, err := frameAfter(f, s.end, last.size, s.tree.Size())
	if err != nil {
		return err
	}
	if found {
		return &DamageError{
			File: fileName(last.first), Offset: s.end, Index: s.tree.Size(),
			What: fmt.Sprintf("%v, and a good frame follows at byte %d", s.bad, at),
		}
	}
	l.note("the end of the audit log was torn and is cut off", fileName(last.first), s.end, last.size-s.end)
	return errors.Join(f.Truncate(s.end), f.Sync())
}

func (l *FileLog) note(what, file string, offset, bytes int64) {
	l.opt.Log.Warn("audit log repaired", "what", what, "file", file, "offset", offset, "bytes", bytes)
	l.notes = append(l.notes, fmt.Sprintf("%s: %s at byte %d, %d bytes", what, file, offset, bytes))
}

// begin starts a new file after the leaves of t; the caller holds turn, or
// nobody else knows l.
func (l *FileLog) begin(t *Tree) error {
	header, err := appendHeader(nil, l.id, t)
	if err != nil {
		return err
	}
	name := fileName(t.Size())
	f, err := l.dir.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(header); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(l.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), l.dir.Remove(name))
	}
	l.file, l.offset = f, int64(len(header))
	l.mu.Lock()
	l.files = append(l.files, segment{first: t.Size(), size: l.offset})
	l.mu.Unlock()
	return nil
}

// rotate begins a new file and removes the oldest ones beyond Keep.
func (l *FileLog) rotate(t *Tree) error {
	old := l.file
	if err := l.begin(t); err != nil {
		return call.Errorf(call.Unavailable, "begin a new file of the audit log of this machine: %v", err)
	}
	err := old.Close()
	l.mu.Lock()
	total, drop := int64(0), 0
	for _, s := range l.files {
		total += s.size
	}
	for ; total+l.opt.Segment > l.opt.Keep && drop < len(l.files)-1; drop++ {
		total -= l.files[drop].size
	}
	gone := slices.Clone(l.files[:drop])
	l.files = slices.Delete(l.files, 0, drop)
	l.mu.Unlock()
	for _, s := range gone {
		err = errors.Join(err, l.dir.Remove(fileName(s.first)))
	}
	if err != nil {
		l.opt.Log.Warn("old audit file not removed", "error", err)
	}
	return nil
}

// setAside moves a damaged log away and begins a new one, with an id of its own.
func (l *FileLog) setAside(damage *DamageError) error {
	folder := "damaged-" + time.Now().UTC().Format("20060102T150405.000")
	if err := l.dir.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, s := range l.files {
		if err := l.dir.Rename(fileName(s.first), folder+"/"+fileName(s.first)); err != nil {
			return err
		}
	}
	l.opt.Log.Error("audit log damaged and set aside", "error", damage, "folder", folder)
	l.notes = append(l.notes, fmt.Sprintf("%v; the log is kept in %s and a new one begun", damage, folder))
	l.files, l.id, l.tree = nil, newLogID(), new(Tree)
	return l.begin(l.tree)
}
