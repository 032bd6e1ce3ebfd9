package provision

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/nodescript"
)

// Legacy says how nodes are served that speak the old protocol.
type Legacy struct {
	Rules nodescript.Rules // that the Assembler has
	// Neighbour gives the hardware address of who has an address on a network of
	// this host, as ARP knows it.
	Neighbour func(addr netip.Addr) (hwaddr string, ok bool)
	// Enrolled says whether a machine of this name is enrolled.
	Enrolled func(name string) bool
}

// legacyAsk is a request of the old protocol, and who it is about.
type legacyAsk struct {
	LegacyRequest
	from   netip.Addr
	hwaddr string
	note   string // for the audit log
}

// legacyAsker says which hardware address a request is about: the one that it
// names, or that ARP knows.
func (s *Service) legacyAsker(v View, req LegacyRequest, from netip.Addr) (a legacyAsk, err error) {
	a = legacyAsk{LegacyRequest: req, from: from}
	arp, _ := s.cfg.Legacy.Neighbour(from)
	if arp, err = ParseHWAddr(arp); err != nil {
		arp = ""
	}
	id, said := req.value("nodeid")
	if !said && arp == "" {
		return a, denied("", "it names no nodeid, and ARP does not know "+from.String())
	}
	if !said {
		a.hwaddr = arp
		return a, nil
	}
	if a.hwaddr, err = s.legacyID(v, id, req.State == StateInit); err != nil && req.State == StateInit {
		return a, &Refusal{Status: http.StatusBadRequest, Code: "invalid", Detail: "not the hardware address of a node", why: err.Error(), notAdded: true}
	}
	if arp != "" && arp != a.hwaddr {
		a.note = ", ARP says " + arp
	}
	if err != nil {
		err = denied("", err.Error())
	}
	return a, err
}

// legacyID reads a nodeid. In init the old daemon took 01: before an address for
// nothing, of machines that it did not know yet.
func (s *Service) legacyID(v View, id string, init bool) (string, error) {
	hwaddr, err := ParseHWAddr(id)
	bare, ok := strings.CutPrefix(id, "01:")
	if err == nil || !ok || !init {
		return hwaddr, err
	}
	if hwaddr, err = ParseHWAddr(bare); err != nil {
		return "", err
	}
	_, known, err := v.NodeOf(hwaddr)
	if err == nil && known {
		err = fmt.Errorf("%w: %.40q is 01: before one that is known", ErrHWAddr, id)
	}
	return hwaddr, err
}

// legacyNode says which node asks, and whether it gets its script. What it
// refuses with a step other than stepNone is to be noted first.
func (s *Service) legacyNode(v View, a legacyAsk) (n Node, what step, err error) {
	n, known, err := v.NodeOf(a.hwaddr)
	switch {
	case err != nil:
		return n, stepNone, err
	case !known:
		if a.State == StateInit {
			what = stepMeet
		}
		return n, what, denied(a.hwaddr, "no node has this hardware address")
	case n.held():
		if a.State == StateInit && (n.Addr != a.from || s.cfg.Now().Sub(n.Contact) >= contactEvery) {
			what = stepHeard
		}
		return n, what, denied(n.Name, "the node is not approved")
	case !slices.Contains(s.cfg.States, a.State):
		return n, stepNone, s.noState(n, a.State)
	case a.State != StateInit && s.cfg.Legacy.Enrolled(n.Name):
		return n, stepNone, denied(n.Name, "its machine has enrolled, and asks by provision/1")
	case a.State != StateInit:
		return n, stepNone, nil
	case n.Boot != BootProvision:
		return n, stepNone, denied(n.Name, "the node is not set to provision")
	}
	second, _, _, err := s.second(v, n, a.from)
	if err == nil && second {
		if n.Claim != a.from || s.cfg.Now().Sub(n.ClaimAt) >= contactEvery {
			what = stepSecond
		}
		err = denied(n.Name, "somebody else boots as this node, or did when it was claimed")
	}
	return n, what, err
}

// legacyAsks is legacyNode that also notes what has to be noted: machines become
// known, are heard of, and claim what others boot as.
func (s *Service) legacyAsks(ctx context.Context, req LegacyRequest, from netip.Addr) (a legacyAsk, n Node, err error) {
	var what step
	verr := s.cfg.Store.View(ctx, func(v View) error {
		if a, err = s.legacyAsker(v, req, from); err == nil {
			n, what, err = s.legacyNode(v, a)
		}
		return nil
	})
	if verr != nil || what == stepNone {
		return a, n, errors.Join(verr, err)
	}
	if what == stepMeet && !s.meets.take(s.cfg.Now()) {
		return a, n, busy(a.hwaddr, "too many new nodes at once")
	}
	uerr := s.cfg.Store.Update(ctx, func(tx Tx) error {
		if n, what, err = s.legacyNode(tx, a); what == stepMeet {
			name, _ := req.value("nodename")
			if merr := s.meet(tx, a.hwaddr, from, name); merr != nil {
				return merr
			}
			n, what, err = s.legacyNode(tx, a)
		}
		switch what {
		case stepHeard:
			return s.heard(tx, n, from)
		case stepSecond:
			n.Claim, n.ClaimAt = from, s.cfg.Now()
			return tx.PutNode(n)
		}
		return nil
	})
	switch {
	case call.CodeOf(uerr) == call.Busy:
		f := busy(a.hwaddr, busyText(uerr))
		f.quiet = false
		return a, n, f
	case uerr != nil:
		return a, n, uerr
	case what == stepSecond:
		s.claimed(ctx, a.hwaddr, from)
	}
	return a, n, err
}

// busy is the answer to who has to ask again, which is no news.
func busy(node, why string) *Refusal {
	return &Refusal{Status: http.StatusTooManyRequests, Code: "busy", Detail: "too many requests at once; ask again", node: node, why: why, quiet: true}
}

// legacyHand notes that a node gets a script over the old protocol, before it
// does. In init that is a boot which has a source, as others have, though
// nobody knows a nonce that opens it.
func (s *Service) legacyHand(ctx context.Context, a legacyAsk, made *nodescript.Script) error {
	var n Node
	err := s.cfg.Store.Update(ctx, func(tx Tx) (err error) {
		if n, _, err = s.legacyNode(tx, a); err != nil {
			return err
		}
		now := s.cfg.Now()
		if a.State == StateInit {
			if err := s.legacyBoot(tx, n, a.from); err != nil {
				return err
			}
		}
		n.Addr, n.State, n.Contact, n.Script, n.Failure = a.from, a.State, now, made.SHA256[:], cut(made.Failure, 1000)
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: now.UnixMilli(), Actor: "address/" + a.from.String(), Action: "node.script", Subject: n.Name,
			Detail: scriptDetail(a.State, a.from.String()+" over the old protocol as "+n.HWAddr+a.note, made), Digest: made.SHA256[:],
		})
	})
	if err == nil {
		s.at.put(a.from, n.Name)
	}
	return err
}

// legacyBoot begins the boot of a node, unless one is under way.
func (s *Service) legacyBoot(tx Tx, n Node, from netip.Addr) error {
	now := s.cfg.Now()
	old, had, err := tx.NonceOf(n.Name)
	if err != nil || had && old.open(now) {
		return err
	}
	if err := tx.DeleteNonce(n.Name); err != nil {
		return err
	}
	nonce := Nonce{Node: n.Name, Source: from, Created: now, Expires: now.Add(NonceLife)}
	rand.Read(nonce.Hash[:]) // of no text
	return tx.PutNonce(nonce)
}
