package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ALPN is the protocol name offered in the TLS hello; it is the major version.
const ALPN = "fleet/1"

// Type is the kind of a frame.
type Type uint8

// The frame types. Types from FirstSkipped on are read and dropped, so that a
// later minor version may send them; every other unknown type is a protocol error.
const (
	TypeHello  Type = 1
	TypeCall   Type = 2
	TypeResult Type = 3
	TypeAck    Type = 4
	TypeOpen   Type = 5
	TypeData   Type = 6
	TypeCredit Type = 7
	TypeClose  Type = 8
	TypeCancel Type = 9
	TypePing   Type = 10
	TypePong   Type = 11
	TypeGoaway Type = 12

	FirstSkipped Type = 0x80
)

// Limits of the wire, in bytes unless said. Source: docs/protocol/session.md.
const (
	HeaderSize = 13        // u32 length, u8 type, u64 id
	MaxBody    = 1 << 20   // body of HELLO and CALL
	MaxResult  = 264 << 10 // body of RESULT: 256 KiB of output, 4 KiB of detail, the rest for fields
	MaxOutput  = 256 << 10 // output inside a RESULT; more comes as a stream before it
	MaxDetail  = 4 << 10   // detail of a RESULT
	MaxAck     = 64 << 10  // body of ACK
	MaxData    = 32 << 10  // body of DATA
	MaxSmall   = 1 << 10   // body of OPEN, CLOSE, CANCEL and GOAWAY
	MaxPing    = 64        // body of PING and PONG
	MaxCredit  = 16        // body of CREDIT
	MaxSkipped = 64 << 10  // body of a frame that is dropped
	MaxReason  = 512       // reason inside CLOSE, CANCEL and GOAWAY; a longer one is cut
	MaxName    = 64        // name of a stream
)

// ErrProtocol is wrapped by every error about bytes that break the protocol.
var ErrProtocol = errors.New("session protocol error")

var typeNames = [...]string{
	TypeHello: "HELLO", TypeCall: "CALL", TypeResult: "RESULT", TypeAck: "ACK", TypeOpen: "OPEN", TypeData: "DATA",
	TypeCredit: "CREDIT", TypeClose: "CLOSE", TypeCancel: "CANCEL", TypePing: "PING", TypePong: "PONG", TypeGoaway: "GOAWAY",
}

// String gives the name in the protocol document.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// limit gives the largest body of a type; false if the type is unknown.
func (t Type) limit() (int, bool) {
	switch t {
	case TypeHello, TypeCall:
		return MaxBody, true
	case TypeResult:
		return MaxResult, true
	case TypeAck:
		return MaxAck, true
	case TypeData:
		return MaxData, true
	case TypeOpen, TypeClose, TypeCancel, TypeGoaway:
		return MaxSmall, true
	case TypeCredit:
		return MaxCredit, true
	case TypePing, TypePong:
		return MaxPing, true
	}
	return MaxSkipped, t >= FirstSkipped
}

// idRule says whether id fits the type.
func (t Type) idRule(id uint64) bool {
	switch t {
	case TypeHello, TypeGoaway:
		return id == 0
	case TypeCall, TypeResult, TypeCancel, TypeOpen, TypeData, TypeCredit, TypeClose:
		return id != 0
	}
	return true
}

// Header is the fixed part of a frame.
type Header struct {
	Length int // of the body, in bytes
	Type   Type
	ID     uint64 // of a call or ping, or of a stream; zero where the type has none
}

// ParseHeader reads the first HeaderSize bytes of b. It refuses unknown types,
// bodies over the limit of their type and ids that do not fit; every error wraps
// ErrProtocol. What it accepts, Append writes back to the same bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: header of %d bytes", ErrProtocol, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	h := Header{Type: Type(b[4]), ID: binary.BigEndian.Uint64(b[5:])}
	limit, known := h.Type.limit()
	if !known {
		return Header{}, fmt.Errorf("%w: unknown frame type %d", ErrProtocol, b[4])
	}
	if n > uint32(limit) {
		return Header{}, fmt.Errorf("%w: %s of %d bytes, more than %d", ErrProtocol, h.Type, n, limit)
	}
	if !h.Type.idRule(h.ID) {
		return Header{}, fmt.Errorf("%w: %s with id %d", ErrProtocol, h.Type, h.ID)
	}
	h.Length = int(n)
	return h, nil
}

// Append writes the header to the end of b.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(h.Length))
	b = append(b, byte(h.Type))
	return binary.BigEndian.AppendUint64(b, h.ID)
}

// Frame buffers: one is taken after a header has come or when a frame is
// written, and given back at once, so an idle session holds none.
const bufSize = MaxData + HeaderSize

var bufPool = sync.Pool{New: func() any { return new([bufSize]byte) }}

// readBody reads n bytes. Up to bufSize they are in a pooled array, which the
// caller gives back with bufPool.Put. More is allocated as it arrives, so that a
// length alone costs nothing.
func readBody(r io.Reader, n int) (body []byte, pooled *[bufSize]byte, err error) {
	if n == 0 {
		return nil, nil, nil
	}
	if n <= bufSize {
		pooled = bufPool.Get().(*[bufSize]byte)
		body = pooled[:n]
		_, err = io.ReadFull(r, body)
		return body, pooled, err
	}
	for len(body) < n {
		old := len(body)
		body = append(body, make([]byte, min(n-old, max(2*bufSize, old)))...)
		if _, err = io.ReadFull(r, body[old:]); err != nil {
			return nil, nil, err
		}
	}
	return body, nil, nil
}
