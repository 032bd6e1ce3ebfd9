package overlord

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/enrol"
	"dominion/job"
	"dominion/pki"
	"dominion/session"
	"dominion/store"
	"dominion/target"
)

// keep is the overlord's side of the store: what it puts there and takes out,
// in the words of the other packages.
type keep struct {
	db         *store.DB
	dir        *pki.Dir
	root       *pki.Authority // nil at a sub-overlord
	logKeyCert []byte         // the log key, certified by the root
	logKey     audit.LogKey

	groups  atomic.Pointer[map[string][]string] // all groups, as the store has them; the map is not changed
	reading sync.Mutex                          // held while they are read again, so that the last to read has the newest

	mu   sync.Mutex
	seen map[string][]byte // newest checkpoint of our log that a minion showed and that is ahead of ours, by minion; at most maxSeen
}

const maxSeen = 64

// openKeep opens the store and certifies the log key.
func openKeep(ctx context.Context, o *Overlord) (*keep, error) {
	k := &keep{dir: o.dir, root: o.keys.root, seen: make(map[string][]byte)}
	outside, err := k.outside()
	if err != nil {
		return nil, err
	}
	k.db, err = store.Open(ctx, filepath.Join(o.dir.Path(), fileStore), store.Options{
		Log: o.log, Overlord: o.cfg.Name, LogKey: o.keys.logKey, Outside: outside,
		OnCheckpoint: func(note []byte) error { return o.dir.WriteFile(fileCheckpoint, note) },
	})
	if err != nil {
		return nil, err
	}
	pub, _ := o.keys.logKey.Public().(ed25519.PublicKey)
	if o.keys.root != nil {
		k.logKeyCert, err = pki.SignLogKey(o.keys.root, pki.LogKey{
			LogID: k.db.LogID(), Overlord: o.cfg.Name, PublicKey: pub, NotAfter: o.keys.root.Cert.NotAfter,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("certify the log key: %w", err), k.db.Close())
		}
	}
	if err := k.loadGroups(ctx); err != nil {
		return nil, errors.Join(err, k.db.Close())
	}
	k.logKey = audit.LogKey{LogID: k.db.LogID(), Overlord: o.cfg.Name, Public: pub}
	if p := k.db.AuditProblem(); p != "" {
		o.log.Error("the audit log is damaged; orders and enrolment are refused", "problem", p, "next", "dominion audit verify")
	}
	return k, nil
}

func (k *keep) close() error { return k.db.Close() }

// outside gives the checkpoint kept outside the database, nil when there is none.
func (k *keep) outside() ([]byte, error) {
	b, err := k.dir.ReadFile(fileCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (k *keep) logID() string { return k.db.LogID() }

func (k *keep) logSize() int64 {
	c, _ := k.db.Checkpoint()
	return c.Size
}

func (k *keep) problem() string { return k.db.Problem() }

// auditProblem says why the log is not to be believed: damage found at the
// start, or machines that remember more than it holds.
func (k *keep) auditProblem() string {
	if p := k.db.AuditProblem(); p != "" {
		return p
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.seen) == 0 {
		return ""
	}
	var names []string
	for n := range k.seen {
		names = append(names, n)
	}
	return fmt.Sprintf("%s remember a newer checkpoint than this log holds: it was rolled back; dominion audit recover explains a restore", target.Fold(names))
}

// head gives the newest checkpoint with what a minion that showed notes needs
// to believe it.
func (k *keep) head(ctx context.Context, machine string, notes [][]byte) (*fleetpb.LogHead, error) {
	var mine []byte
	for _, n := range notes {
		if c, err := audit.PeekCheckpoint(n); err == nil && c.LogID == k.logID() {
			mine = n
			k.compare(machine, c, n)
		}
	}
	h, err := k.db.HeadFor(ctx, mine)
	if err != nil {
		return nil, err
	}
	h.LogKey = k.logKeyCert
	return h, nil
}

// compare keeps a checkpoint that is ahead of the log and that our own log key
// signed: the store was rolled back.
func (k *keep) compare(machine string, c audit.Checkpoint, note []byte) {
	now, _ := k.db.Checkpoint()
	ahead := c.Epoch > now.Epoch || c.Epoch == now.Epoch && c.Size > now.Size
	k.mu.Lock()
	defer k.mu.Unlock()
	if ahead && machine != "" && len(k.seen) < maxSeen && k.ours(note) {
		k.seen[machine] = slices.Clone(note)
	} else {
		delete(k.seen, machine)
	}
}

// ours says whether our own log key signed a checkpoint.
func (k *keep) ours(note []byte) bool {
	_, err := audit.OpenCheckpoint(note, k.logKey)
	return err == nil
}

// recover explains a restore from back-up, or only says what it would abandon.
// explain gets the root's word for it where its key is not here; nil: it is.
func (k *keep) recover(ctx context.Context, c caller, confirm bool, explain func(context.Context, *fleetpb.Recovery) ([]byte, error)) (*apipb.AuditRecoverResponse, error) {
	k.mu.Lock()
	var notes [][]byte
	for _, n := range k.seen {
		notes = append(notes, n)
	}
	k.mu.Unlock()
	plan, err := k.db.PlanRecovery(ctx, notes)
	sign := func(r *fleetpb.Recovery) ([]byte, error) { return pki.SignRecovery(k.root, r) }
	if err == nil && confirm && explain != nil {
		var statement []byte // the answer takes long: the store must not wait for it
		if statement, err = explain(ctx, plan.Recovery()); err == nil {
			sign = plan.Explained(statement)
		}
	}
	if err == nil && confirm {
		plan, err = k.db.Recover(ctx, c.actor(), notes, sign)
	}
	if err != nil {
		return nil, err
	}
	if confirm {
		k.mu.Lock()
		clear(k.seen)
		k.mu.Unlock()
	}
	return &apipb.AuditRecoverResponse{
		Epoch: plan.Epoch, AbandonedSize: uint64(plan.Abandoned.Size), RestoredSize: uint64(plan.Restored.Size), Done: confirm,
	}, nil
}

// record puts one record on the audit log.
func (k *keep) record(ctx context.Context, r *auditpb.Record) error {
	return k.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Audit(r)
		return err
	})
}

