package audit_test

import (
	"testing"
	"time"

	"dominion/audit"
)

func TestMeter(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_000).Truncate(time.Minute)
	m := audit.NewMeter(func() time.Time { return now })
	for i := range 60 {
		if _, ok := m.Take(); !ok {
			t.Fatalf("record %d of the minute is held back", i)
		}
	}
	for range 5 {
		if _, ok := m.Take(); ok {
			t.Fatal("record 61 of the minute passes")
		}
	}
	now = now.Add(time.Minute)
	if n, ok := m.Take(); !ok || n != 5 {
		t.Errorf("in the next minute: %d held back, %v; want 5, true", n, ok)
	}
	if n, _ := m.Take(); n != 0 {
		t.Errorf("%d held back are told twice", n)
	}
}
