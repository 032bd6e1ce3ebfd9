package enrol

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"dominion/call"
	"dominion/pki"
)

// hold keeps a request for an operator. A conflict is recorded when it is new.
func (r *Registrar) hold(tx Tx, a *asking, p Pending, known bool, conflict string) (d Decision, revoked *revoking, refusal, err error) {
	if known && r.cfg.Now().Sub(p.Last) >= PendingLife {
		known = false
	}
	if !known {
		p = Pending{Identity: a.Identity, Fingerprint: a.fingerprint, CSR: a.Raw, Source: a.source, First: r.cfg.Now()}
		if refusal, err = r.makeRoom(tx, a); refusal != nil || err != nil {
			return Decision{}, nil, refusal, err
		}
	}
	if p.Conflict != conflict {
		p.Conflict, p.Last = conflict, time.Time{} // to be written
		if conflict != "" {
			if err := r.recordConflict(tx, a, conflict); err != nil {
				return Decision{}, nil, nil, err
			}
		}
	}
	d, err = r.waiting(tx, a, p, known)
	return d, nil, nil, err
}

func (r *Registrar) recordConflict(tx Tx, a *asking, conflict string) error {
	r.cfg.Log.Warn("request held: the name is in use", "identity", a.Identity.String(), "fingerprint", a.fingerprint, "source", from(a.source))
	more, ok := r.denials.Take()
	if !ok {
		return nil
	}
	return r.record(tx, a.Identity.String(), "conflict", a.Identity, nil,
		fmt.Sprintf("enrolment from %s%s with key %s is held: %s%s", from(a.source), a.over.told(), a.fingerprint, conflict, others(more)))
}

// waiting answers a request that is held or was rejected, and notes, once a
// minute at most, that it was asked again.
func (r *Registrar) waiting(tx Tx, a *asking, p Pending, known bool) (Decision, error) {
	if now := r.cfg.Now(); !known || now.Sub(p.Last) >= lastEvery {
		p.Last, p.Source = now, a.source
		if err := tx.PutPending(p); err != nil {
			return Decision{}, err
		}
	}
	if p.Rejected {
		return Decision{State: StateRejected, Detail: "an operator rejected this request"}, nil
	}
	detail := "waiting for an operator: dominion cert sign " + a.Identity.Name
	if a.Identity.Role != pki.Minion {
		detail = "waiting for an operator: dominion cert sign " + a.Identity.String() + " --fingerprint " + a.fingerprint
	}
	if p.Conflict != "" && a.Identity.Role != pki.Operator {
		detail = "waiting for an operator: the name is in use by another key"
	}
	return Decision{State: StateWaiting, Detail: detail, Retry: r.cfg.Retry}, nil
}

// makeRoom drops what has waited too long and, when too many wait, what may go
// first. A flood from one source displaces its own requests only.
func (r *Registrar) makeRoom(tx Tx, a *asking) (refusal, err error) {
	all, err := tx.PendingAll()
	if err != nil {
		return nil, err
	}
	expired, rest := split(all, func(p Pending) bool { return r.cfg.Now().Sub(p.Last) >= PendingLife })
	drop := expired
	source := bucket(a.source)
	mine, _ := split(rest, func(p Pending) bool { return bucket(p.Source) == source })
	rejected := func(p Pending) bool { return p.Rejected }
	switch {
	case len(mine) >= MaxSource:
		gone, _ := split(mine, rejected)
		if len(gone) == 0 {
			return call.Errorf(call.Busy, "%d requests from %s wait already; sign or reject some: dominion cert pending", len(mine), bucketName(source)), dropAll(tx, drop)
		}
		drop = append(drop, oldest(gone))
	case len(rest) >= MaxPending:
		gone, _ := split(rest, rejected)
		if len(gone) == 0 {
			gone = largest(rest)
		}
		if len(gone) <= len(mine) && !gone[0].Rejected {
			return call.Errorf(call.Busy, "%d requests wait already; sign or reject some: dominion cert pending", len(rest)), dropAll(tx, drop)
		}
		drop = append(drop, oldest(gone))
	}
	return nil, dropAll(tx, drop)
}

func dropAll(tx Tx, drop []Pending) error {
	for _, p := range drop {
		if err := tx.DeletePending(p.Identity, p.Fingerprint); err != nil {
			return err
		}
	}
	return nil
}

func split(all []Pending, is func(Pending) bool) (yes, no []Pending) {
	for _, p := range all {
		if is(p) {
			yes = append(yes, p)
		} else {
			no = append(no, p)
		}
	}
	return yes, no
}

func oldest(all []Pending) Pending {
	return slices.MinFunc(all, func(a, b Pending) int {
		return cmp.Or(a.Last.Compare(b.Last), cmp.Compare(a.Identity.Name, b.Identity.Name))
	})
}

// largest gives the requests of the source that holds most.
func largest(all []Pending) []Pending {
	by := make(map[netip.Prefix][]Pending)
	var most []Pending
	for _, p := range all {
		b := bucket(p.Source)
		by[b] = append(by[b], p)
		if len(by[b]) > len(most) {
			most = by[b]
		}
	}
	return most
}

// bucket is what counts as one source: whoever has an IPv6 address has 2^64.
func bucket(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // not known
	}
	return p
}

func bucketName(p netip.Prefix) string {
	if !p.IsValid() {
		return "unknown addresses"
	}
	return p.String()
}