// begin makes a job durable, its audit record with it.
func (k *keep) begin(ctx context.Context, p *job.Plan, rec *auditpb.Record) error {
	names, delegated := rec.Order.Names, []byte(nil)
	if p.Reach != nil {
		d := &fleetpb.Delegate{Reach: p.Reach, NominalMs: uint64(p.Nominal.Milliseconds()), Via: p.Via}
		if p.Part {
			d.Names = names
		}
		var err error
		if delegated, err = proto.Marshal(d); err != nil {
			return fmt.Errorf("encode the ways of job %s: %w", p.ID, err)
		}
	}
	if rec.Order.Reach != "" {
		names = rec.Order.Reach
	}
	return k.db.Update(ctx, func(tx *store.Tx) error {
		index, err := tx.Audit(rec)
		if err != nil {
			return err
		}
		return tx.AddJob(ctx, store.Job{
			ID: p.ID, Record: index, Operator: p.Operator, Method: p.Order.Method, Order: p.Signed.Order, Signature: p.Signed.Signature,
			OperatorCert: p.Signed.Cert, Args: p.Args, Salt: p.Salt, Target: p.Target, Names: names, Unknown: rec.Order.Unknown,
			Created: p.Created, Expires: p.Order.Expiry, Timeout: p.Timeout, Wait: p.Wait, Counts: call.Counts{Targeted: len(p.Machines()) + len(p.Unknown)},
			Delegated: delegated,
		})
	})
}

// KeepResults implements job's keeper.
func (k *keep) KeepResults(ctx context.Context, id call.JobID, groups []job.Group, end *job.End) error {
	rows := make([]store.ResultGroup, len(groups))
	for i, g := range groups {
		rows[i] = store.ResultGroup{
			Number: g.Number, Names: g.Folded, Count: len(g.Names), Status: g.Status, Code: g.Code, Detail: g.Detail,
			Output: g.Output, Cut: g.Cut, SentSum: g.Sum, Took: g.Took,
		}
	}
	return k.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.AddResults(ctx, id, rows); err != nil || end == nil {
			return err
		}
		return tx.CloseJob(ctx, id, time.Now(), end.Counts, end.Reason)
	})
}

// cancel withdraws an open job; the error has code NotFound when it is closed.
func (k *keep) cancel(ctx context.Context, c caller, id call.JobID) error {
	return k.db.Update(ctx, func(tx *store.Tx) error {
		open, err := tx.CancelJob(ctx, id, time.Now())
		if err != nil {
			return err
		}
		if !open {
			return call.Errorf(call.NotFound, "no job %s is running", id)
		}
		_, err = tx.Audit(&auditpb.Record{Actor: c.actor(), Action: "job.cancel", Subject: id.String()})
		return err
	})
}

