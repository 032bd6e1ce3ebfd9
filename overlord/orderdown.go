package overlord

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
	"dominion/minion"
	"dominion/session"
)

const (
	// orderTime is how long a parent may take to send an order that is longer than a frame.
	orderTime = time.Minute
	// maxTaking is how many of a parent's orders are read and checked at a time: each may
	// name a million machines.
	maxTaking = 2
)

// readOrder reads an order that the parent passes on, inline or as a stream, and
// checks it.
func (o *Overlord) readOrder(ctx context.Context, d minion.Delegation) (*fleetpb.Delegate, *job.Plan, error) {
	req, err := decodeOrder(d.Args)
	if err != nil {
		return nil, nil, err
	}
	var st *session.Stream
	if req.Streamed {
		if st, err = awaitOrder(ctx, d); err != nil {
			return nil, nil, err
		}
	}
	if err := o.taking.Acquire(ctx, 1); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	defer o.taking.Release(1)
	if st != nil {
		b, err := receiveOrder(ctx, st)
		if err != nil {
			return nil, nil, err
		}
		if req, err = decodeOrder(b); err != nil {
			return nil, nil, err
		}
	}
	p, err := o.planDelegated(ctx, d.Parent, req)
	return req, p, err
}

var errNoOrder = call.Errorf(call.Unavailable, "the order did not come within %s", orderTime)

// awaitOrder waits until the parent opens the stream with the order.
func awaitOrder(ctx context.Context, d minion.Delegation) (*session.Stream, error) {
	t := time.NewTimer(orderTime)
	defer t.Stop()
	select {
	case st := <-d.Order:
		return st, nil
	case <-t.C:
		return nil, errNoOrder
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func receiveOrder(ctx context.Context, st *session.Stream) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, orderTime, errNoOrder)
	defer cancel()
	defer context.AfterFunc(ctx, func() { st.CloseWithReason("too slow") })()
	b, err := io.ReadAll(io.LimitReader(st, maxOrder+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	case len(b) > maxOrder:
		st.CloseWithReason("too long")
		return nil, call.Errorf(call.Invalid, "the order has more than %d bytes", maxOrder)
	}
	return b, nil
}

// decodeOrder decodes an order. Errors have the code Invalid.
func decodeOrder(b []byte) (*fleetpb.Delegate, error) {
	if err := boundOrder(b); err != nil {
		return nil, call.Errorf(call.Invalid, "the order cannot be read: %v", err)
	}
	d := new(fleetpb.Delegate)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, d); err != nil {
		return nil, call.Errorf(call.Invalid, "the order cannot be read: %v", err)
	}
	return d, nil
}

var (
	errTooMany    = errors.New("more sub-overlords than there can be")
	errUnreadable = errors.New("it is no message")
)

// Fields of the messages of an order that take more memory than bytes.
const (
	fieldReach protowire.Number = 7  // of fleetpb.Delegate
	fieldVia   protowire.Number = 15 // of the same
	fieldBelow protowire.Number = 3  // of fleetpb.Branch
)

// boundOrder counts what an order would become many times as large by when it is
// decoded: an empty branch has two bytes, and a hundred in memory.
func boundOrder(b []byte) error {
	via, branches := 0, 0
	return eachMessage(b, func(field protowire.Number, part []byte) error {
		switch field {
		case fieldVia:
			if via++; via > call.MaxHops {
				return errTooMany
			}
		case fieldReach:
			return boundBranch(part, &branches, 0)
		}
		return nil
	})
}

func boundBranch(b []byte, branches *int, depth int) error {
	if *branches++; *branches > job.MaxBranches || depth > call.MaxHops {
		return errTooMany
	}
	return eachMessage(b, func(field protowire.Number, part []byte) error {
		if field != fieldBelow {
			return nil
		}
		return boundBranch(part, branches, depth+1)
	})
}

// eachMessage gives f the fields of a message that have a length.
func eachMessage(b []byte, f func(field protowire.Number, part []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errUnreadable
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
				return errUnreadable
			}
			b = b[n:]
			continue
		}
		part, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errUnreadable
		}
		if err := f(field, part); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// checkWay checks through whom an order came, and that it is for this overlord.
func (o *Overlord) checkWay(parent string, req *fleetpb.Delegate) error {
	if len(req.Via) == 0 || len(req.Via) > call.MaxHops || slices.Contains(req.Via, o.cfg.Name) {
		return call.Errorf(call.Invalid, "the order came through %d overlords, or in a circle", len(req.Via))
	}
	for _, name := range req.Via {
		if n, err := call.ParseName(name); err != nil || n != name {
			return call.Errorf(call.Invalid, "the order came through %.80q, which is no overlord's name", name)
		}
	}
	if last := req.Via[len(req.Via)-1]; last != parent {
		return call.Errorf(call.Invalid, "the order came from overlord/%s, not from %s", parent, last)
	}
	if req.Reach.GetName() != o.cfg.Name {
		return call.Errorf(call.Invalid, "the order is for overlord/%.80s, not for %s", req.Reach.GetName(), o.cfg.Name)
	}
	return nil
}
