// Package audit is the Merkle log of what was ordered, answered, enrolled and
// refused, and what makes a change of it noticed.
//
// A leaf is an encoded [auditpb.Record], hashed as in RFC 6962, section 2.1.
// Whoever keeps the log stores with each leaf its hash, and of the tree above
// the leaves the nodes of level [NodeLevel] and higher; lower ones are computed
// from the leaf hashes. After each group of appended leaves a [Checkpoint] is
// signed by the log key. It is a note (golang.org/x/mod/sumdb/note):
//
//	LOGID                                   the log, which belongs to a store
//	SIZE                                    leaves, decimal
//	ROOT                                    base64 of the 32 bytes of the tree hash
//	epoch N                                 grows by one with each recovery from a back-up
//	                                        (an empty line)
//	— LOGID/OVERLORD KEYHASH-AND-SIGNATURE  Ed25519
//
// A minion remembers the newest checkpoint it saw, see [Memory], and keeps a
// log of its own of what it ran, see [FileLog]. [Verify] checks a whole log and
// names the first bad record.
//
// The package reads no SQL and no sockets; only FileLog touches files.
package audit
