package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// Job is one order with what became of it.
type Job struct {
	ID           call.JobID
	Record       int64 // index of its audit record
	Operator     string
	Method       string
	Order        []byte // the signed bytes
	Signature    []byte
	OperatorCert []byte // DER
	Args         []byte // JSON; nil once the job is closed
	Salt         []byte // nil once the job is closed
	Target       string // as the operator wrote it
	Names        string // folded; the signed set
	Unknown      string // folded; named by the operator, known to nobody
	Created      time.Time
	Expires      time.Time
	Closed       time.Time // zero: not yet
	Counts       call.Counts
	Reason       string        // why it ended early; empty: it did not
	OutputBytes  int64         // of its stored outputs
	Dropped      bool          // the outputs were removed to make room
	Timeout      time.Duration // of each call; zero: none
	Wait         bool          // machines that are away get it when they are back, until Expires
	Cancelled    time.Time     // when it was withdrawn; zero: it was not
	Bare         bool          // its arguments were {}; set by AddJob
	Delegated    []byte        // an encoded fleetpb.Delegate without what is in other fields; nil: it goes through no sub-overlord
}

const jobColumns = `id, record, operator, method, order_bytes, signature, operator_cert, args, salt, target, names, unknown_names,
	created_ms, expires_ms, closed_ms, targeted, answered, failed, unreachable, skipped, reason, output_bytes, dropped,
	timeout_ms, wait, cancelled_ms, bare, delegated`

// briefColumns are jobColumns without what can be large or secret.
var briefColumns = strings.NewReplacer("order_bytes, signature, operator_cert, args, salt", "NULL, NULL, NULL, NULL, NULL",
	"target, names, unknown_names", "substr(target, 1, 1000), '', ''", "bare, delegated", "bare, NULL").Replace(jobColumns)

func scanJob(s scanner) (Job, error) {
	var j Job
	var id []byte
	var timeout int64
	c := &j.Counts
	err := s.Scan(&id, &j.Record, &j.Operator, &j.Method, &j.Order, &j.Signature, &j.OperatorCert, &j.Args, &j.Salt, &j.Target, &j.Names, &j.Unknown,
		at{&j.Created}, at{&j.Expires}, at{&j.Closed}, &c.Targeted, &c.Answered, &c.Failed, &c.Unreachable, &c.Skipped, &j.Reason, &j.OutputBytes, flag{&j.Dropped},
		&timeout, flag{&j.Wait}, at{&j.Cancelled}, flag{&j.Bare}, &j.Delegated)
	j.Timeout = time.Duration(timeout) * time.Millisecond
	if err == nil && len(id) != len(j.ID) {
		err = fmt.Errorf("a job has an id of %d bytes", len(id))
	}
	copy(j.ID[:], id)
	return j, err
}

// AddJob stores a new job, which must be neither closed nor cancelled. A job id that is there
// already is an error of code Repeated.
func (tx *Tx) AddJob(ctx context.Context, j Job) error {
	c := j.Counts
	n, err := tx.execCount(ctx, "INSERT INTO jobs (num, "+jobColumns+") VALUES ("+params(29)+") ON CONFLICT (id) DO NOTHING",
		tx.nextJob, j.ID[:], j.Record, j.Operator, j.Method, bytesOrEmpty(j.Order), bytesOrEmpty(j.Signature), bytesOrEmpty(j.OperatorCert),
		j.Args, j.Salt, j.Target, j.Names, j.Unknown, ms(j.Created), ms(j.Expires), 0,
		c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped, j.Reason, 0, 0,
		j.Timeout.Milliseconds(), bit(j.Wait), 0, bit(string(j.Args) == "{}"), j.Delegated)
	if err != nil {
		return err
	}
	if n == 0 {
		return call.Errorf(call.Repeated, "job %s was ordered before", j.ID)
	}
	tx.w.keepJob(j.ID, tx.nextJob)
	tx.nextJob++
	return nil
}

