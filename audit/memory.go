package audit

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Trust opens the statements of the root key; package pki provides both.
type Trust struct {
	// LogKey opens a signed fleetpb.LogKey. Required.
	LogKey func(signed []byte) (logID, overlord string, pub ed25519.PublicKey, err error)
	// Recovery opens a signed fleetpb.Recovery. Required.
	Recovery func(signed []byte) (*fleetpb.Recovery, error)
}

// Memory is what a minion remembers of one log: its newest checkpoint. The
// zero Memory remembers nothing.
type Memory struct {
	Checkpoint Checkpoint
	Note       []byte // the signed checkpoint; nil: nothing
}

const (
	maxRecoveries = 64 // statements in one log head
	maxMemories   = 64 // logs that a minion remembers
)

// Accept decides whether a log head continues what is remembered, and gives
// what to remember from now on. It has no side effects. The rule: the
// checkpoint is signed by a log key that the root certified, of the same log,
// and at least as large, with a proof that it begins with the remembered tree;
// or its epoch is higher, and statements of the root name, for each epoch in
// between, an abandoned checkpoint that is the remembered one or a later one.
// The error is a *call.Error with code AuditRefused that explains.
func (m Memory) Accept(head *fleetpb.LogHead, t Trust) (Memory, error) {
	if head == nil {
		return Memory{}, call.Errorf(call.AuditRefused, "the overlord shows no audit checkpoint")
	}
	id, overlord, pub, err := t.LogKey(head.GetLogKey())
	if err != nil {
		return Memory{}, call.Errorf(call.AuditRefused, "the overlord's log key is not certified by the root: %v", err)
	}
	c, err := OpenCheckpoint(head.GetCheckpoint(), LogKey{LogID: id, Overlord: overlord, Public: pub})
	if err != nil {
		return Memory{}, call.Errorf(call.AuditRefused, "the overlord's audit checkpoint is refused: %v", err)
	}
	if m.Note != nil {
		if err := m.check(c, head, t); err != nil {
			return Memory{}, err
		}
	}
	return Memory{Checkpoint: c, Note: bytes.Clone(head.GetCheckpoint())}, nil
}

func (m Memory) check(c Checkpoint, head *fleetpb.LogHead, t Trust) error {
	old := m.Checkpoint
	switch {
	case c.LogID != old.LogID:
		return call.Errorf(call.AuditRefused, "the overlord shows audit log %q; this machine remembers %q", c.LogID, old.LogID)
	case c.Epoch < old.Epoch:
		return call.Errorf(call.AuditRefused, "the overlord's audit log is an older copy: it shows epoch %d and this machine remembers epoch %d", c.Epoch, old.Epoch)
	case c.Epoch > old.Epoch:
		return checkRecovered(old, c, head, t)
	case c.Size < old.Size:
		return call.Errorf(call.AuditRefused, "the overlord's audit log was cut or is an older copy: it shows %d records and this machine remembers %d; after a restore from a back-up: dominion audit recover", c.Size, old.Size)
	}
	if err := CheckConsistency(head.GetProof(), old.Size, old.Root, c.Size, c.Root); err != nil {
		return call.Errorf(call.AuditRefused, "the overlord's audit log was rewritten: its %d records do not continue the %d that this machine remembers", c.Size, old.Size)
	}
	return nil
}

// checkRecovered follows the root's statements from the remembered epoch to c's.
func checkRecovered(old, c Checkpoint, head *fleetpb.LogHead, t Trust) error {
	statements := append(slices.Clone(head.GetRecoveriesBefore()), head.GetRecovery())
	if len(statements) > maxRecoveries {
		return call.Errorf(call.AuditRefused, "%d recovery statements are more than %d", len(statements), maxRecoveries)
	}
	at := old
	for _, s := range statements {
		if len(s) == 0 {
			continue
		}
		r, err := t.Recovery(s)
		if err != nil {
			return call.Errorf(call.AuditRefused, "the recovery statement is not the root's: %v", err)
		}
		if r.GetLogId() != old.LogID || r.GetEpoch() <= at.Epoch {
			continue
		}
		next, err := recovered(at, r)
		if err != nil {
			return err
		}
		at = next
	}
	if at.Epoch != c.Epoch {
		return call.Errorf(call.AuditRefused, "the overlord's audit log shows epoch %d, and no statement of the root explains it from epoch %d on", c.Epoch, at.Epoch)
	}
	if err := CheckConsistency(head.GetProof(), at.Size, at.Root, c.Size, c.Root); err != nil {
		return call.Errorf(call.AuditRefused, "the overlord's audit log of %d records does not continue the %d that the root's recovery statement names", c.Size, at.Size)
	}
	return nil
}

