package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"dominion/call"
)

const (
	fileName = "journal"
	fileNew  = "journal.new" // being written to replace it
)

// damageError says what is wrong with a file that no crash explains.
type damageError struct {
	offset int64
	what   string
}

func (e *damageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", fileName, e.offset, e.what)
}

// Open opens or begins the journal in the directory path, which it makes with
// mode 0700. What a crash left unfinished at the end is cut off; a damaged file is
// renamed and a new journal begun. Both are said in the log and in Notes. Only
// one Journal may be open on a directory; the caller sees to that.
func Open(path string, opt Options) (*Journal, error) {
	if opt.Entries == 0 {
		opt.Entries = 100_000
	}
	if opt.Results == 0 {
		opt.Results = 64 << 20
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{opt: opt, dir: dir, sync: datasync, turn: make(chan struct{}, 1)}
	err = j.load()
	if damage, ok := errors.AsType[*damageError](err); ok {
		err = j.setAside(damage)
	}
	if err != nil {
		if j.file != nil {
			_ = j.file.Close() // err says more
		}
		_ = dir.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return j, nil
}

// load reads the file, or begins one when there is none.
func (j *Journal) load() error {
	if err := j.dir.Remove(fileNew); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := j.dir.OpenFile(fileName, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return j.begin()
	}
	if err != nil {
		return err
	}
	j.file = f
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	head, err := readAt(f, nil, 0, min(size, headerSize))
	if err != nil {
		return err
	}
	h, err := parseHeader(head)
	if err != nil { // it is renamed into place whole, so no crash leaves it so
		return &damageError{what: err.Error()}
	}
	j.id, j.birth, j.floor = h.id, h.birth, h.floor
	end, bad, err := scan(f, size, h.id, j.replay)
	if err != nil {
		return err
	}
	doubtful := bad != nil && whole(f, end, size)
	if bad != nil {
		if err := j.cutTail(end, size, bad, doubtful); err != nil {
			return err
		}
	}
	j.offset = end
	j.settle()
	if doubtful {
		return j.bear()
	}
	return nil
}

// whole says whether the file ended with all bytes of a frame, although it does not
// hold. A crash can leave that, if the disk took the end of a write before its
// beginning; but the frame may also have been durable, and have said that jobs began.
func whole(f io.ReaderAt, end, size int64) bool {
	b, err := readAt(f, nil, end, min(size-end, frameHeader))
	return err == nil && len(b) == frameHeader && int64(binary.BigEndian.Uint32(b[4:])) == size-end-frameHeader
}

// bear writes the file anew without its birth, so that an overlord tells another and
// no older order is accepted; the jobs that are known stay so.
func (j *Journal) bear() error {
	j.birth = 0
	return j.rewrite()
}

// cutTail removes what a crash left unfinished, and refuses to when more follows
// than one crash leaves. Of a doubtful frame that is left to bear: no crash between
// the two may make the file look sound.
func (j *Journal) cutTail(end, size int64, bad error, doubtful bool) error {
	at, found, err := frameAfter(j.file, end, size, j.id)
	if err != nil {
		return err
	}
	if found {
		return &damageError{offset: end, what: fmt.Sprintf("%v, and more follows at byte %d", bad, at)}
	}
	if doubtful {
		j.note("the end of the journal was torn, or damaged: it is cut off, and earlier orders are refused", end, size-end)
		return nil
	}
	j.note("the end of the journal was torn and is cut off", end, size-end)
	return errors.Join(j.file.Truncate(end), j.file.Sync())
}

func (j *Journal) note(what string, offset, bytes int64) {
	j.opt.Log.Warn("journal repaired", "what", what, "offset", offset, "bytes", bytes)
	j.notes = append(j.notes, fmt.Sprintf("%s at byte %d, %d bytes", what, offset, bytes))
}

// replay takes one record of the file into memory.
func (j *Journal) replay(r record, offset, size int64) {
	if r.kind == kindBirth {
		if j.birth == 0 {
			j.birth = r.expiry
		}
		return
	}
	e, ok := j.entries[r.job]
	if r.kind == kindStarted {
		if ok {
			return
		}
		e = entry{expiry: r.expiry, state: uint8(call.Started), flags: written}
		// Not more names than were interned when they were written.
		e.overlord, _ = j.intern(r.overlord)
		e.method, _ = j.intern(r.method)
		j.live += r.size()
	} else if !ok {
		return // a job that was forgotten before the file was written anew
	}
	switch r.kind {
	case kindFinished:
		e.state, e.code, e.ended = uint8(call.Finished), r.result.Code, r.ended
		e.offset, e.size = offset, uint32(size)
	case kindDropped:
		e.state, e.code, e.ended = uint8(call.Finished), r.result.Code, r.ended
		e.flags |= heard
	case kindReleased:
		e.flags |= heard
	}
	if j.entries == nil {
		j.entries = make(map[call.JobID]entry)
	}
	j.entries[r.job] = e
}

// settle ends the jobs that ran when the machine went down, and counts.
func (j *Journal) settle() {
	now := j.opt.Now().UnixMilli()
	unknown := 0
	for job, e := range j.entries {
		if e.offset == 0 && e.state == uint8(call.Started) {
			e.state, e.code, e.ended = uint8(call.Finished), uint32(call.Unknown), now
			e.flags |= cut
			j.entries[job] = e
			if !e.is(heard) {
				unknown++
			}
		}
		if !e.is(heard) {
			j.unheard += int64(e.size)
			j.live += int64(e.size)
		}
	}
	j.forget(now)
	if unknown > 0 {
		j.opt.Log.Warn("jobs ran when this machine, or its agent, went down: how they ended is unknown", "jobs", unknown)
	}
}

// begin makes a new journal.
func (j *Journal) begin() error {
	rand.Read(j.id[:]) // never fails (crypto/rand since Go 1.24)
	j.birth, j.floor, j.offset = 0, 0, headerSize
	j.entries, j.names, j.index, j.live, j.unheard, j.first = nil, nil, nil, 0, 0, 0
	f, err := j.dir.OpenFile(fileNew, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	j.file = f
	if _, err := f.Write(header{id: j.id}.append(nil)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return j.replace()
}

// replace gives the new file its name for good.
func (j *Journal) replace() error {
	if err := j.dir.Rename(fileNew, fileName); err != nil {
		return err
	}
	return j.syncDir()
}

// syncDir makes names durable.
func (j *Journal) syncDir() error {
	d, err := j.dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// setAside renames a damaged file and begins a new journal, with an id of its own.
func (j *Journal) setAside(damage *damageError) error {
	_ = j.file.Close() // nothing was written to it
	name := "damaged-" + time.Now().UTC().Format("20060102T150405.000000000")
	if err := j.dir.Rename(fileName, name); err != nil {
		return err
	}
	j.opt.Log.Error("journal damaged and set aside: what ran here before is not known", "err", damage, "file", name)
	j.notes = append(j.notes, fmt.Sprintf("%v; it is kept as %s and a new journal begun", damage, name))
	return j.begin()
}
