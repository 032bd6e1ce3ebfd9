package minion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"dominion/audit"
	"dominion/call"
	"dominion/session"
)

// Times of forwarding.
const (
	forwardGather = time.Second      // more may come with it
	forwardEvery  = 5 * time.Second  // between two calls: the overlord counts them
	forwardWait   = 30 * time.Second // for an answer
	forwardRetry  = time.Minute      // after a call that failed
	forwardPage   = 10_000           // leaves that are looked at before the overlord is told that they are not for it
)

// A forwardLog is the machine's own log, from which records of calls on the Func
// face are forwarded. *audit.FileLog is the real one.
type forwardLog interface {
	Checkpoint() audit.Checkpoint
	Read(index int64, n int) (audit.Page, error)
}

// tellRecords says to every session that there is something to forward.
func (a *Agent) tellRecords() {
	if a.forward == nil {
		return
	}
	for _, l := range a.allLinks() {
		select {
		case l.records <- struct{}{}:
		default:
		}
	}
}

// forwardRecords gives the overlord the records of calls on the Func face, until the
// session is over. What it has is the overlord's to know: it is asked first, so that
// nothing is lost or doubled whichever side restarts, or loses its store. The records
// stay in the machine's own log for as long as that keeps them.
func (l *link) forwardRecords() {
	ctx, stop := context.WithCancel(l.ctx)
	defer stop()
	go func() { // ends with this function, or with the session
		select {
		case <-l.session.Done():
			stop()
		case <-ctx.Done():
		}
	}()
	next, asked := int64(0), false
	for {
		wait := l.agent.forwardEvery
		var more bool
		var err error
		if !asked {
			next, err = l.sendRecords(ctx, session.RecordsArgs{})
			asked, more = err == nil, err == nil
			wait = 0
		} else {
			next, more, err = l.forwardOnce(ctx, next)
		}
		switch code := call.CodeOf(err); {
		case code == call.NotFound:
			l.agent.log.Info("the overlord takes no records of the func face", "overlord", l.peer)
			return
		case err != nil && ctx.Err() == nil:
			l.agent.log.Warn("records of the func face not forwarded; trying again", "overlord", l.peer, "err", err)
			wait, more = forwardRetry, true
		}
		if !more {
			select {
			case <-l.records:
			case <-ctx.Done():
				return
			}
			wait = forwardGather
		}
		if wait > 0 && !sleep(ctx, wait) || ctx.Err() != nil {
			return
		}
	}
}

// forwardOnce sends what there is from an index on, as much as one call holds, and
// gives where to go on and whether there is more.
func (l *link) forwardOnce(ctx context.Context, from int64) (next int64, more bool, err error) {
	args, end, err := collect(l.agent.forward, from)
	if err != nil {
		return from, false, err
	}
	more = args.Next < end
	if len(args.Leaves) == 0 && args.Lost == 0 && args.Next-from < forwardPage {
		if more { // nothing for the overlord in these
			return args.Next, true, nil
		}
		return from, false, nil
	}
	next, err = l.sendRecords(ctx, args)
	if err != nil {
		return from, more, err
	}
	if next < args.Next {
		return from, false, call.Errorf(call.Internal, "the overlord has records up to %d after it was given those up to %d", next, args.Next)
	}
	return next, more, nil
}

// collect reads the records of the Func face from an index on; end is the size of the
// log.
func collect(log forwardLog, from int64) (args session.RecordsArgs, end int64, err error) {
	end = log.Checkpoint().Size
	args.Next = from
	if from >= end {
		return args, end, nil
	}
	page, err := log.Read(from, forwardPage)
	if err != nil {
		return args, end, fmt.Errorf("read this machine's own log: %w", err)
	}
	args.Lost, args.Next = page.From-from, page.From
	size := 0
	for _, leaf := range page.Leaves {
		r, err := audit.DecodeMinion(leaf)
		if err != nil {
			return args, end, fmt.Errorf("read this machine's own log: %w", err)
		}
		if r.Caller != "" && len(leaf) <= session.MaxRecordLeaf {
			if size += len(leaf); len(args.Leaves) == session.MaxRecords || size > session.MaxRecordsSize {
				return args, end, nil
			}
			args.Leaves = append(args.Leaves, session.RecordLeaf{Index: args.Next, Leaf: leaf})
		}
		args.Next++
	}
	if len(page.Leaves) == 0 {
		return args, end, errors.New("read this machine's own log: it gives nothing")
	}
	return args, end, nil
}

// sendRecords makes one call, and gives up to where the overlord has the records.
func (l *link) sendRecords(ctx context.Context, args session.RecordsArgs) (int64, error) {
	args.Log = l.agent.forward.Checkpoint().LogID
	b, err := json.Marshal(args)
	if err != nil {
		return 0, fmt.Errorf("encode records: %w", err)
	}
	ctx, stop := context.WithTimeoutCause(ctx, forwardWait, fmt.Errorf("no answer within %s", forwardWait))
	defer stop()
	out, err := l.session.Call(ctx, session.MethodRecords, b)
	if err != nil {
		return 0, err
	}
	var r session.RecordsResult
	if err := json.Unmarshal(out, &r); err != nil || r.Next < 0 {
		return 0, call.Errorf(call.Invalid, "the overlord's answer cannot be read: %v", err)
	}
	return r.Next, nil
}
