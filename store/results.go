package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// MaxGroups is how many groups of results one job may have.
const MaxGroups = 1 << 20

// ResultGroup is a set of machines of one job with equal results.
type ResultGroup struct {
	Number  int    // within the job, from 0, below MaxGroups
	Names   string // folded
	Count   int    // machines
	Status  call.Status
	Code    call.Code
	Detail  string
	Output  []byte            // JSON; nil when there is none, or it was dropped
	Cut     uint64            // bytes of output that were not kept
	SentSum [sha256.Size]byte // of the output as the machines sent it; zero: of Output. It goes into the audit record alone.
	Took    []time.Duration   // of each machine, in the order of Names; stored in microseconds

	Record  int64 // index of its audit record; set by the store
	Dropped bool  // the output was removed to make room; set by the store
}

const resultColumns = "id, record, machines, status, code, cut, dropped, sum, names, detail, took, output"

// AddResults stores groups of results of a job, and appends for each the audit
// record that vouches for it.
func (tx *Tx) AddResults(ctx context.Context, job call.JobID, groups []ResultGroup) error {
	num, err := tx.jobNumber(ctx, job)
	if err != nil {
		return err
	}
	ins := tx.inserter("INSERT INTO results ("+resultColumns+") VALUES ", "", 12)
	size := int64(0)
	for i := range groups {
		g := &groups[i]
		if g.Number < 0 || g.Number >= MaxGroups {
			return call.Errorf(call.TooMany, "job %s has more than %d groups of results", job, MaxGroups)
		}
		sum := sha256.Sum256(g.Output)
		if g.Record, err = tx.Audit(g.record(tx.w.db.opt.Overlord, job, sum)); err != nil {
			return err
		}
		size += int64(len(g.Output))
		if err := ins.add(ctx, num<<20|int64(g.Number), g.Record, g.Count, int64(g.Status), int64(g.Code), int64(g.Cut), 0,
			sum[:], g.Names, g.Detail, packTook(g.Took), g.Output); err != nil {
			return err
		}
	}
	if err := ins.flush(ctx); err != nil || size == 0 {
		return err
	}
	tx.outputBytes += size
	tx.outputs = append(tx.outputs, output{num, size})
	return nil
}

// countOutputs writes what the group added to the outputs of each job.
func (tx *Tx) countOutputs(ctx context.Context) error {
	sums := make(map[int64]int64)
	for _, o := range tx.outputs {
		sums[o.job] += o.bytes
	}
	for job, bytes := range sums {
		if err := tx.exec(ctx, "UPDATE jobs SET output_bytes = output_bytes + $1 WHERE num = $2", bytes, job); err != nil {
			return err
		}
	}
	return nil
}

// maxJobs bounds the job numbers kept in memory.
const maxJobs = 1024

// jobNumber is the function of that name for the writer, which asks for the
// same jobs again and again.
func (tx *Tx) jobNumber(ctx context.Context, id call.JobID) (int64, error) {
	jobs := tx.w.jobs
	if num, ok := jobs[id]; ok {
		return num, nil
	}
	num, err := jobNumber(ctx, &tx.reader, id)
	if err == nil {
		tx.w.keepJob(id, num)
	}
	return num, err
}

// keepJob remembers the number of a job that results will come for.
func (w *writer) keepJob(id call.JobID, num int64) {
	if len(w.jobs) >= maxJobs {
		clear(w.jobs)
	}
	w.jobs[id] = num
}

func (g *ResultGroup) record(overlord string, job call.JobID, sum [sha256.Size]byte) *auditpb.Record {
	sent := g.SentSum
	if sent == ([sha256.Size]byte{}) {
		sent = sum
	}
	digest := g.stored(sum).Digest()
	return &auditpb.Record{
		Actor: "overlord/" + overlord, Action: "results", Subject: job.String(), Digest: digest[:],
		Results: &auditpb.Results{
			Job: job[:], Group: uint64(g.Number), Names: g.Names, Status: uint32(g.Status), Code: uint32(g.Code), Detail: g.Detail,
			OutputSha256: sent[:], StoredSha256: sum[:],
		},
	}
}

func (g *ResultGroup) stored(sum audit.Hash) audit.StoredResult {
	return audit.StoredResult{
		Names: g.Names, Count: g.Count, Status: uint32(g.Status), Code: uint32(g.Code), Detail: g.Detail,
		Output: g.Output, Dropped: g.Dropped, Sum: sum, Cut: g.Cut, Took: g.Took,
	}
}

// storedGroup is a row of results.
type storedGroup struct {
	ResultGroup
	sum audit.Hash
}

