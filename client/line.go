package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
)

// DefaultReconnect is how long a job's broken connection is tried again.
const DefaultReconnect = 10 * time.Minute

// eventStream is what a job reads from; connect's client stream is the real one.
type eventStream interface {
	Receive() bool
	Msg() *apipb.CallEvent
	Err() error
	Close() error
}

// line is a job's way to the overlord: it opens the job's stream, and opens it
// again when the connection broke. It belongs to the goroutine that reads the
// job.
type line struct {
	order func() (eventStream, error)            // sends the order; nil: somebody else did
	watch func(seen uint64) (eventStream, error) // of what comes after so many groups
	pause func(time.Duration) error              // waits; its error is the end of the caller's context
	// cancel withdraws the job.
	cancel func() (Cancelled, error)

	limit       time.Duration // for which a broken connection is tried again; negative: it is not
	first, most time.Duration // between two tries

	seen    uint64        // groups of results that came
	since   time.Time     // when the connection broke and nothing new came since; zero: it is there
	wait    time.Duration // before the next try
	resumed bool          // Resumed was given since
	cause   error         // of the newest break
}

// newLine makes the way to a job; the job's events end with ctx.
func (c *Conn) newLine(ctx context.Context, id call.JobID, limit time.Duration, now bool) line {
	if limit == 0 {
		limit = DefaultReconnect
	}
	return line{
		watch: func(seen uint64) (eventStream, error) {
			return c.Fleet.Watch(ctx, connect.NewRequest(&apipb.WatchRequest{Job: id.String(), Seen: seen, Now: now}))
		},
		pause:  func(d time.Duration) error { return pause(ctx, d) },
		cancel: func() (Cancelled, error) { return c.CancelJob(ctx, id) },
		limit:  limit, first: c.patience.first, most: c.patience.most, wait: c.patience.first,
	}
}

// pause waits for d; the error is the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// news says that the connection told something that was not known.
func (l *line) news() {
	l.since, l.wait, l.resumed = time.Time{}, l.first, false
}

// begun reads a new stream's first message.
func begun(s eventStream, err error) (eventStream, *apipb.CallEvent, error) {
	if err != nil {
		return nil, nil, err
	}
	if s.Receive() {
		return s, s.Msg(), nil
	}
	if err = s.Err(); err == nil {
		err = call.Errorf(call.Internal, "the overlord ended the answer before it accepted the order")
	}
	_ = s.Close() // the error before it says more
	return nil, nil, err
}

// start opens the stream for the first time. A connection that breaks
// meanwhile is no error unless reconnecting is off: the events go on with it.
func (j *Job) start(open func() (eventStream, error)) error {
	stream, m, err := begun(open())
	switch {
	case err == nil:
	case j.line.limit >= 0 && j.line.pause(0) == nil && isBroken(err):
		j.first = append(j.first, j.lost(err))
		return nil
	default:
		return err
	}
	j.stream = stream
	return j.queue(m)
}

// queue takes a stream's first message, for Events to give.
func (j *Job) queue(m *apipb.CallEvent) error {
	e, err := j.take(m)
	if err != nil {
		j.drop()
		return err
	}
	if e != nil {
		j.first = append(j.first, e)
	}
	return nil
}

// drop lets go of the stream.
func (j *Job) drop() {
	if j.stream != nil {
		_ = j.stream.Close() // it has ended, or is given up
		j.stream = nil
	}
}

// next gives the next event; nil for what says nothing. Its error is the last.
func (j *Job) next() (Event, error) {
	if j.stream == nil {
		return j.reopen()
	}
	if j.stream.Receive() {
		e, err := j.take(j.stream.Msg())
		if err != nil {
			return nil, &JobError{ID: j.ID, Err: err}
		}
		return e, nil
	}
	err := j.stream.Err()
	j.drop()
	if j.line.limit < 0 || j.line.pause(0) != nil || !transient(err) {
		return nil, j.broken(err)
	}
	return j.lost(err), nil
}

