package delegation

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is what a token is.
type kind uint8

const (
	end    kind = iota
	plain       // a word without quotes
	quoted      // a word in quotes, which are not part of its text
	colon
	opening // {
	closing // }
	comma
)

// token is a piece of a map's text.
type token struct {
	text  string
	line  int // from 1
	col   int // from 0, in bytes
	kind  kind
	first bool // nothing but blanks is before it on its line
}

// word says whether the token can be a name.
func (t token) word() bool { return t.kind == plain || t.kind == quoted }

// null says whether the token is YAML's word for nothing.
func (t token) null() bool {
	return t.kind == plain && (t.text == "~" || t.text == "null" || t.text == "Null" || t.text == "NULL")
}

// shown is the token in a message.
func (t token) shown() string {
	if len(t.text) > 80 {
		return t.text[:80] + "…"
	}
	return t.text
}

// scanner cuts a text into tokens. It knows one of them ahead.
type scanner struct {
	text  string
	at    int
	line  int
	start int  // where the line starts
	fresh bool // nothing but blanks came on this line
	begun bool // "---" or a token came
	over  bool // "..." came
	flow  int  // open braces
	ahead token
	prior kind
}

// newScanner checks what can be checked of the text as a whole.
func newScanner(text string) (*scanner, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	s := &scanner{text: text, line: 1, fresh: true}
	for i, r := range text {
		if r == '\n' {
			s.line++
		}
		if r < 0x7f && r >= ' ' || r == '\n' || r == '\t' {
			continue
		}
		switch {
		case r == '\r' && strings.HasPrefix(text[i+1:], "\n"):
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			return nil, s.errorf("a byte that is not UTF-8")
		case r < 0x80 || !unicode.IsPrint(r) || r == '\u2028' || r == '\u2029':
			return nil, s.errorf("the character %U cannot stand in a map", r)
		}
	}
	s.line = 1
	return s, s.advance()
}

func (s *scanner) errorf(format string, args ...any) error {
	return lineErrorf(s.line, format, args...)
}

func lineErrorf(line int, format string, args ...any) error {
	return faultf("line %d: %s", line, fmt.Sprintf(format, args...))
}

// next gives the token ahead and moves on.
func (s *scanner) next() (token, error) {
	t := s.ahead
	return t, s.advance()
}

// advance finds the token after the one ahead.
func (s *scanner) advance() error {
	if err := s.skip(); err != nil {
		return err
	}
	t := token{line: s.line, col: s.at - s.start, first: s.fresh}
	if s.at == len(s.text) {
		s.ahead = t
		return nil
	}
	if s.over {
		return s.errorf("text after the end of the map, which is \"...\"")
	}
	s.fresh, s.begun = false, true
	from := s.at
	switch c := s.text[s.at]; {
	case c == '{':
		t.kind, s.flow = opening, s.flow+1
		s.at++
	case c == '}':
		t.kind, s.flow = closing, s.flow-1
		s.at++
	case c == ',' && s.flow > 0:
		t.kind = comma
		s.at++
	case c == ':':
		t.kind = colon
		s.at++
		if s.flow == 0 || s.prior != quoted {
			if s.at < len(s.text) && !strings.ContainsRune(" \n\r\t", rune(s.text[s.at])) {
				return s.errorf("a blank is missing after \":\"")
			}
		}
	case c == '\'' || c == '"':
		return s.quote(t, c)
	default:
		return s.bare(t)
	}
	t.text = s.text[from:s.at]
	s.ahead, s.prior = t, t.kind
	return nil
}

// quote reads a word in quotes.
func (s *scanner) quote(t token, mark byte) error {
	s.at++
	for i := s.at; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == mark && mark == '\'' && strings.HasPrefix(s.text[i+1:], "'"):
			return s.errorf("a name holds no quote")
		case c == mark:
			t.kind, t.text = quoted, s.text[s.at:i]
			s.at = i + 1
			s.ahead, s.prior = t, quoted
			return nil
		case c == '\\' && mark == '"':
			return s.errorf("a name holds no backslash; write it as it is")
		case c < ' ' || c > '~':
			return s.errorf("the quote is not closed on its line, or what it holds is no name")
		}
	}
	return s.errorf("the quote is not closed")
}

// bare reads a word without quotes.
func (s *scanner) bare(t token) error {
	from := s.at
	for s.at < len(s.text) && wordByte(s.text[s.at]) {
		s.at++
	}
	if s.at == from && s.text[s.at] == '~' {
		s.at++
	}
	t.kind, t.text = plain, s.text[from:s.at]
	rest := s.text[s.at:]
	switch c := s.text[from]; {
	case c == '-' && (t.text == "-"), c == '[', c == ']':
		return s.errorf("a map has no lists; write each machine as name: {}")
	case c == '&' || c == '*' || c == '!' || c == '<':
		return s.errorf("a map has no anchors, aliases, tags or merges; write each place in full")
	case t.text == "" || rest != "" && !strings.ContainsRune(" \n\r\t:,}", rune(rest[0])):
		r, _ := utf8.DecodeRuneInString(rest)
		return s.errorf("%q cannot stand here; a map is names, colons and {}", r)
	}
	s.ahead, s.prior = t, plain
	return nil
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
}

// skip passes blanks, comments, ends of lines and the marks of a document.
func (s *scanner) skip() error {
	for s.at < len(s.text) {
		if s.at == s.start && s.fresh {
			if err := s.mark(); err != nil {
				return err
			}
		}
		if s.at == len(s.text) {
			return nil
		}
		switch s.text[s.at] {
		case ' ':
			s.at++
		case '\t':
			return s.errorf("a tab; indent with blanks")
		case '\r': // and \n, which newScanner saw
			s.at++
		case '\n':
			s.at++
			s.line++
			s.start, s.fresh = s.at, true
		case '#':
			if s.at > s.start && s.text[s.at-1] != ' ' {
				return s.errorf("a blank is missing before \"#\"")
			}
			if n := strings.IndexByte(s.text[s.at:], '\n'); n >= 0 {
				s.at += n
			} else {
				s.at = len(s.text)
			}
		default:
			return nil
		}
	}
	return nil
}

// mark reads "---" or "..." at the start of a line.
func (s *scanner) mark() error {
	rest := s.text[s.at:]
	if len(rest) > 3 && !strings.ContainsRune(" \n\r\t", rune(rest[3])) {
		return nil
	}
	switch {
	case strings.HasPrefix(rest, "---"):
		if s.begun || s.over {
			return s.errorf("a second document; a map is one")
		}
		s.begun, s.fresh = true, false
	case strings.HasPrefix(rest, "..."):
		if s.flow > 0 {
			return s.errorf("the map ends within braces")
		}
		s.over, s.fresh = true, false
	default:
		return nil
	}
	s.at += 3
	return nil
}
