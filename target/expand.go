package target

import (
	"slices"
	"strings"

	"dominion/call"
)

// Expand reads what Fold wrote, "db1,web[01-40,42]": names and ranges
// separated by commas, nothing else. It gives the names sorted, in lower
// case, each once; the empty text has none. At most 16 MiB of text that
// stands for at most call.MaxMachines names, doubles counted; errors wrap
// ErrSyntax. Parse reads the same set in every text that Expand accepts and
// that is short enough for it. People write such lists too, so Expand accepts
// more than the one text that Fold would write for a set.
func Expand(folded string) ([]string, error) {
	var out []string
	ranges, total, err := readFolded(folded, func(name string) { out = append(out, name) })
	if err != nil {
		return nil, err
	}
	out = slices.Grow(out, total-len(out))
	for _, p := range ranges {
		for b := range p.names() {
			out = append(out, string(b))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// readFolded reads what Fold writes: it hands over the single names, and gives the
// ranges, and how many names there are in all.
func readFolded(folded string, single func(name string)) (ranges []*pattern, names int, err error) {
	const what = "names"
	if len(folded) > maxFolded {
		return nil, 0, problemf(maxFolded, "%d bytes are more than %d; send fewer names at a time", len(folded), maxFolded).in(what, folded)
	}
	if folded == "" {
		return nil, 0, nil
	}
	var total sum
	for pt := range split(folded, ",") {
		p, bad := parseNames(folded, pt, &total, isRange)
		if bad != nil {
			return nil, 0, bad.shift(pt.at).in(what, folded)
		}
		if p.literal() {
			single(p.tokens[0].text)
		} else {
			ranges = append(ranges, p)
		}
	}
	return ranges, int(total.names), nil
}

// parseNames reads one part of a folded text.
func parseNames(folded string, pt part, total *sum, isRange func(inner string) bool) (*pattern, *problem) {
	const only = "only names, ranges and commas can stand here, as in db1,web[01-40,42]"
	if pt.text == "" {
		return nil, problemf(0, "a name is missing; %s", only)
	}
	// split trims blanks, which Fold never writes.
	if before, after := pt.at, pt.at+len(pt.text); before > 0 && folded[before-1] != ',' || after < len(folded) && folded[after] != ',' {
		return nil, problemf(0, "there is a blank; %s", only)
	}
	if i := strings.IndexAny(pt.text, "*?@;&!"); i >= 0 {
		return nil, problemf(i, "%q cannot be expanded; %s", pt.text[i:i+1], only)
	}
	p := &pattern{}
	if bad := p.parse(pt.text, 0, isRange); bad != nil {
		return nil, bad
	}
	if p.glob {
		return nil, problemf(strings.IndexByte(pt.text, '['), "the bracket is a class of characters; write [1,2] or [01-20] for a range, %s", only)
	}
	if bad := p.checkNames(); bad != nil {
		return nil, bad
	}
	if total.names == call.MaxMachines {
		return nil, problemf(0, "there are more than %d names", call.MaxMachines)
	}
	return p, total.add(p)
}
