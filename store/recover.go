package store

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
)

// loadLog reads the end of the audit log, compares it with the newest
// checkpoints inside and outside the database, and reports what does not fit.
func (db *DB) loadLog(ctx context.Context) error {
	if err := db.loadSigner(ctx); err != nil {
		return err
	}
	w := db.writer
	var err error
	if w.nextJob, err = one(ctx, db.q, scanInt, "jobs", "SELECT coalesce(max(num), 0) + 1 FROM jobs"); err != nil {
		return err
	}
	if w.epoch, err = db.lastEpoch(ctx); err != nil {
		return err
	}
	note, size, err := db.LogHead(ctx)
	if err != nil {
		return err
	}
	problem := ""
	if w.tree, err = audit.LoadTree(size, db.hashes(ctx)); err != nil {
		if !errors.Is(err, audit.ErrTree) && !errors.Is(err, ErrNotFound) {
			return err
		}
		w.tree, problem = new(audit.Tree), fmt.Sprintf("the tree over its %d records is not whole (%v)", size, err)
	}
	c := audit.Checkpoint{LogID: db.LogID(), Epoch: w.epoch, Size: w.tree.Size(), Root: w.tree.Root()}
	if problem == "" {
		problem = db.compareInside(c, note)
	}
	if problem == "" {
		if problem, err = db.compareOutside(ctx, c); err != nil {
			return err
		}
	}
	if problem != "" {
		// Nothing is signed over a damaged log: shown is what was signed before.
		if stored, err := db.openNote(note); err == nil {
			db.head, db.headNote = stored, note
		}
		db.log.Error("audit log damaged", "problem", problem)
		db.problems.audit = problem
		return nil
	}
	if note == nil { // the log is empty
		if note, err = db.signer.Sign(c); err != nil {
			return err
		}
	}
	db.head, db.headNote = c, note
	_ = db.outside(note) // reported as a problem
	return nil
}

// loadSigner finds the log's id, and makes the signer of its checkpoints.
func (db *DB) loadSigner(ctx context.Context) error {
	id, err := one(ctx, db.q, scanText, "log id", "SELECT value FROM meta WHERE name = 'log_id'")
	if errors.Is(err, ErrNotFound) {
		id = db.opt.LogID
		if c, err := audit.PeekCheckpoint(db.opt.Outside); id == "" && err == nil {
			id = c.LogID // the database was lost, its log was not
		}
		if id == "" {
			id = newLogID()
		}
		_, err = db.writer.conn.ExecContext(ctx, "INSERT INTO meta (name, value) VALUES ('log_id', $1)", id)
	}
	if err != nil {
		return err
	}
	if db.opt.LogID != "" && db.opt.LogID != id {
		return fmt.Errorf("the store holds audit log %q and not %q: it is another overlord's", id, db.opt.LogID)
	}
	db.signer, err = audit.NewSigner(id, db.opt.Overlord, db.opt.LogKey)
	return err
}

func (r *reader) lastEpoch(ctx context.Context) (uint64, error) {
	n, err := one(ctx, r.q, scanInt, "epoch", "SELECT coalesce(max(epoch), 0) FROM recoveries")
	return uint64(n), err
}

// compareInside says what is wrong between the log and its newest checkpoint.
func (db *DB) compareInside(c audit.Checkpoint, note []byte) string {
	if note == nil {
		if c.Size > 0 {
			return fmt.Sprintf("it has %d records and no checkpoint", c.Size)
		}
		return ""
	}
	stored, err := db.openNote(note)
	switch {
	case err != nil:
		return fmt.Sprintf("its newest checkpoint is refused (%v)", err)
	case stored.Size > c.Size:
		return fmt.Sprintf("it was cut: it has %d records and its newest checkpoint counts %d", c.Size, stored.Size)
	case stored != c:
		return fmt.Sprintf("it was changed: it has %v, and its newest checkpoint says %v", c, stored)
	}
	return ""
}

