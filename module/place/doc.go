// Package place opens what an operator names by an absolute path on a machine
// where others may try to turn that name into something else.
//
// A path is walked from "/" one directory at a time, each held by an os.Root,
// so what was walked stays what it is whoever renames it. A directory is
// trusted when it, and every one above it, belongs to root or to the agent's
// user and nobody else can write there; one that others can write to but has
// the sticky bit, such as /tmp, passes trust on to what in it is ours. A
// symbolic link is followed only when it is ours too and lies in a trusted
// directory that nobody else can write to, as /var/run does; any other is an
// error that wraps ErrLink. ".." is the directory that the walk came through.
//
// What is opened at the end is a directory or a regular file, never a device, a
// FIFO or a socket: those are errors that wrap ErrKind. Nothing waits for a FIFO
// that was put there meanwhile.
//
// A file is written as a Draft beside it, with mode 0600 until it is whole, and
// takes its name by rename: who looks sees the old one or the new one.
package place
