package call

import (
	"errors"
	"fmt"
)

// Code says why a call did not succeed. Codes travel between versions:
// they are never renumbered or reused.
type Code uint32

// The codes. A zero Code is success.
const (
	OK           Code = 0
	Internal     Code = 1  // a bug or a fault of ours; details are in the log of whoever raised it
	Invalid      Code = 2  // arguments or request malformed
	NotFound     Code = 3  // no such method, job, machine, token …
	Denied       Code = 4  // policy, role or missing certificate
	Failed       Code = 5  // the method ran and reported an error
	Timeout      Code = 6  // started, and not done within its time
	ClockSkew    Code = 7  // the order's times do not fit the minion's clock
	Expired      Code = 8  // the order may not start any more
	Repeated     Code = 9  // the job already ran, or runs, on this machine
	Busy         Code = 10 // a limit of the peer is reached; ask again later
	Cancelled    Code = 11 // the operator withdrew it
	NoSession    Code = 12 // the machine is not connected
	NoAnswer     Code = 13 // connected, and nothing came within the time
	UnknownName  Code = 14 // a literal name that nobody knows
	Unknown      Code = 15 // the machine went down between start and end: whether it ran is not known
	Revoked      Code = 16 // a certificate on the revocation list
	BadOrder     Code = 17 // signature, proof or encoding of the order does not hold
	TooYoung     Code = 18 // the order is older than the machine's journal
	SessionLost  Code = 19 // the connection ended after the call was sent
	Unavailable  Code = 20 // the store or a peer refuses work for now
	Conflict     Code = 21 // the name, or the state, is taken by another
	AuditRefused Code = 22 // the minion does not accept the overlord's audit log
	TooMany      Code = 23 // more machines than --limit allows
	NoMatch      Code = 24 // the target names no machine
	Unconfirmed  Code = 25 // a method that destroys, or changes many machines, and nobody confirmed the count
)

var codeNames = [...]string{
	"ok", "internal", "invalid", "not found", "denied", "failed", "time-out", "clock skew", "expired", "repeated",
	"busy", "cancelled", "no session", "no answer", "unknown name", "unknown", "revoked", "bad order", "too young",
	"session lost", "unavailable", "conflict", "audit refused", "too many", "no match", "unconfirmed",
}

// String gives the word shown to people: "no answer".
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// ParseCode is the inverse of String.
func ParseCode(s string) (Code, bool) {
	for i, n := range codeNames {
		if n == s {
			return Code(i), true
		}
	}
	return Internal, false
}

// Error is an error that keeps its meaning across a hop.
type Error struct {
	Code   Code
	Node   string // the machine it is about; empty: none
	Detail string // for people, no secrets
}

// Error gives "web1: denied: …".
func (e *Error) Error() string {
	s := e.Code.String()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Node != "" {
		s = e.Node + ": " + s
	}
	return s
}

// Errorf makes an *Error with a formatted detail.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}

// CodeOf gives the code of the first *Error in err's chain; OK for nil and
// Internal for any other error.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
