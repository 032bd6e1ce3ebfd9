package overlord

import "testing"

// The parent's orders have a share of the places, in number and in memory; what
// is given back can be taken again.
func TestReserve(t *testing.T) {
	var j jobTable
	const large = maxPartCost / 2
	for i, x := range []struct {
		cost int
		want bool
	}{{3 * large, true}, {1, false}, {0, true}, {0, true}} {
		if got := j.reserve(8, 4, x.cost); got != x.want {
			t.Errorf("%d: %v; want %v", i, got, x.want)
		}
	}
	j.release(3 * large)
	for i, x := range []struct {
		cost int
		want bool
	}{{large, true}, {large, true}, {1, false}, {0, true}} {
		if got := j.reserve(8, 4, x.cost); got != x.want {
			t.Errorf("then %d: %v; want %v", i, got, x.want)
		}
	}
	j.release(large)
	for range 3 {
		if !j.reserve(8, 4, 1) {
			t.Error("no place for a small one")
		}
	}
	if j.reserve(8, 4, 1) {
		t.Error("a place beyond the share")
	}
	j.release(1)
	j.resume(1)
	if !j.reserve(8, 9, 0) || j.reserve(8, 9, 0) {
		t.Errorf("%d places are taken; want 8", j.reserved)
	}
}
