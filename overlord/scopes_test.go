package overlord

import (
	"errors"
	"fmt"
	"testing"

	"dominion/job"
	"dominion/target"
)

func TestScopesAreKept(t *testing.T) {
	var s scopes
	made := 0
	get := func(names string, reach string) *job.Scope {
		t.Helper()
		_, sc, err := s.of(scopeKey{names: names, reach: reach}, func() (job.Whom, error) {
			made++
			list, err := target.Expand(names)
			return job.Whom{Names: list}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sc
	}
	first := get("web[01-03]", "")
	if again := get("web[01-03]", ""); again != first || made != 1 {
		t.Errorf("the same machines got another scope, %d were made", made)
	}
	if other := get("web[01-03]", "x"); other == first || made != 2 {
		t.Error("other ways got the same scope")
	}
	for i := range maxRecent - 1 { // the first one was used last but one
		get(fmt.Sprintf("db%d", i), "")
	}
	get("web[01-03]", "x")
	if made != 2+maxRecent-1 || len(s.kept) != maxRecent {
		t.Errorf("%d scopes were made and %d are kept; want %d and %d", made, len(s.kept), 1+maxRecent, maxRecent)
	}
	if get("web[01-03]", ""); made != 3+maxRecent-1 {
		t.Error("the scope that was longest unused is still kept")
	}
	kept := len(s.kept)
	get(fmt.Sprintf("m[00001-%05d]", maxScoped+1), "")
	want := errors.New("no names")
	if _, _, err := s.of(scopeKey{names: "bad"}, func() (job.Whom, error) { return job.Whom{}, want }); !errors.Is(err, want) || len(s.kept) != kept {
		t.Errorf("an error: %v; %d scopes are kept, want %d", err, len(s.kept), kept)
	}
}
