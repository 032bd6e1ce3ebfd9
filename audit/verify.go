package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
)

// Row is one leaf as it is stored.
type Row struct {
	Index int64
	Leaf  []byte
	Hash  Hash // as stored beside it
}

// StoredResult is a stored group of results, as far as its record vouches for it.
type StoredResult struct {
	Names   string // folded
	Count   int
	Status  uint32
	Code    uint32
	Detail  string
	Output  []byte // as stored
	Dropped bool   // the output was removed to make room; OutputSum is what it was
	Sum     Hash   // SHA-256 of the output as stored at first
	Cut     uint64
	Took    []time.Duration
}

// Digest vouches for the whole row, but for the job and number of its group,
// which the record names: it is Record.digest of a "results" record. It is
// SHA-256 over "dominion-result-v1", the names and the detail each after its
// length, then count, status, code, cut, the number of durations and each of
// them in microseconds, all u64 big-endian, and the sum of the output.
func (s StoredResult) Digest() Hash {
	b := make([]byte, 0, 128+len(s.Names)+len(s.Detail)+8*len(s.Took))
	b = append(b, "dominion-result-v1"...)
	b = append(binary.BigEndian.AppendUint64(b, uint64(len(s.Names))), s.Names...)
	b = append(binary.BigEndian.AppendUint64(b, uint64(len(s.Detail))), s.Detail...)
	for _, n := range [...]uint64{uint64(s.Count), uint64(s.Status), uint64(s.Code), s.Cut, uint64(len(s.Took))} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, t := range s.Took {
		b = binary.BigEndian.AppendUint64(b, uint64(max(t.Microseconds(), 0)))
	}
	return sha256.Sum256(append(b, s.Sum[:]...))
}

// ErrNoResult is returned by a resultSource that has no such row.
var ErrNoResult = errors.New("no such result")

// ClosedJob is how a job ended, as its record vouches for it.
type ClosedJob struct {
	Counts call.Counts
	Reason string // why it ended early; empty: it did not
}

