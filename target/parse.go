package target

import (
	"iter"
	"math/bits"
	"strings"
	"unicode/utf8"

	"dominion/call"
)

// Limits; see the package documentation.
const (
	maxText   = 64 << 10  // bytes of an expression or pattern
	maxFolded = 16 << 20  // bytes of a folded list
	maxGlobs  = 1024      // globs, groups and intersections of an expression
	maxBytes  = 128 << 20 // bytes of the names that a text stands for
	maxGroup  = 64        // bytes of a group's name
)

// part is a piece of a text between separators, without blanks around it.
type part struct {
	op   byte // the separator before it, 0 for the first
	text string
	at   int // its offset
}

const blanks = " \t\r\n"

// split cuts s at separators that are not inside brackets. There is always at
// least one part.
func split(s, separators string) iter.Seq[part] {
	return func(yield func(part) bool) {
		var op byte
		from, inside := 0, false
		for i := 0; i <= len(s); i++ {
			if i < len(s) {
				switch c := s[i]; {
				case c == '[':
					inside = true
					continue
				case c == ']':
					inside = false
					continue
				case inside || strings.IndexByte(separators, c) < 0:
					continue
				}
			}
			piece := strings.TrimLeft(s[from:i], blanks)
			at := i - len(piece)
			if !yield(part{op: op, text: strings.TrimRight(piece, blanks), at: at}) || i == len(s) {
				return
			}
			op, from = s[i], i+1
		}
	}
}

// parsePattern reads one pattern. also is a byte that may stand in its text
// besides those of a name; 0: none.
func parsePattern(s string, also byte) (*pattern, *problem) {
	p := &pattern{}
	return p, p.parse(s, also, isRange)
}

// parse is parsePattern with the rule that tells ranges from classes.
func (p *pattern) parse(s string, also byte, isRange func(inner string) bool) *problem {
	if !strings.ContainsAny(s, "*?[]") { // the common case, without copying
		if bad := checkText(s, also); bad != nil {
			return bad
		}
		p.tokens = []token{{kind: text, text: strings.ToLower(s)}}
		p.measure()
		return nil
	}
	for i := 0; i < len(s); {
		switch s[i] {
		case '*':
			if n := len(p.tokens); n == 0 || p.tokens[n-1].kind != star {
				p.tokens = append(p.tokens, token{kind: star})
			}
			p.glob = true
			i++
		case '?':
			p.tokens = append(p.tokens, token{kind: any1})
			p.glob = true
			i++
		case '[':
			n, bad := p.bracket(s[i:], isRange)
			if bad != nil {
				return bad.shift(i)
			}
			i += n
		case ']':
			return problemf(i, `a bracket is closed that was not opened; remove "]" or write "[" before it`)
		default:
			n := strings.IndexAny(s[i:], "*?[]")
			if n < 0 {
				n = len(s) - i
			}
			if bad := checkText(s[i:i+n], also); bad != nil {
				return bad.shift(i)
			}
			p.tokens = append(p.tokens, token{kind: text, text: strings.ToLower(s[i : i+n])})
			i += n
		}
		if len(p.tokens) > 2*call.MaxName {
			return problemf(i-1, "the pattern is longer than any name, %d bytes; make it shorter", call.MaxName)
		}
	}
	p.measure()
	return nil
}

// checkText refuses bytes that no name holds.
func checkText(s string, also byte) *problem {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || c == '-' || c == '.' || c == also && c != 0 {
			continue
		}
		if strings.IndexByte(blanks, c) >= 0 {
			return problemf(i, "there is a blank inside a name; separate names by commas")
		}
		r, _ := utf8.DecodeRuneInString(s[i:])
		return problemf(i, "%q cannot stand in a name; names hold letters, digits, hyphens and dots", string(r))
	}
	return nil
}

// bracket reads the bracket that s begins with and gives its length.
func (p *pattern) bracket(s string, isRange func(inner string) bool) (int, *problem) {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return 0, problemf(0, `the bracket is not closed; write "]" after it`)
	}
	inner := s[1:end]
	if nested := strings.IndexByte(inner, '['); nested >= 0 {
		return 0, problemf(nested+1, `a bracket opens inside a bracket; close the first with "]"`)
	}
	var bad *problem
	t := token{kind: count}
	if isRange(inner) {
		t.nums, bad = parseNumbers(inner)
	} else {
		t.kind, p.glob = class, true
		t.set, bad = parseClass(inner)
	}
	if bad != nil {
		return 0, bad.shift(1)
	}
	p.tokens = append(p.tokens, t)
	return end + 1, nil
}

