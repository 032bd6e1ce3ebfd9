package target_test

import (
	"slices"
	"testing"

	"dominion/target"
)

// all gives all positions of n names for which keep holds.
func all(n int, keep func(i int) bool) (at []int32) {
	for i := range n {
		if keep(i) {
			at = append(at, int32(i))
		}
	}
	return at
}

// checkRoster holds a roster of names, as Expand gives them, against Fold and Expand.
func checkRoster(t *testing.T, names []string) {
	t.Helper()
	r := target.NewRoster(names)
	for _, step := range []int{1, 2, 3, 7} {
		at := all(len(names), func(i int) bool { return i%step == 0 })
		var some []string
		for _, i := range at {
			some = append(some, names[i])
		}
		folded := target.Fold(some)
		if got := r.Fold(at); got != folded {
			t.Fatalf("%q of %q are folded as %q; want %q", some, names, got, folded)
		}
		back, others, err := r.Find(folded)
		if err != nil || !slices.Equal(back, at) || len(others) > 0 {
			t.Fatalf("in %q, %q is found at %v, and %q are not, %v; want %v", names, folded, back, others, err, at)
		}
		// Those of a smaller roster are found there, and no others.
		back, others, err = target.NewRoster(some).Find(target.Fold(names))
		if err != nil || len(back) != len(some) || len(others) != len(names)-len(some) {
			t.Fatalf("%d of %q are found in %q, and %q are not, %v", len(back), names, some, others, err)
		}
		for _, n := range others {
			if _, in := slices.BinarySearch(some, n); in {
				t.Fatalf("%q is not found in %q", n, some)
			}
		}
	}
}

func FuzzRoster(f *testing.F) {
	fuzz(f, func(t *testing.T, s string) {
		if names, err := target.Expand(s); err == nil && len(names) < 5000 {
			checkRoster(t, names)
		}
	})
}

func TestRosterFind(t *testing.T) {
	r := target.NewRoster([]string{"db1", "web1", "web10", "web2"})
	for _, tt := range []struct {
		folded string
		at     []int32
		others []string
	}{
		{"", nil, nil},
		{"web[1,2]", []int32{1, 3}, nil},
		{"web[1-10]", []int32{1, 2, 3}, []string{"web3", "web4", "web5", "web6", "web7", "web8", "web9"}},
		{"web2,db1,web2,WEB2,zz,aa,zz", []int32{0, 3}, []string{"aa", "zz"}},
	} {
		at, others, err := r.Find(tt.folded)
		if err != nil || !slices.Equal(at, tt.at) || !slices.Equal(others, tt.others) {
			t.Errorf("%q is found at %v, and %q are not, %v; want %v and %q", tt.folded, at, others, err, tt.at, tt.others)
		}
	}
	if _, _, err := r.Find("web[1-"); err == nil {
		t.Error("text that cannot be read is accepted")
	}
}

func BenchmarkRoster(b *testing.B) {
	names, err := target.Expand("m[0001-5000]")
	if err != nil {
		b.Fatal(err)
	}
	r := target.NewRoster(names)
	at := all(len(names), func(i int) bool { return i%10 != 3 })
	folded := r.Fold(at)
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			target.NewRoster(names)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/name")
	})
	b.Run("fold", func(b *testing.B) {
		for b.Loop() {
			r.Fold(at)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(at)), "ns/name")
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := r.Find(folded); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(at)), "ns/name")
	})
}