// compareOutside says what is wrong between the log and the checkpoint that
// was kept outside the database, which may be older when the overlord was
// killed, but never newer.
func (db *DB) compareOutside(ctx context.Context, c audit.Checkpoint) (string, error) {
	if db.opt.Outside == nil {
		if c.Size > 0 {
			return "the checkpoint kept outside the database is missing", nil
		}
		return "", nil
	}
	o, err := db.openNote(db.opt.Outside)
	if err != nil {
		return fmt.Sprintf("the checkpoint kept outside the database is refused (%v)", err), nil
	}
	switch {
	case o.Epoch > c.Epoch:
		return fmt.Sprintf("it is an older copy: it is at epoch %d, and the checkpoint kept outside the database at epoch %d", c.Epoch, o.Epoch), nil
	case o.Epoch < c.Epoch:
		// The overlord was killed right after a recovery, which abandoned o.
		r, err := one(ctx, db.q, scanRecovery, "recovery", selectRecoveries+" WHERE epoch = $1", int64(o.Epoch+1))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return "", err
		}
		if err == nil && o.Size <= r.Abandoned {
			return "", nil
		}
		return fmt.Sprintf("it is at epoch %d, and no recovery explains the checkpoint kept outside the database: %v", c.Epoch, o), nil
	case o.Size > c.Size:
		return fmt.Sprintf("it was cut or is an older copy: it has %d records, and the checkpoint kept outside the database counts %d", c.Size, o.Size), nil
	}
	root, err := audit.RootAt(o.Size, db.hashes(ctx))
	if errors.Is(err, audit.ErrTree) || errors.Is(err, ErrNotFound) || err == nil && root != o.Root {
		return fmt.Sprintf("it was rewritten: its first %d records are not those of the checkpoint kept outside the database", o.Size), nil
	}
	return "", err
}

// Recovery is a statement of the root key that the log goes on from a back-up.
type Recovery struct {
	Epoch     uint64
	Abandoned int64  // records of the log that was lost
	Restored  int64  // records of the log that goes on
	Statement []byte // signed fleetpb.Recovery
}

const selectRecoveries = "SELECT epoch, abandoned, restored, statement FROM recoveries"

func scanRecovery(s scanner) (Recovery, error) {
	var r Recovery
	err := s.Scan(&r.Epoch, &r.Abandoned, &r.Restored, &r.Statement)
	return r, err
}

// Recoveries gives the recoveries that began an epoch later than after, the oldest first.
func (r *reader) Recoveries(ctx context.Context, after uint64) ([]Recovery, error) {
	return all(ctx, r.q, scanRecovery, selectRecoveries+" WHERE epoch > $1 ORDER BY epoch", int64(after))
}

// RecoveryPlan says what a recovery would do.
type RecoveryPlan struct {
	Epoch     uint64           // that would begin
	Abandoned audit.Checkpoint // the newest one known
	Restored  audit.Checkpoint // what is there
}

// Recovery is the statement that explains the plan; its time is zero.
func (p *RecoveryPlan) Recovery() *fleetpb.Recovery {
	return &fleetpb.Recovery{
		LogId: p.Restored.LogID, Epoch: p.Epoch,
		AbandonedSize: uint64(p.Abandoned.Size), AbandonedRoot: p.Abandoned.Root[:],
		RestoredSize: uint64(p.Restored.Size), RestoredRoot: p.Restored.Root[:],
	}
}

// Explained gives for Recover a statement that was signed before. What Recover then
// finds must be what was planned: otherwise the error has code Busy.
func (p *RecoveryPlan) Explained(statement []byte) func(*fleetpb.Recovery) ([]byte, error) {
	planned := p.Recovery()
	return func(r *fleetpb.Recovery) ([]byte, error) {
		if planned.TimeMs = r.TimeMs; !proto.Equal(planned, r) {
			return nil, call.Errorf(call.Busy, "the audit log, or what machines remember of it, changed meanwhile; ask again")
		}
		return statement, nil
	}
}

// PlanRecovery compares the log with the checkpoint kept outside the database
// and with seen, notes that minions remember, and says what Recover would
// abandon. When nothing newer is known and the log has no problem, the error
// has code Conflict: there is nothing to recover from. When a record is missing
// in the middle, the log cannot go on; the error names it.
func (db *DB) PlanRecovery(ctx context.Context, seen [][]byte) (RecoveryPlan, error) {
	plan, _, err := db.plan(ctx, &db.reader, seen)
	return plan, err
}

// node is one stored hash.
type node struct {
	level  int
	number int64
	hash   audit.Hash
}

// plan gives with the plan the nodes of the tree that are stored wrongly.
func (db *DB) plan(ctx context.Context, r *reader, seen [][]byte) (RecoveryPlan, rebuilt, error) {
	got, err := rebuild(ctx, r)
	if err != nil {
		return RecoveryPlan{}, got, err
	}
	epoch, err := r.lastEpoch(ctx)
	if err != nil {
		return RecoveryPlan{}, got, err
	}
	p := RecoveryPlan{Restored: audit.Checkpoint{LogID: db.LogID(), Epoch: epoch, Size: got.tree.Size(), Root: got.tree.Root()}}
	p.Abandoned = p.Restored
	note, _, err := r.LogHead(ctx)
	if err != nil {
		return RecoveryPlan{}, got, err
	}
	newest, _ := db.Checkpoint() // as of now: db.opt.Outside is as of the start
	notes := append([][]byte{note, db.opt.Outside}, seen...)
	if db.AuditProblem() == "" {
		notes[1] = nil
	}
	for _, n := range notes {
		c, err := db.openNote(n)
		if err != nil || c.Epoch < p.Abandoned.Epoch || c.Epoch == p.Abandoned.Epoch && c.Size <= p.Abandoned.Size {
			continue
		}
		p.Abandoned = c
	}
	p.Epoch = p.Abandoned.Epoch + 1
	if db.AuditProblem() == "" && p.Abandoned.Epoch == newest.Epoch && p.Abandoned.Size <= newest.Size {
		return p, got, call.Errorf(call.Conflict, "the audit log, %v, has no problem, and nobody shows a newer checkpoint: there is nothing to recover from", newest)
	}
	return p, got, nil
}