func scanResult(s scanner) (storedGroup, error) {
	var g storedGroup
	var id int64
	var sum, took []byte
	err := s.Scan(&id, &g.Record, &g.Count, &g.Status, &g.Code, &g.Cut, flag{&g.Dropped}, &sum, &g.Names, &g.Detail, &took, &g.Output)
	g.Number, g.sum, g.Took = int(id&(MaxGroups-1)), hashOf(sum), unpackTook(took)
	return g, err
}

// resultsPerPage are read at once: an output has at most 1 MiB.
const resultsPerPage = 16

// Results yields the groups of a job from number first on, in their order.
func (r *reader) Results(ctx context.Context, job call.JobID, first int) iter.Seq2[ResultGroup, error] {
	return func(yield func(ResultGroup, error) bool) {
		num, err := jobNumber(ctx, r, job)
		if err != nil {
			yield(ResultGroup{}, err)
			return
		}
		for g, err := range paged(resultsPerPage, func(last *storedGroup) ([]storedGroup, error) {
			at := num<<20 | int64(first)
			if last != nil {
				at = num<<20 | int64(last.Number+1)
			}
			return all(ctx, r.q, scanResult, "SELECT "+resultColumns+" FROM results WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3",
				at, (num+1)<<20, resultsPerPage)
		}) {
			if !yield(g.ResultGroup, err) {
				return
			}
		}
	}
}

// CountResults gives how many groups of results a job has.
func (r *reader) CountResults(ctx context.Context, job call.JobID) (int, error) {
	num, err := jobNumber(ctx, r, job)
	if err != nil {
		return 0, err
	}
	n, err := one(ctx, r.q, scanInt, "results", "SELECT count(*) FROM results WHERE id >= $1 AND id < $2", num<<20, (num+1)<<20)
	return int(n), err
}

// StoredResult gives one group for the check of the audit log; the error wraps
// audit.ErrNoResult when there is none.
func (r *reader) StoredResult(ctx context.Context, job []byte, group uint64) (audit.StoredResult, error) {
	g, err := one(ctx, r.q, scanResult, "result", "SELECT "+resultColumns+" FROM results WHERE id = (SELECT num FROM jobs WHERE id = $1) * 1048576 + $2", job, int64(group))
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("group %d of job %x: %w", group, job, audit.ErrNoResult)
	}
	return g.stored(g.sum), err
}

// StoredResults counts the groups whose records come before index size.
func (r *reader) StoredResults(ctx context.Context, size int64) (int64, error) {
	return one(ctx, r.q, scanInt, "results", "SELECT count(*) FROM results WHERE record < $1", size)
}

// dropOldest removes outputs of the jobs that were closed first, until excess
// bytes are gone. The rows stay and say so, and so does an audit record.
func (tx *Tx) dropOldest(ctx context.Context, excess int64) error {
	type old struct {
		num, size int64
		id        []byte
	}
	jobs, err := all(ctx, tx, func(s scanner) (o old, err error) {
		err = s.Scan(&o.num, &o.size, &o.id)
		return o, err
	}, "SELECT num, output_bytes, id FROM jobs WHERE closed_ms > 0 AND output_bytes > 0 ORDER BY closed_ms LIMIT 64")
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if excess <= 0 {
			break
		}
		if err := tx.exec(ctx, "UPDATE results SET output = NULL, dropped = 1 WHERE id >= $1 AND id < $2 AND output IS NOT NULL", j.num<<20, (j.num+1)<<20); err != nil {
			return err
		}
		if err := tx.exec(ctx, "UPDATE jobs SET output_bytes = 0, dropped = 1 WHERE num = $1", j.num); err != nil {
			return err
		}
		if _, err := tx.Audit(&auditpb.Record{
			Actor: "overlord/" + tx.w.db.opt.Overlord, Action: audit.ActionDropped, Subject: call.JobID(j.id).String(),
			Detail: fmt.Sprintf("%d bytes of output removed to make room", j.size),
		}); err != nil {
			return err
		}
		excess -= j.size
		tx.outputBytes -= j.size
	}
	return nil
}

// packTook gives microseconds as uvarints.
func packTook(took []time.Duration) []byte {
	b := make([]byte, 0, 3*len(took))
	for _, t := range took {
		b = binary.AppendUvarint(b, uint64(max(t.Microseconds(), 0)))
	}
	return b
}

// unpackTook reads what packTook wrote, and stops at what it did not.
func unpackTook(b []byte) []time.Duration {
	var out []time.Duration
	for len(b) > 0 {
		us, n := binary.Uvarint(b)
		if n <= 0 {
			break
		}
		out = append(out, time.Duration(us)*time.Microsecond)
		b = b[n:]
	}
	return out
}
