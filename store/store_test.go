package store_test

import (
	"path/filepath"
	"testing"

	"dominion/store"
	"dominion/store/storetest"
)

// file is a SQLite file.
type file string

func (f file) Open(t testing.TB, opt store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), string(f), opt)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func fresh(t testing.TB) file { return file(filepath.Join(t.TempDir(), "store.db")) }

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Place { return fresh(t) })
}
