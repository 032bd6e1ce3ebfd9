package module

import "unicode/utf8"

// Limit is a buffer with an end: it keeps the first bytes written to it and
// counts the rest, so that memory does not grow with output. It is for one
// writer at a time. Write never fails.
type Limit struct {
	// Max is what the kept bytes may cost when they are written as a JSON
	// string, in bytes, the quotes aside: a control character costs six. Data
	// that is not UTF-8 is better written as base64, which costs at most
	// Max*4/3+4.
	Max int

	kept []byte
	cost int
	full bool
	cut  uint64
}

// Write keeps what fits.
func (l *Limit) Write(p []byte) (int, error) {
	n := 0
	for !l.full && n < len(p) {
		c := jsonCost(p[n])
		if l.cost+c > l.Max {
			l.full = true
			break
		}
		l.cost += c
		n++
	}
	l.kept = append(l.kept, p[:n]...)
	l.cut += uint64(len(p) - n)
	return len(p), nil
}

// jsonCost is at least what encoding/json writes for one byte of valid UTF-8.
func jsonCost(c byte) int {
	switch {
	case c == '\n' || c == '\r' || c == '\t' || c == '"' || c == '\\':
		return 2
	case c < 0x20 || c == 0xe2: // U+2028 and U+2029, e2 80 a8 and e2 80 a9, become \u2028
		return 6
	}
	return 1
}

// Bytes gives what was kept, owned by l. When something was cut, half a
// character at the end is left out too.
func (l *Limit) Bytes() []byte {
	return l.kept[:len(l.kept)-l.half()]
}

// Cut is the number of bytes written and not in Bytes.
func (l *Limit) Cut() uint64 { return l.cut + uint64(l.half()) }

// half is the length of an unfinished character at the cut.
func (l *Limit) half() int {
	if l.cut == 0 {
		return 0
	}
	for n := 1; n < utf8.UTFMax && n <= len(l.kept); n++ {
		if c := l.kept[len(l.kept)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(l.kept[len(l.kept)-n:]) {
				return n
			}
			break
		}
	}
	return 0
}
