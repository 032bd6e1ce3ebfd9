package cluster_test

import (
	"fmt"
	"testing"

	"dominion/cluster"
)

// BenchmarkApply is one change, with all that makes it a version but for the
// signature and the store: rendered, judged by confd, compressed.
func BenchmarkApply(b *testing.B) {
	for _, nodes := range []int{5, 5000} {
		d := fleetOf(b, nodes)
		d = apply(b, d, cluster.AddCandidates("n1", "n2"))
		machines := make([]cluster.Machine, nodes)
		for i, n := range d.Nodes() {
			machines[i] = cluster.Machine{Name: n.Name, Address: n.Primary}
		}
		names := []string{"n1", "n2"}
		b.Run(fmt.Sprintf("master/%d", nodes), func(b *testing.B) {
			b.SetBytes(int64(len(d.Bytes())))
			for i := 0; b.Loop(); i++ {
				n, err := d.Apply(now(), cluster.Sync(machines), cluster.SetMaster(names[i%2]))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := cluster.Pack(n.Bytes()); err != nil {
					b.Fatal(err)
				}
				d = n
			}
		})
		b.Run(fmt.Sprintf("same inventory/%d", nodes), func(b *testing.B) {
			for b.Loop() {
				if n, err := d.Apply(now(), cluster.Sync(machines)); err != nil || n != d {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("read/%d", nodes), func(b *testing.B) {
			for b.Loop() {
				if _, err := cluster.Parse(d.Bytes()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