// transient says of the error that ended a stream, or kept it from beginning,
// whether the job can be seen again later: the connection broke, or the
// overlord is being stopped or started.
func transient(err error) bool {
	if isBroken(err) {
		return true
	}
	if _, final := errors.AsType[*refusedError](err); final {
		return false
	}
	e, ok := errors.AsType[*call.Error](err)
	return ok && (e.Code == call.Unavailable || e.Code == call.Cancelled || e.Code == call.Busy)
}

// lost notes that the connection broke. It gives a *Reconnecting the first
// time since something new came, then nil.
func (j *Job) lost(err error) Event {
	l := &j.line
	l.cause = err
	if !l.since.IsZero() {
		return nil
	}
	l.since = time.Now()
	e := &Reconnecting{Err: err, OutputLost: j.live}
	j.live = false // it is said once
	return e
}

// reopen waits, tries to open the stream, and so on until it is there or has
// been tried for too long.
func (j *Job) reopen() (Event, error) {
	l := &j.line
	if l.since.IsZero() {
		return nil, j.broken(l.cause) // it has ended
	}
	for {
		left := l.limit - time.Since(l.since)
		if left <= 0 {
			return nil, j.giveUp()
		}
		if err := l.pause(min(l.wait, left)); err != nil {
			return nil, j.broken(err)
		}
		l.wait = min(2*l.wait, l.most)
		m, err := j.open()
		switch {
		case err == nil:
			if err := j.queue(m); err != nil {
				return nil, &JobError{ID: j.ID, Err: err}
			}
			return j.resumed(), nil
		case l.pause(0) != nil || !transient(err):
			return nil, j.broken(err)
		}
		l.cause = err
	}
}

func (j *Job) giveUp() error {
	err := j.line.cause
	j.line.since = time.Time{}
	return &JobError{ID: j.ID, What: j.lostSight(), Lost: true, Err: fmt.Errorf("gave up after %s: %w", j.line.limit, err)}
}

// resumed gives a *Resumed the first time since the connection broke. What the
// first message told follows it.
func (j *Job) resumed() Event {
	l := &j.line
	if l.resumed {
		return nil
	}
	l.resumed = !l.since.IsZero() // no news yet: a further break is the same one
	return &Resumed{}
}

// open tries once to see the job again. When the overlord does not know it,
// because the order never arrived, the very same order is sent again: no
// machine runs a job twice.
func (j *Job) open() (*apipb.CallEvent, error) {
	l := &j.line
	stream, m, err := begun(l.watch(l.seen))
	if call.CodeOf(err) == call.NotFound && l.order != nil && !j.accepted.Load() {
		if j.withdrawn.Load() {
			return nil, &refusedError{call.Errorf(call.Cancelled, "it was cancelled before the overlord had it; nothing was run")}
		}
		stream, m, err = j.sendAgain()
	}
	if err == nil && !j.accepted.Load() && j.withdrawn.Load() {
		// It was cancelled when the overlord did not have it yet.
		if _, cerr := l.cancel(); cerr != nil && call.CodeOf(cerr) != call.NotFound {
			_ = stream.Close() // the error says more
			err = cerr
		}
	}
	if err != nil {
		return nil, err
	}
	j.accepted.Store(true)
	j.stream = stream
	return m, nil
}

// refusedError is about an order sent again, or not sent again; it is
// final whatever its code, as it would be the first time.
type refusedError struct{ err error }

// Error gives the error's own text.
func (e *refusedError) Error() string { return e.err.Error() }

// Unwrap gives the error.
func (e *refusedError) Unwrap() error { return e.err }

func (j *Job) sendAgain() (eventStream, *apipb.CallEvent, error) {
	stream, m, err := begun(j.line.order())
	switch {
	case err == nil, isBroken(err), call.CodeOf(err) == call.Cancelled:
		return stream, m, err
	case call.CodeOf(err) == call.Repeated: // it had arrived after all: the next try watches it
		return nil, nil, &brokenError{call.Errorf(call.Unavailable, "%v", err)}
	}
	return nil, nil, &refusedError{err}
}
