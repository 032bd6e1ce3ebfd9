package target

import (
	"iter"
	"math/bits"
	"strings"

	"dominion/call"
)

// tokenKind says what a token matches.
type tokenKind uint8

const (
	text  tokenKind = iota // itself
	any1                   // any one byte
	star                   // any bytes, none included
	class                  // one byte of a set
	count                  // a number of a set, in exactly its width
)

// token is one piece of a pattern.
type token struct {
	kind tokenKind
	text string // lower case
	set  *[2]uint64
	nums numbers
}

// pattern is one alternative: tokens that must match one after the other.
type pattern struct {
	tokens []token
	glob   bool   // holds "*", "?" or a class: names only what is known
	size   uint64 // names that it stands for when it is no glob, doubles included
	bytes  uint64 // and an upper bound of their bytes
}

// prefix is the text that every match begins with.
func (p *pattern) prefix() string {
	if len(p.tokens) > 0 && p.tokens[0].kind == text {
		return p.tokens[0].text
	}
	return ""
}

// literal says whether p is one name.
func (p *pattern) literal() bool { return len(p.tokens) == 1 && p.tokens[0].kind == text }

// places is a set of positions in a name, 0 to 255.
type places [4]uint64

func (s *places) add(i int)      { s[i>>6] |= 1 << (i & 63) }
func (s *places) has(i int) bool { return s[i>>6]>>(i&63)&1 != 0 }

// each gives the positions in rising order.
func (s *places) each(yield func(int) bool) {
	for w, word := range s {
		for ; word != 0; word &= word - 1 {
			if !yield(w<<6 + bits.TrailingZeros64(word)) {
				return
			}
		}
	}
}

// match says whether the whole of name, in lower case, matches. All positions
// that the tokens so far can end at are followed at once: the time is bounded
// by tokens times length, however many stars there are.
func (p *pattern) match(name string) bool {
	if len(name) > call.MaxName || !strings.HasPrefix(name, p.prefix()) {
		return false
	}
	if p.literal() {
		return len(name) == len(p.tokens[0].text)
	}
	if n := len(p.tokens); n > 0 && p.tokens[n-1].kind == text && !strings.HasSuffix(name, p.tokens[n-1].text) {
		return false
	}
	var at places
	at.add(0)
	for i := range p.tokens {
		var next places
		p.tokens[i].step(name, &at, &next)
		if next == (places{}) {
			return false
		}
		at = next
	}
	return at.has(len(name))
}

// step sets in next where the token can end when it begins at one of at.
func (t *token) step(name string, at, next *places) {
	for i := range at.each {
		switch t.kind {
		case text:
			if strings.HasPrefix(name[i:], t.text) {
				next.add(i + len(t.text))
			}
		case any1:
			if i < len(name) {
				next.add(i + 1)
			}
		case class:
			if i < len(name) && t.holds(name[i]) {
				next.add(i + 1)
			}
		case star:
			for ; i <= len(name); i++ {
				next.add(i)
			}
			return
		case count:
			var v uint64
			for w := 1; w <= maxDigits && i+w <= len(name) && isDigit(name[i+w-1]); w++ {
				v = v*10 + uint64(name[i+w-1]-'0')
				if t.nums.has(makeNumber(w, v)) {
					next.add(i + w)
				}
			}
		}
	}
}

func (t *token) holds(c byte) bool { return c < 128 && t.set[c>>6]>>(c&63)&1 != 0 }

// names gives each name that p stands for, with doubles when two brackets
// touch. p must not be a glob. The bytes are valid during one step.
func (p *pattern) names() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		p.spell(make([]byte, 0, call.MaxName), 0, yield)
	}
}

// spell appends the tokens from i on in all ways.
func (p *pattern) spell(b []byte, i int, yield func([]byte) bool) bool {
	if i == len(p.tokens) {
		return yield(b)
	}
	t := &p.tokens[i]
	if t.kind == text {
		return p.spell(append(b, t.text...), i+1, yield)
	}
	for _, s := range t.nums {
		for n := s.lo; n <= s.hi; n++ {
			if !p.spell(n.append(b), i+1, yield) {
				return false
			}
		}
	}
	return true
}

// Pattern is one or several alternatives that names are matched against. The
// zero Pattern matches nothing. It is safe for concurrent use.
type Pattern struct {
	text string
	alts []*pattern
}

// Glob reads alternatives separated by commas, each of text, "*", "?",
// classes and ranges as in Parse: "web*,db[01-20]". The text may also hold
// underscores, so that names of methods can be matched. At most 64 KiB and
// 1,024 alternatives; errors wrap ErrSyntax.
func Glob(s string) (Pattern, error) {
	if len(s) > maxText {
		return Pattern{}, tooLong("pattern", s, maxText)
	}
	p := Pattern{text: s}
	for part := range split(s, ",") {
		if len(p.alts) == maxGlobs {
			return Pattern{}, problemf(part.at, "there are more than %d alternatives; write wider patterns", maxGlobs).in("pattern", s)
		}
		if part.text == "" {
			return Pattern{}, problemf(part.at, "a pattern is missing; remove the comma, or write * to match everything").in("pattern", s)
		}
		alt, bad := parsePattern(part.text, '_')
		if bad != nil {
			return Pattern{}, bad.shift(part.at).in("pattern", s)
		}
		p.alts = append(p.alts, alt)
	}
	return p, nil
}

// Match says whether the whole of name matches an alternative, without regard
// to case. Names of more than call.MaxName bytes never match.
func (p Pattern) Match(name string) bool {
	if len(name) > call.MaxName {
		return false
	}
	name = strings.ToLower(name)
	for _, a := range p.alts {
		if a.match(name) {
			return true
		}
	}
	return false
}

// String gives the text that Glob read.
func (p Pattern) String() string { return p.text }
