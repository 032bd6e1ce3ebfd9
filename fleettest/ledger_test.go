package fleettest_test

import (
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/fleettest"
)

// TestLedger: each way in which a machine can break the promise is found.
func TestLedger(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ok := []call.Result{{Code: call.OK, Output: []byte(`{"exit":0}`)}}
	code := func(c call.Code) []call.Result { return []call.Result{{Code: c}} }
	good := func() *fleettest.Fate { return &fleettest.Fate{Lines: 1, Wrote: at, Stored: ok, Told: ok} }
	for _, test := range []struct {
		name   string
		fate   fleettest.Fate // of m1; m2 and m3 are as they should be
		counts call.Counts    // zero: what fits
		want   string         // in the only error; empty: there is none
	}{
		{"all is well", *good(), call.Counts{}, ""},
		{"unknown, killed while it ran", fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at.Add(time.Second)}}, call.Counts{}, ""},
		{"unknown, killed just before", fleettest.Fate{Lines: 0, Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at}}, call.Counts{}, ""},
		{
			"unknown, stopped and killed",
			fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at.Add(6 * time.Second)}, Paused: 5 * time.Second},
			call.Counts{},
			"",
		},
		{"unknown without a kill", fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Unknown), Told: code(call.Unknown)}, call.Counts{}, "was not killed"},
		{
			"unknown, killed long after",
			fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at.Add(time.Minute)}},
			call.Counts{},
			"was not killed",
		},
		{
			"unknown, killed long before",
			fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at.Add(-time.Minute)}},
			call.Counts{},
			"was not killed",
		},
		{"it ran twice", fleettest.Fate{Lines: 2, Wrote: at, Stored: ok, Told: ok}, call.Counts{}, "ran 2 times"},
		{"answered and never ran", fleettest.Fate{Stored: ok, Told: ok}, call.Counts{}, "never ran"},
		{"two results", fleettest.Fate{Lines: 1, Wrote: at, Stored: append(ok, ok...), Told: ok}, call.Counts{Targeted: 3, Answered: 2}, "2 results"},
		{"no result", fleettest.Fate{Lines: 1, Wrote: at, Told: ok}, call.Counts{Targeted: 3, Answered: 2}, "0 results"},
		{"unreachable", fleettest.Fate{Stored: code(call.NoSession), Told: code(call.NoSession)}, call.Counts{}, "no session"},
		{"skipped", fleettest.Fate{Stored: code(call.Expired), Told: code(call.Expired)}, call.Counts{}, "expired"},
		{"failed", fleettest.Fate{Lines: 1, Wrote: at, Stored: code(call.Failed), Told: code(call.Failed)}, call.Counts{}, "failed"},
		{"the client was told another thing", fleettest.Fate{Lines: 1, Wrote: at, Stored: ok, Told: code(call.Unknown)}, call.Counts{}, "client was told"},
		{"the client was told twice", fleettest.Fate{Lines: 1, Wrote: at, Stored: ok, Told: append(ok, ok...)}, call.Counts{}, "client was told"},
		{"a wrong account", *good(), call.Counts{Targeted: 3, Answered: 2, Failed: 1}, "counts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &fleettest.Ledger{Machines: map[string]*fleettest.Fate{"m1": &test.fate, "m2": good(), "m3": good()}, Runs: 2 * time.Second, Slack: time.Second, Counts: test.counts}
			if test.counts == (call.Counts{}) {
				_, l.Counts = l.Counted()
			}
			var texts []string
			for _, err := range l.Check() {
				texts = append(texts, err.Error())
			}
			got := strings.Join(texts, "\n")
			if test.want == "" && got != "" || test.want != "" && !strings.Contains(got, test.want) {
				t.Errorf("found %q; want %q", got, test.want)
			}
		})
	}
	few := &fleettest.Ledger{Machines: map[string]*fleettest.Fate{}, Runs: time.Second, Slack: time.Second}
	for _, name := range []string{"m1", "m2", "m3"} {
		few.Machines[name] = &fleettest.Fate{Stored: code(call.Unknown), Told: code(call.Unknown), Kills: []time.Time{at}}
	}
	_, few.Counts = few.Counted()
	if bad := few.Check(); len(bad) != 1 || !strings.Contains(bad[0].Error(), "half") {
		t.Errorf("nobody answered: %v", bad)
	}
}
