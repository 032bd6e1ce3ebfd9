package storetest

import (
	"errors"
	"fmt"
	"testing"

	"dominion/call"
	"dominion/store"
)

func testCluster(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	ctx := t.Context()
	version := func(serial uint64) store.ClusterVersion {
		return store.ClusterVersion{Serial: serial, Record: int64(serial) + 7, Made: stamp(), Header: fmt.Appendf(nil, "header %d", serial), Data: fmt.Appendf(nil, "data %d", serial)}
	}
	for _, serial := range []uint64{3, 9} {
		Update(t, db, func(tx *store.Tx) error { return tx.AddClusterVersion(ctx, version(serial)) })
		check(t, "ClusterVersion", version(serial))(db.ClusterVersion(ctx))
	}
	for _, serial := range []uint64{2, 9} {
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddClusterVersion(ctx, version(serial)) })
		if call.CodeOf(err) != call.Conflict {
			t.Errorf("AddClusterVersion %d after 9 = %v; want conflict", serial, err)
		}
	}
	Update(t, db, func(tx *store.Tx) error { return tx.SetClusterHeader(ctx, 9, []byte("again")) })
	v := version(9)
	v.Header = []byte("again")
	check(t, "ClusterVersion with another header", v)(db.ClusterVersion(ctx))
	if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SetClusterHeader(ctx, 8, nil) }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("SetClusterHeader of a version that is not there = %v", err)
	}
	for i := range uint64(3 * store.KeptVersions) {
		Update(t, db, func(tx *store.Tx) error { return tx.AddClusterVersion(ctx, version(1<<62-100+i)) })
	}
	check(t, "the highest version", version(1<<62-101+3*store.KeptVersions))(db.ClusterVersion(ctx))
	for _, key := range []string{"one\n", "two\x00"} {
		Update(t, db, func(tx *store.Tx) error { return tx.SetClusterKey(ctx, []byte(key), stamp()) })
		check(t, "ClusterKey", []byte(key))(db.ClusterKey(ctx))
	}
}
