package confd

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // G505: the protocol's signature is HMAC-SHA1; nothing else is believed.
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"time"
)

// Numbers of the protocol.
const (
	// Magic stands in front of every datagram.
	Magic = "plj0"
	// ProtocolVersion is the only one there is.
	ProtocolVersion = 1
	// DefaultPort is ganeti-confd/udp where the services database has no other.
	DefaultPort = 1814
	// MaxRequest is the largest datagram that a client sends, in bytes.
	MaxRequest = 61440
	// MaxReply is the largest datagram that UDP over IPv4 carries, in bytes.
	MaxReply = 65507
	// MaxSkew is how far the clocks of client and server may be apart, the
	// edge included, counted in whole seconds.
	MaxSkew = 300 * time.Second
	// DefaultCoverage is how many peers a request goes to at most by default.
	DefaultCoverage = 6
	// ExpireTimeout is how long a client waits for replies.
	ExpireTimeout = 10 * time.Second
)

// ErrMalformed is wrapped by every error about bytes that are no message of
// this protocol, whatever is wrong with them, the signature included.
var ErrMalformed = errors.New("malformed confd message")

// The errors of messages. They are made once: a server meets them at the pace of
// whoever sends garbage.
var (
	errMagic     = fmt.Errorf("%w: it does not begin with %s and an object", ErrMalformed, Magic)
	errEnvelope  = fmt.Errorf("%w: the outer object is not msg, salt and hmac", ErrMalformed)
	errSignature = fmt.Errorf("%w: the signature is wrong", ErrMalformed)
	errRequest   = fmt.Errorf("%w: the inner object is not protocol, type, query and rsalt", ErrMalformed)
	errReply     = fmt.Errorf("%w: the inner object is not protocol, status, answer and serial", ErrMalformed)
	errSalt      = fmt.Errorf("%w: the salt is no time", ErrMalformed)
	errSkew      = fmt.Errorf("%w: the salt is more than %s off", ErrMalformed, MaxSkew)
)

// The members of the inner messages.
var (
	requestMembers = []string{"protocol", "type", "query", "rsalt"}
	replyMembers   = []string{"protocol", "status", "answer", "serial"}
)

// Status says what a reply's answer is.
type Status int

// The statuses.
const (
	StatusOK             Status = 0
	StatusError          Status = 1
	StatusNotImplemented Status = 2 // never sent
)

// Numbers that stand for errors, as the answer of a reply with StatusError.
const (
	ErrorUnknownEntry = 0
	ErrorInternal     = 1 // never sent
	ErrorArgument     = 2
)

// Reply is what a server says to a request.
type Reply struct {
	// Protocol is ProtocolVersion; receivers do not check it.
	Protocol int
	Status   Status
	// Answer is JSON. With StatusError it is a number or a text.
	Answer []byte
	// Serial numbers the version of the data that answered; 0 for a ping and for errors.
	Serial int64
}

// signer signs with one key. It belongs to one goroutine.
type signer struct {
	mac   hash.Hash
	sum   [sha1.Size]byte
	buf   []byte
	outer scanner
	inner scanner
}

func newSigner(key []byte) *signer { return &signer{mac: hmac.New(sha1.New, key)} }

// sign gives the signature of a salt and a message, good until the next call.
func (s *signer) sign(salt, msg []byte) *[sha1.Size]byte {
	s.mac.Reset()
	s.mac.Write(salt)
	s.mac.Write(msg)
	s.mac.Sum(s.sum[:0])
	return &s.sum
}

// verify compares a signature of 40 hexadecimal digits in constant time.
func (s *signer) verify(sent, salt, msg []byte) bool {
	var want [sha1.Size]byte
	if len(sent) != 2*sha1.Size {
		return false
	}
	if _, err := hex.Decode(want[:], sent); err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(s.sign(salt, msg)[:], want[:]) == 1
}

// envelope is the outer message. Its parts share one buffer.
type envelope struct{ msg, salt, mac []byte }

