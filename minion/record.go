package minion

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
)

// Refused calls are logged and recorded at most this often, so that nobody
// fills the disk with garbage. What was run is always recorded.
const (
	refusalRate  = 10  // records per second
	refusalBurst = 100 // records at once
)

// An ownLog is the machine's own log of what it ran. *audit.FileLog is the
// real one.
type ownLog interface {
	// Append gives the record's index when it is durable.
	Append(r *auditpb.MinionRecord) (int64, error)
}

// recorder writes to the own log; with a nil log it records nothing. A record
// that the log did not take is kept and tried again before the next call
// starts: while there is one, no call starts, so that at most as many calls run
// unrecorded as ran when the log failed.
type recorder struct {
	log  ownLog
	tell *slog.Logger // required when there is a log

	retry sync.Mutex // one goroutine writes what was kept

	mu        sync.Mutex
	tokens    float64
	filled    time.Time
	dropped   uint64                  // refusals since the last recorded one
	unwritten []*auditpb.MinionRecord // one for each call that ran then, and at most one refusal
}

// record makes the leaf of one call.
func record(now time.Time, d verdict, overlord string, r *fleetpb.Result) *auditpb.MinionRecord {
	m := &auditpb.MinionRecord{
		TimeMs: now.UnixMilli(), Operator: d.operator, Code: r.Code, Detail: r.Detail, Overlord: overlord,
	}
	if d.order != nil {
		m.Job, m.Method, m.ArgsDigest = d.order.Job[:], d.order.Method, d.order.ArgsDigest[:]
	}
	if len(r.Output) > 0 {
		sum := sha256.Sum256(r.Output)
		m.OutputSha256 = sum[:]
	}
	return m
}

// recordLost records the jobs that ran when the machine, or its agent, went down:
// what they did nobody knows, unless they left a note for now, and that they were
// begun belongs on the log. Once it is there their end is on the disk, so that
// this is not done again.
func (a *Agent) recordLost() {
	if a.books.disk == nil {
		return
	}
	defer a.forgetNotes()
	for _, lost := range a.books.disk.Lost() {
		m := &auditpb.MinionRecord{TimeMs: a.now().UnixMilli(), Job: lost.Job[:], Method: lost.Method, Overlord: lost.Overlord}
		r := a.resume(lost, m)
		if r == nil {
			a.books.disk.Continue(lost.Job)
			continue
		}
		m.Code, m.Detail = r.Code, r.Detail
		if a.own.log != nil {
			if _, err := a.own.log.Append(m); err != nil {
				a.own.keep(m, true, err) // written before the next call starts
				continue
			}
		}
		if err := a.books.disk.Conclude(lost.Job, r); err != nil {
			a.log.Error("end of a lost job not kept on disk", "job", lost.Job, "err", err)
		}
	}
}

// ready says whether a call may start: what the log did not take before, it
// takes now. The error is a *call.Error with code Unavailable.
func (k *recorder) ready() error {
	if k.waiting() == nil {
		return nil
	}
	k.retry.Lock()
	defer k.retry.Unlock()
	late := 0
	for m := k.waiting(); m != nil; m = k.waiting() {
		if _, err := k.log.Append(m); err != nil {
			return call.Errorf(call.Unavailable, "this machine's own audit log cannot be written: %s; nothing was run", why(err))
		}
		k.mu.Lock()
		k.unwritten = k.unwritten[1:]
		k.mu.Unlock()
		late++
	}
	if late > 0 {
		k.tell.Info("own audit log is written again: calls run again", "late_records", late)
	}
	return nil
}

// waiting gives the oldest record that is not written; nil: there is none.
func (k *recorder) waiting() *auditpb.MinionRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.unwritten) == 0 {
		k.unwritten = nil
		return nil
	}
	return k.unwritten[0]
}

// why gives the cause without the words around it.
func why(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// ran records a call that was accepted. When the log cannot be written the
// record is kept for ready; an error is about a record that no log would take.
func (k *recorder) ran(m *auditpb.MinionRecord) error {
	if k.log == nil {
		return nil
	}
	_, err := k.log.Append(m)
	switch {
	case errors.Is(err, audit.ErrRecord):
		return fmt.Errorf("record call in this machine's log: %w", err)
	case err != nil:
		k.keep(m, true, err)
	}
	return nil
}

// keep holds on to a record that was not written, must it be held or is it the
// first, and says so.
func (k *recorder) keep(m *auditpb.MinionRecord, must bool, cause error) (kept bool) {
	k.mu.Lock()
	first := len(k.unwritten) == 0
	if kept = must || first; kept {
		k.unwritten = append(k.unwritten, m)
	}
	k.mu.Unlock()
	if first {
		k.tell.Error("own audit log cannot be written: calls are refused until it can", "err", cause)
	}
	return kept
}

// skip counts a refusal that is not recorded.
func (k *recorder) skip(n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropped += n
}

// wants says whether a refusal at now is to be told and recorded, and how many
// before it were not.
func (k *recorder) wants(now time.Time) (before uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.filled.IsZero() {
		k.tokens = refusalBurst
	} else if d := now.Sub(k.filled).Seconds(); d > 0 {
		k.tokens = min(k.tokens+d*refusalRate, refusalBurst)
	}
	k.filled = now
	if k.tokens < 1 {
		k.dropped++
		return 0, false
	}
	k.tokens--
	before, k.dropped = k.dropped, 0
	return before, true
}

// refused records a call that was not accepted; there must be a log. While it
// cannot be written refusals are counted, but for the first: it keeps calls
// from starting. An error is about a record that no log would take.
func (k *recorder) refused(m *auditpb.MinionRecord, before uint64) error {
	if before > 0 {
		m.Detail = cut(fmt.Sprintf("%s (%d refusals before it are not recorded)", m.Detail, before), maxDetail)
	}
	_, err := k.log.Append(m)
	switch {
	case errors.Is(err, audit.ErrRecord):
		return fmt.Errorf("record refusal in this machine's log: %w", err)
	case err != nil && !k.keep(m, false, err):
		k.skip(before + 1)
	}
	return nil
}

// validUTF8 makes text fit for a protobuf string.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// codeText names a result's code for the log.
func codeText(r *fleetpb.Result) string { return call.Code(r.Code).String() }
