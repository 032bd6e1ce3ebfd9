package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/call"
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

// Arguments may be secrets: when a job is closed they are not in the file any
// more, not even where nothing is stored now.
func TestArgumentsAreErased(t *testing.T) {
	for name, size := range map[string]int{"in a page": 200, "over many pages": 100_000} {
		t.Run(name, func(t *testing.T) {
			f := fresh(t)
			db := f.Open(t, storetest.Options(t, new(storetest.Keeper)))
			j := storetest.Job(time.Now())
			j.Args = []byte(`{"password":"` + strings.Repeat("correct horse ", size/14) + `"}`)
			storetest.AddJob(t, db, &j)
			err := db.Update(t.Context(), func(tx *store.Tx) error {
				return tx.CloseJob(t.Context(), j.ID, time.Now(), call.Counts{}, "")
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(string(f) + "*")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range files {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(b, []byte("correct horse")) {
					t.Errorf("%s holds arguments of a job that is closed", filepath.Base(name))
				}
			}
		})
	}
}
