package store_test

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/store"
	"dominion/store/storetest"
)

// BenchmarkStoredResults measures results stored per second, the budget being
// 50,000, when jobs of 5,000 machines end in groups of equal results.
func BenchmarkStoredResults(b *testing.B) {
	for _, tt := range []struct {
		groups, each int // groups in one write, machines in a group
	}{
		{1, 1}, {1, 50}, {1, 500}, {20, 1}, {500, 1}, {500, 10},
	} {
		b.Run(fmt.Sprintf("groups/%d/machines/%d", tt.groups, tt.each), func(b *testing.B) {
			db := fresh(b).Open(b, storetest.Options(b, new(storetest.Keeper)))
			defer db.Close()
			j := storetest.Job(time.Now())
			storetest.AddJob(b, db, &j)
			names := fmt.Sprintf("web[0001-%04d]", tt.each)
			took := make([]time.Duration, tt.each)
			output := bytes.Repeat([]byte("x"), 100)
			var next atomic.Int64
			inParallel(b, 200, func() error {
				first := int(next.Add(int64(tt.groups))) - tt.groups
				gs := make([]store.ResultGroup, tt.groups)
				for i := range gs {
					gs[i] = store.ResultGroup{Number: (first + i) % store.MaxGroups, Names: names, Count: tt.each, Status: call.Answered, Output: output, Took: took}
				}
				return db.Update(b.Context(), func(tx *store.Tx) error { return tx.AddResults(b.Context(), j.ID, gs) })
			})
			results := float64(b.N * tt.groups * tt.each)
			b.ReportMetric(results/b.Elapsed().Seconds(), "results/s")
			b.ReportMetric(50_000, "budget")
		})
	}
}

// BenchmarkUpdate measures writes of one audit record each: one after another,
// and 200 at a time.
func BenchmarkUpdate(b *testing.B) {
	for _, width := range []int{1, 200} {
		b.Run(fmt.Sprintf("writers/%d", width), func(b *testing.B) {
			db := fresh(b).Open(b, storetest.Options(b, new(storetest.Keeper)))
			defer db.Close()
			inParallel(b, width, func() error { return db.Update(b.Context(), note) })
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

// BenchmarkOrder measures a whole small job: order, job row, one group, closed.
func BenchmarkOrder(b *testing.B) {
	for _, width := range []int{1, 200} {
		b.Run(fmt.Sprintf("operators/%d", width), func(b *testing.B) {
			db := fresh(b).Open(b, storetest.Options(b, new(storetest.Keeper)))
			defer db.Close()
			inParallel(b, width, func() error { return order(b, db) })
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
		})
	}
}

func order(b *testing.B, db *store.DB) error {
	ctx, j := b.Context(), storetest.Job(time.Now())
	err := db.Update(ctx, func(tx *store.Tx) (err error) {
		if j.Record, err = tx.Audit(&auditpb.Record{Action: "order", Subject: j.ID.String(), Order: &auditpb.Order{Order: j.Order, Names: j.Names}}); err != nil {
			return err
		}
		return tx.AddJob(ctx, j)
	})
	if err != nil {
		return err
	}
	return db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.AddResults(ctx, j.ID, []store.ResultGroup{{Names: "web1", Count: 1, Status: call.Answered, Output: []byte("{}"), Took: []time.Duration{1}}}); err != nil {
			return err
		}
		return tx.CloseJob(ctx, j.ID, time.Now(), j.Counts, "")
	})
}

// inParallel runs fn b.N times in width goroutines.
func inParallel(b *testing.B, width int, fn func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range width {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := fn(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

// BenchmarkVerify measures records verified per second, each a group of results.
func BenchmarkVerify(b *testing.B) {
	db := fresh(b).Open(b, storetest.Options(b, new(storetest.Keeper)))
	defer db.Close()
	j := storetest.Job(time.Now())
	storetest.AddJob(b, db, &j)
	const n = 20_000
	storetest.Update(b, db, func(tx *store.Tx) error {
		gs := make([]store.ResultGroup, n)
		for i := range gs {
			gs[i] = store.ResultGroup{Number: i, Names: "web1", Count: 1, Output: []byte("{}")}
		}
		return tx.AddResults(b.Context(), j.ID, gs)
	})
	for b.Loop() {
		storetest.Verify(b, db, nil)
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