// CloseJob stores how an open job ended, removes its arguments and their salt,
// and appends the audit record that vouches for the counts. A job that is closed
// stays as it is.
func (tx *Tx) CloseJob(ctx context.Context, id call.JobID, closed time.Time, c call.Counts, reason string) error {
	n, err := tx.execCount(ctx, `UPDATE jobs SET closed_ms = $1, targeted = $2, answered = $3, failed = $4, unreachable = $5, skipped = $6,
		reason = $7, args = NULL, salt = NULL WHERE id = $8 AND closed_ms = 0`,
		ms(closed), c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped, reason, id[:])
	if err != nil {
		return err
	}
	if n == 0 {
		_, err = jobNumber(ctx, &tx.reader, id) // it is closed, or not there
		return err
	}
	digest := audit.ClosedJob{Counts: c, Reason: reason}.Digest()
	_, err = tx.Audit(&auditpb.Record{
		Actor: "overlord/" + tx.w.db.opt.Overlord, Action: audit.ActionClosed, Subject: id.String(), Digest: digest[:],
		Detail: fmt.Sprintf("%d targeted: %d answered, %d failed, %d unreachable, %d skipped", c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped),
	})
	return err
}

// ClosedJob gives the end of a job for the check of the audit log; the error
// wraps audit.ErrNoResult when there is none.
func (r *reader) ClosedJob(ctx context.Context, job string) (audit.ClosedJob, error) {
	none := fmt.Errorf("job %s: %w", job, audit.ErrNoResult)
	id, err := call.ParseJobID(job)
	if err != nil {
		return audit.ClosedJob{}, none
	}
	open := true
	j, err := one(ctx, r.q, func(s scanner) (j audit.ClosedJob, err error) {
		c := &j.Counts
		var closed time.Time
		err = s.Scan(at{&closed}, &c.Targeted, &c.Answered, &c.Failed, &c.Unreachable, &c.Skipped, &j.Reason)
		open = closed.IsZero()
		return j, err
	}, "job "+job, "SELECT closed_ms, targeted, answered, failed, unreachable, skipped, reason FROM jobs WHERE id = $1", id[:])
	if errors.Is(err, ErrNotFound) || err == nil && open {
		return j, none
	}
	return j, err
}

// CancelJob notes that an open job was withdrawn, the first time it is; false
// when it is closed.
func (tx *Tx) CancelJob(ctx context.Context, id call.JobID, now time.Time) (bool, error) {
	n, err := tx.execCount(ctx, `UPDATE jobs SET cancelled_ms = CASE WHEN cancelled_ms = 0 THEN $1 ELSE cancelled_ms END
		WHERE id = $2 AND closed_ms = 0`, ms(now), id[:])
	if err != nil || n > 0 {
		return n > 0, err
	}
	_, err = jobNumber(ctx, &tx.reader, id)
	return false, err
}

// Job gives one job.
func (r *reader) Job(ctx context.Context, id call.JobID) (Job, error) {
	return one(ctx, r.q, scanJob, "job "+id.String(), "SELECT "+jobColumns+" FROM jobs WHERE id = $1", id[:])
}

// JobQuery says which jobs are wanted.
type JobQuery struct {
	Before   call.JobID // the last one of the page before; zero: from the newest
	Limit    int        // jobs at most
	Open     bool       // only those that are not closed
	Operator string     // only hers; empty: everybody's
}

// Jobs gives jobs, the newest first. Their orders, certificates, arguments,
// salts and machines are left out, and of a target there are the first 1,000
// characters: a page must not grow with the fleet.
func (r *reader) Jobs(ctx context.Context, q JobQuery) ([]Job, error) {
	query, args := "SELECT "+briefColumns+" FROM jobs", []any{}
	word := " WHERE "
	where := func(text string, arg any) {
		args = append(args, arg)
		query += word + fmt.Sprintf(text, len(args))
		word = " AND "
	}
	if !q.Before.IsZero() {
		where("id < $%d", q.Before[:])
	}
	if q.Operator != "" {
		where("operator = $%d", q.Operator)
	}
	if q.Open {
		where("closed_ms = $%d", 0)
	}
	args = append(args, q.Limit)
	query += fmt.Sprintf(" ORDER BY id DESC LIMIT $%d", len(args))
	return all(ctx, r.q, scanJob, query, args...)
}

// OpenJobs gives the jobs that are not closed: at the start, those that the
// overlord was carrying out when it died.
func (r *reader) OpenJobs(ctx context.Context) ([]Job, error) {
	return all(ctx, r.q, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE closed_ms = 0 ORDER BY num")
}

// jobNumber gives the key that the results of a job are stored under.
func jobNumber(ctx context.Context, r *reader, id call.JobID) (int64, error) {
	return one(ctx, r.q, scanInt, "job "+id.String(), "SELECT num FROM jobs WHERE id = $1", id[:])
}

// params gives "$1, $2, … $n".
func params(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	return b.String()
}
