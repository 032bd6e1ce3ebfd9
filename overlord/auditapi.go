package overlord

import (
	"context"
	"iter"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// auditAPI serves dominion.v1.AuditService.
type auditAPI struct{ o *Overlord }

// List implements AuditServiceHandler.
func (a auditAPI) List(ctx context.Context, r *connect.Request[apipb.AuditListRequest], out *connect.ServerStream[apipb.AuditRecord]) error {
	db, limit := a.o.keep.db, r.Msg.Limit
	var rows iter.Seq2[audit.Row, error]
	if r.Msg.Newest {
		rows = db.LogRowsBackwards(ctx, a.o.keep.logSize())
	} else {
		rows = db.LogRows(ctx, int64(min(r.Msg.From, 1<<62)), a.o.keep.logSize())
	}
	var sent uint64
	for row, err := range rows {
		if err != nil {
			return err
		}
		if r.Msg.Newest && uint64(row.Index) < r.Msg.From {
			return nil
		}
		rec, err := audit.Decode(row.Leaf)
		if err == nil && !fits(rec, r.Msg) {
			continue
		}
		// A record that cannot be read is shown too: verify says more.
		if err := out.Send(&apipb.AuditRecord{Index: uint64(row.Index), Body: row.Leaf, LeafHash: row.Hash[:]}); err != nil {
			return err
		}
		if sent++; sent == limit {
			return nil
		}
	}
	return nil
}

func fits(rec *auditpb.Record, r *apipb.AuditListRequest) bool {
	return (r.Action == "" || rec.Action == r.Action) && (r.Subject == "" || rec.Subject == r.Subject) && (r.Actor == "" || rec.Actor == r.Actor)
}

const verifyTell = time.Second // between signs of progress of a verification

// Verify implements AuditServiceHandler.
func (a auditAPI) Verify(ctx context.Context, _ *connect.Request[apipb.AuditVerifyRequest], out *connect.ServerStream[apipb.AuditVerifyEvent]) error {
	outside, err := a.o.keep.outside()
	if err != nil {
		return err
	}
	var sendErr error
	told := time.Now()
	rep, err := a.o.keep.db.Verify(ctx, outside, func(done, total int64) {
		if time.Since(told) > verifyTell && sendErr == nil {
			told = time.Now()
			sendErr = out.Send(&apipb.AuditVerifyEvent{Checked: uint64(done), Total: uint64(total)})
		}
	})
	if err != nil {
		return err
	}
	if sendErr != nil {
		return sendErr
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
// it is for root on the overlord's host alone.
func (a auditAPI) Recover(ctx context.Context, r *connect.Request[apipb.AuditRecoverRequest]) (*connect.Response[apipb.AuditRecoverResponse], error) {
	c := callerFrom(ctx)
	if !c.local {
		return nil, call.Errorf(call.Denied, "audit recover is for root on the overlord's host")
	}
	rec, err := a.o.keep.recover(ctx, c, r.Msg.Confirm)
	if err != nil {
		return nil, err
	}
	if r.Msg.Confirm {
		a.o.log.Warn("audit log recovered", "epoch", rec.Epoch, "abandoned", rec.AbandonedSize, "restored", rec.RestoredSize)
		a.o.showCheckpoints()
	}
	return connect.NewResponse(rec), nil
}
