package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"dominion/call"
)

// MaxNote is the length of the longest signed checkpoint in bytes.
const MaxNote = 2048

// ErrCheckpoint is wrapped by every error about a checkpoint that is malformed
// or not signed by the key it should be.
var ErrCheckpoint = errors.New("bad audit checkpoint")

// Checkpoint says what a log held at one moment.
type Checkpoint struct {
	LogID string
	Epoch uint64 // 0 until the first recovery from a back-up
	Size  int64  // leaves
	Root  Hash
}

// Text gives the bytes that are signed: four lines, see the package.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\nepoch %d\n", c.LogID, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), c.Epoch)
}

// String is for messages: "1042 records, epoch 0, root 5f3c2a19…".
func (c Checkpoint) String() string {
	return fmt.Sprintf("%d records, epoch %d, root %x…", c.Size, c.Epoch, c.Root[:4])
}

// ParseCheckpoint reads exactly what Text wrote; errors wrap ErrCheckpoint.
func ParseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(text, "\n")
	if len(text) > MaxNote || len(lines) != 5 {
		return c, fmt.Errorf("%w: it does not have four lines", ErrCheckpoint)
	}
	if err := CheckLogID(lines[0]); err != nil {
		return c, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return c, fmt.Errorf("%w: root %q", ErrCheckpoint, lines[2])
	}
	c.LogID, c.Root = lines[0], Hash(root)
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 || c.Size > maxSize {
		return c, fmt.Errorf("%w: size %q", ErrCheckpoint, lines[1])
	}
	epoch, ok := strings.CutPrefix(lines[3], "epoch ")
	if c.Epoch, err = strconv.ParseUint(epoch, 10, 64); err != nil || !ok {
		return c, fmt.Errorf("%w: epoch line %q", ErrCheckpoint, lines[3])
	}
	if c.Text() != text {
		return c, fmt.Errorf("%w: not in canonical form", ErrCheckpoint)
	}
	return c, nil
}

// CheckLogID refuses what cannot name a log: 1 to 64 lower-case letters,
// digits and hyphens. The error wraps ErrCheckpoint.
func CheckLogID(id string) error {
	for i := range len(id) {
		if c := id[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("%w: log id %q", ErrCheckpoint, id)
		}
	}
	if id == "" || len(id) > 64 {
		return fmt.Errorf("%w: log id of %d bytes", ErrCheckpoint, len(id))
	}
	return nil
}

// LogKey is a key that may sign checkpoints of one log.
type LogKey struct {
	LogID    string
	Overlord string // whose key it is
	Public   ed25519.PublicKey
}

func (k LogKey) verifier() (note.Verifier, error) {
	if err := CheckLogID(k.LogID); err != nil {
		return nil, err
	}
	if _, err := call.ParseName(k.Overlord); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if len(k.Public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: log key of %d bytes", ErrCheckpoint, len(k.Public))
	}
	text, err := note.NewEd25519VerifierKey(k.LogID+"/"+k.Overlord, k.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCheckpoint, err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCheckpoint, err)
	}
	return v, nil
}

// Signer signs the checkpoints of one log with an overlord's log key.
type Signer struct {
	key      LogKey
	verifier note.Verifier
	private  ed25519.PrivateKey
}

// NewSigner makes a signer; the overlord's name goes into the note.
func NewSigner(logID, overlord string, private ed25519.PrivateKey) (*Signer, error) {
	if len(private) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: log key of %d bytes", ErrCheckpoint, len(private))
	}
	s := &Signer{key: LogKey{LogID: logID, Overlord: overlord, Public: private.Public().(ed25519.PublicKey)}, private: private}
	v, err := s.key.verifier()
	if err != nil {
		return nil, fmt.Errorf("use log key of %q: %w", overlord, err)
	}
	s.verifier = v
	return s, nil
}

// Key is the public half.
func (s *Signer) Key() LogKey { return s.key }

// Sign gives the note of c, whose LogID must be the signer's.
func (s *Signer) Sign(c Checkpoint) ([]byte, error) {
	if c.LogID != s.key.LogID {
		return nil, fmt.Errorf("%w: log %q is signed with the key of %q", ErrCheckpoint, c.LogID, s.key.LogID)
	}
	text := c.Text()
	sig := binary.BigEndian.AppendUint32(nil, s.verifier.KeyHash())
	sig = append(sig, ed25519.Sign(s.private, []byte(text))...)
	return fmt.Appendf(nil, "%s\n— %s %s\n", text, s.verifier.Name(), base64.StdEncoding.EncodeToString(sig)), nil
}

// OpenCheckpoint reads a note that holds one signature, which is key's. It
// accepts exactly what Sign writes; errors wrap ErrCheckpoint.
func OpenCheckpoint(msg []byte, key LogKey) (Checkpoint, error) {
	c, sig, err := splitNote(msg)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.LogID != key.LogID {
		return Checkpoint{}, fmt.Errorf("%w: it is of log %q, not of %q", ErrCheckpoint, c.LogID, key.LogID)
	}
	v, err := key.verifier()
	if err != nil {
		return Checkpoint{}, err
	}
	if sig.Name != v.Name() || sig.Hash != v.KeyHash() {
		return Checkpoint{}, fmt.Errorf("%w: it is signed by another key, %s", ErrCheckpoint, sig.Name)
	}
	if _, err := note.Open(msg, note.VerifierList(v)); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %v", ErrCheckpoint, err)
	}
	return c, nil
}

// PeekCheckpoint reads a note without checking its signature; errors wrap
// ErrCheckpoint.
func PeekCheckpoint(msg []byte) (Checkpoint, error) {
	c, _, err := splitNote(msg)
	return c, err
}

func splitNote(msg []byte) (Checkpoint, note.Signature, error) {
	var none note.Signature
	if len(msg) > MaxNote {
		return Checkpoint{}, none, fmt.Errorf("%w: %d bytes are more than %d", ErrCheckpoint, len(msg), MaxNote)
	}
	_, err := note.Open(msg, nil)
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return Checkpoint{}, none, fmt.Errorf("%w: not a signed note", ErrCheckpoint)
	}
	n := unverified.Note
	if len(n.UnverifiedSigs) != 1 {
		return Checkpoint{}, none, fmt.Errorf("%w: %d signatures; want one", ErrCheckpoint, len(n.UnverifiedSigs))
	}
	sig := n.UnverifiedSigs[0]
	raw, err := base64.StdEncoding.Strict().DecodeString(sig.Base64)
	if err != nil || len(raw) != 4+ed25519.SignatureSize {
		return Checkpoint{}, none, fmt.Errorf("%w: signature of %d bytes", ErrCheckpoint, len(raw))
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, none, err
	}
	if again := fmt.Appendf(nil, "%s\n— %s %s\n", n.Text, sig.Name, sig.Base64); !bytes.Equal(again, msg) {
		return Checkpoint{}, none, fmt.Errorf("%w: not in canonical form", ErrCheckpoint)
	}
	return c, sig, nil
}
