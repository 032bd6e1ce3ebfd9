package xmlrpc

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a document.
const (
	MaxDocument = 8 << 20  // bytes
	MaxValues   = 100_000  // in one document
	MaxDepth    = 64       // values within values
	MaxMethod   = 255      // bytes of a method's name
	maxMember   = 64 << 10 // bytes of the name of a member
	minInt      = -(1 << 31)
	maxInt      = 1<<31 - 1
)

var (
	// ErrMalformed is wrapped by every error about a document that cannot be read.
	ErrMalformed = errors.New("malformed XML-RPC")
	// ErrValue is wrapped by every error about a value that cannot be written.
	ErrValue = errors.New("value cannot be sent by XML-RPC")
	// ErrRange is wrapped, beside ErrValue, when an int has more than 32 bits.
	ErrRange = errors.New("int exceeds XML-RPC limits")
)

// Long is a whole number of 64 bits, <i8>.
type Long int64

// DateTime is a date and time without a zone, as it is written: 20261121T21:24:06,
// also with dashes, or with a zone at its end.
type DateTime string

// dateLayout is how Python and the specification write it.
const dateLayout = "20060102T15:04:05"

var dateShape = regexp.MustCompile(`^\d{4}-?\d{2}-?\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:?\d{2})?$`)

// Date gives t as XML-RPC writes it, in t's own zone, which is not written.
func Date(t time.Time) DateTime { return DateTime(t.Format(dateLayout)) }

// Time reads a DateTime without a zone as UTC. The error wraps ErrMalformed.
func (d DateTime) Time() (time.Time, error) {
	t, err := time.Parse(dateLayout, strings.ReplaceAll(string(d), "-", ""))
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return t, nil
}

// Text gives s, or its bytes when XML cannot carry it: control characters but
// for tab, line feed and carriage return, or bytes that are not UTF-8. The
// receiver gets such a text as <base64>.
func Text(s string) any {
	if carries(s) {
		return s
	}
	return []byte(s)
}

// carries says whether every character of s is one of XML 1.0, section 2.2.
func carries(s string) bool {
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		case r == '\t' || r == '\n' || r == '\r':
		case r < 0x20 || r == 0xfffe || r == 0xffff:
			return false
		}
	}
	return true
}

// Fault is an answer that is no value. It is an error, so that ParseAnswer can
// give it as one.
type Fault struct {
	Code int
	Text string
}

// Error implements error.
func (f *Fault) Error() string { return fmt.Sprintf("fault %d: %s", f.Code, f.Text) }

// Call is what a client asks for.
type Call struct {
	Method string // letters, digits and _.:/, 1 to MaxMethod bytes
	Params []any
}

// methodName says whether a method may have this name.
func methodName(s string) bool {
	if s == "" || len(s) > MaxMethod {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_.:/", c) >= 0:
		default:
			return false
		}
	}
	return true
}

var (
	wholeShape  = regexp.MustCompile(`^[+-]?[0-9]{1,20}$`)
	doubleShape = regexp.MustCompile(`^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|-?inf|nan)$`)
)

func parseWhole(s string, bits int) (int64, bool) {
	s = strings.TrimSpace(s)
	if !wholeShape.MatchString(s) {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, bits)
	return v, err == nil
}

// parseDouble takes a number beyond the range for infinite, as Python does.
func parseDouble(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if !doubleShape.MatchString(s) {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil || errors.Is(err, strconv.ErrRange)
}
