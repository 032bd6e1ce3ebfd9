package confd

import (
	"slices"
	"strconv"
	"strings"
)

// walk follows a path such as /cluster/tags/0; nil when it leads nowhere.
//
// The original takes the longest beginning that is a path and leaves the rest
// alone: so "/version~9" is "/version", and "/cluster/tags//x" is "/cluster/tags".
func (v *value) walk(path string) *value {
	parts, ok := split(path)
	if !ok {
		return nil
	}
	for _, p := range parts {
		if v = v.step(p); v == nil {
			return nil
		}
	}
	return v
}

// step goes one part down.
func (v *value) step(part string) *value {
	switch v.kind {
	case object:
		return v.get(part)
	case array:
		digits := part[:len(part)-len(strings.TrimLeft(part, "0123456789"))]
		i, err := strconv.Atoi(digits)
		if err != nil || i >= len(v.items) {
			return nil
		}
		return &v.items[i]
	}
	return nil
}

// split gives the parts of the longest beginning of a text that is a path.
func split(path string) ([]string, bool) {
	var parts []string
	for strings.HasPrefix(path, "/") {
		part, rest, ok := token(path[1:])
		if !ok {
			break
		}
		parts, path = append(parts, part), rest
	}
	return slices.Clip(parts), len(parts) > 0
}

// token takes one part, in which ~1 is a slash and ~0 a tilde. Only at the very
// end a part may be empty.
func token(s string) (part, rest string, ok bool) {
	if s == "" {
		return "", "", true
	}
	var b strings.Builder
	i := 0
	for i < len(s) && s[i] != '/' {
		if s[i] != '~' {
			b.WriteByte(s[i])
			i++
			continue
		}
		if i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1' {
			break
		}
		b.WriteByte("~/"[s[i+1]-'0'])
		i += 2
	}
	return b.String(), s[i:], i > 0
}