// Digest is Record.digest of a "closed" record: SHA-256 over
// "dominion-closed-v1", then targeted, answered, failed, unreachable and
// skipped, all u64 big-endian, and the reason.
func (j ClosedJob) Digest() Hash {
	b := append(make([]byte, 0, 64+len(j.Reason)), "dominion-closed-v1"...)
	c := j.Counts
	for _, n := range [...]int{c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return sha256.Sum256(append(b, j.Reason...))
}

// A logSource reads a stored log. *store.DB is the real one.
type logSource interface {
	// LogHead gives, as of one moment, the newest stored checkpoint (nil: none)
	// and one more than the highest index of a record.
	LogHead(ctx context.Context) (note []byte, size int64, err error)
	// LogRows gives the rows with from <= index < to in their order.
	LogRows(ctx context.Context, from, to int64) iter.Seq2[Row, error]
	// LogCheckpoints gives the stored checkpoints of at most size records, the
	// smallest first.
	LogCheckpoints(ctx context.Context, size int64) iter.Seq2[[]byte, error]
	// LogNode gives a stored node, level at least NodeLevel.
	LogNode(ctx context.Context, level int, number int64) (Hash, error)
}

// A resultSource reads the stored results.
type resultSource interface {
	// StoredResult gives one group; the error wraps ErrNoResult when it has none.
	StoredResult(ctx context.Context, job []byte, group uint64) (StoredResult, error)
	// StoredResults counts the groups whose records come before index size.
	StoredResults(ctx context.Context, size int64) (int64, error)
	// ClosedJob gives how a job ended; the error wraps ErrNoResult when there is
	// no such job, or it is open.
	ClosedJob(ctx context.Context, job string) (ClosedJob, error)
}

// VerifyOptions say what a log must agree with.
type VerifyOptions struct {
	Keys     []LogKey                     // that may have signed checkpoints; at least one
	Outside  []byte                       // the newest checkpoint kept outside the database; nil: none is known
	Progress func(done, total int64)      // called now and then; nil: not wanted
	Each     func(index int64, r *Record) // sees every good record; nil: not wanted
}

// Problem is the first thing found wrong.
type Problem struct {
	Index int64  // of the first bad record; -1: not one record
	What  string // for people, names the record
}

// Report is what Verify found.
type Report struct {
	Size    int64 // records checked
	Root    Hash  // of them
	Results int64 // stored groups of results compared
	Dropped int64 // of which the output was removed to make room
	Problem *Problem
}

// Verify recomputes a whole log: each leaf, the stored nodes of the tree, every
// stored checkpoint and its signature, the checkpoint outside the database, and
// each group of results, and the end of each job. It reports the first bad record. An error means that
// the log could not be read.
func Verify(ctx context.Context, log logSource, results resultSource, opt VerifyOptions) (*Report, error) {
	v := &verifier{ctx: ctx, log: log, results: results, opt: opt, report: &Report{}, dropped: make(map[string]int64)}
	err := v.run()
	if p, ok := errors.AsType[*problemError](err); ok {
		v.report.Problem = &p.Problem
		err = nil
	}
	v.report.Size, v.report.Root = v.tree.Size(), v.tree.Root()
	if err != nil {
		return v.report, fmt.Errorf("verify audit log: %w", err)
	}
	return v.report, nil
}

type problemError struct{ Problem }

func (e *problemError) Error() string { return e.What }

func bad(index int64, format string, args ...any) error {
	return &problemError{Problem{Index: index, What: fmt.Sprintf(format, args...)}}
}

type verifier struct {
	ctx     context.Context //nolint:containedctx // of the one call of Verify that this lives for
	log     logSource
	results resultSource
	opt     VerifyOptions
	report  *Report

	tree    Tree
	good    int64 // records under the newest checkpoint that agreed
	signed  int64 // records under the stored checkpoint read last
	buf     []Hash
	total   int64            // records that there must be
	cut     string           // why
	dropped map[string]int64 // jobs with an output that was removed, and the record of the first one
}

func (v *verifier) run() error {
	newest, size, err := v.log.LogHead(v.ctx)
	if err != nil {
		return err
	}
	outside, err := v.heads(newest, size)
	if err != nil {
		return err
	}
	next, stop := iter.Pull2(v.log.LogCheckpoints(v.ctx, size))
	defer stop()
	if err := v.walk(size, outside, next); err != nil {
		return err
	}
	if v.tree.Size() < v.total {
		return bad(v.tree.Size(), "records %d to %d are missing: %s", v.tree.Size(), v.total-1, v.cut)
	}
	n, err := v.results.StoredResults(v.ctx, size)
	if err != nil {
		return err
	}
	if n > v.report.Results {
		return bad(-1, "%d stored groups of results have no record in the log", n-v.report.Results)
	}
	return v.drops(size)
}

// drops reports an output that was removed without a record that says so. The
// record may have come since the verification began.
func (v *verifier) drops(size int64) error {
	if len(v.dropped) == 0 {
		return nil
	}
	_, now, err := v.log.LogHead(v.ctx)
	if err != nil {
		return err
	}
	for row, err := range v.log.LogRows(v.ctx, size, now) {
		if err != nil {
			return err
		}
		if r, err := Decode(row.Leaf); err == nil && r.GetAction() == ActionDropped {
			delete(v.dropped, r.GetSubject())
		}
	}
	first, job := int64(-1), ""
	for j, i := range v.dropped {
		if first < 0 || i < first {
			first, job = i, j
		}
	}
	if first >= 0 {
		return bad(first, "record %d: the stored output of job %s was removed, and no record says so", first, job)
	}
	return nil
}

// heads reads the newest checkpoints, and finds how many records there must be.
func (v *verifier) heads(newest []byte, size int64) (outside *Checkpoint, err error) {
	if newest == nil {
		if size > 0 {
			return nil, bad(-1, "%d records and no checkpoint", size)
		}
	} else {
		c, err := v.open(newest)
		if err != nil {
			return nil, bad(-1, "the newest stored checkpoint: %v", err)
		}
		if v.total, v.cut = c.Size, fmt.Sprintf("the newest stored checkpoint counts %d", c.Size); size > c.Size {
			return nil, bad(c.Size, "records %d to %d are under no checkpoint", c.Size, size-1)
		}
	}
	if v.opt.Outside == nil {
		return nil, nil
	}
	c, err := v.open(v.opt.Outside)
	if err != nil {
		return nil, bad(-1, "the checkpoint kept outside the database: %v", err)
	}
	if c.Size > v.total {
		v.total, v.cut = c.Size, fmt.Sprintf("the checkpoint kept outside the database counts %d; the log was cut, or is an older copy (after an honest restore: dominion audit recover)", c.Size)
	}
	return &c, nil
}

func (v *verifier) open(note []byte) (Checkpoint, error) {
	err := fmt.Errorf("%w: no log key is known", ErrCheckpoint)
	for _, key := range v.opt.Keys {
		var c Checkpoint
		if c, err = OpenCheckpoint(note, key); err == nil {
			return c, nil
		}
	}
	return Checkpoint{}, err
}

// walk reads the rows, and beside them the checkpoints in the same order.
func (v *verifier) walk(size int64, outside *Checkpoint, next func() ([]byte, error, bool)) error {
	pending, err := v.checkpoint(next)
	if err != nil {
		return err
	}
	for {
		for pending != nil && pending.Size == v.tree.Size() {
			if err := v.compare(*pending, "a stored checkpoint"); err != nil {
				return err
			}
			if pending, err = v.checkpoint(next); err != nil {
				return err
			}
		}
		if outside != nil && outside.Size == v.tree.Size() {
			if err := v.compare(*outside, "the checkpoint kept outside the database"); err != nil {
				return err
			}
		}
		if v.tree.Size() == size {
			return nil
		}
		end := size
		if pending != nil {
			end = min(end, pending.Size)
		}
		if outside != nil && outside.Size > v.tree.Size() {
			end = min(end, outside.Size)
		}
		before := v.tree.Size()
		if err := v.rows(end); err != nil {
			return err
		}
		if v.tree.Size() == before {
			return nil // the rest is missing; run says so
		}
	}
}

// rows checks the rows up to the next checkpoint.
func (v *verifier) rows(end int64) error {
	for row, err := range v.log.LogRows(v.ctx, v.tree.Size(), end) {
		if err != nil {
			return err
		}
		if err := v.row(row); err != nil {
			return err
		}
		if v.opt.Progress != nil && v.tree.Size()%1000 == 0 {
			v.opt.Progress(v.tree.Size(), v.total)
		}
	}
	if v.tree.Size() < end && end < v.total {
		return bad(v.tree.Size(), "record %d is missing", v.tree.Size())
	}
	return nil
}

// checkpoint gives the next stored checkpoint, nil after the last one.
func (v *verifier) checkpoint(next func() ([]byte, error, bool)) (*Checkpoint, error) {
	note, err, ok := next()
	if err != nil || !ok {
		return nil, err
	}
	c, err := v.open(note)
	if err != nil {
		return nil, bad(-1, "the stored checkpoint after record %d: %v", v.tree.Size()-1, err)
	}
	if c.Size <= v.signed {
		return nil, bad(-1, "the stored checkpoint of %d records is out of order", c.Size)
	}
	v.signed = c.Size
	return &c, nil
}

func (v *verifier) compare(c Checkpoint, which string) error {
	if v.tree.Root() == c.Root {
		v.good = c.Size
		return nil
	}
	if v.good == c.Size {
		return bad(-1, "%s of %d records does not agree with another of that size", which, c.Size)
	}
	return bad(v.good, "records %d to %d are not the ones that %s was signed over", v.good, c.Size-1, which)
}

func (v *verifier) row(row Row) error {
	i := v.tree.Size()
	if row.Index != i {
		return bad(i, "record %d is missing: after it comes record %d", i, row.Index)
	}
	if LeafHash(row.Leaf) != row.Hash {
		return bad(i, "record %d was changed: its bytes do not have the hash in the log", i)
	}
	v.buf = v.tree.Append(v.buf[:0], row.Hash)
	for level := NodeLevel; level < len(v.buf); level++ {
		h, err := v.log.LogNode(v.ctx, level, i>>level)
		if err != nil || h != v.buf[level] {
			return bad(i>>level<<level, "the stored hash over the records %d to %d was changed (%v)", i>>level<<level, i, err)
		}
	}
	r, err := Decode(row.Leaf)
	if err != nil {
		return bad(i, "record %d: %v", i, err)
	}
	if r.GetResults() != nil {
		if err := v.result(i, r); err != nil {
			return err
		}
	}
	switch r.GetAction() {
	case ActionDropped:
		delete(v.dropped, r.GetSubject())
	case ActionClosed:
		if err := v.closed(i, r); err != nil {
			return err
		}
	}
	if v.opt.Each != nil {
		v.opt.Each(i, r)
	}
	return nil
}

// result compares a stored group of results with its record.
func (v *verifier) result(i int64, rec *Record) error {
	r := rec.GetResults()
	what := fmt.Sprintf("group %d of job %x", r.GetGroup(), r.GetJob())
	s, err := v.results.StoredResult(v.ctx, r.GetJob(), r.GetGroup())
	if errors.Is(err, ErrNoResult) {
		return bad(i, "record %d: the stored results, %s, are missing", i, what)
	}
	if err != nil {
		return err
	}
	v.report.Results++
	if s.Dropped {
		v.report.Dropped++
		job := call.JobID(r.GetJob()).String() // 16 bytes: the row was found by it
		if _, known := v.dropped[job]; !known {
			v.dropped[job] = i
		}
	} else if sum := sha256.Sum256(s.Output); sum != s.Sum || string(sum[:]) != string(r.GetStoredSha256()) {
		return bad(i, "record %d: the stored output of %s (%s) was changed", i, what, r.GetNames())
	}
	if d := s.Digest(); string(d[:]) != string(rec.GetDigest()) || !agree(r, s) {
		return bad(i, "record %d: the stored result of %s (%s) was changed", i, what, r.GetNames())
	}
	return nil
}

// closed compares the end of a job with its record.
func (v *verifier) closed(i int64, rec *Record) error {
	j, err := v.results.ClosedJob(v.ctx, rec.GetSubject())
	if errors.Is(err, ErrNoResult) {
		return bad(i, "record %d: job %s was closed, and is not, or is not there, in the store", i, rec.GetSubject())
	}
	if err != nil {
		return err
	}
	if d := j.Digest(); string(d[:]) != string(rec.GetDigest()) {
		return bad(i, "record %d: the stored counts of job %s (%s) were changed", i, rec.GetSubject(), rec.GetDetail())
	}
	return nil
}

func agree(r *auditpb.Results, s StoredResult) bool {
	return r.GetNames() == s.Names && r.GetStatus() == s.Status && r.GetCode() == s.Code &&
		r.GetDetail() == s.Detail && string(r.GetStoredSha256()) == string(s.Sum[:])
}
