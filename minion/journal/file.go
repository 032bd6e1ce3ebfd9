package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// The file is a header and frames, each what one fsync wrote. Numbers are
// big-endian, times Unix milliseconds, CRCs CRC-32C.
//
//	header: "DOMJRN1\n" | id, 16 bytes | u32 CRC of both
//	frame:  "\xd0JN\n" | u32 length of payload | u32 CRC of length and payload | payload: (u32 length | record)…
//	record: u8 kind, and then
//	  birth, floor  i64 time
//	  started       job, 16 bytes | i64 expiry | u8 length of overlord, overlord
//	  finished      job | i64 expiry | i64 kept until | u8 length of overlord, overlord | fleetpb.Result
//	  acknowledged  job
//
// A group of records is one frame, because a crash may leave any part of it: a
// good frame after a bad one is damage and not a crash's doing.
const (
	fileMagic   = "DOMJRN1\n"
	headerSize  = len(fileMagic) + idSize + 4
	idSize      = 16
	frameMagic  = "\xd0JN\n"
	frameHeader = 12
	maxRecord   = 2 << 20 // an output of 1 MiB, its detail and names fit
	maxPayload  = 2 * maxRecord
)

// ErrFile is wrapped by errors about what is not a journal's file.
var ErrFile = errors.New("malformed journal")

type kind uint8

const (
	birth        kind = 1
	started      kind = 2
	finished     kind = 3
	acknowledged kind = 4
	floor        kind = 5
)

// record is one frame's payload.
type record struct {
	kind     kind
	at       time.Time // of birth and floor
	job      call.JobID
	expiry   time.Time // of started and finished
	until    time.Time // of finished
	overlord string    // of started and finished
	result   []byte    // of finished: an encoded fleetpb.Result
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func appendHeader(b []byte, id [idSize]byte) []byte {
	at := len(b)
	b = append(b, fileMagic...)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli()))
}

func parseHeader(b []byte) (id [idSize]byte, err error) {
	if len(b) < headerSize || string(b[:len(fileMagic)]) != fileMagic {
		return id, fmt.Errorf("%w: no header", ErrFile)
	}
	sum := binary.BigEndian.Uint32(b[headerSize-4:])
	if sum != crc32.Checksum(b[:headerSize-4], castagnoli()) {
		return id, fmt.Errorf("%w: checksum of the header", ErrFile)
	}
	copy(id[:], b[len(fileMagic):])
	return id, nil
}

