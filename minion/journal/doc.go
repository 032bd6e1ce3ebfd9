// Package journal keeps on disk which jobs a machine has begun and how they
// ended, so that a job runs at most once whatever is lost, restarted or killed.
//
// Start returns when it is durable that a job begins; only then may its method
// run. Finish makes the result durable before it is sent. A job that began and
// has no end when the journal is opened is finished with call.Unknown: whether
// its method ran is not known, and it never runs again.
//
// An entry lives until its order's expiry, or its end if that is later, and ten
// minutes more, and is never dropped before: a full journal takes no more jobs.
// Results live as long, but those that an overlord has acknowledged make room
// first.
//
// A journal has an id and a birth, the clock of the first overlord that saw it.
// One that is damaged is set aside and another begun: what was ordered before
// its birth may have run under the other.
package journal
