package minion

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// Limits of what an overlord may say of others that share its store.
const (
	maxSharers   = 64
	maxAddresses = 16
	maxAddress   = 300 // bytes
)

const factsTimeout = 30 * time.Second // for an overlord to take them

// Sharer is an overlord that serves the same store as one that the machine
// enrolled with.
type Sharer struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // host:port
}

// heads is what is remembered of overlords' audit logs.
type heads struct {
	mu       sync.Mutex
	memories audit.Memories
}

// restore takes what was saved by an earlier process.
func (a *Agent) restore(saved map[string][]byte) error {
	a.heads.memories = audit.Memories{}
	if b := saved[FileRevocations]; b != nil {
		if a.trust.Root() == nil {
			return fmt.Errorf("read %s: it is of a root that is not known here any more; remove it to enrol anew", FileRevocations)
		}
		l, err := pki.ParseRevocations(a.trust.Root(), b)
		if err != nil {
			return fmt.Errorf("read %s: %w", FileRevocations, err)
		}
		a.verifier.setRevoked(l)
	}
	if b := saved[FileCheckpoints]; b != nil {
		ms, err := audit.ParseMemories(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", FileCheckpoints, err)
		}
		a.heads.memories = ms
	}
	if b := saved[FileLater]; b != nil {
		if err := a.later.restore(b); err != nil {
			return fmt.Errorf("read %s: %w", FileLater, err)
		}
	}
	if b := saved[FileSharers]; b != nil {
		if err := json.Unmarshal(b, &a.sharers); err != nil {
			return fmt.Errorf("read %s: %w", FileSharers, err)
		}
	}
	return nil
}

// keep saves one file; a fault is logged, and what is in memory counts.
func (a *Agent) keep(name string, content []byte) {
	if a.save == nil {
		return
	}
	if err := a.save(name, content); err != nil {
		a.log.Error("state not saved; after a restart the older one counts", "file", name, "err", err)
	}
}

// hello is what this machine says first in every session.
func (a *Agent) hello() *fleetpb.Hello {
	_, digest := a.currentFacts()
	return &fleetpb.Hello{
		Offer:        a.offerDigest(),
		AgentVersion: a.version, TimeMs: a.now().UnixMilli(), RevocationNumber: a.verifier.revocations().Number(),
		JournalId: a.books.id, JournalBirthMs: a.bornMs(), Checkpoints: a.notes(), FactsDigest: digest, Cluster: a.replica != nil && a.replica.Holds(),
	}
}

// takeRevocations takes a list into use unless it is older than the one at
// hand, saves it, and ends the sessions of overlords that are on it. It gives
// the number of the list that counts then. The error is a *call.Error.
func (a *Agent) takeRevocations(signed []byte) (uint64, error) {
	a.saving.Lock()
	defer a.saving.Unlock()
	before := a.verifier.revocations()
	list, err := before.Accept(a.trust.Root(), signed)
	switch {
	case errors.Is(err, pki.ErrOlder):
		return before.Number(), call.Errorf(call.Conflict, "%v", err)
	case err != nil:
		return before.Number(), call.Errorf(call.Invalid, "%v", err)
	case list == before:
		return before.Number(), nil
	}
	a.verifier.setRevoked(list)
	for _, l := range a.allLinks() {
		if reason, revoked := list.Revoked(l.session.PeerCert()); revoked {
			a.log.Warn("session cut: the overlord's certificate was revoked", "overlord", l.peer, "reason", reason)
			l.session.Close(call.Revoked, "your certificate was revoked: "+reason)
		}
	}
	a.keep(FileRevocations, signed)
	a.log.Info("revocation list taken", "number", list.Number(), "entries", len(list.Entries()))
	if a.onList != nil {
		a.onList(signed, list)
	}
	return list.Number(), nil
}

// notes gives the remembered checkpoints.
func (a *Agent) notes() [][]byte {
	a.heads.mu.Lock()
	defer a.heads.mu.Unlock()
	return a.heads.memories.Notes()
}

// takeHead decides whether an overlord's audit log continues what is
// remembered, and remembers its newest checkpoint.
func (a *Agent) takeHead(overlord string, head *fleetpb.LogHead) error {
	a.heads.mu.Lock()
	defer a.heads.mu.Unlock()
	m, err := a.heads.memories.Accept(head, a.auditTrust(overlord))
	if err != nil {
		return err
	}
	id := m.Checkpoint.LogID
	if old, ok := a.heads.memories[id]; ok && old.Checkpoint == m.Checkpoint {
		return nil
	}
	next := maps.Clone(a.heads.memories)
	next[id] = m
	a.heads.memories = next
	a.keep(FileCheckpoints, next.Marshal())
	return nil
}

