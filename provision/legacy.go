package provision

import (
	"bytes"
	_ "embed" // the shell function getfile
	"fmt"
	"strings"

	"dominion/nodescript"
)

// Words of the old protocol that ask for no script.
const (
	legacyPing = "ping"
	legacyLog  = "log"
)

// MaxLegacy is how long a request of the old protocol may be, in bytes. The old
// daemon's longest was 1,023.
const MaxLegacy = 4096

// LegacyRequest is what a node says in the old protocol: one line, and that is
// all.
//
//	STATE [nodeid=HWADDR] [nodename=NAME] [word]...
type LegacyRequest struct {
	State string   // a state, or ping, or log
	Words []string // all that follow
}

// ParseLegacy reads a request: words between white space, of which a zero byte
// is one here. Line ends and what follows them are nothing special; so the old
// daemon read it, too. The first word has the form of a state. Every error wraps
// ErrRequest.
func ParseLegacy(b []byte) (LegacyRequest, error) {
	if len(b) > MaxLegacy {
		return LegacyRequest{}, fmt.Errorf("%w: more than %d bytes", ErrRequest, MaxLegacy)
	}
	words := strings.FieldsFunc(string(b), func(r rune) bool { return r == 0 || r == ' ' || r >= '\t' && r <= '\r' })
	if len(words) == 0 {
		return LegacyRequest{}, fmt.Errorf("%w: it is empty", ErrRequest)
	}
	if _, err := nodescript.ParseState(words[0]); err != nil {
		return LegacyRequest{}, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	return LegacyRequest{State: words[0], Words: words[1:]}, nil
}

// Append appends the request as the old client sends it, with a zero byte after
// its line.
func (r LegacyRequest) Append(b []byte) []byte {
	b = append(b, r.State...)
	for _, w := range r.Words {
		b = append(append(b, ' '), w...)
	}
	return append(b, '\n', 0)
}

// value gives the last word KEY=VALUE's value.
func (r LegacyRequest) value(key string) (v string, ok bool) {
	for _, w := range r.Words {
		if s, is := strings.CutPrefix(w, key+"="); is {
			v, ok = s, true
		}
	}
	return v, ok
}

//go:embed legacy/getfile
var legacyGetfile []byte

// legacyReply gives what follows the banner: the script in its frame. Under the
// documented rules it begins with a function that fetches files from boot,
// host:port.
func legacyReply(rules nodescript.Rules, text []byte, boot string) []byte {
	if rules == nodescript.Perceus193 { // the frame is in it
		return append(bytes.Clone(text), nodescript.WireEnd...)
	}
	out := append([]byte(nodescript.ScriptStart), bytes.ReplaceAll(legacyGetfile, []byte("@MASTER@"), []byte(boot))...)
	out = append(out, text...)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		out = append(out, '\n')
	}
	return append(append(out, nodescript.ScriptEnd...), nodescript.WireEnd...)
}
