package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Names in the journal's directory.
const (
	fileJournal = "journal"
	fileNew     = "journal.new"
)

// rewriteFrom is the size of the file from which it is written anew when less
// than half of it counts.
const rewriteFrom = 1 << 20

// Open opens or begins the journal in the directory path, which it makes with
// mode 0700. What a crash left unfinished at the end is cut off, a file that is
// damaged is set aside and a new journal begun: both are said in the log and in
// Notes.
func Open(path string, opt Options) (*Journal, error) {
	j := newJournal(opt)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.dir, j.entries, j.byEnd = dir, make(map[call.JobID]*entry), make(map[int64][]call.JobID)
	if err := j.load(); err != nil {
		if j.file != nil {
			err = errors.Join(err, j.file.Close())
		}
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), dir.Close())
	}
	return j, nil
}

// InMemory makes a journal that forgets everything when the process ends, and
// writes nothing. Results for which there is no room are not kept.
func InMemory(opt Options) *Journal {
	j := newJournal(opt)
	j.memory, j.id = true, newID()
	return j
}

func newJournal(opt Options) *Journal {
	if opt.MaxEntries == 0 {
		opt.MaxEntries = DefaultEntries
	}
	if opt.MaxResults == 0 {
		opt.MaxResults = DefaultResults
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Journal{opt: opt, turn: make(chan struct{}, 1)}
}

// Notes says what was repaired when the journal was opened, for people.
func (j *Journal) Notes() []string { return j.notes }

func (j *Journal) note(what string, offset, bytes int64) {
	j.notes = append(j.notes, fmt.Sprintf("%s (byte %d, %d bytes)", what, offset, bytes))
	j.opt.Log.Warn(what, "file", fileJournal, "offset", offset, "bytes", bytes)
}

func (j *Journal) load() error {
	f, err := j.dir.OpenFile(fileJournal, os.O_RDWR, 0)
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
	bad, err := j.read(info.Size())
	if err != nil || bad == nil {
		return err
	}
	j.note(fmt.Sprintf("the journal is damaged and set aside, a new one begins: %v", bad), j.offset, info.Size())
	if err := f.Close(); err != nil {
		return err
	}
	j.file = nil
	if err := j.dir.Rename(fileJournal, fmt.Sprintf("damaged-%d", j.opt.Now().UnixNano())); err != nil {
		return err
	}
	clear(j.entries)
	clear(j.byEnd)
	j.birth, j.floor, j.overlords, j.acked, j.unwritten, j.results, j.unstored = time.Time{}, time.Time{}, nil, nil, nil, 0, 0
	return j.begin()
}

// begin makes an empty journal.
func (j *Journal) begin() error {
	j.id = newID()
	f, err := j.create(appendHeader(nil, j.id))
	if err != nil {
		return err
	}
	j.file, j.offset = f, int64(headerSize)
	return nil
}

// create puts a whole new file in the place of the old one.
func (j *Journal) create(content []byte) (*os.File, error) {
	f, err := j.dir.OpenFile(fileNew, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.dir.Rename(fileNew, fileJournal)
	}
	if err == nil {
		err = j.syncDir()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// syncDir makes new names durable.
func (j *Journal) syncDir() error {
	d, err := j.dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read takes in a file of that size. bad says why it is damaged; nil: it is not.
func (j *Journal) read(size int64) (bad, err error) {
	head := make([]byte, min(size, int64(headerSize)))
	if _, err := j.file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if j.id, bad = parseHeader(head); bad != nil {
		return bad, nil
	}
	end, bad, err := scan(j.file, size, j.replay)
	j.offset = end
	if err != nil {
		return nil, err
	}
	if bad != nil {
		at, found, err := frameAfter(j.file, end+1, size)
		if err != nil {
			return nil, err
		}
		if found {
			return fmt.Errorf("%w, and a good frame follows at byte %d", bad, at), nil
		}
		j.note("the end of the journal was torn and is cut off", end, size-end)
		if err := errors.Join(j.file.Truncate(end), j.file.Sync()); err != nil {
			return nil, err
		}
	}
	j.settle()
	return nil, nil
}

// replay takes one record of the file.
func (j *Journal) replay(frame int64, p *placed) {
	r := &p.record
	switch r.kind {
	case birth:
		j.birth = r.at
	case floor:
		j.floor = r.at
	case started, finished:
		number, err := j.overlordLocked(r.overlord)
		if err != nil {
			return // not ours: no journal has that many
		}
		e := j.entries[r.job]
		if e == nil {
			e = new(entry)
			j.entries[r.job] = e
		}
		e.expiry, e.overlord, e.state = r.expiry.UnixMilli(), number, uint8(call.Started)
		until := r.expiry.Add(Keep)
		if r.kind == finished {
			until = r.until
			e.state, e.frame, e.weight = uint8(call.Finished), frame, int32(len(r.result))
			if res, err := parseResult(r.result); err == nil {
				e.code = call.Code(res.GetCode())
			}
		}
		e.until = until.UnixMilli()
	case acknowledged:
		if e := j.entries[r.job]; e != nil && !e.acked {
			e.acked = true
			j.acked = append(j.acked, r.job)
		}
	}
}

// settle makes of the records what they mean now: what began and did not end is
// finished, and nobody knows how.
func (j *Journal) settle() {
	for job, e := range j.entries {
		if e.state == uint8(call.Started) {
			j.finishLocked(job, e, unknown())
			j.opt.Log.Warn("a call was running when this machine, or its agent, went down: whether it was done is not known", "job", job)
			continue
		}
		j.results += int64(e.weight)
		if !e.acked {
			j.unstored += int64(e.weight)
		}
		j.keepLocked(job, e, time.UnixMilli(e.until))
	}
	j.forgetLocked(j.opt.Now())
	j.trimLocked()
}

// fitsLocked says whether a record fits into the batch that waits.
func (j *Journal) fitsLocked(r *record) bool {
	return j.next == nil || len(j.next.frame)+len(r.result)+512 <= maxPayload
}

// addLocked puts a record into the batch that waits; one that does not fit
// begins another, once that one is written.
func (j *Journal) addLocked(r *record) *batch {
	for !j.fitsLocked(r) {
		full := j.next
		j.mu.Unlock()
		_ = j.wait(full) // its own waiters are told
		j.mu.Lock()
	}
	if j.next == nil {
		j.next = &batch{frame: beginFrame(nil), done: make(chan struct{})}
	}
	j.next.frame = appendRecord(j.next.frame, r)
	return j.next
}

// wait returns when b is written, by this goroutine if nobody else does it.
func (j *Journal) wait(b *batch) error {
	select {
	case <-b.done:
		return b.err
	case j.turn <- struct{}{}:
	}
	j.mu.Lock()
	take := j.next
	j.next = nil
	j.mu.Unlock()
	if take != nil {
		take.err = j.write(take)
		close(take.done)
		if take.err == nil {
			j.tidy()
		}
	}
	<-j.turn
	<-b.done // it was the one taken, or an earlier turn's
	return b.err
}

// write makes a batch durable; the caller holds turn. Its results are in the
// file then, or still to be written.
func (j *Journal) write(b *batch) error {
	at := j.offset
	err := j.append(b.frame)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, job := range b.results {
		e := j.entries[job]
		if e == nil {
			continue
		}
		e.writing = false
		if err == nil {
			e.frame = at
			delete(j.unwritten, job)
		}
	}
	return err
}

func (j *Journal) append(frame []byte) error {
	j.mu.Lock()
	broken := j.broken
	j.mu.Unlock()
	if broken != nil {
		return broken
	}
	endFrame(frame)
	if _, err := j.file.WriteAt(frame, j.offset); err != nil {
		if again := j.file.Truncate(j.offset); again != nil {
			return j.breakDown(again)
		}
		return call.Errorf(call.Unavailable, "write to the journal of this machine: %v", err)
	}
	if err := j.sync(); err != nil {
		return j.breakDown(err)
	}
	j.offset += int64(len(frame))
	return nil
}

func (j *Journal) sync() error {
	if j.opt.Syncing != nil {
		j.opt.Syncing <- struct{}{}
		defer func() { <-j.opt.Syncing }()
	}
	for {
		if err := unix.Fdatasync(int(j.file.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (j *Journal) breakDown(cause error) error {
	err := call.Errorf(call.Unavailable, "the disk under the journal of this machine lost data (%v); restart the agent once the disk is in order", cause)
	j.opt.Log.Error("journal stopped", "error", cause)
	j.mu.Lock()
	j.broken = err
	j.mu.Unlock()
	return err
}

// Result gives the result of a job that has finished. When it is not kept any
// more, its code is, and the detail says so. The error is about the disk.
func (j *Journal) Result(job call.JobID) (*fleetpb.Result, error) {
	// Nobody moves the file's parts meanwhile.
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	j.mu.Lock()
	e := j.entries[job]
	if e == nil || e.state != uint8(call.Finished) {
		j.mu.Unlock()
		return nil, call.Errorf(call.NotFound, "job %s has not finished here", job)
	}
	r, at, code := j.unwritten[job], e.frame, e.code
	j.mu.Unlock()
	switch {
	case r != nil:
		return r, nil
	case at == 0:
		return dropped(code), nil
	}
	rec, err := j.find(at, job)
	if err != nil {
		return nil, fmt.Errorf("read result of job %s: %w", job, err)
	}
	return parseResult(rec.result)
}

// find reads the finished record of a job from the frame at an offset; the
// caller holds turn.
func (j *Journal) find(at int64, job call.JobID) (record, error) {
	buf, err := readFrame(j.file, at, j.offset, nil)
	if err != nil {
		return record{}, err
	}
	records, _, err := parseFrame(buf)
	if err != nil {
		return record{}, err
	}
	for _, p := range slices.Backward(records) {
		if p.kind == finished && p.job == job {
			return p.record, nil
		}
	}
	return record{}, fmt.Errorf("%w: no result in the frame at byte %d", ErrFile, at)
}

// tidy writes the file anew when most of it does not count any more; the caller
// holds turn.
func (j *Journal) tidy() {
	j.mu.Lock()
	const each = 100 // bytes of the records of one job, about
	live := int64(len(j.entries))*each + j.results
	j.mu.Unlock()
	if j.offset < rewriteFrom || j.offset < 2*live || j.offset < j.notBefore {
		return
	}
	if err := j.rewrite(); err != nil {
		j.notBefore = j.offset + rewriteFrom
		j.opt.Log.Error("journal not written anew, it goes on growing", "error", err)
	}
}

// rewrite copies what counts into a new file.
func (j *Journal) rewrite() error {
	w := &rewriter{j: j, content: appendHeader(nil, j.id), frames: make(map[call.JobID]int64)}
	if err := w.copy(); err != nil {
		return err
	}
	f, err := j.create(w.content)
	if err != nil {
		return err
	}
	old := j.file
	j.file, j.offset, j.notBefore = f, int64(len(w.content)), 0
	j.mu.Lock()
	for job, e := range j.entries {
		if e.frame != 0 {
			e.frame = w.frames[job]
		}
	}
	j.mu.Unlock()
	return old.Close()
}

// rewriter builds the content of a new file.
type rewriter struct {
	j       *Journal
	content []byte
	frames  map[call.JobID]int64 // where results are
	begun   int                  // where the frame under way begins in content; 0: none
}

func (w *rewriter) copy() error {
	j := w.j
	j.mu.Lock()
	if !j.birth.IsZero() {
		w.add(&record{kind: birth, at: j.birth})
	}
	if !j.floor.IsZero() {
		w.add(&record{kind: floor, at: j.floor})
	}
	type item struct {
		job call.JobID
		entry
		overlord string
	}
	items := make([]item, 0, len(j.entries))
	for job, e := range j.entries {
		if e.state != uint8(call.Received) {
			items = append(items, item{job, *e, j.overlords[e.overlord]})
		}
	}
	j.mu.Unlock()
	for _, it := range items {
		r := &record{kind: started, job: it.job, expiry: time.UnixMilli(it.expiry), until: time.UnixMilli(it.until), overlord: it.overlord}
		switch {
		case it.state != uint8(call.Finished), it.frame == 0 && it.weight > 0: // its result is not written yet
		case it.frame == 0:
			body, err := proto.Marshal(dropped(it.code))
			if err != nil {
				return err
			}
			r.kind, r.result = finished, body
		default:
			old, err := j.find(it.frame, it.job)
			if err != nil {
				return err
			}
			r.kind, r.result = finished, old.result
		}
		w.add(r)
		if r.kind == finished {
			w.frames[it.job] = int64(w.begun)
		}
		if it.acked {
			w.add(&record{kind: acknowledged, job: it.job})
		}
	}
	w.end()
	return nil
}

func (w *rewriter) add(r *record) {
	if w.begun > 0 && len(w.content)-w.begun+len(r.result)+512 > maxPayload {
		w.end()
	}
	if w.begun == 0 {
		w.begun = len(w.content)
		w.content = beginFrame(w.content)
	}
	w.content = appendRecord(w.content, r)
}

func (w *rewriter) end() {
	if w.begun > 0 {
		endFrame(w.content[w.begun:])
		w.begun = 0
	}
}

// Close waits for what is being written, writes what is waiting, and closes the
// files. Later Starts fail.
func (j *Journal) Close() error {
	err := j.catchUp()
	j.mu.Lock()
	last := j.next
	j.mu.Unlock()
	if last != nil {
		err = errors.Join(err, j.wait(last))
	}
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = call.Errorf(call.Unavailable, "the journal is closed")
	}
	if j.memory {
		return nil
	}
	return errors.Join(err, j.file.Close(), j.dir.Close())
}
