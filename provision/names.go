package provision

import (
	"fmt"
	"strconv"
	"strings"

	"dominion/call"
)

// Pattern gives nodes their names: a run of "#" stands for a number with as
// many digits, and more when they do not suffice.
type Pattern struct {
	Text  string // such as n####
	First int    // the lowest number
}

// Check says whether the pattern gives names.
func (p Pattern) Check() error {
	before, width, after := p.parts()
	if width == 0 || strings.Contains(after, "#") || p.First < 0 {
		return fmt.Errorf("%q is not a pattern of names: it needs one run of #, such as n####, and a first number that is not negative", p.Text)
	}
	const longest = "00000000000000000000"
	if _, err := call.ParseName(before + longest + after); err != nil || width > len(longest) {
		return fmt.Errorf("%q is not a pattern of machines' names", p.Text)
	}
	return nil
}

func (p Pattern) parts() (before string, width int, after string) {
	i := strings.IndexByte(p.Text, '#')
	if i < 0 {
		return p.Text, 0, ""
	}
	j := i
	for j < len(p.Text) && p.Text[j] == '#' {
		j++
	}
	return p.Text[:i], j - i, p.Text[j:]
}

// name gives the name of a number.
func (p Pattern) name(number int) string {
	before, width, after := p.parts()
	digits := strconv.Itoa(number)
	return strings.ToLower(before + strings.Repeat("0", max(width-len(digits), 0)) + digits + after)
}

// next gives the name of the lowest number that no node and no machine has.
func (p Pattern) next(tx RoomTx) (string, error) {
	names, err := tx.Names()
	if err != nil {
		return "", err
	}
	have := make(map[string]struct{}, len(names))
	for _, n := range names {
		have[n] = struct{}{}
	}
	// Of that many numbers one is free unless machines have the names of many.
	for number := p.First; number <= p.First+2*MaxNodes; number++ {
		name := p.name(number)
		if _, is := have[name]; is {
			continue
		}
		taken, err := tx.Taken(name)
		if err != nil {
			return "", err
		}
		if !taken {
			return name, nil
		}
	}
	return "", call.Errorf(call.Busy, "no name of the pattern %s is free", p.Text)
}
