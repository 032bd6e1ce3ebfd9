package journal

import (
	"errors"
	"maps"
	"os"

	"dominion/api/fleetpb"
	"dominion/call"
)

// smallFile is not written anew: it is not worth two waits for the disk.
const smallFile = 256 << 10

// compact writes the file anew when more of it is dead than alive. Results that
// an overlord has stored go. The caller holds turn, so nothing else is written.
func (j *Journal) compact() {
	j.mu.Lock()
	size := j.offset
	due := j.broken == nil && size > smallFile && size > 2*(j.live+headerSize) && size >= j.patient
	j.mu.Unlock()
	if !due {
		return
	}
	j.patient = 0
	if err := j.rewrite(); err != nil {
		j.patient = size + smallFile // not at once again
		j.opt.Log.Warn("journal not written anew; the old file stays in use", "err", err)
	}
}

func (j *Journal) rewrite() error {
	j.mu.Lock()
	entries, names := maps.Clone(j.entries), j.names
	h := header{id: j.id, birth: j.birth, floor: j.floor}
	j.mu.Unlock()
	f, err := j.dir.OpenFile(fileNew, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := &rewriter{j: j, to: f, moved: make(map[call.JobID]int64), frame: beginFrame(nil)}
	if err = w.all(h, entries, names); err == nil {
		err = j.synced(f)
	}
	if err == nil {
		err = j.dir.Rename(fileNew, fileName)
	}
	if err != nil {
		return errors.Join(err, f.Close(), j.dir.Remove(fileNew))
	}
	if err := j.syncDir(); err != nil {
		// Which of the two files a crash would leave is not known, and only one
		// gets what is written from now on.
		_ = f.Close()
		return j.breakDown(err)
	}
	j.files.Lock()
	defer j.files.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.file.Close() // it has no name any more
	j.file, j.offset = f, w.offset
	for job, before := range entries {
		e, ok := j.entries[job]
		if !ok || before.offset == 0 {
			continue
		}
		if e.offset = w.moved[job]; e.offset == 0 {
			e.size = 0 // it was stored by an overlord
		}
		j.entries[job] = e
	}
	return nil
}

// rewriter writes frames to a new file.
type rewriter struct {
	j       *Journal
	to      *os.File
	offset  int64
	frame   []byte
	pending []place
	moved   map[call.JobID]int64 // finished records to their new place
	buf     []byte
}

type place struct {
	job call.JobID
	at  int64 // in the frame
}

func (w *rewriter) all(h header, entries map[call.JobID]entry, names []string) error {
	head := h.append(nil)
	if _, err := w.to.WriteAt(head, 0); err != nil {
		return err
	}
	w.offset = headerSize
	for job, e := range entries {
		if !e.is(written) {
			continue
		}
		start := record{kind: kindStarted, job: job, expiry: e.expiry, overlord: names[e.overlord], method: names[e.method]}
		if err := w.add(start); err != nil {
			return err
		}
		if err := w.end(job, e); err != nil {
			return err
		}
	}
	return w.flush()
}

// end writes how a job ended, if that is in the old file.
func (w *rewriter) end(job call.JobID, e entry) error {
	switch {
	case e.is(cut) && e.is(heard):
		return w.add(record{kind: kindReleased, job: job})
	case e.state != uint8(call.Finished) || e.is(cut):
		return nil
	case e.is(heard):
		return w.add(record{kind: kindDropped, job: job, ended: e.ended, result: &fleetpb.Result{Code: e.code}})
	case e.offset == 0:
		return nil // it is in memory, and written next
	}
	var err error
	if w.buf, err = readAt(w.j.file, w.buf, e.offset, int64(e.size)); err != nil {
		return err
	}
	r, err := parseRecord(w.buf)
	if err != nil {
		return err
	}
	w.pending = append(w.pending, place{job: job, at: int64(len(w.frame) + 4)})
	return w.add(r)
}

func (w *rewriter) add(r record) error {
	w.frame = r.append(w.frame)
	if len(w.frame) < maxPayload {
		return nil
	}
	return w.flush()
}

func (w *rewriter) flush() error {
	if len(w.frame) == frameHeader {
		return nil
	}
	w.frame = endFrame(w.frame, w.j.id, w.offset)
	if _, err := w.to.WriteAt(w.frame, w.offset); err != nil {
		return err
	}
	for _, p := range w.pending {
		w.moved[p.job] = w.offset + p.at
	}
	w.offset += int64(len(w.frame))
	w.frame, w.pending = beginFrame(w.frame), w.pending[:0]
	return nil
}
