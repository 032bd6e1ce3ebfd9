package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
)

// world is an overlord's log with what its root signed; statements are not
// signed here but trusted when they begin with "root ".
type world struct {
	*log
	signer *audit.Signer
}

func (w *world) trust() audit.Trust {
	return audit.Trust{
		LogKey: func(b []byte) (string, string, ed25519.PublicKey, error) {
			if string(b) != "log key" {
				return "", "", nil, errors.New("not signed by the root")
			}
			return w.signer.Key().LogID, w.signer.Key().Overlord, w.signer.Key().Public, nil
		},
		Recovery: func(b []byte) (*fleetpb.Recovery, error) {
			body, ok := bytes.CutPrefix(b, []byte("root "))
			if !ok {
				return nil, errors.New("not signed by the root")
			}
			r := new(fleetpb.Recovery)
			return r, proto.Unmarshal(body, r)
		},
	}
}

// head is the log's head of size leaves in an epoch, with a proof from old on.
func (w *world) head(t testing.TB, epoch uint64, old, size int64) *fleetpb.LogHead {
	t.Helper()
	note, err := w.signer.Sign(audit.Checkpoint{LogID: w.signer.Key().LogID, Epoch: epoch, Size: size, Root: w.root(t, size)})
	if err != nil {
		t.Fatal(err)
	}
	h := &fleetpb.LogHead{Checkpoint: note, LogKey: []byte("log key")}
	if old <= size {
		if h.Proof, err = audit.ProveConsistency(old, size, w.hashes()); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (w *world) recovery(t testing.TB, epoch uint64, abandoned int64, root audit.Hash, restored int64) []byte {
	t.Helper()
	r := w.root(t, restored)
	b, err := proto.Marshal(&fleetpb.Recovery{
		LogId: w.signer.Key().LogID, Epoch: epoch, AbandonedSize: uint64(abandoned), AbandonedRoot: root[:], RestoredSize: uint64(restored), RestoredRoot: r[:],
	})
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("root "), b...)
}

func TestMemory(t *testing.T) {
	w := &world{newLog(t, 100), signer(t, "log", "dc1")}
	lost := audit.Hash{9} // root of the part of the log that only the minion saw
	saw := func(epoch uint64, size int64, root audit.Hash) audit.Memory {
		return audit.Memory{Checkpoint: audit.Checkpoint{LogID: "log", Epoch: epoch, Size: size, Root: root}, Note: []byte("x")}
	}
	good := saw(0, 60, w.root(t, 60))
	with := func(h *fleetpb.LogHead, recoveries ...[]byte) *fleetpb.LogHead {
		h.RecoveriesBefore, h.Recovery = recoveries[:len(recoveries)-1], recoveries[len(recoveries)-1]
		return h
	}
	key := func(h *fleetpb.LogHead) *fleetpb.LogHead { h.LogKey = []byte("x"); return h }
	other := w.head(t, 0, 60, 70)
	other.Checkpoint, _ = signer(t, "log", "dc1").Sign(audit.Checkpoint{LogID: "log", Size: 70})
	tooMany := with(w.head(t, 1, 40, 100), nil)
	tooMany.RecoveriesBefore = make([][]byte, 100)
	for _, tt := range []struct {
		name  string
		m     audit.Memory
		head  *fleetpb.LogHead
		words string // empty: accepted
	}{
		{"first sight", audit.Memory{}, w.head(t, 0, 0, 50), ""},
		{"first sight of an empty log", audit.Memory{}, w.head(t, 0, 0, 0), ""},
		{"no head", good, nil, "shows no audit checkpoint"},
		{"no certified key", good, key(w.head(t, 0, 60, 70)), "not certified by the root"},
		{"signed by another key", good, other, "checkpoint is refused"},
		{"grown", good, w.head(t, 0, 60, 100), ""},
		{"the same", good, w.head(t, 0, 60, 60), ""},
		{"grown from nothing", saw(0, 0, w.root(t, 0)), w.head(t, 0, 0, 10), ""},
		{"shorter", good, w.head(t, 0, 59, 59), "shows 59 records and this machine remembers 60"},
		{"another of the same size", saw(0, 60, lost), w.head(t, 0, 60, 60), "rewritten"},
		{"another that is longer", saw(0, 60, lost), w.head(t, 0, 60, 100), "rewritten"},
		{"no proof", good, func() *fleetpb.LogHead { h := w.head(t, 0, 60, 100); h.Proof = nil; return h }(), "rewritten"},
		{"before a recovery", saw(2, 60, lost), w.head(t, 1, 60, 100), "older copy: it shows epoch 1"},
		{"recovered", saw(0, 60, lost), with(w.head(t, 1, 40, 100), w.recovery(t, 1, 60, lost, 40)), ""},
		{"recovered, a later one abandoned", saw(0, 60, lost), with(w.head(t, 1, 40, 100), w.recovery(t, 1, 61, audit.Hash{8}, 40)), ""},
		{"recovered, and nothing since", saw(0, 60, lost), with(w.head(t, 1, 40, 40), w.recovery(t, 1, 60, lost, 40)), ""},
		{"recovery of an earlier one", saw(0, 60, lost), with(w.head(t, 1, 40, 100), w.recovery(t, 1, 59, lost, 40)), "something else was lost"},
		{"recovery of another one", saw(0, 60, lost), with(w.head(t, 1, 40, 100), w.recovery(t, 1, 60, audit.Hash{8}, 40)), "something else was lost"},
		{"recovery that is not the root's", saw(0, 60, lost), with(w.head(t, 1, 40, 100), []byte("x")), "not the root's"},
		{"epoch without a statement", saw(0, 60, lost), w.head(t, 1, 40, 100), "no statement of the root explains it"},
		{"epoch beyond the statement", saw(0, 60, lost), with(w.head(t, 2, 40, 100), w.recovery(t, 1, 60, lost, 40)), "no statement of the root explains it"},
		{"recovered to another log", saw(0, 60, lost), with(w.head(t, 1, 39, 100), w.recovery(t, 1, 60, lost, 40)), "does not continue"},
		{"recovered twice", saw(0, 60, lost), with(w.head(t, 2, 50, 100), w.recovery(t, 1, 60, lost, 40), w.recovery(t, 2, 70, lost, 50)), ""},
		{"recovered twice, seen once", saw(1, 45, lost), with(w.head(t, 2, 50, 100), w.recovery(t, 1, 60, lost, 40), w.recovery(t, 2, 70, lost, 50)), ""},
		{"a statement between missing", saw(0, 60, lost), with(w.head(t, 2, 50, 100), w.recovery(t, 2, 70, lost, 50)), "statements between are missing"},
		{"malformed statement", saw(0, 60, lost), with(w.head(t, 1, 40, 100), []byte("root \x0a\x03log\x10\x01")), "malformed"},
		{"another log's statement", saw(0, 60, lost), with(w.head(t, 1, 40, 100), []byte("root \x0a\x03lag\x10\x01")), "no statement"},
		{"too many statements", saw(0, 60, lost), tooMany, "101 recovery statements"},
		{"another log", audit.Memory{Checkpoint: audit.Checkpoint{LogID: "other"}, Note: []byte("x")}, w.head(t, 0, 0, 10), `remembers "other"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.m.Accept(tt.head, w.trust())
			if tt.words == "" {
				if err != nil {
					t.Fatalf("Accept = %v; want it accepted", err)
				}
				if !bytes.Equal(got.Note, tt.head.GetCheckpoint()) || got.Checkpoint.LogID != "log" {
					t.Errorf("Accept remembers %v", got.Checkpoint)
				}
				return
			}
			if call.CodeOf(err) != call.AuditRefused || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Accept = %v; want audit refused, %q", err, tt.words)
			}
		})
	}
}

func TestMemories(t *testing.T) {
	w := &world{newLog(t, 10), signer(t, "log", "dc1")}
	ms := audit.Memories{}
	m, err := ms.Accept(w.head(t, 0, 0, 5), w.trust())
	if err != nil {
		t.Fatal(err)
	}
	ms[m.Checkpoint.LogID] = m
	v := &world{newLog(t, 10), signer(t, "log-2", "dc1")}
	if m, err = ms.Accept(v.head(t, 0, 0, 5), v.trust()); err != nil {
		t.Fatal(err)
	}
	ms[m.Checkpoint.LogID] = m
	if _, err := ms.Accept(w.head(t, 0, 0, 4), w.trust()); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("Accept of a shorter log = %v; want audit refused", err)
	}
	if _, err := ms.Accept(&fleetpb.LogHead{}, w.trust()); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("Accept of an empty head = %v; want audit refused", err)
	}
	again, err := audit.ParseMemories(ms.Marshal())
	if err != nil || len(again) != 2 || !bytes.Equal(again.Marshal(), ms.Marshal()) {
		t.Errorf("ParseMemories(Marshal) = %v, %v", again, err)
	}
	full := audit.Memories{}
	for i := range 64 {
		full[fmt.Sprint(i)] = audit.Memory{}
	}
	if _, err := full.Accept(w.head(t, 0, 0, 4), w.trust()); call.CodeOf(err) != call.AuditRefused {
		t.Errorf("Accept of a 65th log = %v; want audit refused", err)
	}
	one := ms.Notes()[0]
	for name, bad := range map[string][]byte{
		"cut": one[:len(one)-1], "twice": append(bytes.Clone(one), one...), "no note": []byte("x"), "not sorted": append(bytes.Clone(ms.Notes()[1]), one...),
		"no text": []byte("\n\nx\n"), "too long": make([]byte, 1<<20),
	} {
		if _, err := audit.ParseMemories(bad); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("ParseMemories, %s = %v; want ErrCheckpoint", name, err)
		}
	}
}
