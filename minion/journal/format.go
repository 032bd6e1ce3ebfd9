package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"dominion/api/fleetpb"
	"dominion/call"
)

const (
	fileMagic   = "DOMJRN1\n"
	headerSize  = 8 + 16 + 8 + 8 + 4
	frameMagic  = "\xd0JR\n"
	frameHeader = 12
	maxPayload  = 1 << 20 // of a frame; one record may exceed it
	maxOutput   = 1 << 20 // of a result; what methods give is no larger
	maxDetail   = 1<<16 - 1
	maxRecord   = 1 + 16 + 4 + 4 + 8 + 8 + 2 + maxDetail + maxOutput
	maxFrame    = frameHeader + maxPayload + 4 + maxRecord
)

// ErrFile is wrapped by every error about bytes that no journal wrote.
var ErrFile = errors.New("malformed journal")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// header is the beginning of a file.
type header struct {
	id           [16]byte
	birth, floor int64
}

func (h header) append(b []byte) []byte {
	from := len(b)
	b = append(b, fileMagic...)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.birth))
	b = binary.BigEndian.AppendUint64(b, uint64(h.floor))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli()))
}

// parseHeader reads what b begins with. Errors wrap ErrFile.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize || string(b[:8]) != fileMagic {
		return header{}, fmt.Errorf("%w: no header", ErrFile)
	}
	if binary.BigEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli()) {
		return header{}, fmt.Errorf("%w: checksum of the header", ErrFile)
	}
	h := header{
		id: [16]byte(b[8:]), birth: int64(binary.BigEndian.Uint64(b[24:])), floor: int64(binary.BigEndian.Uint64(b[32:])),
	}
	if h.birth < 0 || h.floor < 0 {
		return header{}, fmt.Errorf("%w: a time before 1970", ErrFile)
	}
	return h, nil
}

// beginFrame makes room for a frame's header.
func beginFrame(b []byte) []byte { return append(b[:0], make([]byte, frameHeader)...) }

// endFrame fills in the header of the frame that b is, for its place in the file.
func endFrame(b []byte, id [16]byte, offset int64) []byte {
	copy(b, frameMagic)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.BigEndian.PutUint32(b[8:], frameSum(id, offset, b[4:8], b[frameHeader:]))
	return b
}

func frameSum(id [16]byte, offset int64, length, payload []byte) uint32 {
	head := binary.BigEndian.AppendUint64(id[:], uint64(offset))
	sum := crc32.Checksum(append(head, length...), castagnoli())
	return crc32.Update(sum, castagnoli(), payload)
}

// parseFrame gives the payload of the frame that b begins with, which stands at
// offset in the file; it aliases b. Errors wrap ErrFile.
func parseFrame(b []byte, id [16]byte, offset int64) ([]byte, error) {
	if len(b) < frameHeader || string(b[:4]) != frameMagic {
		return nil, fmt.Errorf("%w: no frame", ErrFile)
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if n == 0 || n > maxFrame-frameHeader || n > int64(len(b)-frameHeader) {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrFile, n)
	}
	payload := b[frameHeader : frameHeader+n]
	if binary.BigEndian.Uint32(b[8:]) != frameSum(id, offset, b[4:8], payload) {
		return nil, fmt.Errorf("%w: checksum of a frame", ErrFile)
	}
	return payload, nil
}

// The kinds of records.
const (
	kindStarted  = 'S'
	kindFinished = 'F'
	kindReleased = 'R'
	kindDropped  = 'D'
	kindBirth    = 'B'
)

// record is one of any kind; only the fields of its kind are set.
type record struct {
	kind             byte
	job              call.JobID
	expiry           int64 // started; birth: the birth
	overlord, method string
	ended            int64 // finished, dropped
	result           *fleetpb.Result
}

// append adds the record with its length before it.
func (r record) append(b []byte) []byte {
	from := len(b)
	b = append(b, 0, 0, 0, 0, r.kind)
	if r.kind == kindBirth {
		b = binary.BigEndian.AppendUint64(b, uint64(r.expiry))
	} else {
		b = append(b, r.job[:]...)
	}
	switch r.kind {
	case kindStarted:
		b = binary.BigEndian.AppendUint64(b, uint64(r.expiry))
		b = append(b, byte(len(r.overlord)))
		b = append(b, r.overlord...)
		b = append(b, r.method...)
	case kindFinished:
		sum := len(b)
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, r.result.Code)
		b = binary.BigEndian.AppendUint64(b, r.result.TookUs)
		b = binary.BigEndian.AppendUint64(b, uint64(r.ended))
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.result.Detail)))
		b = append(b, r.result.Detail...)
		b = append(b, r.result.Output...)
		binary.BigEndian.PutUint32(b[sum:], crc32.Checksum(b[sum+4:], castagnoli()))
	case kindDropped:
		b = binary.BigEndian.AppendUint32(b, r.result.Code)
		b = binary.BigEndian.AppendUint64(b, uint64(r.ended))
	}
	binary.BigEndian.PutUint32(b[from:], uint32(len(b)-from-4))
	return b
}

// size is what append adds.
func (r record) size() int64 {
	switch r.kind {
	case kindStarted:
		return int64(4 + 17 + 8 + 1 + len(r.overlord) + len(r.method))
	case kindFinished:
		return int64(4 + 17 + 4 + 4 + 8 + 8 + 2 + len(r.result.Detail) + len(r.result.Output))
	case kindDropped:
		return 4 + 17 + 4 + 8
	case kindBirth:
		return 4 + 1 + 8
	}
	return 4 + 17
}

