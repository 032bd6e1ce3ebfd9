package journal

import (
	"os"

	"dominion/api/fleetpb"
	"dominion/call"
)

// batch is what one fdatasync makes durable.
type batch struct {
	frame   []byte   // with room for its header
	records []record // in it; results without their bytes
	places  []int64  // of each record in the frame
	err     error
	done    chan struct{}
}

func (b *batch) add(r record) {
	b.places = append(b.places, int64(len(b.frame)+4))
	b.frame = r.append(b.frame)
	if r.kind == kindFinished { // its bytes are in the frame
		r.result = &fleetpb.Result{Code: r.result.Code}
	}
	b.records = append(b.records, r)
}

// join puts a record into the batch that is written next; false when it is full.
// mu is held.
func (j *Journal) join(r record) (*batch, bool) {
	if j.next == nil {
		j.next = &batch{frame: beginFrame(nil), done: make(chan struct{})}
	}
	b := j.next
	if len(b.records) > 0 && int64(len(b.frame))+r.size() > maxPayload {
		return b, false
	}
	b.add(r)
	return b, true
}

// later writes a record with whatever is written next; mu is held. When there is
// no room for it, it is left out.
func (j *Journal) later(r record) { _, _ = j.join(r) }

// append returns when a record is on the disk.
func (j *Journal) append(r record) error {
	for {
		j.mu.Lock()
		if err := j.broken; err != nil {
			j.mu.Unlock()
			return err
		}
		b, ok := j.join(r)
		j.mu.Unlock()
		j.wait(b)
		if ok {
			return b.err
		}
	}
}

// write is append for what must not get lost: what the disk does not take is
// kept for Ready.
func (j *Journal) write(r record) error {
	err := j.append(r)
	if err != nil {
		j.mu.Lock()
		first := len(j.unwritten) == 0
		j.unwritten = append(j.unwritten, r)
		j.mu.Unlock()
		if first {
			j.opt.Log.Error("journal cannot be written: calls are refused until it can", "err", err)
		}
	}
	return err
}

// Ready writes what the disk did not take before; while it does not, no job
// starts. The error is Unavailable.
func (j *Journal) Ready() error {
	if _, ok := j.oldest(); !ok {
		return nil
	}
	j.retry.Lock()
	defer j.retry.Unlock()
	late := 0
	for r, ok := j.oldest(); ok; r, ok = j.oldest() {
		if err := j.append(r); err != nil {
			return err
		}
		j.mu.Lock()
		j.unwritten = j.unwritten[1:]
		j.mu.Unlock()
		late++
	}
	if late > 0 {
		j.opt.Log.Info("journal is written again: calls run again", "late_records", late)
	}
	return nil
}

func (j *Journal) oldest() (record, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.unwritten) == 0 {
		j.unwritten = nil
		return record{}, false
	}
	return j.unwritten[0], true
}

// wait returns when b is written, by this goroutine if nobody else does it.
func (j *Journal) wait(b *batch) {
	select {
	case <-b.done:
		return
	case j.turn <- struct{}{}:
	}
	j.take()
	<-j.turn
	<-b.done // it was the one taken, or an earlier turn's
}

// flush writes what waits for company.
func (j *Journal) flush() {
	j.turn <- struct{}{}
	j.take()
	<-j.turn
}

// take writes the batch that is next; the caller holds turn.
func (j *Journal) take() {
	j.mu.Lock()
	b := j.next
	j.next = nil
	j.mu.Unlock()
	if b == nil {
		return
	}
	b.err = j.commit(b)
	close(b.done)
	if b.err == nil {
		j.compact()
	}
}

// commit makes a batch durable; the caller holds turn.
func (j *Journal) commit(b *batch) error {
	j.mu.Lock()
	offset, broken := j.offset, j.broken
	j.mu.Unlock()
	if broken != nil {
		return broken
	}
	b.frame = endFrame(b.frame, j.id, offset)
	if _, err := j.file.WriteAt(b.frame, offset); err != nil {
		if again := j.file.Truncate(offset); again != nil {
			return j.breakDown(again)
		}
		return call.Errorf(call.Unavailable, "write to this machine's journal: %v", err)
	}
	if err := j.synced(j.file); err != nil {
		return j.breakDown(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.offset += int64(len(b.frame))
	for i, r := range b.records {
		end := len(b.frame)
		if i+1 < len(b.places) {
			end = int(b.places[i+1]) - 4
		}
		j.apply(r, offset+b.places[i], int64(end)-b.places[i])
	}
	b.frame, b.records = nil, nil
	return nil
}

// synced waits for the disk, when it is this journal's turn among those of the
// process.
func (j *Journal) synced(f *os.File) error {
	if j.opt.Sync != nil {
		j.opt.Sync <- struct{}{}
		defer func() { <-j.opt.Sync }()
	}
	return j.sync(f)
}

func (j *Journal) breakDown(cause error) error {
	err := call.Errorf(call.Unavailable, "the disk under this machine's journal lost data (%v); restart the agent once the disk is in order", cause)
	j.opt.Log.Error("journal stopped", "err", cause)
	j.mu.Lock()
	j.broken = err
	j.mu.Unlock()
	return err
}

// apply notes that a record is in the file; mu is held.
func (j *Journal) apply(r record, offset, size int64) {
	e, ok := j.entries[r.job]
	if !ok {
		return // a birth, or a job that was forgotten meanwhile
	}
	switch r.kind {
	case kindStarted:
		e.flags = e.flags&^starting | written
		e.state = uint8(call.Started)
		j.live += r.size()
	case kindFinished:
		e.offset, e.size = offset, uint32(size)
		if held := j.held[r.job]; held != nil && !e.is(heard) {
			j.unheard += size - weight(held)
			j.live += size
		}
		j.drop(r.job)
	}
	j.entries[r.job] = e
}
