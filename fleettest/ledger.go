package fleettest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dominion/call"
)

// Ledger is what is known of one order after its end: what the machines did,
// as their files tell it, and what was said about it.
type Ledger struct {
	Machines map[string]*Fate
	Runs     time.Duration // how long the method runs once it has written its line
	Slack    time.Duration // how late a busy machine may be with anything
	Counts   call.Counts   // by the overlord, of the closed job
}

// Fate is one machine's part in an order.
type Fate struct {
	Lines  int           // that the method wrote: how often it ran
	Wrote  time.Time     // the first of them; zero: there is none
	Stored []call.Result // in the overlord's store
	Told   []call.Result // to the client that gave the order
	Kills  []time.Time   // of the machine's agent by the test since the order was given
	Paused time.Duration // how long it was stopped in that time: it did not notice the method's end then
}

// Check gives everything that must not be.
func (l *Ledger) Check() []error {
	var bad []error
	say := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	var sum call.Counts
	names := make([]string, 0, len(l.Machines))
	for name := range l.Machines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := l.Machines[name]
		if f.Lines > 1 {
			say("%s: it ran %d times", name, f.Lines)
		}
		if len(f.Stored) != 1 {
			say("%s: %d results are stored: %s", name, len(f.Stored), brief(f.Stored))
			continue
		}
		r := f.Stored[0]
		sum.Add(r.Status(), 1)
		switch {
		case r.Code == call.OK && f.Lines == 0:
			say("%s: it answered and never ran", name)
		case r.Code == call.OK:
		case r.Code == call.Unknown && l.killedInside(f):
		case r.Code == call.Unknown:
			say("%s: unknown (%s), and its agent was not killed while the method ran: line %s, kills %s", name, r.Detail, clock(f.Wrote), clock(f.Kills...))
		default:
			say("%s: %s: %s; with a machine that waits for it everything is answered or unknown (%d lines, %s; kills %s)",
				name, r.Code, r.Detail, f.Lines, clock(f.Wrote), clock(f.Kills...))
		}
		if len(f.Told) != 1 || f.Told[0].Code != r.Code || string(f.Told[0].Output) != string(r.Output) {
			say("%s: the client was told %s; stored is %s", name, brief(f.Told), brief(f.Stored))
		}
	}
	sum.Targeted = len(l.Machines)
	if l.Counts != sum || sum.Done() != sum.Targeted {
		say("the overlord counts %+v; its results are %+v", l.Counts, sum)
	}
	if sum.Answered < (len(l.Machines)+1)/2 {
		say("%d of %d answered; want half of them at least", sum.Answered, len(l.Machines))
	}
	return bad
}

// killedInside says whether an agent was killed when its method may have been
// running: shortly before its line was written, or from then until its end.
func (l *Ledger) killedInside(f *Fate) bool {
	return slices.ContainsFunc(f.Kills, func(k time.Time) bool {
		return f.Wrote.IsZero() || k.After(f.Wrote.Add(-l.Slack)) && k.Before(f.Wrote.Add(l.Runs+f.Paused+l.Slack))
	})
}

// Counted adds up the stored results, and how often methods ran.
func (l *Ledger) Counted() (ran int, sum call.Counts) {
	for _, f := range l.Machines {
		ran += f.Lines
		for _, r := range f.Stored {
			sum.Add(r.Status(), 1)
		}
	}
	sum.Targeted = len(l.Machines)
	return ran, sum
}

func brief(results []call.Result) string {
	words := make([]string, 0, len(results))
	for _, r := range results {
		words = append(words, fmt.Sprintf("%s (%.60q %.60s)", r.Code, r.Detail, r.Output))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

func clock(times ...time.Time) string {
	words := make([]string, 0, len(times))
	for _, t := range times {
		if t.IsZero() {
			words = append(words, "never")
			continue
		}
		words = append(words, t.Format("15:04:05.000"))
	}
	return "[" + strings.Join(words, ", ") + "]"
}
