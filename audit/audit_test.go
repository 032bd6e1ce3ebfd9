package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
)

// log is a log in memory that keeps every hash, tlog's way.
type log struct {
	tree   audit.Tree
	leaves []audit.Hash
	nodes  map[[2]int64]audit.Hash
	plain  []tlog.Hash // the slow plain version
}

func (l *log) ReadHashes(x []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(x))
	for i, n := range x {
		out[i] = l.plain[n]
	}
	return out, nil
}

func (l *log) add(t testing.TB, leaf []byte) {
	t.Helper()
	i := l.tree.Size()
	plain, err := tlog.StoredHashes(i, leaf, l)
	if err != nil {
		t.Fatal(err)
	}
	l.plain = append(l.plain, plain...)
	done := l.tree.Append(nil, audit.LeafHash(leaf))
	if len(done) != len(plain) {
		t.Fatalf("leaf %d completes %d nodes; want %d", i, len(done), len(plain))
	}
	l.leaves = append(l.leaves, done[0])
	for level := range done {
		if done[level] != plain[level] {
			t.Fatalf("leaf %d, level %d: another hash than tlog's", i, level)
		}
		if level >= audit.NodeLevel {
			l.nodes[[2]int64{int64(level), i >> level}] = done[level]
		}
	}
}

func (l *log) hashes() audit.Hashes {
	return audit.Hashes{
		Leaves: func(first int64, n int) ([]audit.Hash, error) { return l.leaves[first : first+int64(n)], nil },
		Node: func(level int, number int64) (audit.Hash, error) {
			h, ok := l.nodes[[2]int64{int64(level), number}]
			if !ok {
				return audit.Hash{}, fmt.Errorf("no node %d/%d", level, number)
			}
			return h, nil
		},
	}
}

func newLog(t testing.TB, n int) *log {
	t.Helper()
	l := &log{nodes: make(map[[2]int64]audit.Hash)}
	for i := range n {
		l.add(t, fmt.Appendf(nil, "leaf %d", i))
	}
	return l
}

