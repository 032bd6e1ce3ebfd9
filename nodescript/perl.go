package nodescript

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// What Perl's open with two arguments, which Perceus runs and reads scripts
// with, does to their names (perlfunc, open; perlopentut).
const (
	// shellBytes in the name of a program let a shell have it. Others that do
	// so too, *?[]{}~, mean nothing to the shell as long as there is no second
	// file that they match.
	shellBytes = "$&()'\";\\|<>`\n"
	blanks     = " \t\n\r\f\v"
)

// perlWords takes the name of a program apart as Perl does without a shell. It
// gives nothing when the folder alone would be the program.
func perlWords(name string) []string {
	if name == "" || strings.IndexByte(blanks, name[0]) >= 0 {
		return nil
	}
	return strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune(blanks, r) })
}

// maxLiteral bounds a script that is sent as it is, in bytes.
const maxLiteral = 16 << 20

// literal gives what Perceus sends of a script that is not executable: all from
// the first line that begins with #!/bin/sh, and a line end. It gives nil when
// there is no such line. The path is relative to nodescripts/.
func (t *Tree) literal(name string) ([]byte, error) {
	if trimmed := strings.TrimRight(name, blanks); strings.HasSuffix(trimmed, "|") {
		return nil, nil // Perl would run it, which it cannot
	} else if path.Base(trimmed) != path.Base(name) {
		name = trimmed
	}
	f, info, err := t.open(scripts + "/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxLiteral {
		return nil, fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxLiteral)
	}
	return fromShebang(io.LimitReader(f, maxLiteral))
}

// fromShebang does what literal says with what r gives.
func fromShebang(r io.Reader) ([]byte, error) {
	lines := bufio.NewReader(r)
	var text []byte
	for {
		line, err := lines.ReadBytes('\n')
		if text != nil || bytes.HasPrefix(line, []byte("#!/bin/sh")) {
			text = append(text, line...)
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return nil, err
		case text == nil:
			return nil, nil
		default:
			return append(text, '\n'), nil
		}
	}
}
