package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"dominion/api/auditpb"
	"dominion/call"
)

// step is what a claim on a node changes.
type step int

const (
	stepNone   step = iota
	stepMeet        // nobody knows the machine
	stepHeard       // it gets nothing, and when it was heard of is to be noted
	stepSecond      // somebody else boots as this node, or did when it was claimed
	stepBegin       // it gets a nonce
)

// next says what a machine that boots from an address gets, and what that
// changes. It changes nothing itself.
func (s *Service) next(v View, hwaddr string, from netip.Addr) (n Node, out BootScript, what step, err error) {
	out, now := BootScript{Boot: BootHold, HWAddr: hwaddr, Why: holdAll}, s.cfg.Now()
	n, ok, err := v.NodeOf(hwaddr)
	if err != nil || !ok {
		return n, out, stepMeet, err
	}
	if n.held() || n.Boot != BootProvision {
		if !n.held() {
			out.Boot, out.Node, out.Why = n.Boot, n.Name, "set to hold"
		}
		if n.Addr != from || now.Sub(n.Contact) >= contactEvery {
			what = stepHeard
		}
		return n, out, what, nil
	}
	second, old, had, err := s.second(v, n, from)
	switch {
	case err != nil:
	case second:
		if n.Claim != from || now.Sub(n.ClaimAt) >= contactEvery {
			what = stepSecond
		}
	case had && now.Sub(old.Created) < nonceEvery:
	default:
		out.Boot, out.Node, out.VNFS, out.Why = BootProvision, n.Name, n.VNFS, ""
		what = stepBegin
	}
	return n, out, what, err
}

// second says whether somebody else than from boots as a node, or did when it was
// claimed; and gives the node's nonce.
func (s *Service) second(v View, n Node, from netip.Addr) (second bool, old Nonce, had bool, err error) {
	old, had, err = v.NonceOf(n.Name)
	second = from == n.Claim || had && old.Source != from && (old.open(s.cfg.Now()) || n.Claim.IsValid())
	return second && err == nil, old, had, err
}

// Claim says what a machine that boots from an address does, and begins its
// boot if it may: the nonce in the answer is the node's only one. What changes
// nothing does not trouble the store's one writer: anybody can ask.
func (s *Service) Claim(ctx context.Context, hwaddr string, from netip.Addr) (out BootScript, err error) {
	var what step
	err = s.cfg.Store.View(ctx, func(v View) error {
		_, out, what, err = s.next(v, hwaddr, from)
		return err
	})
	if err != nil || what == stepNone {
		return out, err
	}
	if what == stepMeet && !s.meets.take(s.cfg.Now()) {
		s.cfg.Log.Warn("too many new nodes at once; it is told to ask again", "hwaddr", hwaddr, "from", from.String())
		return out, nil
	}
	err = s.cfg.Store.Update(ctx, func(tx Tx) error {
		var n Node
		if n, out, what, err = s.next(tx, hwaddr, from); err == nil && what == stepMeet {
			if err = s.meet(tx, hwaddr, from, ""); err == nil {
				n, out, what, err = s.next(tx, hwaddr, from)
			}
		}
		if err != nil {
			return err
		}
		switch what {
		case stepHeard:
			return s.heard(tx, n, from)
		case stepSecond:
			n.Claim, n.ClaimAt = from, s.cfg.Now()
			return tx.PutNode(n)
		case stepBegin:
			out.Nonce, err = s.begin(tx, n, from)
			return err
		}
		return nil
	})
	switch {
	case err == nil && what == stepSecond:
		s.cfg.Log.Warn("second claim on a node", "hwaddr", hwaddr, "from", from.String())
		s.claimed(ctx, hwaddr, from)
	case call.CodeOf(err) == call.Busy:
		s.cfg.Log.Warn("no room for a new node", "hwaddr", hwaddr, "from", from.String(), "error", err)
		s.record(ctx, s.meter, &auditpb.Record{Actor: "address/" + from.String(), Action: "denied", Subject: hwaddr, Detail: "node.create: " + busyText(err)})
		return BootScript{Boot: BootHold, HWAddr: hwaddr, Why: holdAll}, nil
	}
	return out, err
}

// busyText gives what an error of code Busy says.
func busyText(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// claimed puts a second claim on the audit log.
func (s *Service) claimed(ctx context.Context, hwaddr string, from netip.Addr) {
	rec := &auditpb.Record{Actor: "address/" + from.String(), Action: "node.claim", Subject: hwaddr, Detail: from.String() + " wants to boot as a node that is claimed; held"}
	err := s.cfg.Store.View(ctx, func(v View) error {
		n, ok, err := v.NodeOf(hwaddr)
		if err != nil || !ok {
			return err
		}
		rec.Subject = n.Name
		if old, ok, err := v.NonceOf(n.Name); err == nil && ok {
			rec.Detail = fmt.Sprintf("%s wants to boot as the node that booted from %s; held", from, old.Source)
		}
		return nil
	})
	if err != nil {
		s.cfg.Log.Error("look up the node that was claimed", "error", err)
	}
	s.record(ctx, s.meter, rec)
}