// CloseJob implements job's keeper.
func (k *keep) CloseJob(ctx context.Context, id call.JobID, end job.End) error {
	return k.end(ctx, id, end.Counts, end.Reason)
}

// end closes a job, if it is open.
func (k *keep) end(ctx context.Context, id call.JobID, c call.Counts, reason string) error {
	return k.db.Update(ctx, func(tx *store.Tx) error { return tx.CloseJob(ctx, id, time.Now(), c, reason) })
}

// arrived notes that a minion has a session.
func (k *keep) arrived(ctx context.Context, s *session.Session) error {
	return k.db.Update(ctx, func(tx *store.Tx) error {
		name, now := s.Peer().Name, time.Now()
		version, address := cutText(s.PeerHello().AgentVersion, 64), s.RemoteAddr().String()
		err := tx.SeeMinion(ctx, name, now, version, address)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.PutMinion(ctx, store.Minion{Name: name, FirstSeen: now, LastSeen: now, AgentVersion: version, Address: address})
	})
}

func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}

// facts keeps a minion's facts.
func (k *keep) facts(ctx context.Context, name string, doc []byte) error {
	digest := sha256.Sum256(doc)
	return k.db.Update(ctx, func(tx *store.Tx) error {
		err := tx.PutFacts(ctx, name, time.Now(), digest[:], doc)
		if errors.Is(err, store.ErrNotFound) { // it spoke before its arrival was written
			now := time.Now()
			return tx.PutMinion(ctx, store.Minion{Name: name, FirstSeen: now, LastSeen: now, Facts: doc, FactsDigest: digest[:], FactsAt: now})
		}
		return err
	})
}

// minions gives what the store knows of those machines.
func (k *keep) minions(ctx context.Context, names []string, facts bool) (map[string]*apipb.Minion, error) {
	rows, err := k.db.Minions(ctx, facts)
	if err != nil {
		return nil, err
	}
	certs, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*apipb.Minion, len(names))
	for _, n := range names {
		out[n] = &apipb.Minion{Name: n}
	}
	for _, r := range rows {
		m := out[r.Name]
		if m == nil {
			continue
		}
		m.LastSeenMs, m.AgentVersion, m.Address, m.Fingerprint = ms(r.LastSeen), r.AgentVersion, r.Address, r.Fingerprint
		m.DialAddress, m.FactsAtMs = r.DialAddress, ms(r.FactsAt)
		m.Facts = r.Facts
	}
	for _, n := range names {
		if c, ok := certs[n]; ok {
			out[n].Fingerprint, out[n].CertExpiresMs = c.Fingerprint, ms(c.NotAfter)
		}
	}
	return out, nil
}

// pendingCount is how many requests wait.
func (k *keep) pendingCount(ctx context.Context) (int, error) {
	rows, err := k.db.Pendings(ctx)
	return len(rows), err
}

// current gives the newest live certificate of each minion, and of each
// sub-overlord that asked here itself.
func (k *keep) current(ctx context.Context) (map[string]enrol.Cert, error) {
	certs, err := k.certs(ctx)
	if err != nil {
		return nil, err
	}
	subs, err := k.subs(ctx)
	if err != nil {
		return nil, err
	}
	out, now := make(map[string]enrol.Cert), time.Now()
	for _, c := range certs {
		machine := c.Identity.Role == pki.Minion || c.Identity.Role == pki.Overlord && subs[c.Identity.Name]
		if old, ok := out[c.Identity.Name]; machine && c.Live(now) && (!ok || c.NotBefore.After(old.NotBefore)) {
			out[c.Identity.Name] = c
		}
	}
	return out, nil
}

// setDial keeps the address at which the overlord dials a minion.
func (k *keep) setDial(ctx context.Context, c caller, name, address string) error {
	return k.db.Update(ctx, func(tx *store.Tx) error {
		err := tx.SetDialAddress(ctx, name, address)
		if errors.Is(err, store.ErrNotFound) { // enrolled, and never connected
			err = tx.PutMinion(ctx, store.Minion{Name: name, FirstSeen: time.Now(), DialAddress: address})
		}
		if err != nil {
			return err
		}
		_, err = tx.Audit(&auditpb.Record{Actor: c.actor(), Action: "minion.set", Subject: name, Detail: "address " + address})
		return err
	})
}

func expand(folded string) ([]string, error) {
	if folded == "" {
		return nil, nil
	}
	return target.Expand(folded)
}