// appendRecord appends r, its length before it.
func appendRecord(b []byte, r *record) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, byte(r.kind))
	switch r.kind {
	case birth, floor:
		b = appendTime(b, r.at)
	case started:
		b = appendTime(append(b, r.job[:]...), r.expiry)
		b = appendName(b, r.overlord)
	case finished:
		b = appendTime(append(b, r.job[:]...), r.expiry)
		b = appendName(appendTime(b, r.until), r.overlord)
		b = append(b, r.result...)
	case acknowledged:
		b = append(b, r.job[:]...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// beginFrame leaves room for a frame's header, which endFrame fills in.
func beginFrame(b []byte) []byte { return append(append(b, frameMagic...), make([]byte, 8)...) }

func endFrame(frame []byte) {
	binary.BigEndian.PutUint32(frame[4:], uint32(len(frame)-frameHeader))
	binary.BigEndian.PutUint32(frame[8:], frameCRC(frame))
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// frameCRC is that of the length and the payload of a frame.
func frameCRC(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[4:8], castagnoli()), castagnoli(), frame[frameHeader:])
}

// parseFrame reads the frame that b begins with and gives its length and its
// records with the offset of each. What it gives aliases b. Errors wrap ErrFile.
func parseFrame(b []byte) (records []placed, n int, err error) {
	if len(b) < frameHeader || string(b[:4]) != frameMagic {
		return nil, 0, fmt.Errorf("%w: no frame", ErrFile)
	}
	size := binary.BigEndian.Uint32(b[4:])
	if size == 0 || size > maxPayload || int(size) > len(b)-frameHeader {
		return nil, 0, fmt.Errorf("%w: frame of %d bytes", ErrFile, size)
	}
	n = frameHeader + int(size)
	if binary.BigEndian.Uint32(b[8:]) != frameCRC(b[:n]) {
		return nil, 0, fmt.Errorf("%w: checksum of a frame", ErrFile)
	}
	for at := frameHeader; at < n; {
		if n-at < 5 {
			return nil, 0, fmt.Errorf("%w: a frame ends within a record", ErrFile)
		}
		size := binary.BigEndian.Uint32(b[at:])
		if size == 0 || int64(size) > int64(n-at-4) {
			return nil, 0, fmt.Errorf("%w: record of %d bytes", ErrFile, size)
		}
		end := at + 4 + int(size)
		r, err := parseRecord(b[at+4 : end])
		if err != nil {
			return nil, 0, err
		}
		records = append(records, placed{r, at, end - at})
		at = end
	}
	return records, n, nil
}

// placed is a record with its place in its frame, in bytes.
type placed struct {
	record
	at, size int
}

func parseRecord(b []byte) (record, error) {
	p := parser{rest: b[1:]}
	r := record{kind: kind(b[0])}
	switch r.kind {
	case birth, floor:
		r.at = p.time()
	case started:
		r.job, r.expiry, r.overlord = p.job(), p.time(), p.name()
	case finished:
		r.job, r.expiry, r.until, r.overlord = p.job(), p.time(), p.time(), p.name()
		r.result, p.rest = p.rest, nil
	case acknowledged:
		r.job = p.job()
	default:
		return r, fmt.Errorf("%w: record of kind %d", ErrFile, r.kind)
	}
	if p.short || len(p.rest) > 0 {
		return r, fmt.Errorf("%w: length of a record of kind %d", ErrFile, r.kind)
	}
	return r, nil
}

// parser takes fields from the front of a payload.
type parser struct {
	rest  []byte
	short bool
}

func (p *parser) take(n int) []byte {
	if len(p.rest) < n {
		p.short, p.rest = true, nil
		return make([]byte, n)
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(p.take(8))))
}

func (p *parser) job() call.JobID { return call.JobID(p.take(len(call.JobID{}))) }

func (p *parser) name() string { return string(p.take(int(p.take(1)[0]))) }

// parseResult reads the result of a finished record.
func parseResult(b []byte) (*fleetpb.Result, error) {
	r := new(fleetpb.Result)
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: result: %v", ErrFile, err)
	}
	return r, nil
}

// scan visits the records of a file of that size and gives the offset after
// the last good one. bad says why it ended before the end of the file; nil: it
// did not. What visit is given is valid until it returns.
func scan(f io.ReaderAt, size int64, visit func(frame int64, r *placed)) (end int64, bad, err error) {
	var buf []byte
	for end = int64(headerSize); end < size; {
		if buf, err = readFrame(f, end, size, buf); err != nil {
			return end, nil, err
		}
		records, n, bad := parseFrame(buf)
		if bad != nil {
			return end, bad, nil
		}
		for i := range records {
			visit(end, &records[i])
		}
		end += int64(n)
	}
	return end, nil, nil
}

// readFrame reads the bytes of the frame at an offset, as far as its header tells.
func readFrame(f io.ReaderAt, at, size int64, buf []byte) ([]byte, error) {
	read := func(n int64) ([]byte, error) {
		if int64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		_, err := f.ReadAt(buf, at)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return buf, err
	}
	b, err := read(min(frameHeader, size-at))
	if err != nil || len(b) < frameHeader {
		return b, err
	}
	n := frameHeader + int64(binary.BigEndian.Uint32(b[4:]))
	if n > frameHeader+maxPayload || n > size-at {
		return b, nil
	}
	return read(n)
}

// frameAfter says whether a good frame follows, to tell damage from what a
// crash left unfinished. What a crash can leave is one group of frames.
func frameAfter(f io.ReaderAt, at, size int64) (int64, bool, error) {
	const window = 1 << 20
	buf := make([]byte, window+frameHeader)
	var frame []byte
	for ; at < size; at += window {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		for i := 0; i < min(n, window); i++ {
			if buf[i] != frameMagic[0] {
				continue
			}
			if frame, err = readFrame(f, at+int64(i), size, frame); err != nil {
				return 0, false, err
			}
			if _, _, err := parseFrame(frame); err == nil {
				return at + int64(i), true, nil
			}
		}
	}
	return 0, false, nil
}
