package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"dominion/audit"
	"dominion/call"
)

// Options are what a store needs besides its file.
type Options struct {
	Log      *slog.Logger       // nil: discarded
	Now      func() time.Time   // nil: time.Now
	LogID    string             // of the audit log; empty: the stored one, or a new one for a new store. Another than the stored one is refused.
	Overlord string             // required; its name goes into checkpoints and into the records of results
	LogKey   ed25519.PrivateKey // required; signs the checkpoints
	LogKeys  []audit.LogKey     // further keys that may have signed this log: of overlords that share it, of former keys

	// Outside is the newest checkpoint kept outside the database, a signed
	// note; nil: none is there, which a store with records reports as a problem.
	Outside []byte
	// OnCheckpoint keeps a signed checkpoint outside the database, durably. It
	// is called from one goroutine after commits; when checkpoints come faster
	// than it returns, only with the newest. Nil: they are not kept.
	OnCheckpoint func(note []byte) error

	MaxOutput int64 // bytes of kept outputs of closed jobs, after which the oldest are dropped; 0: 2 GiB

	commit func(ctx context.Context, commit func(context.Context) error) error // in its place; for tests of what a disk can do
}

// DB is an open store. Its methods are safe for concurrent use; those that
// read see what is committed.
type DB struct {
	reader
	path   string
	opt    Options
	log    *slog.Logger
	signer *audit.Signer
	pool   *pool // readers
	writer *writer

	queue   chan *op    // of one group: what the writer takes next
	latest  chan []byte // of one: the checkpoint to be kept outside
	running sync.WaitGroup

	closing sync.RWMutex // held for reading while an op is put into queue
	closed  bool

	mu       sync.Mutex
	problems problems
	head     audit.Checkpoint // newest committed
	headNote []byte
}

// problems are what a human must hear of; empty: nothing.
type problems struct {
	fsync   string // for good
	write   string // until a group is committed
	outside string // until a checkpoint is kept outside
	audit   string // until Recover
}

const readers = 4

// Open opens the store in the file at path, or makes one with mode 0600. What
// is wrong with the file, or with its schema, is an error; what is wrong with
// the audit log is not: see AuditProblem. The caller holds the lock that keeps
// other processes away, and closes the DB.
func Open(ctx context.Context, path string, opt Options) (*DB, error) {
	db, err := open(ctx, path, opt)
	if err != nil {
		switch faultOf(err) {
		case faultDamaged:
			err = fmt.Errorf("the file is damaged or is no database; move it away and restore a back-up, then: dominion audit recover: %w", err)
		case faultFull:
			err = fmt.Errorf("the disk under it is full; free some room: %w", err)
		}
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

func open(ctx context.Context, path string, opt Options) (_ *DB, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.MaxOutput == 0 {
		opt.MaxOutput = 2 << 30
	}
	db := &DB{path: path, opt: opt, log: opt.Log, queue: make(chan *op, maxGroup), latest: make(chan []byte, 1)}
	w := &writer{db: db, stmts: make(map[string]*sql.Stmt), inserts: make(map[insertKey]string), jobs: make(map[call.JobID]int64)}
	db.writer = w
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(), db.pool.close())
		}
	}()
	if w.pool, err = sqlitePool(path, 1); err != nil {
		return nil, err
	}
	if w.conn, err = w.pool.Conn(ctx); err != nil {
		return nil, err
	}
	if err = checkPragmas(ctx, w.conn); err != nil {
		return nil, err
	}
	if err = migrate(ctx, w.conn, sqliteDDL); err != nil {
		return nil, err
	}
	reading, err := sqlitePool(path, readers, "query_only(1)", "cache_size(-4000)")
	if err != nil {
		return nil, err
	}
	db.pool = &pool{DB: reading, stmts: make(map[string]*sql.Stmt)}
	db.q = db.pool
	if err = db.loadLog(ctx); err != nil {
		return nil, err
	}
	if w.outputBytes, err = one(ctx, db.q, scanInt, "outputs", "SELECT coalesce(sum(output_bytes), 0) FROM jobs"); err != nil {
		return nil, err
	}
	db.running.Go(func() { w.run(context.WithoutCancel(ctx)) })
	db.running.Go(db.keepOutside)
	return db, nil
}

// Close takes no new writes, finishes those that wait, keeps the newest
// checkpoint outside, and closes the files.
func (db *DB) Close() error {
	db.closing.Lock()
	if db.closed {
		db.closing.Unlock()
		return nil
	}
	db.closed = true
	close(db.queue)
	db.closing.Unlock()
	db.running.Wait()
	return errors.Join(db.pool.close(), db.writer.close())
}

// LogID names the audit log that belongs to this store.
func (db *DB) LogID() string { return db.signer.Key().LogID }

// Problem says why the store takes no writes, or did not take the last ones,
// or can't keep checkpoints outside; empty: all is well.
func (db *DB) Problem() string {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, p := range []string{db.problems.fsync, db.problems.write, db.problems.outside} {
		if p != "" {
			return p
		}
	}
	return ""
}

// AuditProblem says what is wrong with the audit log as found at the start;
// empty: nothing. While there is a problem, no leaf is appended, so orders and
// enrolments are refused, until Recover. Reads and Verify work.
func (db *DB) AuditProblem() string {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.problems.audit
}

// Checkpoint gives the newest committed checkpoint and its signed note.
func (db *DB) Checkpoint() (audit.Checkpoint, []byte) {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.head, db.headNote
}

func (db *DB) report(change func(*problems)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	change(&db.problems)
}

// outsideEvery is how far apart checkpoints are kept outside: one costs a sync of a
// file, as much as the transaction itself on most disks.
const outsideEvery = 3 * time.Second

// keepOutside hands checkpoints to OnCheckpoint until the writer ends: the first at
// once, and of those that follow close upon it the newest.
func (db *DB) keepOutside() {
	var last time.Time
	for note := range db.latest {
		note = db.newest(note, time.Until(last.Add(outsideEvery)))
		last = time.Now()
		if db.outside(note) != nil { // reported; the next one shows whether it is mended
			last = time.Time{}
		}
	}
}

// newest waits that long, or until the writer ends, for newer checkpoints than note.
func (db *DB) newest(note []byte, wait time.Duration) []byte {
	if wait <= 0 {
		return note
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case n, ok := <-db.latest:
			if !ok {
				return note
			}
			note = n
		case <-t.C:
			return note
		}
	}
}

func (db *DB) outside(note []byte) error {
	if db.opt.OnCheckpoint == nil {
		return nil
	}
	err := db.opt.OnCheckpoint(note)
	text := ""
	if err != nil {
		text = fmt.Sprintf("the newest audit checkpoint cannot be kept outside the database: %v", err)
		db.log.Error("audit checkpoint not kept outside the database", "error", err)
	}
	db.report(func(p *problems) { p.outside = text })
	return err
}

// publish makes a committed checkpoint the newest one.
func (db *DB) publish(c audit.Checkpoint, note []byte) {
	db.mu.Lock()
	db.head, db.headNote = c, note
	db.mu.Unlock()
	select {
	case <-db.latest: // an older one that nobody took yet
	default:
	}
	db.latest <- note
}

// unavailable is the error of writes while the store takes none.
func unavailable(text string) error { return &call.Error{Code: call.Unavailable, Detail: text} }

func newLogID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	return hex.EncodeToString(b[:])
}
