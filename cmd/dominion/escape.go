package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// escapeText makes text from elsewhere safe to show: control characters,
// terminal escapes, characters that reorder or hide text, and bytes that are
// not UTF-8 become visible escapes (\x1b, \u202e, \xff). Line ends and tabs stay.
func escapeText(s string) string { return string(appendEscaped(nil, []byte(s), "\n\t")) }

// escapeLine is escapeText for what must stay on one line: line ends and tabs
// become \n and \t.
func escapeLine(s string) string { return string(appendEscaped(nil, []byte(s), "")) }

// appendEscaped appends b to dst, escaped; the bytes in keep stay as they are.
func appendEscaped(dst, b []byte, keep string) []byte {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, '\\', 'x', hexDigits[b[0]>>4], hexDigits[b[0]&15])
		case r < utf8.RuneSelf && strings.IndexByte(keep, b[0]) >= 0, visible(r):
			dst = append(dst, b[:n]...)
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\r':
			dst = append(dst, '\\', 'r')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r < utf8.RuneSelf:
			dst = append(dst, '\\', 'x', hexDigits[r>>4], hexDigits[r&15])
		case r <= 0xffff:
			dst = append(dst, '\\', 'u')
			dst = appendHex(dst, r, 4)
		default:
			dst = append(dst, '\\', 'U')
			dst = appendHex(dst, r, 8)
		}
		b = b[n:]
	}
	return dst
}

// visible says that a terminal shows r as it is: letters, marks, digits,
// punctuation, symbols and spaces, and nothing that moves, hides or reorders.
func visible(r rune) bool { return unicode.IsPrint(r) || unicode.Is(unicode.Zs, r) }

func appendHex(dst []byte, r rune, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, hexDigits[r>>(4*i)&15])
	}
	return dst
}

// escapeJSON makes a valid JSON text safe to show without changing what it
// says: what a terminal could act on stands as \u escapes, and bytes that are
// not UTF-8 as \ufffd, as every JSON reader would read them.
func escapeJSON(b []byte) []byte {
	dst := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, `\ufffd`...)
		case visible(r), r == '\n', r == '\t', r == '\r': // outside strings only: a string holds no raw control
			dst = append(dst, b[:n]...)
		case r <= 0xffff:
			dst = append(dst, '\\', 'u')
			dst = appendHex(dst, r, 4)
		default:
			r -= 0x10000
			dst = append(dst, '\\', 'u')
			dst = appendHex(dst, 0xd800+r>>10, 4)
			dst = append(dst, '\\', 'u')
			dst = appendHex(dst, 0xdc00+r&0x3ff, 4)
		}
		b = b[n:]
	}
	return dst
}
