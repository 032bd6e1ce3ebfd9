package target

import (
	"fmt"
	"slices"
	"strings"

	"dominion/call"
)

// ReadList reads a list of names as people and other programs write them: names
// and ranges, separated by blanks, commas and line ends; "#" begins a comment. It
// gives the names sorted, in lower case, each once. A class of characters cannot
// stand there, so a bracket with a dash is always a range: web[1-9], as nodeset
// writes it, too. Limits are those of Expand; errors wrap ErrSyntax and name the line.
func ReadList(text string) ([]string, error) {
	if len(text) > maxFolded {
		return nil, problemf(maxFolded, "%d bytes are more than %d; give fewer names at a time", len(text), maxFolded).in("list", text)
	}
	var (
		out   []string
		total sum
		n     int
	)
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		for pt := range split(spaced(line), ",") {
			if pt.text == "" {
				continue
			}
			p, bad := parseNames(pt.text, part{text: pt.text}, &total, inList)
			if bad != nil {
				return nil, bad.shift(pt.at).in(fmt.Sprintf("line %d:", n), strings.TrimRight(line, blanks))
			}
			for b := range p.names() {
				out = append(out, string(b))
			}
		}
	}
	if total.names > call.MaxMachines {
		return nil, problemf(0, "there are more than %d names", call.MaxMachines).in("list", text)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// spaced makes a comma of every blank.
func spaced(line string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(blanks, r) {
			return ','
		}
		return r
	}, line)
}

// inList is isRange where classes cannot stand.
func inList(inner string) bool { return isRange(inner) || strings.Contains(inner, "-") }
