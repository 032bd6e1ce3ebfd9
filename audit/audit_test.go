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
	"dominion/audit"
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

func (b brokenLog) ClosedJob(context.Context, string) (audit.ClosedJob, error) {
	return audit.ClosedJob{}, b.err
}

func TestVerifyCannotRead(t *testing.T) {
	cause := errors.New("disk gone")
	if _, err := audit.Verify(t.Context(), brokenLog{cause}, brokenLog{cause}, audit.VerifyOptions{}); !errors.Is(err, cause) {
		t.Errorf("Verify = %v; want %v", err, cause)
	}
}
