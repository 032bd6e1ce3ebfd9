package call

import (
	"fmt"
	"time"
)

// Status is what became of one call when its job is closed: each targeted
// machine has exactly one.
type Status uint32

// The statuses, in the order of the accounting identity
// answered + failed + unreachable + skipped = targeted.
const (
	Answered    Status = 1 // the method succeeded
	DidFail     Status = 2 // the method's error, denied, clock skew, unknown, time-out after start
	Unreachable Status = 3 // no session, no answer, a name nobody knows
	Skipped     Status = 4 // cancelled, expired, stage not started
)

// String gives the word of the accounting identity.
func (s Status) String() string {
	switch s {
	case Answered:
		return "answered"
	case DidFail:
		return "failed"
	case Unreachable:
		return "unreachable"
	case Skipped:
		return "skipped"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// StatusOf says how a call that ended with c is counted.
func StatusOf(c Code) Status {
	switch c {
	case OK:
		return Answered
	case NoSession, NoAnswer, UnknownName, SessionLost, Busy, Unavailable:
		return Unreachable
	case Cancelled, Expired:
		return Skipped
	default:
		return DidFail
	}
}

// State is how far one call has come. It only moves forward.
type State uint32

// The states of a call at the overlord.
const (
	Planned  State = 1 // stored, not sent
	Sent     State = 2 // written to a session
	Received State = 3 // the minion has it and will decide
	Started  State = 4 // the method runs
	Finished State = 5 // its result, or the reason for its absence, is known
	Stored   State = 6 // and durable
)

// Result is what one machine answered, or why it did not.
type Result struct {
	Machine string
	Code    Code
	Detail  string        // for people; empty when Code is OK
	Output  []byte        // JSON, at most 1 MiB kept; nil when there is none
	Cut     uint64        // bytes of output that were not kept
	Took    time.Duration // at the minion; zero when it never ran
}

// Status is how the result is counted.
func (r Result) Status() Status { return StatusOf(r.Code) }

// Counts are the terms of the accounting identity.
type Counts struct {
	Targeted, Answered, Failed, Unreachable, Skipped int
}

// Add counts n machines of one status.
func (c *Counts) Add(s Status, n int) {
	switch s {
	case Answered:
		c.Answered += n
	case DidFail:
		c.Failed += n
	case Unreachable:
		c.Unreachable += n
	case Skipped:
		c.Skipped += n
	}
}

// Done is the number of machines whose status is known.
func (c Counts) Done() int { return c.Answered + c.Failed + c.Unreachable + c.Skipped }
