package store

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
)

// Audit appends a leaf when the transaction is committed, and gives its index.
// A record without a time gets the present one. While AuditProblem is set the
// error has code Unavailable.
func (tx *Tx) Audit(r *auditpb.Record) (int64, error) {
	if tx.refused != "" {
		return 0, unavailable("the audit log takes no records: " + tx.refused + "; see: dominion audit verify")
	}
	if r.TimeMs == 0 {
		r.TimeMs = tx.w.db.opt.Now().UnixMilli()
	}
	leaf, err := audit.Encode(r)
	if err != nil {
		return 0, fmt.Errorf("audit %s: %w", r.GetAction(), err)
	}
	tx.leaves = append(tx.leaves, leaf)
	return tx.tree.Size() + int64(len(tx.leaves)) - 1, nil
}

// rowsAtOnce is how many rows one INSERT takes. 8 measured faster than 1, 16 and
// 32: the driver looks for each value among all of the statement.
const rowsAtOnce = 8

// seal appends the group's leaves to the log, and signs what it is then. The
// note is nil when there are none.
func (tx *Tx) seal(ctx context.Context) ([]byte, error) {
	if err := tx.countOutputs(ctx); err != nil || len(tx.leaves) == 0 {
		return nil, err
	}
	ins := tx.inserter("INSERT INTO records (idx, hash, leaf) VALUES ", "", 3)
	var done []audit.Hash
	for _, leaf := range tx.leaves {
		i := tx.tree.Size()
		h := audit.LeafHash(leaf)
		done = tx.tree.Append(done[:0], h)
		for level := audit.NodeLevel; level < len(done); level++ {
			if err := tx.putNode(ctx, level, i>>level, done[level]); err != nil {
				return nil, err
			}
		}
		if err := ins.add(ctx, i, h[:], leaf); err != nil {
			return nil, err
		}
	}
	if err := ins.flush(ctx); err != nil {
		return nil, err
	}
	tx.leaves = nil
	c := audit.Checkpoint{LogID: tx.w.db.LogID(), Epoch: tx.epoch, Size: tx.tree.Size(), Root: tx.tree.Root()}
	note, err := tx.w.db.signer.Sign(c)
	if err != nil {
		return nil, err
	}
	return note, tx.exec(ctx, "INSERT INTO checkpoints (size, epoch, note) VALUES ($1, $2, $3)", c.Size, int64(c.Epoch), note)
}

func (tx *Tx) putNode(ctx context.Context, level int, number int64, h audit.Hash) error {
	return tx.exec(ctx, "INSERT INTO nodes (level, number, hash) VALUES ($1, $2, $3) ON CONFLICT (level, number) DO UPDATE SET hash = excluded.hash", level, number, h[:])
}

// inserter gathers rows into INSERTs of rowsAtOnce.
type inserter struct {
	tx         *Tx
	head, tail string
	width      int
	args       []any
}

func (tx *Tx) inserter(head, tail string, width int) *inserter {
	return &inserter{tx: tx, head: head, tail: tail, width: width, args: make([]any, 0, width*rowsAtOnce)}
}

func (i *inserter) add(ctx context.Context, args ...any) error {
	if i.args = append(i.args, args...); len(i.args) < i.width*rowsAtOnce {
		return nil
	}
	err := i.tx.exec(ctx, i.query(rowsAtOnce), i.args...)
	i.args = i.args[:0]
	return err
}

func (i *inserter) flush(ctx context.Context) error {
	for a := i.args; len(a) > 0; a = a[i.width:] {
		if err := i.tx.exec(ctx, i.query(1), a[:i.width]...); err != nil {
			return err
		}
	}
	i.args = i.args[:0]
	return nil
}

func (i *inserter) query(rows int) string {
	key := insertKey{i.head, rows}
	if q, ok := i.tx.w.inserts[key]; ok {
		return q
	}
	q := i.head + sqliteRows(rows, i.width) + i.tail
	i.tx.w.inserts[key] = q
	return q
}

type insertKey struct {
	head string
	rows int
}

// Record gives one leaf.
func (r *reader) Record(ctx context.Context, index int64) (audit.Row, error) {
	return one(ctx, r.q, scanRow, fmt.Sprintf("audit record %d", index), "SELECT idx, leaf, hash FROM records WHERE idx = $1", index)
}

// rowsPerPage are read at once: a leaf has at most 16 MiB, and seldom 1 KiB.
const rowsPerPage = 64

// LogRows yields the leaves with from <= index < to, in their order.
func (r *reader) LogRows(ctx context.Context, from, to int64) iter.Seq2[audit.Row, error] {
	return paged(rowsPerPage, func(last *audit.Row) ([]audit.Row, error) {
		at := from
		if last != nil {
			at = last.Index + 1
		}
		return all(ctx, r.q, scanRow, "SELECT idx, leaf, hash FROM records WHERE idx >= $1 AND idx < $2 ORDER BY idx LIMIT $3", at, to, rowsPerPage)
	})
}

// LogRowsBackwards yields the leaves with index < before, the newest first.
func (r *reader) LogRowsBackwards(ctx context.Context, before int64) iter.Seq2[audit.Row, error] {
	return paged(rowsPerPage, func(last *audit.Row) ([]audit.Row, error) {
		at := before
		if last != nil {
			at = last.Index
		}
		return all(ctx, r.q, scanRow, "SELECT idx, leaf, hash FROM records WHERE idx < $1 ORDER BY idx DESC LIMIT $2", at, rowsPerPage)
	})
}

