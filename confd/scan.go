package confd

import (
	"unicode"
	"unicode/utf8"
)

// maxDepth is how deep JSON may be nested anywhere. Ganeti has no such limit
// and nothing that comes near it.
const maxDepth = 100

// scanner reads JSON as Ganeti's daemon does, which differs from the standard
// in what it takes for white space and in "1.": a number may end in a dot.
// Its methods report false when the text is not what was asked for; the
// position is then of no use any more.
type scanner struct {
	b []byte
	i int
	// latin1: a byte is a character. That is how the original reads datagrams,
	// so that only escapes bring anything but ASCII through the signature.
	latin1 bool
	// key holds the name of the member that is being read.
	key []byte
}

// reset begins another text.
func (s *scanner) reset(b []byte, latin1 bool) {
	s.b, s.i, s.latin1 = b, 0, latin1
}

// space skips white space: what Haskell's isSpace says.
func (s *scanner) space() {
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == ' ' || c >= '\t' && c <= '\r':
			s.i++
		case c < utf8.RuneSelf:
			return
		case s.latin1:
			if c != 0xa0 {
				return
			}
			s.i++
		default:
			r, n := utf8.DecodeRune(s.b[s.i:])
			if !unicode.Is(unicode.Zs, r) {
				return
			}
			s.i += n
		}
	}
}

// next takes the byte c, after white space.
func (s *scanner) next(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// peek gives the next byte after white space; 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// end says whether nothing but white space is left.
func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// word takes the letters of a literal.
func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// str appends the next string, decoded to UTF-8. A surrogate that stands alone
// becomes the three bytes that UTF-8 would have for it, so that nothing is lost.
func (s *scanner) str(dst []byte) ([]byte, bool) {
	if !s.next('"') {
		return dst, false
	}
	for {
		from := s.i
		for s.i < len(s.b) && s.b[s.i] >= ' ' && s.b[s.i] != '"' && s.b[s.i] != '\\' && s.b[s.i] < utf8.RuneSelf {
			s.i++
		}
		dst = append(dst, s.b[from:s.i]...)
		if s.i == len(s.b) {
			return dst, false
		}
		c := s.b[s.i]
		s.i++
		switch {
		case c == '"':
			return dst, true
		case c == '\\':
			var ok bool
			if dst, ok = s.escape(dst); !ok {
				return dst, false
			}
		case c < ' ':
			return dst, false
		case s.latin1:
			dst = utf8.AppendRune(dst, rune(c))
		default:
			n, ok := wide(s.b[s.i-1:])
			if !ok {
				return dst, false
			}
			dst = append(dst, s.b[s.i-1:s.i-1+n]...)
			s.i += n - 1
		}
	}
}

// wide gives the length of the character at the start of b, which is not
// ASCII: UTF-8, or a lone surrogate as str writes it.
func wide(b []byte) (int, bool) {
	if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
		return n, true
	}
	_, ok := surrogate(b)
	return 3, ok
}

// surrogate reads a surrogate written as three bytes.
func surrogate(b []byte) (rune, bool) {
	if len(b) < 3 || b[0] != 0xed || b[1] < 0xa0 || b[1] > 0xbf || b[2] < 0x80 || b[2] > 0xbf {
		return 0, false
	}
	return 0xd000 | rune(b[1]&0x3f)<<6 | rune(b[2]&0x3f), true
}

// escape appends the character of an escape sequence, whose backslash is taken.
func (s *scanner) escape(dst []byte) ([]byte, bool) {
	if s.i == len(s.b) {
		return dst, false
	}
	c := s.b[s.i]
	s.i++
	switch c {
	case '"', '\\', '/':
		return append(dst, c), true
	case 'b':
		return append(dst, '\b'), true
	case 'f':
		return append(dst, '\f'), true
	case 'n':
		return append(dst, '\n'), true
	case 'r':
		return append(dst, '\r'), true
	case 't':
		return append(dst, '\t'), true
	case 'u':
		r, ok := s.hex4()
		if !ok {
			return dst, false
		}
		return s.unit(dst, r), true
	}
	return dst, false
}

// unit appends one unit of UTF-16, joined with the one before it where the two
// are a pair: that one is then the last three bytes of dst.
func (s *scanner) unit(dst []byte, r rune) []byte {
	switch {
	case r >= 0xdc00 && r <= 0xdfff && len(dst) >= 3:
		if high, ok := surrogate(dst[len(dst)-3:]); ok && high < 0xdc00 {
			return utf8.AppendRune(dst[:len(dst)-3], (high-0xd800)<<10+(r-0xdc00)+0x10000)
		}
		fallthrough
	case r >= 0xd800 && r <= 0xdfff:
		return append(dst, 0xed, 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
	}
	return utf8.AppendRune(dst, r)
}

func (s *scanner) hex4() (rune, bool) {
	if len(s.b)-s.i < 4 {
		return 0, false
	}
	var r rune
	for _, c := range s.b[s.i : s.i+4] {
		d := unhex(c)
		if d < 0 {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	s.i += 4
	return r, true
}

// unhex gives the value of a hexadecimal digit, or -1.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// text is str for what the original reads as a list of characters: an array
// of strings of one character each is a string, too.
func (s *scanner) text(dst []byte) ([]byte, bool) {
	if s.peek() != '[' {
		return s.str(dst)
	}
	s.i++
	if s.next(']') {
		return dst, true
	}
	for {
		from := len(dst)
		var ok bool
		if dst, ok = s.str(dst); !ok || !single(dst[from:]) {
			return dst, false
		}
		if s.next(']') {
			return dst, true
		}
		if !s.next(',') {
			return dst, false
		}
	}
}

// single says whether b is exactly one character.
func single(b []byte) bool {
	if len(b) == 0 || b[0] < utf8.RuneSelf {
		return len(b) == 1
	}
	n, ok := wide(b)
	return ok && n == len(b)
}

// number takes a number and gives its text, without the dot of "1.".
func (s *scanner) number() ([]byte, bool) {
	s.space()
	from := s.i
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
	}
	switch {
	case s.i == len(s.b):
		return nil, false
	case s.b[s.i] == '0':
		s.i++
	case s.digits() == 0:
		return nil, false
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if s.digits() == 0 {
			return s.b[from : s.i-1], true
		}
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if s.digits() == 0 {
			return nil, false
		}
	}
	return s.b[from:s.i], true
}

func (s *scanner) digits() int {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - from
}

// skip takes any value.
func (s *scanner) skip(depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch c := s.peek(); c {
	case '{':
		return s.members(func([]byte) bool { return s.skip(depth + 1) })
	case '[':
		return s.elements(func() bool { return s.skip(depth + 1) })
	case '"':
		_, ok := s.str(nil)
		return ok
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		_, ok := s.number()
		return ok
	}
}

// members takes an object, f each of its values. f must have done with the key
// when it reads on.
func (s *scanner) members(f func(key []byte) bool) bool {
	if !s.next('{') {
		return false
	}
	if s.next('}') {
		return true
	}
	for {
		var ok bool
		s.key, ok = s.str(s.key[:0])
		if !ok || !s.next(':') || !f(s.key) {
			return false
		}
		if s.next('}') {
			return true
		}
		if !s.next(',') {
			return false
		}
	}
}

// elements takes an array, f each of its values.
func (s *scanner) elements(f func() bool) bool {
	if !s.next('[') {
		return false
	}
	if s.next(']') {
		return true
	}
	for {
		if !f() {
			return false
		}
		if s.next(']') {
			return true
		}
		if !s.next(',') {
			return false
		}
	}
}
