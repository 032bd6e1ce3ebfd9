package overlord

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// auditAPI serves dominion.v1.AuditService.
type auditAPI struct{ o *Overlord }

// Between signs of life of a stream that has nothing else to say. A client
// takes an overlord that says nothing for 45 s for dead.
const (
	verifyTell = time.Second
	listTell   = 5 * time.Second
)

// maxVerifying bounds the verifications that run at a time: each reads the whole
// store, and any operator may ask for one.
const maxVerifying = 2

// List implements AuditServiceHandler. While no record fits, an empty one is
// sent now and then.
func (a auditAPI) List(ctx context.Context, r *connect.Request[apipb.AuditListRequest], out *connect.ServerStream[apipb.AuditRecord]) error {
	var (
		mu   sync.Mutex
		sent bool // since the last sign of life
	)
	send := func(rec *apipb.AuditRecord) error {
		mu.Lock()
		defer mu.Unlock()
		sent = true
		return out.Send(rec)
	}
	tell := func() error {
		mu.Lock()
		defer mu.Unlock()
		if sent {
			sent = false
			return nil
		}
		return out.Send(&apipb.AuditRecord{})
	}
	return whileTelling(ctx, listTell, tell, func(ctx context.Context) error { return a.list(ctx, r.Msg, send) })
}

func (a auditAPI) list(ctx context.Context, m *apipb.AuditListRequest, send func(*apipb.AuditRecord) error) error {
	db := a.o.keep.db
	var rows iter.Seq2[audit.Row, error]
	if m.Newest {
		rows = db.LogRowsBackwards(ctx, a.o.keep.logSize())
	} else {
		rows = db.LogRows(ctx, int64(min(m.From, 1<<62)), a.o.keep.logSize())
	}
	var sent uint64
	for row, err := range rows {
		if err != nil {
			return err
		}
		if m.Newest && uint64(row.Index) < m.From {
			return nil
		}
		rec, err := audit.Decode(row.Leaf)
		if err == nil && !fits(rec, m) {
			continue
		}
		// A record that cannot be read is shown too: verify says more.
		if err := send(&apipb.AuditRecord{Index: uint64(row.Index), Body: row.Leaf, LeafHash: row.Hash[:]}); err != nil {
			return err
		}
		if sent++; sent == m.Limit {
			return nil
		}
	}
	return nil
}

// whileTelling does something that may take long, and calls tell, one call at a
// time, whenever the time between two is over, however slow a step of it is.
// When tell fails, do is told to end and the error is tell's.
func whileTelling(ctx context.Context, every time.Duration, tell func() error, do func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		wg   sync.WaitGroup
		gone error // written before wg is done
	)
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if gone = tell(); gone != nil {
				stop()
				return
			}
		}
	})
	err := do(ctx)
	stop()
	wg.Wait()
	if gone != nil {
		return gone
	}
	return err
}

func fits(rec *auditpb.Record, r *apipb.AuditListRequest) bool {
	return (r.Action == "" || rec.Action == r.Action) && (r.Subject == "" || rec.Subject == r.Subject) && (r.Actor == "" || rec.Actor == r.Actor)
}

// Verify implements AuditServiceHandler.
func (a auditAPI) Verify(ctx context.Context, _ *connect.Request[apipb.AuditVerifyRequest], out *connect.ServerStream[apipb.AuditVerifyEvent]) error {
	if !a.o.verifying.TryAcquire(1) {
		return call.Errorf(call.Busy, "%d verifications of the audit log are running; try again later", maxVerifying)
	}
	defer a.o.verifying.Release(1)
	outside, err := a.o.keep.outside()
	if err != nil {
		return err
	}
	var (
		checked, total atomic.Uint64
		rep            *audit.Report
	)
	tell := func() error {
		return out.Send(&apipb.AuditVerifyEvent{Checked: checked.Load(), Total: total.Load()})
	}
	err = whileTelling(ctx, verifyTell, tell, func(ctx context.Context) (err error) {
		rep, err = a.o.keep.db.Verify(ctx, outside, func(done, all int64) {
			checked.Store(uint64(done))
			total.Store(uint64(all))
		})
		return err
	})
	if err != nil {
		return err
	}
	ev := &apipb.AuditVerifyEvent{Checked: uint64(rep.Size), Total: uint64(rep.Size), Size: uint64(rep.Size), Root: rep.Root[:], Ok: rep.Problem == nil}
	if p := rep.Problem; p != nil {
		ev.Problem = &apipb.AuditVerifyEvent_Problem{Index: p.Index, What: p.What}
	}
	return out.Send(ev)
}

// Head implements AuditServiceHandler.
func (a auditAPI) Head(ctx context.Context, r *connect.Request[apipb.AuditHeadRequest]) (*connect.Response[apipb.AuditHeadResponse], error) {
	var notes [][]byte
	if len(r.Msg.Remembered) > 0 {
		notes = [][]byte{r.Msg.Remembered}
	}
	h, err := a.o.keep.head(ctx, "", notes)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.AuditHeadResponse{
		Checkpoint: h.Checkpoint, LogKey: h.LogKey, Proof: h.Proof, Recovery: h.Recovery, RecoveriesBefore: h.RecoveriesBefore,
	}), nil
}

// Recover implements AuditServiceHandler. The root key signs what it says, so
// it is for root on the overlord's host alone. At a sub-overlord it takes a token, too.
func (a auditAPI) Recover(ctx context.Context, r *connect.Request[apipb.AuditRecoverRequest]) (*connect.Response[apipb.AuditRecoverResponse], error) {
	c := callerFrom(ctx)
	if !c.local {
		return nil, call.Errorf(call.Denied, "audit recover is for root on the overlord's host")
	}
	rec, err := a.o.keep.recover(ctx, c, r.Msg.Confirm, a.o.explainOr(c, r.Msg.Token))
	if err != nil {
		return nil, err
	}
	if r.Msg.Confirm {
		a.o.log.Warn("audit log recovered", "epoch", rec.Epoch, "abandoned", rec.AbandonedSize, "restored", rec.RestoredSize)
		a.o.showCheckpoints()
		if a.o.parent != nil {
			a.o.storeAgain(ctx)
		}
	}
	return connect.NewResponse(rec), nil
}
