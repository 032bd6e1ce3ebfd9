package confd

import (
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is what a JSON value is.
type kind byte

const (
	null kind = iota
	boolean
	numeral
	text
	array
	object
)

// value is one JSON value. A program that serves thousands of nodes keeps all
// of them as values, so it is small.
type value struct {
	kind kind
	// sorted: the keys of this object ascend, each once.
	sorted bool
	// text is the characters of a string in UTF-8, the literal of a number or
	// of a boolean.
	text  string
	keys  []string // of an object, in their order
	items []value  // of an array or an object
}

// get gives a member: the first of that name, as the original does.
func (v *value) get(key string) *value {
	if v.sorted {
		if i, ok := slices.BinarySearch(v.keys, key); ok {
			return &v.items[i]
		}
		return nil
	}
	if i := slices.Index(v.keys, key); i >= 0 {
		return &v.items[i]
	}
	return nil
}

func (v *value) set(key string, x value) {
	v.keys, v.items = append(v.keys, key), append(v.items, x)
}

// value reads any value.
func (s *scanner) value(depth int) (value, bool) {
	if depth > maxDepth {
		return value{}, false
	}
	switch c := s.peek(); c {
	case '{':
		v := value{kind: object}
		ok := s.members(func(key []byte) bool {
			name := string(key)
			x, ok := s.value(depth + 1)
			v.set(name, x)
			return ok
		})
		return v, ok
	case '[':
		v := value{kind: array}
		ok := s.elements(func() bool {
			x, ok := s.value(depth + 1)
			v.items = append(v.items, x)
			return ok
		})
		return v, ok
	case '"':
		b, ok := s.str(nil)
		return value{kind: text, text: string(b)}, ok
	case 't':
		return value{kind: boolean, text: "true"}, s.word("true")
	case 'f':
		return value{kind: boolean, text: "false"}, s.word("false")
	case 'n':
		return value{}, s.word("null")
	default:
		b, ok := s.number()
		return value{kind: numeral, text: string(b)}, ok
	}
}

// append writes the value as the original does: no blanks, no line end.
func (v *value) append(dst []byte) []byte {
	switch v.kind {
	case text:
		return appendText(dst, v.text)
	case array:
		dst = append(dst, '[')
		for i := range v.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = v.items[i].append(dst)
		}
		return append(dst, ']')
	case object:
		dst = append(dst, '{')
		for i := range v.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, v.keys[i]), ':')
			dst = v.items[i].append(dst)
		}
		return append(dst, '}')
	case null:
		return append(dst, "null"...)
	}
	return append(dst, v.text...)
}

// appendUpTo is append that gives up, with false, when more than limit bytes
// are in dst.
func (v *value) appendUpTo(dst []byte, limit int) ([]byte, bool) {
	if v.kind != array && v.kind != object || len(v.items) == 0 {
		dst = v.append(dst)
		return dst, len(dst) <= limit
	}
	open, end := byte('['), byte(']')
	if v.kind == object {
		open, end = '{', '}'
	}
	for i := range v.items {
		dst = append(dst, open)
		open = ','
		if v.kind == object {
			dst = append(appendText(dst, v.keys[i]), ':')
		}
		var ok bool
		if dst, ok = v.items[i].appendUpTo(dst, limit); !ok {
			return dst, false
		}
	}
	dst = append(dst, end)
	return dst, len(dst) <= limit
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string in ASCII: the short escapes, \u00XX for other
// control characters, and \uXXXX for all that is not ASCII.
func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	dst = appendInner(dst, s)
	return append(dst, '"')
}

// appendInner is appendText without the quotes.
func appendInner[T string | []byte](dst []byte, s T) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		n := 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst, n = appendUnits(dst, []byte(s[i:min(i+utf8.UTFMax, len(s))]))
		}
		i += n
		from = i
	}
	return append(dst, s[from:]...)
}

// appendUnits writes the first character of b as \uXXXX, twice for one beyond
// the first 65,536, and gives how many bytes it has.
func appendUnits(dst, b []byte) ([]byte, int) {
	if r, ok := surrogate(b); ok {
		return appendUnit(dst, r), 3
	}
	r, n := utf8.DecodeRune(b)
	if r >= 0x10000 {
		dst = appendUnit(dst, 0xd800+(r-0x10000)>>10)
		return appendUnit(dst, 0xdc00+(r-0x10000)&0x3ff), n
	}
	return appendUnit(dst, r), n
}

func appendUnit(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&0xf], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
}

// maxExponent bounds the exponents of numbers, which are computed with exactly.
const maxExponent = 400

// maxDigits bounds the length of a number that is computed with.
const maxDigits = 1000

// rational gives a number's exact value; false when its size is absurd.
func rational(literal string) (*big.Rat, bool) {
	if len(literal) > maxDigits {
		return nil, false
	}
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		e, err := strconv.Atoi(literal[i+1:])
		if err != nil || e > maxExponent || e < -maxExponent {
			return nil, false
		}
	}
	return new(big.Rat).SetString(literal)
}

// integral says whether a number is written as an integer.
func integral(literal string) bool { return !strings.ContainsAny(literal, ".eE") }

// rounded gives a number as the original reads an integer: rounded, halves to
// the even neighbour; false when it does not fit.
func rounded(literal string) (int64, bool) {
	if integral(literal) {
		n, err := strconv.ParseInt(literal, 10, 64)
		return n, err == nil
	}
	r, ok := rational(literal)
	if !ok {
		return 0, false
	}
	two := new(big.Int).Lsh(r.Denom(), 1)
	twice := new(big.Int).Lsh(r.Num(), 1)
	// floor(x + 1/2), less one where x + 1/2 is an odd integer.
	n, rest := new(big.Int).DivMod(twice.Add(twice, r.Denom()), two, new(big.Int))
	if rest.Sign() == 0 && n.Bit(0) == 1 {
		n.Sub(n, big.NewInt(1))
	}
	return n.Int64(), n.IsInt64()
}

// exact gives a number as the original writes one that it does not interpret:
// integers in full, others as Haskell shows a Double.
func exact(literal string) (string, bool) {
	if integral(literal) {
		if literal == "-0" {
			return "0", true
		}
		return literal, true
	}
	r, ok := rational(literal)
	if !ok {
		return "", false
	}
	if r.IsInt() {
		return r.Num().String(), true
	}
	f, _ := r.Float64()
	return showDouble(f), true
}

// showDouble writes a number as Haskell does: 0.1 to 9999999 with a point,
// beyond that d.ddde9.
func showDouble(f float64) string {
	if f == math.Trunc(f) {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	if a := math.Abs(f); a >= 0.1 && a < 1e7 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	digits, e, _ := strings.Cut(s, "e")
	if !strings.Contains(digits, ".") {
		digits += ".0"
	}
	n, _ := strconv.Atoi(e) // of our own making
	return digits + "e" + strconv.Itoa(n)
}

// canonical gives the same text for equal JSON: members sorted, no blanks,
// numbers by their value. What is no JSON stays as it is.
func canonical(b []byte) string {
	sc := scanner{b: b}
	v, ok := sc.value(0)
	if !ok || !sc.end() {
		return string(b)
	}
	v.sort()
	return string(v.append(nil))
}

// sort puts a value that belongs to the caller alone into canonical form.
func (v *value) sort() {
	if v.kind == numeral {
		if s, ok := exact(v.text); ok {
			v.text = s
		}
	}
	for i := range v.items {
		v.items[i].sort()
	}
	if v.kind == object {
		if m, err := mapOf(func(x value) (value, error) { return x, nil })(*v); err == nil {
			*v = m
		}
	}
}
