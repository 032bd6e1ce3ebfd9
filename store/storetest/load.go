package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dominion/call"
	"dominion/store"
)

func testRoom(t *testing.T, p Place) {
	k := new(Keeper)
	opt := Options(t, k)
	opt.MaxOutput = 10_000
	db := open(t, p, opt)
	jobs := make([]store.Job, 6)
	for i := range jobs {
		jobs[i] = Job(stamp())
		AddJob(t, db, &jobs[i])
		Update(t, db, func(tx *store.Tx) error {
			return tx.AddResults(t.Context(), jobs[i].ID, []store.ResultGroup{{Names: "web1", Count: 1, Status: call.Answered, Output: make([]byte, 3000)}})
		})
		if i < 5 { // the last one stays open
			Update(t, db, func(tx *store.Tx) error {
				return tx.CloseJob(t.Context(), jobs[i].ID, stamp().Add(time.Duration(i)*time.Second), call.Counts{}, "")
			})
		}
	}
	Update(t, db, func(*store.Tx) error { return nil }) // after it, room was made
	kept := 0
	for i, j := range jobs {
		got, err := db.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		for g, err := range db.Results(t.Context(), j.ID, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if g.Dropped != got.Dropped || g.Dropped == (len(g.Output) > 0) {
				t.Errorf("job %d: dropped %v, its result %v with %d bytes", i, got.Dropped, g.Dropped, len(g.Output))
			}
			kept += len(g.Output)
		}
		if got.Dropped != (i < 3) {
			t.Errorf("job %d: dropped %v; want the oldest three", i, got.Dropped)
		}
	}
	if kept > 10_000 {
		t.Errorf("%d bytes are kept; want at most 10,000", kept)
	}
	if r := Verify(t, db, nil); r.Dropped != 3 {
		t.Errorf("Verify counts %d dropped outputs; want 3", r.Dropped)
	}
}

func testMany(t *testing.T, p Place) {
	k := new(Keeper)
	db := open(t, p, Options(t, k))
	j := Job(stamp())
	AddJob(t, db, &j)
	var wg sync.WaitGroup
	for i := range 2000 {
		wg.Go(func() {
			g := store.ResultGroup{Number: i, Names: fmt.Sprintf("web%d", i), Count: 1, Status: call.Answered, Output: fmt.Appendf(nil, "%d", i)}
			if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddResults(t.Context(), j.ID, []store.ResultGroup{g}) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	next := 0
	for g, err := range db.Results(t.Context(), j.ID, 0) { // more than one page
		if err != nil || g.Number != next {
			t.Fatalf("Results yields group %d, %v; want %d", g.Number, err, next)
		}
		next++
	}
	if next != 2000 {
		t.Errorf("Results yields %d groups; want 2000", next)
	}
	newest := int64(2001)
	for row, err := range db.LogRowsBackwards(t.Context(), newest) {
		if newest--; err != nil || row.Index != newest {
			t.Fatalf("LogRowsBackwards yields record %d, %v; want %d", row.Index, err, newest)
		}
	}
	if newest != 0 {
		t.Errorf("LogRowsBackwards ends before record %d", newest)
	}
	if r := Verify(t, db, nil); r.Size != 2001 || r.Results != 2000 {
		t.Errorf("Verify checked %d records and %d results; want 2001 and 2000", r.Size, r.Results)
	}
}

// testVerifyBesideWrites verifies while results come and old outputs go: there
// is nothing wrong to be found.
func testVerifyBesideWrites(t *testing.T, p Place) {
	k := new(Keeper)
	opt := Options(t, k)
	opt.MaxOutput = 20_000
	db := open(t, p, opt)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				j := Job(stamp())
				err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddJob(t.Context(), j) })
				if err == nil {
					err = db.Update(t.Context(), func(tx *store.Tx) error {
						return errors.Join(
							tx.AddResults(t.Context(), j.ID, []store.ResultGroup{{Names: "web1", Count: 1, Output: make([]byte, 1000)}}),
							tx.CloseJob(t.Context(), j.ID, stamp(), call.Counts{}, ""),
						)
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	dropped := int64(0)
	for deadline := time.Now().Add(20 * time.Second); dropped < 20; {
		outside := k.Note()
		dropped = Verify(t, db, outside).Dropped
		if time.Now().After(deadline) {
			t.Error("no outputs were dropped in 20 s")
			break
		}
	}
	stop()
	wg.Wait()
}
