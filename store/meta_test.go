package store

import (
	"slices"
	"testing"
)

func TestMetaBelow(t *testing.T) {
	db, _ := faulty(t)
	err := db.Update(t.Context(), func(tx *Tx) error {
		for _, name := range []string{"sub/b", "sub/a", "su/b", "sub_c", "subx/c", "log/sub/d"} {
			if err := tx.SetMeta(t.Context(), name, "of "+name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string][]string{"sub/": {"of sub/a", "of sub/b"}, "log/": {"of log/sub/d"}, "%/": nil} {
		got, err := db.MetaBelow(t.Context(), prefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("MetaBelow(%q) = %q, %v; want %q", prefix, got, err, want)
		}
	}
}
