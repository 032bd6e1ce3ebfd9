package target

import (
	"slices"
	"sort"
)

// Seek finds a name among sorted ones, looking first right behind position at, in
// growing steps: names that are asked for in their order are found in a few each.
// It gives the position, or where the name would stand, and whether it is there.
func Seek(sorted []string, name string, at int) (int, bool) {
	if at >= len(sorted) || sorted[at] > name {
		return slices.BinarySearch(sorted, name)
	}
	step := 1
	for at+step < len(sorted) && sorted[at+step] <= name {
		at += step
		step *= 2
	}
	end := min(at+step, len(sorted))
	i := at + sort.SearchStrings(sorted[at:end], name)
	return i, i < len(sorted) && sorted[i] == name
}
