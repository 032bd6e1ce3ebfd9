package provision

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/target"
)

// meet makes a node of who is not known yet. Without room the code is Busy. A
// name that it wishes for it gets when that is free and an operator will see it:
// not when a rule approves it.
func (s *Service) meet(tx Tx, hwaddr string, from netip.Addr, wish string) error {
	now := s.cfg.Now()
	n := Node{
		HWAddr: hwaddr, Enabled: true, Boot: BootProvision, Created: now, Source: from, Addr: from, Contact: now,
	}
	if slices.ContainsFunc(s.approve.Load().rules, func(r Rule) bool { return r.covers(hwaddr, from) }) {
		n.Approved, n.ApprovedBy = now, "rule"
	}
	if err := s.room(tx, n); err != nil {
		return err
	}
	var err error
	if n.held() {
		n.Name, err = wished(tx, wish)
	}
	if err == nil && n.Name == "" {
		n.Name, err = s.cfg.Names.next(tx)
	}
	if err != nil {
		return err
	}
	if err := tx.PutNode(n); err != nil {
		return err
	}
	how := "held for approval"
	if !n.held() {
		how = "approved by rule"
	}
	s.cfg.Log.Info("new node", "node", n.Name, "hwaddr", hwaddr, "from", from.String(), "how", how)
	return tx.Audit(&auditpb.Record{
		TimeMs: now.UnixMilli(), Actor: "address/" + from.String(), Action: "node.create", Subject: n.Name, Detail: hwaddr + "; " + how,
	})
}

// wished gives the name that a machine wishes for; empty: it cannot have it.
func wished(tx Tx, wish string) (string, error) {
	name, err := call.ParseName(wish)
	if err != nil {
		return "", nil //nolint:nilerr // it gets another
	}
	if _, is, err := tx.Node(name); err != nil || is {
		return "", err
	}
	if taken, err := tx.Taken(name); err != nil || taken {
		return "", err
	}
	return name, nil
}

// forget makes room of nodes that were held and not heard of for long. They leave
// their primary groups alone: who else asked for their names to be in groups may await
// machines of these names.
func (s *Service) forget(tx Tx, stale []string) error {
	var g regrouping
	for _, name := range stale {
		n, _, err := tx.Node(name)
		if err != nil {
			return err
		}
		g.move(&n, "")
		if err := tx.DeleteNode(name); err != nil {
			return err
		}
	}
	if err := g.do(tx); err != nil || len(stale) == 0 {
		return err
	}
	slices.Sort(stale)
	return tx.Audit(&auditpb.Record{
		TimeMs: s.cfg.Now().UnixMilli(), Actor: "overlord", Action: "node.delete", Subject: cut(target.Fold(stale), 1000),
		Detail: fmt.Sprintf("held, and not heard of for %s", HeldFor),
	})
}

// room sees to it that there is room for a new node.
func (s *Service) room(tx Tx, n Node) error {
	count, err := tx.Count()
	if err != nil {
		return err
	}
	if count >= MaxNodes {
		return call.Errorf(call.Busy, "there are %d nodes already; delete some: dominion node list", count)
	}
	if !n.held() {
		return nil
	}
	all, ofSource, err := tx.Held(n.Source)
	if err != nil {
		return err
	}
	if all >= MaxHeld || ofSource >= MaxHeldSource {
		stale, err := tx.Stale(s.cfg.Now().Add(-HeldFor))
		if err != nil {
			return err
		}
		if err := s.forget(tx, stale); err != nil {
			return err
		}
		if all, ofSource, err = tx.Held(n.Source); err != nil {
			return err
		}
	}
	if all >= MaxHeld {
		return call.Errorf(call.Busy, "%d nodes wait for approval already", all)
	}
	if ofSource >= MaxHeldSource {
		return call.Errorf(call.Busy, "%d nodes from %s wait for approval already", ofSource, n.Source)
	}
	return nil
}

// pace bounds how often something may be done: burst times at once, and then
// once in every.
type pace struct {
	burst int
	every time.Duration

	mu    sync.Mutex
	saved time.Duration // of the time since at
	at    time.Time
}

// take says whether it may be done now.
func (p *pace) take(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := time.Duration(p.burst) * p.every
	if p.at.IsZero() {
		p.saved = most
	} else {
		p.saved = min(p.saved+max(now.Sub(p.at), 0), most)
	}
	p.at = now
	if p.saved < p.every {
		return false
	}
	p.saved -= p.every
	return true
}
