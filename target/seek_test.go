package target_test

import (
	"fmt"
	"slices"
	"testing"

	"dominion/target"
)

// From whatever position, Seek finds what a binary search finds.
func TestSeek(t *testing.T) {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("m%02d", 2*i))
	}
	for n := range len(names) + 1 {
		for k := range 2*n + 2 {
			name := fmt.Sprintf("m%02d", k)
			want, there := slices.BinarySearch(names[:n], name)
			for at := range n + 2 {
				if got, ok := target.Seek(names[:n], name, at); got != want || ok != there {
					t.Fatalf("Seek of %s among %d from %d = %d, %v; want %d, %v", name, n, at, got, ok, want, there)
				}
			}
		}
	}
}
