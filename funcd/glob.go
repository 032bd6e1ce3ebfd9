package funcd

import "strings"

// match is fnmatch of Python, which Func's access lists are written for: * any
// text, dots and slashes included, ? one character, [seq] and [!seq] one of a set,
// with ranges. There is no escape; a [ without its ] is itself. It compares bytes,
// and takes at most len(pattern)*len(s) steps.
func match(pattern, s string) bool {
	star, from := -1, 0 // the last * in pattern, and where in s what follows it was tried
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, i
			p++
			continue
		}
		if n, ok := one(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, i = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// one holds a byte against the first element of a pattern, and gives its length.
func one(pattern string, c byte) (length int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		set, not, n := class(pattern)
		if n > 0 {
			return n, holds(set, c) != not
		}
	}
	return 1, pattern[0] == c
}

// class takes [seq] off the beginning of a pattern; a length of zero says that
// there is none.
func class(pattern string) (set string, not bool, length int) {
	from := 1
	if from < len(pattern) && pattern[from] == '!' {
		not = true
		from++
	}
	first := from
	if first < len(pattern) && pattern[first] == ']' { // one at the beginning belongs to the set
		first++
	}
	if first > len(pattern) {
		return "", false, 0
	}
	end := strings.IndexByte(pattern[first:], ']')
	if end < 0 {
		return "", false, 0
	}
	return pattern[from : first+end], not, first + end + 1
}

// holds says whether c is one of a set such as a-z09.
func holds(set string, c byte) bool {
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			if set[i] <= c && c <= set[i+2] {
				return true
			}
			i += 2
			continue
		}
		if set[i] == c {
			return true
		}
	}
	return false
}
