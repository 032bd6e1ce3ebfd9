package session

import "sync/atomic"

// Stats counts what a process's sessions met. All counters only grow, but for
// Open and Pending. One Stats is shared by many sessions.
type Stats struct {
	Open        atomic.Int64  // sessions past HELLO now
	Pending     atomic.Int64  // handshakes now
	Late        atomic.Uint64 // answers, data and credit for ids that nobody waits for; dropped
	Skipped     atomic.Uint64 // frames of types this version does not know; dropped
	Protocol    atomic.Uint64 // sessions ended because the peer broke the protocol
	Dead        atomic.Uint64 // sessions ended because nothing came for 45 s
	Stalled     atomic.Uint64 // sessions ended because the peer took nothing for 45 s
	Overflow    atomic.Uint64 // sessions ended because too much waited for the peer
	Busy        atomic.Uint64 // calls and streams refused because of a limit
	Handshakes  atomic.Uint64 // completed
	Refused     atomic.Uint64 // handshakes that failed: certificate, version, time
	Dropped     atomic.Uint64 // pending handshakes dropped to make room
	Backlogged  atomic.Uint64 // times that a socket was full and a queue began
	StreamBytes atomic.Uint64 // bytes of DATA received
}
