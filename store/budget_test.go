//go:build bench

package store_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"dominion/call"
	"dominion/store"
	"dominion/store/storetest"
)

// TestBudgetsStore stores results that do not fold, the dearest kind, as one
// job of 5,000 machines and more of them deliver: many in a write.
func TestBudgetsStore(t *testing.T) {
	const each = 20 // results in one write, each a group of its own
	res := testing.Benchmark(func(b *testing.B) {
		db := fresh(b).Open(b, storetest.Options(b, new(storetest.Keeper)))
		defer db.Close()
		j := storetest.Job(time.Now())
		storetest.AddJob(b, db, &j)
		output := bytes.Repeat([]byte("x"), 100)
		var next atomic.Int64
		b.ResetTimer()
		inParallel(b, 200, func() error {
			first := int(next.Add(each)) - each
			gs := make([]store.ResultGroup, each)
			for i := range gs {
				gs[i] = store.ResultGroup{
					Number: (first + i) % store.MaxGroups, Names: "web1", Count: 1, Status: call.Answered, Output: output, Took: make([]time.Duration, 1),
				}
			}
			return db.Update(b.Context(), func(tx *store.Tx) error { return tx.AddResults(b.Context(), j.ID, gs) })
		})
	})
	rate := float64(res.N*each) / res.T.Seconds()
	word := "within"
	if rate < 50_000 {
		word = "OVER"
		t.Fail()
	}
	fmt.Printf("budget: %-64s %10.0f /s   of %8.0f /s   %s\n", "stored results per second, none equal (at least)", rate, 50_000.0, word)
}