// parseRecord reads one record without its length; an output aliases b. Errors
// wrap ErrFile.
func parseRecord(b []byte) (record, error) {
	var r record
	if len(b) == 0 {
		return r, fmt.Errorf("%w: an empty record", ErrFile)
	}
	r.kind = b[0]
	if r.kind == kindBirth {
		if len(b) != 9 || int64(binary.BigEndian.Uint64(b[1:])) <= 0 {
			return r, fmt.Errorf("%w: birth", ErrFile)
		}
		r.expiry = int64(binary.BigEndian.Uint64(b[1:]))
		return r, nil
	}
	if len(b) < 17 {
		return r, fmt.Errorf("%w: record of %d bytes", ErrFile, len(b))
	}
	copy(r.job[:], b[1:])
	rest := b[17:]
	ok := false
	switch r.kind {
	case kindStarted:
		ok = r.parseStarted(rest)
	case kindFinished:
		ok = r.parseFinished(rest)
	case kindReleased:
		ok = len(rest) == 0
	case kindDropped:
		if ok = len(rest) == 12; ok {
			r.result = &fleetpb.Result{Code: binary.BigEndian.Uint32(rest)}
			r.ended = int64(binary.BigEndian.Uint64(rest[4:]))
		}
	}
	if !ok {
		return r, fmt.Errorf("%w: record of kind %q", ErrFile, r.kind)
	}
	return r, nil
}

func (r *record) parseStarted(b []byte) bool {
	if len(b) < 9 || len(b) < 9+int(b[8]) || len(b)-9-int(b[8]) > call.MaxMethod {
		return false
	}
	r.expiry = int64(binary.BigEndian.Uint64(b))
	r.overlord, r.method = string(b[9:9+b[8]]), string(b[9+int(b[8]):])
	return true
}

func (r *record) parseFinished(b []byte) bool {
	if len(b) < 26 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli()) {
		return false
	}
	n := int(binary.BigEndian.Uint16(b[24:]))
	if len(b) < 26+n || len(b)-26-n > maxOutput {
		return false
	}
	r.ended = int64(binary.BigEndian.Uint64(b[16:]))
	r.result = &fleetpb.Result{
		Code: binary.BigEndian.Uint32(b[4:]), TookUs: binary.BigEndian.Uint64(b[8:]), Detail: string(b[26 : 26+n]),
	}
	if len(b) > 26+n {
		r.result.Output = b[26+n:]
	}
	return true
}

// records gives each record of a payload with its place in it, length excluded.
func records(payload []byte, visit func(r record, at, size int64) error) error {
	for at := int64(0); at < int64(len(payload)); {
		rest := payload[at:]
		if len(rest) < 4 || int64(binary.BigEndian.Uint32(rest)) > int64(len(rest)-4) {
			return fmt.Errorf("%w: record in a frame", ErrFile)
		}
		n := int64(binary.BigEndian.Uint32(rest))
		r, err := parseRecord(rest[4 : 4+n])
		if err != nil {
			return err
		}
		if err := visit(r, at+4, n); err != nil {
			return err
		}
		at += 4 + n
	}
	return nil
}

// scan walks through the frames of a file of size bytes and visits each record
// with its place in the file. It gives the offset after the last good frame, and
// why it stopped before the end of the file in bad. Frames are whole or not
// there: of one whose records do not hold none is visited.
func scan(f io.ReaderAt, size int64, id [16]byte, visit func(r record, offset, size int64)) (end int64, bad, err error) {
	end = headerSize
	var buf []byte
	for end < size {
		n := min(size-end, frameHeader)
		if buf, err = readAt(f, buf, end, n); err != nil {
			return end, nil, err
		}
		if n == frameHeader {
			if n = frameHeader + int64(binary.BigEndian.Uint32(buf[4:])); n <= maxFrame && n <= size-end {
				if buf, err = readAt(f, buf, end, n); err != nil {
					return end, nil, err
				}
			}
		}
		payload, bad := parseFrame(buf, id, end)
		if bad == nil {
			bad = records(payload, func(record, int64, int64) error { return nil })
		}
		if bad != nil {
			return end, bad, nil
		}
		_ = records(payload, func(r record, at, n int64) error { // it held just now
			visit(r, end+frameHeader+at, n)
			return nil
		})
		end += frameHeader + int64(len(payload))
	}
	return end, nil, nil
}

// frameAfter says whether a good frame comes after offset, which holds none: then
// it was no crash that left the bytes there.
func frameAfter(f io.ReaderAt, offset, size int64, id [16]byte) (at int64, found bool, err error) {
	if size-offset > maxFrame { // more than one frame can be
		return offset + maxFrame, true, nil
	}
	rest, err := readAt(f, nil, offset, size-offset)
	if err != nil {
		return 0, false, err
	}
	for i := 1; i+frameHeader <= len(rest); i++ {
		if rest[i] != frameMagic[0] {
			continue
		}
		if _, err := parseFrame(rest[i:], id, offset+int64(i)); err == nil {
			return offset + int64(i), true, nil
		}
	}
	return 0, false, nil
}

func readAt(f io.ReaderAt, buf []byte, offset, n int64) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := f.ReadAt(buf, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf, nil
}
