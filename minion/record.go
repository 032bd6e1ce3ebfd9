package minion

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
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

// recorder writes to the own log. Its zero value with a nil log records
// nothing.
type recorder struct {
	log ownLog

	mu      sync.Mutex
	tokens  float64
	filled  time.Time
	dropped uint64 // refusals since the last recorded one
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

// ran records a call that was accepted.
func (k *recorder) ran(m *auditpb.MinionRecord) error {
	if k.log == nil {
		return nil
	}
	if _, err := k.log.Append(m); err != nil {
		return fmt.Errorf("record call in this machine's log: %w", err)
	}
	return nil
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

// refused records a call that was not accepted; there must be a log.
func (k *recorder) refused(m *auditpb.MinionRecord, before uint64) error {
	if before > 0 {
		m.Detail = cut(fmt.Sprintf("%s (%d refusals before it are not recorded)", m.Detail, before), maxDetail)
	}
	if _, err := k.log.Append(m); err != nil {
		return fmt.Errorf("record refusal in this machine's log: %w", err)
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
