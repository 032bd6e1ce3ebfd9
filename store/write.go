package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dominion/audit"
	"dominion/call"
)

// maxGroup is how many writes share one transaction at most.
const maxGroup = 512

// op is one write on its way.
type op struct {
	fn      func(*Tx) error
	claimed atomic.Bool // by the writer, or by the waiter who gave up
	recover bool        // may append although the log has a problem
	err     error
	done    chan struct{}
}

// Update runs fn in a transaction and returns when what it wrote is durable.
// When fn returns an error, nothing of it is kept and Update returns that
// error. fn may run together with others in one transaction and sees what they
// wrote; it runs on the writer's goroutine and must not wait for anything but
// its Tx, which it must not keep. When ctx ends before fn began, it never
// runs. While the store can't write, the error has code Unavailable.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	return db.update(ctx, &op{fn: fn, done: make(chan struct{})})
}

func (db *DB) update(ctx context.Context, o *op) error {
	if err := db.enqueue(ctx, o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
	}
	if o.claimed.CompareAndSwap(false, true) {
		return fmt.Errorf("wait for the store: %w", context.Cause(ctx))
	}
	<-o.done
	return o.err
}

func (db *DB) enqueue(ctx context.Context, o *op) error {
	db.closing.RLock()
	defer db.closing.RUnlock()
	if db.closed {
		return unavailable("the store is closed")
	}
	select {
	case db.queue <- o:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the store: %w", context.Cause(ctx))
	}
}

// writer is the one goroutine that writes, and what only it touches.
type writer struct {
	db      *DB
	pool    *sql.DB
	conn    *sql.Conn
	stmts   map[string]*sql.Stmt // prepared on conn
	inserts map[insertKey]string

	tree        *audit.Tree // of what is committed
	epoch       uint64
	nextJob     int64
	outputBytes int64
	jobs        map[call.JobID]int64 // numbers of jobs that results came for lately

	told     time.Time // of the last complaint about the disk
	toldText string    // what it said
	failing  bool      // that was told, and nothing was committed since
}

// tellFault is the time between two complaints about the same fault of the
// disk: those whose writes fail try again and again.
const tellFault = time.Minute

func (w *writer) run(ctx context.Context) {
	defer close(w.db.latest)
	ops := make([]*op, 0, maxGroup)
	for first := range w.db.queue {
		ops = append(ops[:0], first)
		for more := true; more && len(ops) < maxGroup; {
			select {
			case o, ok := <-w.db.queue:
				if more = ok; ok {
					ops = append(ops, o)
				}
			default:
				more = false
			}
		}
		w.group(ctx, ops)
		clear(ops)
		w.makeRoom(ctx)
	}
}

// group carries out ops in one transaction and wakes those who wait.
func (w *writer) group(ctx context.Context, ops []*op) {
	claimed := ops[:0]
	for _, o := range ops {
		if o.claimed.CompareAndSwap(false, true) {
			claimed = append(claimed, o)
		}
	}
	if len(claimed) == 0 {
		return
	}
	tx, note, err := w.transact(ctx, claimed)
	if err != nil {
		err = w.failed(ctx, err)
		for _, o := range claimed {
			if o.err == nil || faultOf(o.err) != faultNone {
				o.err = err
			}
		}
	} else {
		w.works()
		w.tree, w.epoch, w.nextJob = tx.tree, tx.epoch, tx.nextJob
		w.outputBytes += tx.outputBytes
		if note != nil {
			w.db.publish(audit.Checkpoint{LogID: w.db.LogID(), Epoch: tx.epoch, Size: tx.tree.Size(), Root: tx.tree.Root()}, note)
		}
	}
	for _, o := range claimed {
		close(o.done)
	}
}

// transact runs the group. Without an error it is committed, and each op has
// its own error; note is the checkpoint over what was appended, if anything.
func (w *writer) transact(ctx context.Context, ops []*op) (*Tx, []byte, error) {
	w.db.mu.Lock()
	broken, damaged := w.db.problems.fsync, w.db.problems.audit
	w.db.mu.Unlock()
	if broken != "" {
		return nil, nil, unavailable(broken)
	}
	if err := w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, nil, err
	}
	tx := w.newTx()
	for _, o := range ops {
		tx.refused = damaged
		if o.recover {
			tx.refused = ""
		}
		if len(ops) == 1 {
			if o.err = o.fn(tx); faultOf(o.err) != faultNone {
				return nil, nil, o.err
			} else if o.err != nil {
				clear(w.jobs) // as in savepoint
				return w.newTx(), nil, w.exec(ctx, "ROLLBACK")
			}
		} else if err := w.savepoint(ctx, tx, o); err != nil {
			return nil, nil, err
		}
	}
	note, err := tx.seal(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := w.commit(ctx); err != nil {
		return nil, nil, err
	}
	return tx, note, nil
}

// newTx gives a transaction in which nothing was done yet.
func (w *writer) newTx() *Tx {
	tx := &Tx{w: w, tree: w.tree.Clone(), epoch: w.epoch, nextJob: w.nextJob}
	tx.q = tx
	return tx
}

