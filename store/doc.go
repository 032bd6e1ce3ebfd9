// Package store keeps the state of an overlord in SQLite: jobs and their
// results, the inventory, certificates, tokens, groups, and the audit log.
//
// All writes go through one goroutine. An idle store commits at once; what
// arrives meanwhile forms the next group of up to 512, which is one
// transaction with one fsync. Each write runs in a savepoint of its own, so
// that an error of one is nobody else's. The leaves of the audit log that a
// group appends, the hashes over them, and one signed checkpoint are written in
// the same transaction; after the commit the checkpoint goes outside the
// database too.
//
// Reads use a pool of their own and never wait for the writer. The SQL is what
// SQLite and PostgreSQL have in common; what differs is in dialect.go. Times
// are Unix milliseconds, 0 for the zero time. There is one file per table.
//
// The package checks no names, certificates or orders: its callers do.
package store