func (l *log) root(t testing.TB, size int64) audit.Hash {
	t.Helper()
	h, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestTreeAgainstTlog(t *testing.T) {
	const n = 1100
	l := newLog(t, n)
	for _, size := range []int64{0, 1, 2, 3, 255, 256, 257, 511, 512, 767, 1024, 1099, n} {
		want := l.root(t, size)
		if got, err := audit.RootAt(size, l.hashes()); err != nil || got != want {
			t.Errorf("RootAt(%d) = %v, %v; want %v", size, got, err, want)
		}
		tree, err := audit.LoadTree(size, l.hashes())
		if err != nil || tree.Root() != want || tree.Size() != size {
			t.Errorf("LoadTree(%d) has root %v, %v; want %v", size, tree.Root(), err, want)
		}
		b, err := tree.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := audit.ParseTree(b); err != nil || !again.Equal(tree) {
			t.Errorf("ParseTree(AppendBinary) of %d leaves: %v", size, err)
		}
		for _, old := range []int64{0, 1, 200, 256, 300, 1024, size} {
			if old > size {
				continue
			}
			p, err := audit.ProveConsistency(old, size, l.hashes())
			if err != nil {
				t.Fatal(err)
			}
			if err := audit.CheckConsistency(p, old, l.root(t, old), size, want); err != nil {
				t.Errorf("%d continues %d: %v", size, old, err)
			}
			if err := audit.CheckConsistency(p, old, audit.Hash{1}, size, want); !errors.Is(err, audit.ErrTree) {
				t.Errorf("%d continues another log of %d: %v; want ErrTree", size, old, err)
			}
			if err := audit.CheckConsistency(append(p, make([]byte, 32)), old, l.root(t, old), size, want); !errors.Is(err, audit.ErrTree) {
				t.Errorf("%d continues %d with a hash too many: %v; want ErrTree", size, old, err)
			}
		}
	}
}

func TestProofsRefused(t *testing.T) {
	l := newLog(t, 10)
	root := l.root(t, 10)
	for _, tt := range []struct {
		name      string
		proof     [][]byte
		old, size int64
	}{
		{"shorter", nil, 10, 9},
		{"negative", nil, -1, 9},
		{"huge", nil, 1, 1 << 60},
		{"short hash", [][]byte{{1}}, 5, 10},
		{"long proof", make([][]byte, 65), 5, 10},
	} {
		if err := audit.CheckConsistency(tt.proof, tt.old, root, tt.size, root); !errors.Is(err, audit.ErrTree) {
			t.Errorf("%s: %v; want ErrTree", tt.name, err)
		}
	}
	if _, err := audit.ProveConsistency(5, 4, l.hashes()); !errors.Is(err, audit.ErrTree) {
		t.Errorf("proof that 4 continue 5: %v; want ErrTree", err)
	}
	short := audit.Hashes{Leaves: func(int64, int) ([]audit.Hash, error) { return nil, nil }}
	if _, err := audit.LoadTree(3, short); !errors.Is(err, audit.ErrTree) {
		t.Errorf("LoadTree without leaves: %v; want ErrTree", err)
	}
	if _, err := audit.LoadTree(-1, short); !errors.Is(err, audit.ErrTree) {
		t.Errorf("LoadTree(-1): %v; want ErrTree", err)
	}
}

func record() *audit.Record {
	return &audit.Record{
		TimeMs: 1_790_000_000_000, Actor: "operator/alice", Action: "order", Subject: "job", Detail: "d", Digest: []byte("x"),
		Order: &auditpb.Order{Order: []byte("o"), Names: "web[01-40]"}, Results: &auditpb.Results{Group: 1}, Statement: []byte("s"),
	}
}

func TestRecord(t *testing.T) {
	b, err := audit.Encode(record())
	if err != nil {
		t.Fatal(err)
	}
	got, err := audit.Decode(b)
	if err != nil || !proto.Equal(got, record()) {
		t.Errorf("Decode(Encode(r)) = %v, %v", got, err)
	}
	r := record()
	r.Detail = "\xff"
	if _, err := audit.Encode(r); !errors.Is(err, audit.ErrRecord) {
		t.Errorf("Encode of bad UTF-8 = %v; want ErrRecord", err)
	}
	r = record()
	r.Order.Names = strings.Repeat("x", audit.MaxRecord)
	if _, err := audit.Encode(r); !errors.Is(err, audit.ErrRecord) {
		t.Errorf("Encode of too much = %v; want ErrRecord", err)
	}
	for name, bad := range map[string][]byte{
		"cut": b[:len(b)-1], "unknown field": append(bytes.Clone(b), 0xf8, 0x01, 1), "field twice": append(bytes.Clone(b), b...),
		"too long": make([]byte, audit.MaxRecord+1), "unknown field within": {0x3a, 3, 0xf8, 0x01, 1},
	} {
		if _, err := audit.Decode(bad); !errors.Is(err, audit.ErrRecord) {
			t.Errorf("Decode, %s = %v; want ErrRecord", name, err)
		}
	}
	if _, err := audit.DecodeMinion(make([]byte, audit.MaxMinionRecord+1)); !errors.Is(err, audit.ErrRecord) {
		t.Errorf("DecodeMinion of too much = %v; want ErrRecord", err)
	}
}

func signer(t testing.TB, id, overlord string) *audit.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewSigner(id, overlord, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheckpoint(t *testing.T) {
	s := signer(t, "log-1", "dc1")
	c := audit.Checkpoint{LogID: "log-1", Epoch: 3, Size: 17, Root: audit.Hash{1, 2}}
	note, err := s.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := audit.OpenCheckpoint(note, s.Key()); err != nil || got != c {
		t.Errorf("OpenCheckpoint = %v, %v; want %v", got, err, c)
	}
	if got, err := audit.PeekCheckpoint(note); err != nil || got != c {
		t.Errorf("PeekCheckpoint = %v, %v; want %v", got, err, c)
	}
	for i := range note {
		changed := bytes.Clone(note)
		changed[i] ^= 1
		if _, err := audit.OpenCheckpoint(changed, s.Key()); !errors.Is(err, audit.ErrCheckpoint) {
			t.Fatalf("byte %d changed: %v; want ErrCheckpoint", i, err)
		}
	}
	other := signer(t, "log-1", "dc1")
	twice := append(bytes.Clone(note), note[bytes.Index(note, []byte("\n\n"))+2:]...)
	for name, err := range map[string]error{
		"another key":      openErr(note, other.Key()),
		"another overlord": openErr(note, audit.LogKey{LogID: "log-1", Overlord: "dc2", Public: s.Key().Public}),
		"another log":      openErr(note, audit.LogKey{LogID: "log-2", Overlord: "dc1", Public: s.Key().Public}),
		"a short key":      openErr(note, audit.LogKey{LogID: "log-1", Overlord: "dc1", Public: []byte("x")}),
		"a bad name":       openErr(note, audit.LogKey{LogID: "log-1", Overlord: "d c", Public: s.Key().Public}),
		"signed twice":     openErr(twice, s.Key()),
		"too long":         openErr(make([]byte, audit.MaxNote+1), s.Key()),
		"no note":          openErr([]byte("x"), s.Key()),
	} {
		if !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("%s: %v; want ErrCheckpoint", name, err)
		}
	}
	if _, err := s.Sign(audit.Checkpoint{LogID: "log-2"}); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("Sign for another log = %v; want ErrCheckpoint", err)
	}
	for _, text := range []string{"", "log\n", "LOG\n1\nAAAA\nepoch 0\n", strings.Replace(c.Text(), "17", "017", 1), strings.Replace(c.Text(), "17", "-1", 1), strings.Replace(c.Text(), "epoch 3", "epoch x", 1), c.Text() + "\n", strings.Replace(c.Text(), "AQ", "A", 1)} {
		if _, err := audit.ParseCheckpoint(text); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("ParseCheckpoint(%q) = %v; want ErrCheckpoint", text, err)
		}
	}
	for _, id := range []string{"", "a b", "A", "a/b", strings.Repeat("a", 65)} {
		if _, err := audit.NewSigner(id, "dc1", ed25519.NewKeyFromSeed(make([]byte, 32))); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("NewSigner(%q) = %v; want ErrCheckpoint", id, err)
		}
	}
	if _, err := audit.NewSigner("log", "dc1", nil); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("NewSigner without a key = %v; want ErrCheckpoint", err)
	}
}