// recovered gives the checkpoint from which the log goes on after r, when r
// abandons old or something later.
func recovered(old Checkpoint, r *fleetpb.Recovery) (Checkpoint, error) {
	abandoned, restored := r.GetAbandonedSize(), r.GetRestoredSize()
	if len(r.GetAbandonedRoot()) != len(Hash{}) || len(r.GetRestoredRoot()) != len(Hash{}) || abandoned > maxSize || restored > maxSize {
		return Checkpoint{}, call.Errorf(call.AuditRefused, "the recovery statement is malformed")
	}
	if r.GetEpoch() != old.Epoch+1 {
		return Checkpoint{}, call.Errorf(call.AuditRefused, "the recovery statement begins epoch %d and this machine remembers epoch %d; the statements between are missing", r.GetEpoch(), old.Epoch)
	}
	if int64(abandoned) < old.Size || int64(abandoned) == old.Size && !bytes.Equal(r.GetAbandonedRoot(), old.Root[:]) {
		return Checkpoint{}, call.Errorf(call.AuditRefused, "the recovery statement abandons a log of %d records, root %x…, and this machine remembers %s: something else was lost", abandoned, r.GetAbandonedRoot()[:4], old)
	}
	return Checkpoint{LogID: old.LogID, Epoch: r.GetEpoch(), Size: int64(restored), Root: Hash(r.GetRestoredRoot())}, nil
}

// Memories is what a minion remembers of every log it has met, by log id.
type Memories map[string]Memory

// Accept decides about a head of any log, as Memory.Accept does; the caller
// stores the result under its log id when it has it on disk.
func (ms Memories) Accept(head *fleetpb.LogHead, t Trust) (Memory, error) {
	c, err := PeekCheckpoint(head.GetCheckpoint())
	if err != nil {
		return Memory{}, call.Errorf(call.AuditRefused, "the overlord's audit checkpoint is refused: %v", err)
	}
	m, known := ms[c.LogID]
	if !known && len(ms) >= maxMemories {
		return Memory{}, call.Errorf(call.AuditRefused, "this machine remembers %d audit logs already", len(ms))
	}
	return m.Accept(head, t)
}

// Notes gives the signed checkpoints, sorted by log id, as HELLO shows them.
func (ms Memories) Notes() [][]byte {
	var out [][]byte
	for _, id := range slices.Sorted(maps.Keys(ms)) {
		out = append(out, ms[id].Note)
	}
	return out
}

// Marshal gives the notes one after another, to be kept on disk.
func (ms Memories) Marshal() []byte { return bytes.Join(ms.Notes(), nil) }

// ParseMemories reads exactly what Marshal wrote. Signatures are not checked
// again: it is the machine's own file. Errors wrap ErrCheckpoint.
func ParseMemories(b []byte) (Memories, error) {
	if len(b) > maxMemories*MaxNote {
		return nil, fmt.Errorf("%w: %d bytes of checkpoints", ErrCheckpoint, len(b))
	}
	ms, rest := Memories{}, b
	for len(rest) > 0 {
		n, err := noteLen(rest)
		if err != nil {
			return nil, err
		}
		c, err := PeekCheckpoint(rest[:n])
		if err != nil {
			return nil, err
		}
		ms[c.LogID] = Memory{Checkpoint: c, Note: bytes.Clone(rest[:n])}
		rest = rest[n:]
	}
	if len(ms) > maxMemories || !bytes.Equal(ms.Marshal(), b) {
		return nil, fmt.Errorf("%w: the remembered checkpoints are not in order", ErrCheckpoint)
	}
	return ms, nil
}

// noteLen is the length of the note that b begins with: text, an empty line,
// one line of signature.
func noteLen(b []byte) (int, error) {
	i := bytes.Index(b, []byte("\n\n"))
	if i < 0 {
		return 0, fmt.Errorf("%w: a remembered checkpoint is cut", ErrCheckpoint)
	}
	j := bytes.IndexByte(b[i+2:], '\n')
	if j < 0 {
		return 0, fmt.Errorf("%w: a remembered checkpoint is cut", ErrCheckpoint)
	}
	return i + 2 + j + 1, nil
}