// isRange tells a range of numbers from a class of characters: it holds a
// comma, or a dash and a number of two or more digits.
func isRange(inner string) bool {
	if strings.Contains(inner, ",") {
		return true
	}
	if !strings.Contains(inner, "-") {
		return false
	}
	for i := 1; i < len(inner); i++ {
		if isDigit(inner[i-1]) && isDigit(inner[i]) {
			return true
		}
	}
	return false
}

// parseClass reads the inside of a bracket that is a class: characters and
// spans of them, after "!" all others. A dash at either end is itself.
func parseClass(s string) (*[2]uint64, *problem) {
	set := new([2]uint64)
	rest, not := strings.CutPrefix(s, "!")
	at := len(s) - len(rest)
	if rest == "" {
		return nil, problemf(at, "the bracket is empty; write characters as in [abc] or numbers as in [1,2]")
	}
	if bad := checkText(rest, '_'); bad != nil {
		return nil, bad.shift(at)
	}
	rest = strings.ToLower(rest)
	for i := 0; i < len(rest); i++ {
		lo, hi := rest[i], rest[i]
		if i+2 < len(rest) && rest[i+1] == '-' {
			hi = rest[i+2]
			if hi < lo {
				return nil, problemf(at+i, "class %q ends before it begins; write the smaller character first", rest[i:i+3])
			}
			i += 2
		}
		for c := lo; c <= hi; c++ {
			set[c>>6] |= 1 << (c & 63)
		}
	}
	if not {
		set[0], set[1] = ^set[0], ^set[1]
	}
	return set, nil
}

// measure counts the names that p stands for, in numbers that stop growing
// instead of overflowing.
func (p *pattern) measure() {
	p.size = 1
	var longest uint64
	for i := range p.tokens {
		t := &p.tokens[i]
		longest += uint64(len(t.text))
		if t.kind == count {
			hi, lo := bits.Mul64(p.size, t.nums.count())
			if hi != 0 {
				lo = ^uint64(0)
			}
			p.size = lo
			longest += uint64(t.nums[len(t.nums)-1].hi.width())
		}
	}
	hi, lo := bits.Mul64(p.size, longest)
	if hi != 0 {
		lo = ^uint64(0)
	}
	p.bytes = lo
}

// checkNames refuses a pattern, read at from s, that stands for something
// that is no name. All its names are valid when the longest one is: digits
// may stand anywhere in a name.
func (p *pattern) checkNames() *problem {
	if p.glob {
		return nil
	}
	var b []byte
	for i := range p.tokens {
		t := &p.tokens[i]
		b = append(b, t.text...)
		if t.kind == count {
			b = t.nums[len(t.nums)-1].hi.append(b)
		}
		if len(b) > call.MaxName {
			return problemf(0, "the name is longer than %d bytes; make it shorter", call.MaxName)
		}
	}
	if _, err := call.ParseName(string(b)); err != nil {
		return problemf(0, "%v; write names as in web1.example.org", err)
	}
	return nil
}

// sum adds up what the patterns of one text stand for, and refuses too much.
type sum struct{ names, bytes uint64 }

func (s *sum) add(p *pattern) *problem {
	if p.glob {
		return nil
	}
	if p.size > call.MaxMachines || s.names+p.size > call.MaxMachines {
		return problemf(0, "the ranges stand for more than %d names; use a glob such as web*, or fewer numbers", call.MaxMachines)
	}
	if p.bytes > maxBytes || s.bytes+p.bytes > maxBytes {
		return problemf(0, "the ranges stand for more than %d MiB of names; use a glob such as web*, or fewer numbers", maxBytes>>20)
	}
	s.names += p.size
	s.bytes += p.bytes
	return nil
}

func tooLong(what, s string, limit int) error {
	return problemf(limit, "%d bytes are more than %d; use a group or a glob", len(s), limit).in(what, s)
}
