package overlord

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"dominion/pki"
)

// An operator who leaves at once is on the log all the same.
func TestDenialIsRecordedWithoutItsCaller(t *testing.T) {
	cfg, err := Config{State: filepath.Join(t.TempDir(), "state"), Name: "overlord"}.settle()
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer o.close() //nolint:errcheck // the test is over
	before := o.keep.logSize()
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for range 20 { // without the fix each has an even chance
		o.auditDenied(ctx, caller{Identity: pki.Identity{Role: pki.Operator, Name: "eve"}}, "operator.add", "mallory", "policy")
	}
	if n := o.keep.logSize() - before; n != 20 {
		t.Errorf("%d denials on the log; want 20", n)
	}
}