func openErr(note []byte, key audit.LogKey) error {
	_, err := audit.OpenCheckpoint(note, key)
	return err
}

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

func TestMinionHead(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := audit.Checkpoint{LogID: "m", Size: 3}
	h, err := audit.SignMinionHead(c, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.Open(&key.PublicKey); err != nil || got != c {
		t.Errorf("Open = %v, %v; want %v", got, err, c)
	}
	h.Text = strings.Replace(h.Text, "3", "4", 1)
	if _, err := h.Open(&key.PublicKey); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("Open of a changed head = %v; want ErrCheckpoint", err)
	}
	h.Text = strings.Repeat("x", 10_000)
	if _, err := h.Open(&key.PublicKey); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("Open of a long head = %v; want ErrCheckpoint", err)
	}
}

// brokenLog cannot be read.
type brokenLog struct{ err error }

func (b brokenLog) LogHead(context.Context) ([]byte, int64, error) { return nil, 0, b.err }
func (b brokenLog) LogRows(context.Context, int64, int64) iter.Seq2[audit.Row, error] {
	return func(func(audit.Row, error) bool) {}
}

func (b brokenLog) LogCheckpoints(context.Context, int64) iter.Seq2[[]byte, error] {
	return func(func([]byte, error) bool) {}
}

func (b brokenLog) LogNode(context.Context, int, int64) (audit.Hash, error) {
	return audit.Hash{}, b.err
}

func (b brokenLog) StoredResult(context.Context, []byte, uint64) (audit.StoredResult, error) {
	return audit.StoredResult{}, b.err
}
func (b brokenLog) StoredResults(context.Context, int64) (int64, error) { return 0, b.err }

func TestVerifyCannotRead(t *testing.T) {
	cause := errors.New("disk gone")
	if _, err := audit.Verify(t.Context(), brokenLog{cause}, brokenLog{cause}, audit.VerifyOptions{}); !errors.Is(err, cause) {
		t.Errorf("Verify = %v; want %v", err, cause)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := audit.Encode(record())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.Decode(b)
		if err != nil {
			if !errors.Is(err, audit.ErrRecord) {
				t.Fatalf("error %v does not wrap ErrRecord", err)
			}
			return
		}
		if got, err := audit.Encode(r); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("accepted %x but encodes back to %x, %v", b, got, err)
		}
	})
}

func FuzzDecodeMinion(f *testing.F) {
	b, err := audit.EncodeMinion(&audit.MinionRecord{TimeMs: 1, Job: []byte("j"), Operator: "alice", Method: "test.ping", Detail: "d"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.DecodeMinion(b)
		if err != nil {
			if !errors.Is(err, audit.ErrRecord) {
				t.Fatalf("error %v does not wrap ErrRecord", err)
			}
			return
		}
		if got, err := audit.EncodeMinion(r); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("accepted %x but encodes back to %x, %v", b, got, err)
		}
	})
}

func FuzzParseMemories(f *testing.F) {
	s := signer(f, "log", "dc1")
	note, err := s.Sign(audit.Checkpoint{LogID: "log", Size: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(note)
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := audit.ParseMemories(b)
		if err != nil {
			if !errors.Is(err, audit.ErrCheckpoint) {
				t.Fatalf("error %v does not wrap ErrCheckpoint", err)
			}
			return
		}
		if got := ms.Marshal(); !bytes.Equal(got, b) {
			t.Fatalf("accepted %q but encodes back to %q", b, got)
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	s, err := audit.NewSigner("log", "dc1", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	note, err := s.Sign(audit.Checkpoint{LogID: "log", Size: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(note)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := audit.OpenCheckpoint(b, s.Key())
		if err != nil {
			if !errors.Is(err, audit.ErrCheckpoint) {
				t.Fatalf("error %v does not wrap ErrCheckpoint", err)
			}
			if c, err := audit.PeekCheckpoint(b); err == nil {
				if again, err := audit.ParseCheckpoint(c.Text()); err != nil || again != c {
					t.Fatalf("accepted text %q reads as %v, %v", c.Text(), again, err)
				}
			}
			return
		}
		if got, err := s.Sign(c); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("accepted %q but encodes back to %q, %v", b, got, err)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	for _, n := range []int{0, 1, 7, 300} {
		b, err := newLog(f, n).tree.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := audit.ParseTree(b)
		if err != nil {
			if !errors.Is(err, audit.ErrTree) {
				t.Fatalf("error %v does not wrap ErrTree", err)
			}
			return
		}
		if got, err := tree.AppendBinary(nil); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("accepted %x but encodes back to %x, %v", b, got, err)
		}
		tree.Append(nil, audit.Hash{})
		tree.Root()
	})
}
