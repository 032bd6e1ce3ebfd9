package target

import (
	"cmp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"dominion/call"
)

// maxDigits is the longest number in a bracket; longer ones are only text.
const maxDigits = 16

// number is a run of digits exactly as it is written: its width in the top
// byte, its value below. So 7 and 07 differ, numbers of one width that follow
// each other differ by one, and the order is by width, then by value.
type number uint64

const valueBits = 56 // 10^16 is below 2^54

func makeNumber(width int, value uint64) number { return number(uint64(width)<<valueBits | value) }

func (n number) width() int    { return int(n >> valueBits) }
func (n number) value() uint64 { return uint64(n) & (1<<valueBits - 1) }

// padded says whether n is written with a zero in front.
func (n number) padded() bool { return n.width() > 1 && n.value() < pow10[n.width()-1] }

var pow10 = [maxDigits + 1]uint64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
}

// append writes n with its zeros.
func (n number) append(b []byte) []byte {
	v := n.value()
	for w := n.width(); w > 1 && v < pow10[w-1]; w-- {
		b = append(b, '0')
	}
	return strconv.AppendUint(b, v, 10)
}

// readNumber reads s, which must be 1 to 16 digits.
func readNumber(s string) (number, bool) {
	if s == "" || len(s) > maxDigits {
		return 0, false
	}
	var v uint64
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		v = v*10 + uint64(s[i]-'0')
	}
	return makeNumber(len(s), v), true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// span is lo to hi, both included and of one width.
type span struct{ lo, hi number }

// numbers is a set: sorted spans that neither overlap nor touch.
type numbers []span

// count is the size of the set. It cannot overflow: all numbers together are
// fewer than 2^54.
func (ns numbers) count() uint64 {
	var n uint64
	for _, s := range ns {
		n += uint64(s.hi-s.lo) + 1
	}
	return n
}

// has says whether n is in the set.
func (ns numbers) has(n number) bool {
	i := sort.Search(len(ns), func(i int) bool { return ns[i].hi >= n })
	return i < len(ns) && ns[i].lo <= n
}

// join sorts spans and merges them in place.
func join(spans []span) numbers {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// parseNumbers reads the inside of a bracket that is a range.
func parseNumbers(s string) (numbers, *problem) {
	var spans []span
	at := 0
	for item := range strings.SplitSeq(s, ",") {
		var p *problem
		if spans, p = appendItem(spans, item); p != nil {
			return nil, p.shift(at)
		}
		if len(spans) > call.MaxMachines { // bounds the memory; each stands for a name at least
			return nil, problemf(at, "the bracket holds more than %d ranges; write fewer", call.MaxMachines)
		}
		at += len(item) + 1
	}
	return join(spans), nil
}

// appendItem reads "7" or "08-12".
func appendItem(spans []span, item string) ([]span, *problem) {
	first, last, dash := strings.Cut(item, "-")
	lo, p := parseNumber(first)
	if p != nil {
		return nil, p
	}
	if !dash {
		return append(spans, span{lo, lo}), nil
	}
	hi, p := parseNumber(last)
	if p != nil {
		return nil, p.shift(len(first) + 1)
	}
	switch {
	case hi.value() < lo.value():
		return nil, problemf(0, "range %q ends before it begins; write the smaller number first", item)
	case lo.width() == hi.width():
		return append(spans, span{lo, hi}), nil
	case lo.padded() || hi.padded():
		return nil, problemf(0, "the ends of padded range %q differ in width; write them with as many digits, or two ranges as in [08-99,100-120]", item)
	}
	for w := lo.width(); w <= hi.width(); w++ {
		s := span{makeNumber(w, pow10[w-1]), makeNumber(w, pow10[w]-1)}
		if w == lo.width() {
			s.lo = lo // which may be 0
		}
		spans = append(spans, span{s.lo, min(s.hi, hi)})
	}
	return spans, nil
}

func parseNumber(s string) (number, *problem) {
	n, ok := readNumber(s)
	switch {
	case ok:
		return n, nil
	case s == "":
		return 0, problemf(0, "a number is missing in the range; write it as in [1-20] or [1,2]")
	case len(s) > maxDigits && strings.Trim(s, "0123456789") == "":
		return 0, problemf(0, "a number of %d digits is too long for a range, at most %d; write the names out", len(s), maxDigits)
	}
	return 0, problemf(0, "%s is not a number; a bracket with a comma, or with a dash and a number of two digits, is a range of numbers such as [01-20,30]", excerpt(s, 0))
}

// appendSet writes the set so that it reads back the same in a pattern: a
// lone number bare, anything else as a bracket that is a range.
func (ns numbers) append(b []byte) []byte {
	if len(ns) == 1 && ns[0].lo == ns[0].hi {
		return ns[0].lo.append(b)
	}
	b = append(b, '[')
	first := len(b)
	for i := 0; i < len(ns); i++ {
		lo, hi := ns[i].lo, ns[i].hi
		for i+1 < len(ns) && continues(lo, hi, ns[i+1].lo) {
			i++
			hi = ns[i].hi
		}
		if len(b) > first {
			b = append(b, ',')
		}
		if len(b) == first && i == len(ns)-1 && hi.width() == 1 {
			b = appendDigits(b, lo, hi)
			continue
		}
		b = lo.append(b)
		if lo != hi {
			b = hi.append(append(b, '-'))
		}
	}
	return append(b, ']')
}

// continues says whether a run from lo to hi goes on at next with one digit
// more, as 98-99 does at 100. A padded run does not: 098 is not 98.
func continues(lo, hi, next number) bool {
	return !lo.padded() && hi.width() < maxDigits && hi.value()+1 == pow10[hi.width()] &&
		next == makeNumber(hi.width()+1, pow10[hi.width()])
}

// appendDigits writes a lone run of one-digit numbers with a comma, since
// [1-9] would be read as a class of characters: 1,2 and 1,2,3 and 1-8,9.
func appendDigits(b []byte, lo, hi number) []byte {
	b = lo.append(b)
	switch hi - lo {
	case 1:
	case 2:
		b = (lo + 1).append(append(b, ','))
	default:
		b = (hi - 1).append(append(b, '-'))
	}
	return hi.append(append(b, ','))
}
