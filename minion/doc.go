// Package minion is the agent on a managed machine. It enrols, keeps one
// session with each of its overlords, verifies every order itself, runs module
// methods, and keeps a log of what it ran that it signs with its own key.
//
// The parts, from the inside out:
//
//   - an order is verified by pure checks in a fixed order, each with a code of
//     its own (verify.go);
//   - books know which jobs ran here and how far each has come: in memory for
//     methods that only read, in package journal for all others (book.go); an
//     overlord that lost a session asks them (resume.go);
//   - a bounded number of calls runs at a time, the rest waits (run.go);
//   - an Agent joins these and serves any number of sessions (agent.go, link.go).
//     It needs no state directory, starts no goroutine and no timer of its own,
//     so that one process can hold thousands;
//   - Run adds what a real machine needs: state directory, enrolment, renewal,
//     dialling and listening, facts (daemon.go and the files beside it).
//
// The agent believes nobody but its root certificate: a session gives an
// overlord the right to deliver orders, not to make them.
package minion