func scanRow(s scanner) (audit.Row, error) {
	var row audit.Row
	var h []byte
	if err := s.Scan(&row.Index, &row.Leaf, &h); err != nil {
		return audit.Row{}, err
	}
	row.Hash = hashOf(h)
	return row, nil
}

// hashOf takes a stored hash. One of another length was changed by a stranger
// and becomes the zero hash, which fits nothing.
func hashOf(b []byte) audit.Hash {
	if len(b) != len(audit.Hash{}) {
		return audit.Hash{}
	}
	return audit.Hash(b)
}

func scanHash(s scanner) (audit.Hash, error) {
	b, err := scanBytes(s)
	return hashOf(b), err
}

// LogHead gives the newest stored checkpoint (nil: none), and one more than
// the highest index of a record.
func (r *reader) LogHead(ctx context.Context) (note []byte, size int64, err error) {
	type head struct {
		note []byte
		size int64
	}
	h, err := one(ctx, r.q, func(s scanner) (h head, err error) {
		err = s.Scan(&h.note, &h.size)
		return h, err
	}, "audit log", "SELECT (SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1), coalesce((SELECT max(idx) FROM records), -1) + 1")
	return h.note, h.size, err
}

// LogCheckpoints yields the stored checkpoints of at most size records, the
// smallest first.
func (r *reader) LogCheckpoints(ctx context.Context, size int64) iter.Seq2[[]byte, error] {
	const n = 1000
	type row struct {
		size int64
		note []byte
	}
	scan := func(s scanner) (c row, err error) {
		err = s.Scan(&c.size, &c.note)
		return c, err
	}
	rows := paged(n, func(last *row) ([]row, error) {
		after := int64(-1)
		if last != nil {
			after = last.size
		}
		return all(ctx, r.q, scan, "SELECT size, note FROM checkpoints WHERE size > $1 AND size <= $2 ORDER BY size LIMIT $3", after, size, n)
	})
	return func(yield func([]byte, error) bool) {
		for c, err := range rows {
			if !yield(c.note, err) {
				return
			}
		}
	}
}

// LogNode gives a stored node of the tree.
func (r *reader) LogNode(ctx context.Context, level int, number int64) (audit.Hash, error) {
	return one(ctx, r.q, scanHash, fmt.Sprintf("node %d/%d of the audit tree", level, number), "SELECT hash FROM nodes WHERE level = $1 AND number = $2", level, number)
}

// hashes reads the stored tree, for proofs.
func (r *reader) hashes(ctx context.Context) audit.Hashes {
	return audit.Hashes{
		Leaves: func(first int64, n int) ([]audit.Hash, error) {
			return all(ctx, r.q, scanHash, "SELECT hash FROM records WHERE idx >= $1 AND idx < $2 ORDER BY idx", first, first+int64(n))
		},
		Node: func(level int, number int64) (audit.Hash, error) { return r.LogNode(ctx, level, number) },
	}
}

// HeadFor gives the newest checkpoint with what a minion that remembers a
// note of this log (nil: none) needs to believe it: a proof, or the root's
// statements since its epoch. The log key's certificate is the caller's to add.
// When nothing can be proved, or the log is damaged, the head comes without a
// proof or a checkpoint, and the minion refuses it.
func (db *DB) HeadFor(ctx context.Context, remembered []byte) (*fleetpb.LogHead, error) {
	c, note := db.Checkpoint()
	head := &fleetpb.LogHead{Checkpoint: note}
	if remembered == nil {
		return head, nil
	}
	old, err := audit.PeekCheckpoint(remembered)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	from := old.Size
	if old.Epoch < c.Epoch {
		statements, err := db.Recoveries(ctx, old.Epoch)
		if err != nil {
			return nil, err
		}
		for i, r := range statements {
			if i == len(statements)-1 {
				head.Recovery, from = r.Statement, r.Restored
			} else {
				head.RecoveriesBefore = append(head.RecoveriesBefore, r.Statement)
			}
		}
	}
	if from > c.Size {
		return head, nil
	}
	head.Proof, err = audit.ProveConsistency(from, c.Size, db.hashes(ctx))
	if errors.Is(err, audit.ErrTree) || errors.Is(err, ErrNotFound) {
		return head, nil // the log is damaged
	}
	return head, err
}

// Verify recomputes the whole log and compares it with outside, the newest
// checkpoint kept outside the database (nil: none), and with the results.
func (db *DB) Verify(ctx context.Context, outside []byte, progress func(done, total int64)) (*audit.Report, error) {
	return audit.Verify(ctx, db, db, audit.VerifyOptions{
		Keys: db.logKeys(), Outside: outside, Progress: progress,
	})
}

func (db *DB) logKeys() []audit.LogKey {
	return append([]audit.LogKey{db.signer.Key()}, db.opt.LogKeys...)
}

func (db *DB) openNote(note []byte) (audit.Checkpoint, error) {
	err := errors.New("no log key")
	for _, key := range db.logKeys() {
		var c audit.Checkpoint
		if c, err = audit.OpenCheckpoint(note, key); err == nil {
			return c, nil
		}
	}
	return audit.Checkpoint{}, err
}
