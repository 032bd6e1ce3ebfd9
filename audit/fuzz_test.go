package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"dominion/audit"
)

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

func FuzzCheckConsistency(f *testing.F) {
	l := newLog(f, 300)
	p, err := audit.ProveConsistency(130, 300, l.hashes())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Join(p, nil), int64(130), int64(300))
	f.Fuzz(func(t *testing.T, b []byte, old, size int64) {
		var proof [][]byte
		for ; len(b) >= 32; b = b[32:] {
			proof = append(proof, b[:32])
		}
		if err := audit.CheckConsistency(proof, old, audit.Hash{1}, size, audit.Hash{2}); !errors.Is(err, audit.ErrTree) {
			t.Fatalf("a proof of two roots that nobody made: %v; want ErrTree", err)
		}
	})
}