// open reads the outer message of a datagram and checks its signature. The
// parts are good until the next call.
func (s *signer) open(datagram []byte) (envelope, error) {
	var e envelope
	if len(datagram) <= len(Magic) || string(datagram[:len(Magic)]) != Magic || datagram[len(Magic)] != '{' {
		return e, errMagic
	}
	sc := &s.outer
	sc.reset(datagram[len(Magic):], true)
	buf := s.buf[:0]
	var at [3][2]int
	var seen [3]bool
	ok := sc.members(func(key []byte) bool {
		i := -1
		switch string(key) {
		case "msg":
			i = 0
		case "salt":
			i = 1
		case "hmac":
			i = 2
		}
		switch {
		case i < 0:
			return false
		case seen[i]:
			return sc.skip(0)
		}
		seen[i] = true
		from := len(buf)
		var ok bool
		buf, ok = sc.text(buf)
		at[i] = [2]int{from, len(buf)}
		return ok
	})
	s.buf = buf
	if !ok || !sc.end() || seen != [3]bool{true, true, true} {
		return e, errEnvelope
	}
	part := func(i int) []byte { return buf[at[i][0]:at[i][1]:at[i][1]] }
	e = envelope{part(0), part(1), part(2)}
	if !s.verify(e.mac, e.salt, e.msg) {
		return e, errSignature
	}
	return e, nil
}

// seal appends a signed message as the daemon writes it: hmac, msg, salt, no
// blanks. escaped is msg as the inside of a JSON string.
func (s *signer) seal(dst, msg, escaped, salt []byte) []byte {
	dst = append(dst, Magic+`{"hmac":"`...)
	dst = hex.AppendEncode(dst, s.sign(salt, msg)[:])
	dst = append(dst, `","msg":"`...)
	dst = append(dst, escaped...)
	dst = append(dst, `","salt":"`...)
	dst = appendInner(dst, salt)
	return append(dst, `"}`...)
}

// sealRequest appends a signed request as the Python client writes it.
func (s *signer) sealRequest(dst, msg []byte, now time.Time) []byte {
	salt := strconv.AppendInt(nil, now.Unix(), 10)
	dst = append(dst, Magic+`{"msg": `...)
	dst = appendText(dst, msg)
	dst = append(dst, `, "salt": `...)
	dst = appendText(dst, salt)
	dst = append(dst, `, "hmac": "`...)
	dst = hex.AppendEncode(dst, s.sign(salt, msg)[:])
	return append(dst, "\"}\n"...)
}

// members reads those of an inner message: each is handed to f once, the
// first of its name. Further ones count for nothing.
func (s *signer) members(msg []byte, names []string, f func(sc *scanner, i int) bool) (seen uint, ok bool) {
	if len(msg) == 0 || msg[0] != '{' {
		return 0, false
	}
	sc := &s.inner
	sc.reset(msg, false)
	ok = sc.members(func(key []byte) bool {
		for i, n := range names {
			if string(key) != n {
				continue
			}
			if seen&(1<<i) != 0 {
				return sc.skip(0)
			}
			seen |= 1 << i
			return f(sc, i)
		}
		return false
	})
	return seen, ok && sc.end()
}

// ParseReply reads and verifies a reply and gives its salt: the Rsalt of the
// request it is for. All errors wrap ErrMalformed. Member order, white space
// and the protocol's number are not looked at.
func ParseReply(datagram, key []byte) (Reply, string, error) {
	return parseReply(newSigner(key), datagram)
}

func parseReply(s *signer, datagram []byte) (Reply, string, error) {
	var r Reply
	e, err := s.open(datagram)
	if err != nil {
		return r, "", err
	}
	seen, ok := s.members(e.msg, replyMembers, func(sc *scanner, i int) bool {
		if i == 2 {
			sc.space()
			from := sc.i
			ok := sc.skip(0)
			r.Answer = bytes.Clone(sc.b[from:sc.i])
			return ok
		}
		n, ok := sc.number()
		if !ok || !integral(string(n)) {
			return false
		}
		v, err := strconv.ParseInt(string(n), 10, 64)
		switch i {
		case 0:
			r.Protocol = int(v)
		case 1:
			r.Status = Status(v)
		case 3:
			r.Serial = v
		}
		return err == nil
	})
	if !ok || seen != 0b1111 {
		return Reply{}, "", errReply
	}
	return r, string(e.salt), nil
}

// Append appends the reply, signed, to dst: the datagram that answers the
// request with this rsalt.
func (r *Reply) Append(dst []byte, rsalt string, key []byte) []byte {
	msg := r.message(nil)
	return newSigner(key).seal(dst, msg, appendInner(nil, msg), []byte(rsalt))
}

func (r *Reply) message(dst []byte) []byte {
	dst = append(dst, `{"protocol":`...)
	dst = strconv.AppendInt(dst, int64(r.Protocol), 10)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, `,"answer":`...)
	dst = append(dst, r.Answer...)
	dst = append(dst, `,"serial":`...)
	dst = strconv.AppendInt(dst, r.Serial, 10)
	return append(dst, '}')
}
