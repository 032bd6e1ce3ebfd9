package provision

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/target"
)

// BootScript is what the script says that a node boots with.
type BootScript struct {
	Boot   Boot
	Node   string // empty with BootHold: who asks may not know more
	HWAddr string
	Why    string // with BootHold: for people
	// What follows is for BootProvision.
	VNFS   string // empty: none
	Nonce  string
	Pin    string
	Server string // host:port of provision/1
	Files  string // host:port of /boot/
}

// holdAll is what is told to a node that gets nothing, whatever the reason.
const holdAll = "waiting for approval"

// boot is GET /boot/ipxe?mac=….
func (s *Service) boot(w http.ResponseWriter, r *http.Request) error {
	hwaddr, err := ParseHWAddr(r.URL.Query().Get("mac"))
	if err != nil {
		return invalid(err)
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	leave, err := s.enter(hwaddr)
	if err != nil {
		return err
	}
	defer leave()
	b, err := s.Claim(r.Context(), hwaddr, from)
	if err != nil {
		return err
	}
	b.Pin = s.cfg.Pin
	b.Server, b.Files = s.cfg.At(reached(r))
	text := s.cfg.IPXE(b)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // who left does not need it
	return nil
}

// Claim says what a machine that boots from an address does, and begins its
// boot if it may: the nonce in the answer is the node's only one.
func (s *Service) Claim(ctx context.Context, hwaddr string, from netip.Addr) (BootScript, error) {
	out := BootScript{Boot: BootHold, HWAddr: hwaddr, Why: holdAll}
	var second *auditpb.Record
	err := s.cfg.Store.Update(ctx, func(tx Tx) error {
		n, ok, err := tx.NodeOf(hwaddr)
		if err == nil && !ok {
			n, err = s.meet(tx, hwaddr, from)
		}
		if err != nil {
			return err
		}
		if n.held() || n.Boot != BootProvision {
			if !n.held() {
				out.Boot, out.Node, out.Why = n.Boot, n.Name, "set to hold"
			}
			return s.heard(tx, n, from)
		}
		old, had, err := tx.NonceOf(n.Name)
		if err != nil {
			return err
		}
		if from == n.Claim || had && old.Source != from && (old.open(s.cfg.Now()) || n.Claim.IsValid()) {
			second = &auditpb.Record{
				Actor: "address/" + from.String(), Action: "node.claim", Subject: n.Name,
				Detail: fmt.Sprintf("%s wants to boot as the node that booted from %s; held", from, addrOr(old.Source, "another address")),
			}
			n.Claim, n.ClaimAt = from, s.cfg.Now()
			return tx.PutNode(n)
		}
		if had && s.cfg.Now().Sub(old.Created) < nonceEvery {
			return nil
		}
		out.Boot, out.Node, out.VNFS, out.Why = BootProvision, n.Name, n.VNFS, ""
		out.Nonce, err = s.begin(tx, n, from)
		return err
	})
	if second != nil && err == nil {
		s.cfg.Log.Warn("second claim on a node", "node", second.Subject, "from", from.String())
		s.record(ctx, s.meter, second)
	}
	if full, ok := errors.AsType[*call.Error](err); ok && full.Code == call.Busy {
		s.cfg.Log.Warn("no room for a new node", "hwaddr", hwaddr, "from", from.String(), "why", full.Detail)
		s.record(ctx, s.meter, &auditpb.Record{Actor: "address/" + from.String(), Action: "denied", Subject: hwaddr, Detail: "node.create: " + full.Detail})
		return BootScript{Boot: BootHold, HWAddr: hwaddr, Why: holdAll}, nil
	}
	return out, err
}

// begin gives a node its nonce, in the place of the one it had.
func (s *Service) begin(tx Tx, n Node, from netip.Addr) (string, error) {
	if err := tx.DeleteNonce(n.Name); err != nil {
		return "", err
	}
	var b [nonceLen / 2]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	text, now := hex.EncodeToString(b[:]), s.cfg.Now()
	nonce := Nonce{Node: n.Name, Hash: sha256.Sum256([]byte(text)), Source: from, Created: now, Expires: now.Add(NonceLife)}
	if err := tx.PutNonce(nonce); err != nil {
		return "", err
	}
	n.Addr, n.Contact = from, now
	if err := tx.PutNode(n); err != nil {
		return "", err
	}
	return text, tx.Audit(&auditpb.Record{
		TimeMs: now.UnixMilli(), Actor: "address/" + from.String(), Action: "node.boot", Subject: n.Name,
		Detail: fmt.Sprintf("%s boots from %s; its nonce is good until %s", n.HWAddr, from, nonce.Expires.UTC().Format(time.RFC3339)),
	})
}

// heard notes when a node that gets nothing was heard of, not each time.
func (s *Service) heard(tx Tx, n Node, from netip.Addr) error {
	now := s.cfg.Now()
	if n.Addr == from && now.Sub(n.Contact) < contactEvery {
		return nil
	}
	n.Addr, n.Contact = from, now
	return tx.PutNode(n)
}

// meet makes a node of who is not known yet. Without room the code is Busy.
func (s *Service) meet(tx Tx, hwaddr string, from netip.Addr) (Node, error) {
	now := s.cfg.Now()
	n := Node{
		HWAddr: hwaddr, Enabled: true, Boot: BootProvision, Created: now, Source: from, Addr: from, Contact: now,
	}
	for _, r := range s.cfg.Approve {
		if r.covers(hwaddr, from) {
			n.Approved, n.ApprovedBy = now, "rule"
			break
		}
	}
	if err := s.room(tx, n); err != nil {
		return Node{}, err
	}
	name, err := s.cfg.Names.next(tx)
	if err != nil {
		return Node{}, err
	}
	n.Name = name
	if err := tx.PutNode(n); err != nil {
		return Node{}, err
	}
	how := "held for approval"
	if !n.held() {
		how = "approved by rule"
	}
	s.cfg.Log.Info("new node", "node", n.Name, "hwaddr", hwaddr, "from", from.String(), "how", how)
	return n, tx.Audit(&auditpb.Record{
		TimeMs: now.UnixMilli(), Actor: "address/" + from.String(), Action: "node.create", Subject: n.Name, Detail: hwaddr + "; " + how,
	})
}

// forget makes room of nodes that were held and not heard of for long.
func (s *Service) forget(tx Tx, stale []string) error {
	for _, name := range stale {
		if err := tx.DeleteNode(name); err != nil {
			return err
		}
	}
	if len(stale) == 0 {
		return nil
	}
	slices.Sort(stale)
	return tx.Audit(&auditpb.Record{
		TimeMs: s.cfg.Now().UnixMilli(), Actor: "overlord", Action: "node.delete", Subject: cut(target.Fold(stale), 1000),
		Detail: fmt.Sprintf("held, and not heard of for %s", HeldFor),
	})
}

// room sees to it that there is room for a new node.
func (s *Service) room(tx Tx, n Node) error {
	names, err := tx.Names()
	if err != nil {
		return err
	}
	if len(names) >= MaxNodes {
		return call.Errorf(call.Busy, "there are %d nodes already; delete some: dominion node list", len(names))
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
