// Package textdiff shows what changes between two texts, for the methods that
// say what they would do to a file.
package textdiff

import (
	"bytes"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"dominion/module"
)

// Max is what a difference may cost in an answer, in bytes as written in JSON.
const Max = 64 << 10

// Unified gives the difference in the unified format with name in both of its
// headers, or as much of it as Max lets, and how many bytes were cut. There is
// none between equal texts, and none for what is not UTF-8 or has a zero byte.
func Unified(name string, before, after []byte) (text string, cut uint64) {
	for _, b := range [][]byte{before, after} {
		if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
			return "", 0
		}
	}
	all := diff.Diff(name, before, name, after)
	if head, rest, found := bytes.Cut(all, []byte{'\n'}); found && bytes.HasPrefix(head, []byte("diff ")) {
		all = rest // a line as a program would write it
	}
	kept := module.Limit{Max: Max}
	_, _ = kept.Write(all)
	return string(bytes.ToValidUTF8(kept.Bytes(), nil)), kept.Cut()
}
