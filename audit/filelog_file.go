package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
)

// A file of a FileLog is a header, then frames, each what one fsync wrote.
// Numbers are big-endian, CRCs are CRC-32C.
//
//	header: "DOMLOG1\n" | u32 length of body | u32 CRC of body | body: u8 length of log id, log id, tree before the first leaf (Tree.AppendBinary)
//	frame:  "\xd0LG\n"  | u32 length of payload | u64 index of first leaf | u32 CRC of length, index and payload | payload: (u32 length | leaf)…
const (
	fileMagic   = "DOMLOG1\n"
	frameMagic  = "\xd0LG\n"
	frameHeader = 20
	maxHeader   = 8 << 10
	maxPayload  = 1 << 20
)

// ErrFile is wrapped by errors about malformed headers and frames.
var ErrFile = errors.New("malformed audit log file")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func (b *batch) add(leaf []byte) {
	b.payload = binary.BigEndian.AppendUint32(b.payload, uint32(len(leaf)))
	b.payload = append(b.payload, leaf...)
	b.hashes = append(b.hashes, LeafHash(leaf))
}

func frameOf(first int64, payload []byte) []byte {
	b := append(make([]byte, 0, frameHeader+len(payload)), frameMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint64(b, uint64(first))
	b = binary.BigEndian.AppendUint32(b, frameCRC(b[4:16], payload))
	return append(b, payload...)
}

func frameCRC(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli()), castagnoli(), payload)
}

// parseFrame reads the frame that b begins with: its first leaf's index, its
// leaves, which alias b, and its length. Errors wrap ErrFile.
func parseFrame(b []byte) (first int64, leaves [][]byte, n int, err error) {
	if len(b) < frameHeader || string(b[:4]) != frameMagic {
		return 0, nil, 0, fmt.Errorf("%w: no frame", ErrFile)
	}
	size, index := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])
	if size == 0 || size > maxPayload+MaxMinionRecord || int(size) > len(b)-frameHeader || index > maxSize {
		return 0, nil, 0, fmt.Errorf("%w: frame of %d bytes", ErrFile, size)
	}
	n = frameHeader + int(size)
	payload := b[frameHeader:n]
	if binary.BigEndian.Uint32(b[16:]) != frameCRC(b[4:16], payload) {
		return 0, nil, 0, fmt.Errorf("%w: checksum of a frame", ErrFile)
	}
	for len(payload) > 0 {
		if len(payload) < 4 || int64(binary.BigEndian.Uint32(payload)) > int64(len(payload)-4) {
			return 0, nil, 0, fmt.Errorf("%w: leaf in a frame", ErrFile)
		}
		end := 4 + int(binary.BigEndian.Uint32(payload))
		leaves = append(leaves, payload[4:end])
		payload = payload[end:]
	}
	return int64(index), leaves, n, nil
}

func appendHeader(b []byte, id string, t *Tree) ([]byte, error) {
	body, err := t.AppendBinary(append([]byte{byte(len(id))}, id...))
	if err != nil {
		return nil, err
	}
	b = append(b, fileMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli()))
	return append(b, body...), nil
}

// parseHeader reads the header that b begins with. Errors wrap ErrFile.
func parseHeader(b []byte) (id string, t *Tree, n int, err error) {
	if len(b) < 16 || string(b[:8]) != fileMagic {
		return "", nil, 0, fmt.Errorf("%w: no header", ErrFile)
	}
	size := binary.BigEndian.Uint32(b[8:])
	if size > maxHeader || int(size) > len(b)-16 || size < 1 {
		return "", nil, 0, fmt.Errorf("%w: header of %d bytes", ErrFile, size)
	}
	body := b[16 : 16+size]
	if binary.BigEndian.Uint32(b[12:]) != crc32.Checksum(body, castagnoli()) || int(body[0]) > len(body)-1 {
		return "", nil, 0, fmt.Errorf("%w: checksum of the header", ErrFile)
	}
	id = string(body[1 : 1+body[0]])
	if err := CheckLogID(id); err != nil {
		return "", nil, 0, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if t, err = ParseTree(body[1+body[0]:]); err != nil {
		return "", nil, 0, fmt.Errorf("%w: %w", ErrFile, err)
	}
	return id, t, 16 + int(size), nil
}

// DamageError names what is wrong with a log that cannot be a crash's doing.
type DamageError struct {
	File   string // in the log's directory
	Offset int64  // in the file
	Index  int64  // of the first leaf that is lost or wrong
	What   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d, from record %d on: %s", e.File, e.Offset, e.Index, e.What)
}

// scanned is what a walk through one file found.
type scanned struct {
	id   string
	tree *Tree // after the last good frame
	end  int64 // offset after it
	bad  error // why the walk stopped before the end of the file; nil: it did not
}

// scan walks through a file of size bytes and visits the leaves of each good
// frame; first is the index of the first of them. visit may end it with an error.
func scan(f io.ReaderAt, size int64, visit func(t *Tree, leaves [][]byte) error) (scanned, error) {
	head := make([]byte, min(size, 16+maxHeader))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return scanned{}, err
	}
	id, tree, n, err := parseHeader(head)
	if err != nil {
		return scanned{bad: err}, nil
	}
	s := scanned{id: id, tree: tree, end: int64(n)}
	var buf []byte
	var done []Hash
	for s.end < size {
		if buf, err = readFrame(f, s.end, size, buf); err != nil {
			return scanned{}, err
		}
		first, leaves, n, err := parseFrame(buf)
		if err == nil && first != s.tree.Size() {
			err = fmt.Errorf("%w: frame of record %d where record %d belongs", ErrFile, first, s.tree.Size())
		}
		if err != nil {
			s.bad = err
			return s, nil
		}
		if visit != nil {
			if err := visit(s.tree, leaves); err != nil {
				return s, err
			}
		}
		for _, leaf := range leaves {
			done = s.tree.Append(done[:0], LeafHash(leaf))
		}
		s.end += int64(n)
	}
	return s, nil
}

// readFrame reads the bytes of the frame at offset, as far as its header tells.
func readFrame(f io.ReaderAt, offset, size int64, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], frameHeader)[:min(frameHeader, size-offset)]
	if _, err := f.ReadAt(buf, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(buf) < frameHeader {
		return buf, nil
	}
	n := int64(binary.BigEndian.Uint32(buf[4:]))
	if n > maxPayload+MaxMinionRecord || n > size-offset-frameHeader {
		return buf, nil
	}
	buf = slices.Grow(buf, int(n))[:frameHeader+n]
	if _, err := f.ReadAt(buf, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf, nil
}

// frameAfter finds the first good frame at or after offset whose leaf comes
// after index, to tell damage from what a crash left unfinished.
func frameAfter(f io.ReaderAt, offset, size, index int64) (at int64, found bool, err error) {
	rest := make([]byte, size-offset)
	if _, err := f.ReadAt(rest, offset); err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	for i := 0; i+frameHeader <= len(rest); i++ {
		if rest[i] != frameMagic[0] {
			continue
		}
		if first, _, _, err := parseFrame(rest[i:]); err == nil && first > index {
			return offset + int64(i), true, nil
		}
	}
	return 0, false, nil
}

func fileName(first int64) string { return fmt.Sprintf("%020d.log", first) }

// syncDir makes new names durable.
func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