// auditTrust opens the root's statements about logs. The log key must be that
// of the overlord itself or of one that shares its store: an overlord does not
// get away with showing a log that is not its own.
func (a *Agent) auditTrust(overlord string) audit.Trust {
	return audit.Trust{
		LogKey: func(signed []byte) (string, string, ed25519.PublicKey, error) {
			k, err := pki.OpenLogKey(a.trust.Root(), signed)
			if err != nil {
				return "", "", nil, err
			}
			if k.Overlord != overlord && !a.shares(overlord, k.Overlord) {
				return "", "", nil, fmt.Errorf("it is the log key of overlord/%s, and the session is with overlord/%s", k.Overlord, overlord)
			}
			if now := a.now(); now.After(k.NotAfter.Add(call.Tolerance)) {
				return "", "", nil, fmt.Errorf("it expired at %s and this clock shows %s", stamp(k.NotAfter), stamp(now))
			}
			return k.LogID, k.Overlord, k.PublicKey, nil
		},
		Recovery: func(signed []byte) (*fleetpb.Recovery, error) { return pki.OpenRecovery(a.trust.Root(), signed) },
	}
}

// shares says whether one overlord has named another as sharing its store, or
// was named by it.
func (a *Agent) shares(one, other string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := func(by, who string) bool {
		return slices.ContainsFunc(a.sharers[by], func(s Sharer) bool { return s.Name == who })
	}
	return names(one, other) || names(other, one)
}

// takeSharers remembers which overlords share the store of one that the
// machine enrolled with. What others say is not heard.
func (a *Agent) takeSharers(by string, named []*fleetpb.OverlordName) {
	var list []Sharer
	for _, n := range named {
		name, err := call.ParseName(n.GetName())
		if err != nil || name == by || len(list) == maxSharers {
			continue
		}
		s := Sharer{Name: name}
		for _, addr := range n.GetAddresses() {
			if len(s.Addresses) < maxAddresses && len(addr) <= maxAddress {
				s.Addresses = append(s.Addresses, addr)
			}
		}
		list = append(list, s)
	}
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	if !a.enrolled[by] || slices.EqualFunc(a.sharers[by], list, equalSharer) {
		a.mu.Unlock()
		return
	}
	next := maps.Clone(a.sharers)
	if next == nil {
		next = make(map[string][]Sharer)
	}
	if next[by] = list; len(list) == 0 {
		delete(next, by)
	}
	a.sharers = next
	a.mu.Unlock()
	b, err := json.Marshal(next)
	if err != nil {
		a.log.Error("encode sharers", "err", err)
		return
	}
	a.keep(FileSharers, b)
}

func equalSharer(x, y Sharer) bool {
	return x.Name == y.Name && slices.Equal(x.Addresses, y.Addresses)
}

func (a *Agent) currentFacts() (doc, digest []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.facts, a.digest
}

// SetFacts gives the agent its machine's facts: a JSON object and the digest of
// the part that does not change by the second. Overlords that were told others
// are told at once.
func (a *Agent) SetFacts(ctx context.Context, doc, digest []byte) {
	a.mu.Lock()
	a.facts, a.digest = doc, digest
	a.mu.Unlock()
	for _, l := range a.allLinks() {
		l.sendFacts(ctx)
	}
}

// sendFacts tells the overlord what it was not told yet.
func (l *link) sendFacts(ctx context.Context) {
	l.telling.Lock()
	defer l.telling.Unlock()
	a := l.agent
	a.mu.Lock()
	doc, digest := a.facts, string(a.digest)
	fresh := doc != nil && a.told[l.peer] != digest
	a.mu.Unlock()
	if !fresh {
		return
	}
	ctx, stop := context.WithTimeoutCause(ctx, factsTimeout, fmt.Errorf("no answer within %s", factsTimeout))
	defer stop()
	if _, err := l.session.Call(ctx, session.MethodFacts, doc); err != nil {
		a.log.Warn("facts not taken", "overlord", l.peer, "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told == nil {
		a.told = make(map[string]string)
	}
	a.told[l.peer] = digest
}

// Renew asks an overlord for a fresh certificate through the session with it.
// csr is PKCS#10, DER; the answer is a chain in DER that the caller must verify.
func (a *Agent) Renew(ctx context.Context, overlord string, csr []byte) ([][]byte, error) {
	var r session.RenewResult
	if err := a.Ask(ctx, overlord, session.MethodRenew, session.RenewArgs{CSR: csr}, &r); err != nil {
		return nil, fmt.Errorf("renew with overlord/%s: %w", overlord, err)
	}
	return r.Chain, nil
}

// Ask calls one of the session's own methods at an overlord: args and the
// result, a pointer, are JSON. Errors of the overlord keep their code; without a
// session it is call.NoSession.
func (a *Agent) Ask(ctx context.Context, overlord, method string, args, result any) error {
	l := a.link(overlord)
	if l == nil {
		return call.Errorf(call.NoSession, "no session with overlord/%s", overlord)
	}
	b, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode arguments of %s: %w", method, err)
	}
	out, err := l.session.Call(ctx, method, b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("read the answer to %s: %w", method, err)
	}
	return nil
}

// Pull makes one call of the session's own methods at an overlord that is answered
// with a stream: see session.Session.Pull. Without a session the error is
// call.NoSession.
func (a *Agent) Pull(ctx context.Context, overlord, method string, args []byte, stream string) (io.ReadCloser, error) {
	l := a.link(overlord)
	if l == nil {
		return nil, call.Errorf(call.NoSession, "no session with overlord/%s", overlord)
	}
	p, err := l.session.Pull(ctx, method, args, stream)
	if err != nil {
		return nil, err
	}
	return p, nil
}
