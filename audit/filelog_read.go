package audit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"dominion/call"
)

// MinionHeadPrefix is signed before a minion's checkpoint text.
const MinionHeadPrefix = "dominion-minionlog-v1"

// MinionHead is the checkpoint of a minion's log with the signature of its key.
type MinionHead struct {
	Text      string // Checkpoint.Text, epoch 0
	Signature []byte // ECDSA P-256, ASN.1, over SHA-256(MinionHeadPrefix || Text)
}

// SignMinionHead signs a checkpoint with a minion's key.
func SignMinionHead(c Checkpoint, key crypto.Signer) (MinionHead, error) {
	h := MinionHead{Text: c.Text()}
	sum := h.sum()
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return MinionHead{}, fmt.Errorf("sign head of audit log: %w", err)
	}
	h.Signature = sig
	return h, nil
}

// Open checks the signature; errors wrap ErrCheckpoint.
func (h MinionHead) Open(pub *ecdsa.PublicKey) (Checkpoint, error) {
	if len(h.Text) > MaxNote {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes are more than %d", ErrCheckpoint, len(h.Text), MaxNote)
	}
	sum := h.sum()
	if !ecdsa.VerifyASN1(pub, sum[:], h.Signature) {
		return Checkpoint{}, fmt.Errorf("%w: the signature does not match", ErrCheckpoint)
	}
	return ParseCheckpoint(h.Text)
}

func (h MinionHead) sum() [sha256.Size]byte {
	return sha256.Sum256([]byte(MinionHeadPrefix + h.Text))
}

// Page is a part of a FileLog.
type Page struct {
	From   int64    // index of the first leaf
	Before []byte   // the tree of the leaves before it, Tree.AppendBinary
	Leaves [][]byte // encoded MinionRecords
}

// Check appends the page to the tree of the pages before it. An empty tree
// takes what the page says of the leaves before it: what is older may have
// been removed. Errors wrap ErrTree. After the last page, size and root must
// be the signed head's.
func (p Page) Check(t *Tree) error {
	before, err := ParseTree(p.Before)
	if err != nil {
		return err
	}
	if before.Size() != p.From || t.Size() > 0 && !t.Equal(before) {
		return fmt.Errorf("%w: the page from record %d on does not follow record %d", ErrTree, p.From, t.Size())
	}
	*t = *before
	var buf []Hash
	for _, leaf := range p.Leaves {
		buf = t.Append(buf[:0], LeafHash(leaf))
	}
	return nil
}

// errEnough ends a scan that has what it wanted.
var errEnough = errors.New("enough")

// Read gives up to n leaves (at least 1, at most 10,000 or 4 MiB) from index on. When
// index was removed already, the page begins at the oldest leaf kept; beyond
// the end it is empty.
func (l *FileLog) Read(index int64, n int) (Page, error) {
	l.mu.Lock()
	files, size := append([]segment(nil), l.files...), l.tree.Size()
	l.mu.Unlock()
	index = min(max(index, files[0].first), size)
	n = min(max(n, 1), 10_000)
	page := Page{From: index}
	bytesLeft := 4 << 20
	for i, s := range files {
		if i+1 < len(files) && files[i+1].first <= index {
			continue
		}
		err := l.visit(s, func(t *Tree, leaves [][]byte) error {
			t = t.Clone()
			for _, leaf := range leaves {
				switch {
				case t.Size() >= size, len(page.Leaves) == n, bytesLeft < len(leaf):
					return errEnough
				case t.Size() >= index:
					page.begin(t)
					page.Leaves = append(page.Leaves, bytes.Clone(leaf))
					bytesLeft -= len(leaf)
				}
				t.Append(nil, LeafHash(leaf))
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return Page{}, fmt.Errorf("read audit log: %w", err)
		}
	}
	if page.Before == nil {
		return l.emptyPage(index)
	}
	return page, nil
}

func (p *Page) begin(t *Tree) {
	if p.Before == nil {
		p.Before, _ = t.AppendBinary(nil) // has no error
	}
}

// emptyPage is the page after the newest leaf.
func (l *FileLog) emptyPage(index int64) (Page, error) {
	l.mu.Lock()
	t := l.tree.Clone()
	l.mu.Unlock()
	if t.Size() != index { // somebody appended
		return Page{}, call.Errorf(call.Busy, "the audit log grew while it was read; ask again")
	}
	p := Page{From: index}
	p.begin(t)
	return p, nil
}

// visit walks through one file as far as it is durable; damage is a *DamageError.
func (l *FileLog) visit(s segment, visit func(*Tree, [][]byte) error) error {
	f, err := l.dir.Open(fileName(s.first))
	if errors.Is(err, os.ErrNotExist) {
		return &DamageError{File: fileName(s.first), Index: s.first, What: "the file is missing"}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	got, err := scan(f, min(s.size, info.Size()), visit)
	switch {
	case err != nil:
		return err
	case got.tree == nil:
		return &DamageError{File: fileName(s.first), Index: s.first, What: got.bad.Error()}
	case got.bad != nil:
		return &DamageError{File: fileName(s.first), Offset: got.end, Index: got.tree.Size(), What: got.bad.Error()}
	case info.Size() < s.size:
		return &DamageError{File: fileName(s.first), Offset: info.Size(), Index: got.tree.Size(), What: "its end is missing"}
	}
	return nil
}

// Verify reads every file, recomputes the tree and compares it with the trees
// in the headers and with the one in memory. Damage is a *DamageError.
func (l *FileLog) Verify() error {
	l.mu.Lock()
	files, want := append([]segment(nil), l.files...), l.tree.Clone()
	l.mu.Unlock()
	var t *Tree
	for _, s := range files {
		name := fileName(s.first)
		var first *Tree
		err := l.visit(s, func(at *Tree, leaves [][]byte) error {
			if first == nil {
				first = at.Clone()
				if t != nil && !t.Equal(first) || first.Size() != s.first {
					return &DamageError{File: name, Index: s.first, What: "it does not continue the file before it"}
				}
			}
			t = at.Clone()
			for _, leaf := range leaves {
				if _, err := DecodeMinion(leaf); err != nil {
					return &DamageError{File: name, Index: t.Size(), What: err.Error()}
				}
				t.Append(nil, LeafHash(leaf))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("verify audit log: %w", err)
		}
	}
	if t != nil && !t.Equal(want) {
		return fmt.Errorf("verify audit log: %w", &DamageError{File: fileName(files[len(files)-1].first), Index: t.Size(), What: "it is not what this program wrote"})
	}
	return nil
}
