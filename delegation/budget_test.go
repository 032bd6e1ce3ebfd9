//go:build bench

package delegation_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"dominion/delegation"
)

// TestBudgetsMap builds, merges, writes and reads the map of 1,000 simulated
// sub-overlords of 50 machines, and finds the routes of 100,000.
func TestBudgetsMap(t *testing.T) {
	probe, places := simulated(1000, 50, 5*time.Millisecond)
	path := filepath.Join(t.TempDir(), "map")
	budget(t, "map of 1000 sub-overlords of 50, each answering in 5 ms", 2000, func() {
		m, err := delegation.Build(t.Context(), probe, delegation.Options{Name: "top"})
		if err != nil || m.Count().Places != places {
			t.Fatal(m.Count(), err)
		}
		if err := delegation.Save(path, m); err != nil {
			t.Fatal(err)
		}
	})
	old, err := delegation.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	budget(t, "the same with -a: the old map read and merged", 2000, func() {
		m, err := delegation.Build(t.Context(), probe, delegation.Options{Name: "top"})
		if err != nil {
			t.Fatal(err)
		}
		if old, err = delegation.Load(path); err != nil {
			t.Fatal(err)
		}
		if err := delegation.Save(path, delegation.Merge(old, m)); err != nil {
			t.Fatal(err)
		}
	})
	big := bigMap(2000, 50)
	text := big.Append(nil)
	var ix *delegation.Index
	figure(t, "a map of 102,000 machines read", func() {
		if big, err = delegation.Parse(text); err != nil {
			t.Fatal(err)
		}
	})
	figure(t, "its index made", func() { ix = big.Index() })
	figure(t, "routes of all 102,000, grouped", func() {
		r := ix.Routes(ix.Names(), func(string) bool { return true })
		if g := delegation.Group(r.Paths); len(g.Hops) != 2000 {
			t.Fatal(len(g.Hops))
		}
	})
}

// took is the best of three runs, in milliseconds.
func took(f func()) float64 {
	best := time.Hour
	for range 3 {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return float64(best.Microseconds()) / 1e3
}

// budget prints a figure beside its budget. A figure over it fails the run.
func budget(t *testing.T, what string, at float64, f func()) {
	t.Helper()
	ms, word := took(f), "within"
	if ms > at {
		word = "OVER"
		t.Fail()
	}
	fmt.Printf("budget: %-64s %10.1f %-4s of %8.1f %-4s %s\n", what, ms, "ms", at, "ms", word)
}

// figure prints a figure that has no budget.
func figure(t *testing.T, what string, f func()) {
	t.Helper()
	fmt.Printf("budget: %-64s %10.1f %-4s\n", what, took(f), "ms")
}