func (w *writer) commit(ctx context.Context) error {
	commit := func(ctx context.Context) error { return w.exec(ctx, "COMMIT") }
	if w.db.opt.commit != nil {
		return w.db.opt.commit(ctx, commit)
	}
	return commit(ctx)
}

// savepoint runs one op of several; its error is that of the whole group.
func (w *writer) savepoint(ctx context.Context, tx *Tx, o *op) error {
	if err := w.exec(ctx, "SAVEPOINT op"); err != nil {
		return err
	}
	before := *tx
	if o.err = o.fn(tx); o.err == nil {
		return w.exec(ctx, "RELEASE op")
	}
	if faultOf(o.err) != faultNone {
		return o.err
	}
	*tx = before
	clear(w.jobs) // may hold one that is not stored now
	return errors.Join(w.exec(ctx, "ROLLBACK TO op"), w.exec(ctx, "RELEASE op"))
}

// failed rolls a group back, and says what its waiters are told.
func (w *writer) failed(ctx context.Context, err error) error {
	clear(w.jobs)
	if again := w.exec(ctx, "ROLLBACK"); again != nil {
		w.db.log.Debug("rollback", "error", again) // the engine has done it already
	}
	if _, ok := errors.AsType[*call.Error](err); ok {
		return err
	}
	var text string
	f := faultOf(err)
	switch f {
	case faultFull:
		text = fmt.Sprintf("the disk under the store %s is full; free some room", w.db.path)
	case faultFsync:
		text = fmt.Sprintf("the disk under the store %s lost data (%v); check it, then restart the overlord", w.db.path, err)
	case faultDamaged:
		text = fmt.Sprintf("the store %s is damaged (%v); stop the overlord and restore a back-up", w.db.path, err)
	case faultIO:
		text = fmt.Sprintf("the store %s cannot be written (%v)", w.db.path, err)
	default:
		w.db.log.Error("store transaction failed", "error", err)
		return fmt.Errorf("write to the store: %w", err)
	}
	if now := w.db.opt.Now(); text != w.toldText || now.Sub(w.told).Abs() >= tellFault {
		w.db.log.Error("store does not take writes", "problem", text, "error", err)
		w.told, w.toldText, w.failing = now, text, true
	}
	w.db.report(func(p *problems) {
		p.write = text
		if f == faultFsync {
			p.fsync = text
		}
	})
	return unavailable(text)
}

// works takes note that a group was committed.
func (w *writer) works() {
	w.db.report(func(p *problems) { p.write = "" })
	if w.failing {
		w.failing = false
		w.db.log.Info("store takes writes again")
	}
}

// makeRoom drops outputs of old jobs when there are too many bytes of them.
func (w *writer) makeRoom(ctx context.Context) {
	for w.outputBytes > w.db.opt.MaxOutput && w.db.AuditProblem() == "" {
		before := w.outputBytes
		o := &op{fn: func(tx *Tx) error { return tx.dropOldest(ctx, before-w.db.opt.MaxOutput/10*9) }, done: make(chan struct{})}
		w.group(ctx, []*op{o})
		if o.err != nil {
			w.db.log.Error("outputs of old jobs not dropped", "error", o.err)
		}
		if o.err != nil || w.outputBytes == before {
			return // nothing more can be dropped now
		}
	}
}

func (w *writer) exec(ctx context.Context, query string, args ...any) error {
	s, err := w.prepare(ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx, args...)
	return err
}

// prepare keeps every statement that was ever used: they are all constant, or
// one of few lengths.
func (w *writer) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := w.stmts[query]; ok {
		return s, nil
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.stmts[query] = s
	return s, nil
}

func (w *writer) close() error {
	var err error
	for _, s := range w.stmts {
		err = errors.Join(err, s.Close())
	}
	if w.conn != nil {
		err = errors.Join(err, w.conn.Close())
	}
	if w.pool != nil {
		err = errors.Join(err, w.pool.Close())
	}
	return err
}

// Tx is a write in progress. It is valid while the function that got it runs,
// and has the methods that read, too: they see what the transaction wrote.
type Tx struct {
	reader
	w       *writer
	tree    *audit.Tree // before leaves
	epoch   uint64
	nextJob int64
	refused string // why no leaf may be appended; empty: it may

	// What is written when the group is sealed. These only grow, so that taking
	// back an op is taking back their lengths.
	leaves  [][]byte
	outputs []output

	outputBytes int64 // change of the kept outputs
}

// output is what one write added to the outputs of a job.
type output struct{ job, bytes int64 }

// QueryContext implements querier with the writer's prepared statements. The
// end of ctx does not interrupt it: the transaction is others' too.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = context.WithoutCancel(ctx)
	s, err := tx.w.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

// exec writes; see QueryContext.
func (tx *Tx) exec(ctx context.Context, query string, args ...any) error {
	if err := tx.w.exec(context.WithoutCancel(ctx), query, args...); err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	return nil
}

// execCount writes and says how many rows it changed.
func (tx *Tx) execCount(ctx context.Context, query string, args ...any) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	s, err := tx.w.prepare(ctx, query)
	if err != nil {
		return 0, fmt.Errorf("write to the store: %w", err)
	}
	r, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, fmt.Errorf("write to the store: %w", err)
	}
	return r.RowsAffected()
}
