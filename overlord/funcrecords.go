package overlord

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/session"
	"dominion/store"
)

// Actions of records about calls on machines' Func faces: the machine's word.
const (
	actionFuncCall   = "func.call"   // one began
	actionFuncResult = "func.result" // it ended
	actionFuncDenied = "func.denied" // one was not carried out
	actionFuncLost   = "func.lost"   // records were removed on the machine before they came here
)

const maxLogID = 128 // bytes of the id of a machine's own log

// metaForwarded names the text in which the store keeps how far it has a machine's
// own log: its id and the index up to which.
func metaForwarded(machine string) string { return "forwarded/" + machine }

// minionRecords puts what a machine's own log holds of calls on its Func face on the
// audit log, each leaf once: how far it came is kept in the same transaction. What
// one machine can write is bounded by how often it may ask.
func (o *Overlord) minionRecords(ctx context.Context, machine string, raw []byte) (session.RecordsResult, error) {
	var in session.RecordsArgs
	if err := json.Unmarshal(raw, &in); err != nil {
		return session.RecordsResult{}, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	records, err := funcRecords(machine, in)
	if err != nil {
		return session.RecordsResult{}, err
	}
	if len(in.Leaves) == 0 && in.Next == 0 && in.Lost == 0 {
		next, err := forwarded(ctx, o.keep.db, machine, in.Log)
		return session.RecordsResult{Next: next}, err
	}
	var next int64
	err = o.keep.db.Update(ctx, func(tx *store.Tx) error {
		var err error
		if next, err = forwarded(ctx, tx, machine, in.Log); err != nil || in.Next <= next {
			return err // it came before, and the answer was lost
		}
		if in.Lost > 0 {
			if _, err := tx.Audit(&auditpb.Record{
				Actor: "minion/" + machine, Action: actionFuncLost, Subject: machine,
				Detail: fmt.Sprintf("%d records of its own log were removed there before those of its Func face among them could come here", in.Lost),
			}); err != nil {
				return err
			}
		}
		for _, r := range records {
			if r.MinionIndex < next {
				continue
			}
			if _, err := tx.Audit(r); err != nil {
				return err
			}
		}
		next = in.Next
		return tx.SetMeta(ctx, metaForwarded(machine), in.Log+" "+strconv.FormatInt(next, 10))
	})
	return session.RecordsResult{Next: next}, err
}

// metaReader is a store or a transaction of it.
type metaReader interface {
	Meta(ctx context.Context, name string) (string, error)
}

// forwarded gives up to which index a machine's log of this id is on ours; zero when
// nothing of it is.
func forwarded(ctx context.Context, r metaReader, machine, log string) (int64, error) {
	text, err := r.Meta(ctx, metaForwarded(machine))
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	id, at, _ := strings.Cut(text, " ")
	if id != log {
		return 0, nil
	}
	return strconv.ParseInt(at, 10, 64)
}

// funcRecords makes the records of leaves that a machine, which may lie, has sent.
func funcRecords(machine string, in session.RecordsArgs) ([]*auditpb.Record, error) {
	switch {
	case in.Log == "" || len(in.Log) > maxLogID || strings.ContainsAny(in.Log, " \n"):
		return nil, call.Errorf(call.Invalid, "the id of the machine's log has %d bytes", len(in.Log))
	case len(in.Leaves) > session.MaxRecords || in.Next < 0 || in.Lost < 0:
		return nil, call.Errorf(call.Invalid, "%d records up to %d, %d lost", len(in.Leaves), in.Next, in.Lost)
	}
	size, last := 0, int64(-1)
	var out []*auditpb.Record
	for _, l := range in.Leaves {
		size += len(l.Leaf)
		if len(l.Leaf) > session.MaxRecordLeaf || size > session.MaxRecordsSize || l.Index <= last || l.Index >= in.Next {
			return nil, call.Errorf(call.Invalid, "record %d of %d bytes is too large or out of order", l.Index, len(l.Leaf))
		}
		last = l.Index
		m, err := audit.DecodeMinion(l.Leaf)
		if err != nil || m.Caller == "" || len(m.Job) != len(call.JobID{}) {
			return nil, call.Errorf(call.Invalid, "record %d is not one of the Func face: %v", l.Index, err)
		}
		out = append(out, funcRecord(machine, l, m))
	}
	return out, nil
}

// funcRecord makes one record. The actor is the machine: it says who called, and
// nothing proves it.
func funcRecord(machine string, l session.RecordLeaf, m *auditpb.MinionRecord) *auditpb.Record {
	sum := sha256.Sum256(l.Leaf)
	r := &auditpb.Record{
		Actor: "minion/" + machine, Action: actionFuncCall, Subject: call.JobID(m.Job).String(), Digest: sum[:], MinionLeaf: l.Leaf, MinionIndex: l.Index,
	}
	what := fmt.Sprintf("%s from %s called %s", m.Caller, m.Address, m.Method)
	switch code := call.Code(m.Code); {
	case m.Stage == 2:
		r.Action = actionFuncResult
		what = fmt.Sprintf("%s called %s: %s", m.Caller, m.Method, code)
	case code != call.OK:
		r.Action = actionFuncDenied
		what += ": " + code.String()
	}
	if m.Detail != "" {
		what += ": " + m.Detail
	}
	r.Detail = what + ", at " + time.UnixMilli(m.TimeMs).UTC().Format(time.RFC3339)
	return r
}