type rebuilt struct {
	tree  *audit.Tree
	wrong []node
}

// rebuild computes the tree from the stored leaf hashes alone.
func rebuild(ctx context.Context, r *reader) (rebuilt, error) {
	out := rebuilt{tree: new(audit.Tree)}
	var done []audit.Hash
	type leaf struct {
		index int64
		hash  audit.Hash
	}
	scan := func(s scanner) (l leaf, err error) {
		var h []byte
		err = s.Scan(&l.index, &h)
		l.hash = hashOf(h)
		return l, err
	}
	for l, err := range each(ctx, r.q, scan, "SELECT idx, hash FROM records ORDER BY idx") {
		i := out.tree.Size()
		if err != nil {
			return out, err
		}
		if l.index != i {
			return out, call.Errorf(call.Failed, "record %d of the audit log is missing, and the log cannot go on without it; restore a back-up", i)
		}
		done = out.tree.Append(done[:0], l.hash)
		for level := audit.NodeLevel; level < len(done); level++ {
			if h, err := r.LogNode(ctx, level, i>>level); err != nil || h != done[level] {
				out.wrong = append(out.wrong, node{level, i >> level, done[level]})
			}
		}
	}
	return out, nil
}

// Recover makes the log go on from what is there: it appends the statement
// that sign makes of what is abandoned (package pki signs it with the root
// key), begins a new epoch, and ends AuditProblem. actor is who asked for it,
// for the record. See PlanRecovery for seen and for the errors.
func (db *DB) Recover(ctx context.Context, actor string, seen [][]byte, sign func(*fleetpb.Recovery) ([]byte, error)) (RecoveryPlan, error) {
	var p RecoveryPlan
	err := db.update(ctx, &op{recover: true, done: make(chan struct{}), fn: func(tx *Tx) error {
		var err error
		p, err = tx.recover(ctx, actor, seen, sign)
		return err
	}})
	if err != nil {
		return p, fmt.Errorf("recover the audit log: %w", err)
	}
	db.report(func(problems *problems) { problems.audit = "" })
	db.log.Warn("audit log goes on after a recovery", "epoch", p.Epoch, "abandoned", p.Abandoned.Size, "restored", p.Restored.Size)
	return p, nil
}

func (tx *Tx) recover(ctx context.Context, actor string, seen [][]byte, sign func(*fleetpb.Recovery) ([]byte, error)) (RecoveryPlan, error) {
	if len(tx.leaves) > 0 {
		return RecoveryPlan{}, call.Errorf(call.Busy, "the audit log is being written; ask again")
	}
	p, got, err := tx.w.db.plan(ctx, &tx.reader, seen)
	if err != nil {
		return p, err
	}
	now := tx.w.db.opt.Now().UnixMilli()
	what := p.Recovery()
	what.TimeMs = now
	statement, err := sign(what)
	if err != nil {
		return p, fmt.Errorf("sign the recovery statement: %w", err)
	}
	for _, n := range got.wrong {
		if err := tx.putNode(ctx, n.level, n.number, n.hash); err != nil {
			return p, err
		}
	}
	if err := tx.exec(ctx, "DELETE FROM checkpoints WHERE size > $1", p.Restored.Size); err != nil {
		return p, err
	}
	if err := tx.exec(ctx, "INSERT INTO recoveries (epoch, abandoned, restored, statement) VALUES ($1, $2, $3, $4)",
		int64(p.Epoch), p.Abandoned.Size, p.Restored.Size, statement); err != nil {
		return p, err
	}
	tx.tree, tx.epoch = got.tree, p.Epoch
	_, err = tx.Audit(&auditpb.Record{
		TimeMs: now, Actor: actor, Action: "recovery", Subject: p.Restored.LogID, Statement: statement,
		Detail: fmt.Sprintf("abandoned: %v; the log goes on from %v", p.Abandoned, p.Restored),
	})
	return p, err
}
