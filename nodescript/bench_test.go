package nodescript_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"dominion/nodescript"
)

// benchTree has as many scripts as a node usually runs, of three folders.
func benchTree(t testing.TB, n int) string {
	var files []file
	for i := range n {
		folder := [...]string{"all", "all", "vnfs/v", "group/g"}[i%4]
		files = append(files, sh(fmt.Sprintf("ready/%s/%02d-bench", folder, 10+i), `if [ -n "$DEBUG" ]; then echo set -x; fi`, `echo "echo $NODENAME $GROUPNAME \$A"`))
	}
	return put(t, files...)
}

// BenchmarkAssembly is one assembly; /parallel has as many at a time as there
// are places, each for a node of its own.
func BenchmarkAssembly(b *testing.B) {
	for _, scripts := range []int{1, 10} {
		for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
			a, err := nodescript.New(nodescript.Config{Statedir: benchTree(b, scripts), Rules: rules})
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%d/%v", scripts, rules), func(b *testing.B) {
				for b.Loop() {
					if s, err := a.Assemble(b.Context(), n1, "ready"); err != nil || s.Failure != "" {
						b.Fatal(s, err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "assemblies/s")
			})
			b.Run(fmt.Sprintf("%d/%v/parallel", scripts, rules), func(b *testing.B) {
				var nodes atomic.Int64
				b.SetParallelism(4)
				b.RunParallel(func(pb *testing.PB) {
					n := n1
					n.Name = fmt.Sprintf("n%d", nodes.Add(1))
					for pb.Next() {
						if s, err := a.Assemble(b.Context(), n, "ready"); err != nil || s.Failure != "" {
							b.Error(s, err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "assemblies/s")
			})
		}
	}
}

// BenchmarkExplain is what an assembly costs without the scripts.
func BenchmarkExplain(b *testing.B) {
	tree, err := nodescript.Open(benchTree(b, 10))
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tree.Explain(nodescript.Documented, n1, "ready"); err != nil {
			b.Fatal(err)
		}
	}
}
