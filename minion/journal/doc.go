// Package journal keeps on a machine's disk which jobs were started there and
// how they ended, so that a job runs at most once and no result is lost,
// whatever is restarted, killed or cut off from power.
//
// A Journal is one file, named journal, in a directory of its own. It only
// grows by whole frames; when more than half of it is no longer needed it is
// written anew beside the old one, which it then replaces. Numbers are
// big-endian, times Unix milliseconds, sums CRC-32C:
//
//	header: "DOMJRN1\n" | id (16) | i64 birth, 0: no overlord has told it | i64 floor | u32 sum of what comes before
//	frame:  "\xd0JR\n" | u32 length of payload | u32 sum of id, u64 offset of the frame in the file, length and payload | payload: (u32 length | record)…
//
//	started:  'S' | job (16) | i64 expiry of the order | u8 length | overlord | method
//	finished: 'F' | job (16) | u32 sum of the rest | u32 code | u64 microseconds | i64 when it ended | u16 length | detail | output
//	released: 'R' | job (16)
//	dropped:  'D' | job (16) | u32 code | i64 when it ended
//	birth:    'B' | i64 birth
//
// A frame is what one fdatasync made durable. What a crash left of the last one
// is cut off when the journal is opened. A sum that does not hold elsewhere is
// damage: the file is set aside and a new journal begun, with a new id and
// without a birth, so that nobody takes its silence for "it never ran". Floor
// is the newest expiry among the jobs that were forgotten: no order up to it is
// accepted, so that a clock set back does not make a forgotten job run again.
//
// A last frame that has all its bytes and does not hold may have been durable:
// it is cut off too, and the birth is forgotten, so that the jobs that it began do
// not begin again.
//
// A job whose start is in the file and whose end is not was running when the
// machine, or its agent, went down: it has ended with code Unknown, and never
// runs again.
package journal
