package file

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"dominion/call"
	"dominion/module"
)

type blockIn struct {
	Path       string `json:"path" doc:"absolute path of the file; it is made when it does not exist" required:"true" max:"4095"`
	Content    string `json:"content" doc:"lines of the block" max:"524288" secret:"true"`
	Name       string `json:"name" doc:"what the markers call it; a file may have several blocks" default:"dominion" min:"1" max:"128"`
	Comment    string `json:"comment" doc:"what begins a comment in the file" default:"#" min:"1" max:"16"`
	CommentEnd string `json:"comment_end" doc:"what ends a comment in the file" max:"16"`
	Absent     bool   `json:"absent" doc:"take the block and its markers out"`
	Access
	Show
}

// block has the markers "# BEGIN name" and "# END name".
func block(ctx context.Context, env *module.Env, in blockIn) (Result, error) {
	begins, ends := in.marker("BEGIN"), in.marker("END")
	for _, s := range []string{in.Name, in.Comment, in.CommentEnd} {
		if strings.ContainsAny(s, "\n\r\x00") || strings.TrimSpace(s) != s {
			return Result{}, call.Errorf(call.Invalid, "%.40q cannot be in a marker: wants one line without spaces around it", s)
		}
	}
	if in.Absent && in.Content != "" {
		return Result{}, call.Errorf(call.Invalid, "fields absent and content: only one of them")
	}
	lines := slices.Collect(bytes.Lines(ended([]byte(in.Content))))
	for _, l := range lines {
		if s := strings.TrimSpace(string(l)); s == begins || s == ends {
			return Result{}, call.Errorf(call.Invalid, "the content has a line that is a marker of the block")
		}
	}
	d, err := in.Access.look(ctx, env)
	if err != nil {
		return Result{}, err
	}
	e, err := begin(in.Path)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	if in.Absent && e.old == nil {
		return Result{}, nil
	}
	old, err := e.text(ctx)
	if err != nil {
		return Result{}, err
	}
	if !in.Absent {
		lines = slices.Concat([][]byte{[]byte(begins + "\n")}, lines, [][]byte{[]byte(ends + "\n")})
	}
	content, err := splice(old, begins, ends, lines)
	if err != nil {
		return Result{}, call.Errorf(call.Failed, "%s: %v", e.place.Path(), err)
	}
	return e.replace(ctx, content, d, false, in.Show)
}

func (in blockIn) marker(which string) string {
	return strings.TrimSpace(strings.Join([]string{in.Comment, which, in.Name, in.CommentEnd}, " "))
}

// ended is b with a line feed at its end.
func ended(b []byte) []byte {
	if len(b) == 0 || b[len(b)-1] == '\n' {
		return b
	}
	return append(b, '\n')
}

type blockError string

func (e blockError) Error() string { return string(e) }

// splice puts lines in the place of the block between two marker lines, those
// included, or at the end when there is none. Without lines the block is gone.
func splice(old []byte, begins, ends string, lines [][]byte) ([]byte, error) {
	all := slices.Collect(bytes.Lines(old))
	from, to := -1, -1
	for i, l := range all {
		switch strings.TrimSpace(string(l)) {
		case begins:
			if from >= 0 {
				return nil, blockError("the block begins twice")
			}
			from = i
		case ends:
			if from < 0 || to >= 0 {
				return nil, blockError("the block ends where none began")
			}
			to = i + 1
		}
	}
	switch {
	case from >= 0 && to < 0:
		return nil, blockError("the block has no end")
	case from < 0 && len(lines) == 0:
		return old, nil
	case from < 0:
		if n := len(all); n > 0 {
			all[n-1] = ended(bytes.Clone(all[n-1]))
		}
		from, to = len(all), len(all)
	}
	return bytes.Join(slices.Concat(all[:from], lines, all[to:]), nil), nil
}
