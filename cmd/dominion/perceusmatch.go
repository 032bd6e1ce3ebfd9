package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxPerceusNames bounds the names of one range.
const maxPerceusNames = 100_000

// bracketRange is a word of Perceus with a range, greedy as its own.
var bracketRange = regexp.MustCompile(`^(.*)\[(.+)\](.*)$`)

// perceusMatch says which of the names the words of a command of Perceus name, each
// once and sorted, and which that they spell out are not there. A word is a name; or
// a pattern with * and ?; or one range in brackets, of numbers that have as many digits as
// the longer bound, the rest of the word as it stands.
func perceusMatch(names, words []string) (found, missing []string, err error) {
	have := make(map[string]bool, len(names))
	for _, n := range names {
		have[n] = true
	}
	picked := make(map[string]bool)
	literal := func(name string) {
		if have[name] {
			picked[name] = true
		} else {
			missing = append(missing, name)
		}
	}
	for _, word := range words {
		word = strings.ToLower(word)
		switch m := bracketRange.FindStringSubmatch(word); {
		case m != nil:
			spelled, err := bracketNames(m[1], m[2], m[3])
			if err != nil {
				return nil, nil, err
			}
			for _, name := range spelled {
				literal(name)
			}
		case strings.ContainsAny(word, "*?"):
			pattern := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(word))
			like, err := regexp.Compile("^(?:" + pattern + ")$")
			if err != nil {
				return nil, nil, usagef("%q is no pattern", word)
			}
			for _, name := range names {
				if like.MatchString(name) {
					picked[name] = true
				}
			}
		default:
			literal(word)
		}
	}
	for name := range picked {
		found = append(found, name)
	}
	slices.Sort(found)
	return found, missing, nil
}

// bracketNames spells out before[list]after. What is neither a number nor FIRST-LAST
// in the list counts for nothing.
func bracketNames(before, list, after string) (names []string, err error) {
	for item := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		digits := max(len(first), len(last))
		for ; from <= to; from++ {
			if len(names) == maxPerceusNames {
				return nil, usagef("%s[%s]%s names more than %d nodes", before, list, after, maxPerceusNames)
			}
			names = append(names, fmt.Sprintf("%s%0*d%s", before, digits, from, after))
		}
	}
	return names, nil
}
