package target_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"dominion/target"
)

// benchSets are fleets that fold in different ways.
func benchSets() map[string][]string {
	r := rand.New(rand.NewPCG(9, 10))
	sets := make(map[string][]string)
	add := func(kind string, n int, name func(i int) string) {
		key := fmt.Sprintf("%s/%d", kind, n)
		for i := range n {
			sets[key] = append(sets[key], name(i))
		}
		r.Shuffle(n, func(i, j int) { s := sets[key]; s[i], s[j] = s[j], s[i] })
	}
	add("one-number", 100_000, func(i int) string { return fmt.Sprintf("web%06d", i) })
	add("product", 100_000, func(i int) string { return fmt.Sprintf("rack%d-n%02d.example.org", i/40, i%40) })
	add("sparse-product", 100_000, func(int) string { return fmt.Sprintf("rack%d-n%d", r.IntN(1000), r.IntN(1000)) })
	add("few-fold", 10_000, func(int) string { return fmt.Sprintf("h-%x", r.Uint64()) })
	add("few-fold", 100_000, func(int) string { return fmt.Sprintf("h-%x", r.Uint64()) })
	add("addresses", 10_000, func(int) string {
		return fmt.Sprintf("ip-10-%d-%d-%d", r.IntN(256), r.IntN(256), r.IntN(256))
	})
	add("nine-numbers", 100_000, func(int) string {
		return fmt.Sprintf("a%03d-%d-%d-%d-%d-%d-%d-%d-%d", r.IntN(1000), r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9))
	})
	return sets
}

func BenchmarkFold(b *testing.B) {
	for name, set := range benchSets() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			folded := ""
			for b.Loop() {
				folded = target.Fold(set)
			}
			b.ReportMetric(float64(len(folded)), "bytes")
		})
	}
}

func BenchmarkExpand(b *testing.B) {
	for name, set := range benchSets() {
		folded := target.Fold(set)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := target.Expand(folded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	var known, half []string
	for i := range 5000 {
		known = append(known, fmt.Sprintf("web%04d.example.org", i))
		if i%2 == 0 {
			half = append(half, known[i])
		}
	}
	env := target.Env{Known: known, Group: func(string) ([]string, bool) { return half, true }}
	for name, expr := range map[string]string{
		"all":      "*",
		"glob":     "web1*",
		"suffix":   "*7.example.org",
		"range":    "web[0100-0199,0300].example.org",
		"one":      "web4711.example.org",
		"group":    "@half&web1*!web19*",
		"folded":   target.Fold(half),
		"literals": strings.Join(half, ","),
		"globs":    strings.TrimSuffix(strings.Repeat("*a*b*7*,", 1000), ","),
	} {
		b.Run(name+"/5000", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e, err := target.Parse(expr)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := e.Resolve(env); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, glob := range []string{"*", "web*", "*.example.org", "web[0001-4999].example.org", "service.*"} {
		p, err := target.Glob(glob)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(glob, func(b *testing.B) {
			for b.Loop() {
				p.Match("web4711.example.org")
			}
		})
	}
}
