package target

import (
	"errors"
	"fmt"

	"dominion/call"
)

// ErrSyntax is wrapped by every error of Parse, Expand, Glob and GroupName;
// call.CodeOf gives call.Invalid for them.
var ErrSyntax = errors.New("not a target")

// ErrGroup is wrapped by the errors of Resolve about a group that is not
// there; call.CodeOf gives call.NotFound for them.
var ErrGroup = errors.New("no such group")

// fault is an error with a kind to ask for and a code that crosses hops.
type fault struct {
	kind error
	code call.Code
	text string
}

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() []error {
	return []error{f.kind, &call.Error{Code: f.code, Detail: f.text}}
}

// problem is what is wrong at a byte offset of a text.
type problem struct {
	at   int
	what string // and the next step
}

func problemf(at int, format string, args ...any) *problem {
	return &problem{at: at, what: fmt.Sprintf(format, args...)}
}

// shift moves a problem found in a part to its place in the whole.
func (p *problem) shift(by int) *problem {
	p.at += by
	return p
}

// shown is how much of a text an error quotes.
const shown = 60

// in makes the error that the user sees. what is "target", "pattern" or "names".
func (p *problem) in(what, text string) error {
	return &fault{
		kind: ErrSyntax, code: call.Invalid,
		text: fmt.Sprintf("%s %s: position %d: %s", what, excerpt(text, p.at), p.at+1, p.what),
	}
}

// excerpt quotes text, or the part of a long one around offset at.
func excerpt(text string, at int) string {
	if len(text) <= shown {
		return fmt.Sprintf("%q", text)
	}
	from := max(0, min(at-shown/2, len(text)-shown))
	s := fmt.Sprintf("%q", text[from:from+shown])
	if from > 0 {
		s = "…" + s
	}
	if from+shown < len(text) {
		s += "…"
	}
	return s
}
