package user

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
)

// errKey is wrapped, or is, every error about a line that is no key.
var errKey = errors.New("not a line of authorized_keys(5): [options] type base64 [comment]")

// key is a line of authorized_keys, as sshd(8) describes it.
type key struct {
	options, kind, blob, comment string // blob is base64
}

// parseKey reads one line without its end.
func parseKey(line string) (key, error) {
	line = strings.Trim(line, " \t\r")
	if line == "" || line[0] == '#' || strings.ContainsAny(line, "\n\x00") {
		return key{}, errKey
	}
	if k, err := parseBare(line); err == nil {
		return k, nil
	}
	n := optionsEnd(line)
	if n == 0 || n == len(line) {
		return key{}, errKey
	}
	k, err := parseBare(strings.TrimLeft(line[n:], " \t"))
	k.options = line[:n]
	return k, err
}

// optionsEnd is where the options end: at a blank outside of quotes.
func optionsEnd(line string) int {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line) && line[i+1] == '"':
			i++
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return i
		}
	}
	return len(line)
}

// parseBare reads a key without options. Its data begin with its type
// (RFC 4253 section 6.6).
func parseBare(line string) (key, error) {
	kind, rest := word(line)
	blob, comment := word(rest)
	data, err := base64.StdEncoding.Strict().DecodeString(blob)
	if err != nil || len(data) < 4 || strings.ContainsAny(blob, "\r\n") {
		return key{}, errKey
	}
	n := binary.BigEndian.Uint32(data)
	if kind == "" || uint64(n) > uint64(len(data)-4) || string(data[4:4+n]) != kind || int(n) == len(data)-4 {
		return key{}, errKey
	}
	return key{kind: kind, blob: blob, comment: comment}, nil
}

// word takes the first word off a line.
func word(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.Trim(s[i:], " \t")
}

// String is the line.
func (k key) String() string {
	s := k.kind + " " + k.blob
	if k.options != "" {
		s = k.options + " " + s
	}
	if k.comment != "" {
		s += " " + k.comment
	}
	return s
}

// fingerprint is what ssh-keygen -l shows.
func (k key) fingerprint() string {
	data, err := base64.StdEncoding.DecodeString(k.blob)
	if err != nil {
		return "" // parseKey did not make it
	}
	sum := sha256.Sum256(data)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
