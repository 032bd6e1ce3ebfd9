package overlord_test

import (
	"database/sql"
	"encoding/json"
	"maps"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/session"
)

// A job whose row cannot be read is closed, with every machine accounted for,
// and keeps neither the overlord nor other jobs from going on.
func TestOpenJobThatCannotBeRead(t *testing.T) {
	f := hasty(t)
	m := newRemembers(t, "m1")
	m.quiet = true
	m.connect(f)
	f.Await(1)
	columns := []string{"", "order_bytes", "names", "args"}
	jobs := make([]string, len(columns))
	for i := range columns {
		jobs[i] = given{method: "test.ping", machines: []string{"m1"}, timeout: time.Hour}.order(t, f)
	}
	f.Until("it has the calls", m.look(func() bool { return m.calls == len(jobs) }))
	m.leave()
	f.Down()
	db, err := sql.Open("sqlite", filepath.Join(f.State, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for i, column := range columns {
		id, err := call.ParseJobID(jobs[i])
		if err != nil {
			t.Fatal(err)
		}
		if column == "" {
			continue
		}
		if _, err := db.Exec("UPDATE jobs SET "+column+" = '[' WHERE id = $1", id[:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f.Up()
	for i, column := range columns {
		j := jobOf(t, f, jobs[i])
		if column == "" {
			if j.ClosedMs != 0 {
				t.Errorf("the job that nobody touched was closed: %v", j)
			}
			continue
		}
		if j.ClosedMs == 0 || j.Counts.Targeted != 1 || j.Counts.Unreachable != 1 || !strings.Contains(j.Reason, "could not go on") {
			t.Errorf("the job without its %s: %v", column, j)
		}
	}
	m.quiet = false
	m.state[jobs[0]] = session.JobResult{State: session.JobFinished, Output: json.RawMessage("{}")}
	m.connect(f)
	if _, last := follow(t, f, jobs[0], 0, false); last.GetClosed().GetCounts().GetAnswered() != 1 {
		t.Errorf("the job that nobody touched ended with %v", last)
	}
	if got := verify(t, f.Conn); !got.Ok {
		t.Errorf("verify finds %v", got.Problem)
	}
}

// Outputs that a job does not hold in memory any more come from the store, to
// who watches from the beginning and to who comes late, each once.
func TestWatchOfLargeOutputs(t *testing.T) {
	f := hasty(t)
	names := []string{"m1", "m2", "m3", "m4", "m5"}
	var all []*remembers
	for _, n := range names {
		m := newRemembers(t, n)
		m.quiet = true
		m.connect(f)
		all = append(all, m)
	}
	f.Await(len(all))
	job := given{method: "command.run", args: `{"argv":["x"]}`, machines: names, timeout: time.Hour}.order(t, f)
	s, err := f.Conn.Fleet.Watch(t.Context(), connect.NewRequest(&apipb.WatchRequest{Job: job}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := make(map[string]string)
	for i, m := range all {
		f.Until("it has the call", m.look(func() bool { return m.calls == 1 }))
		want[m.name] = `{"text":"` + strings.Repeat(m.name, 450_000) + `"}`
		m.mu.Lock()
		m.state[job] = session.JobResult{State: session.JobFinished, Output: json.RawMessage(want[m.name])}
		m.mu.Unlock()
		if i == len(all)-1 {
			groups, _ := follow(t, f, job, 1, true)
			if len(groups) != len(all)-2 {
				t.Errorf("late, %d groups; want %d", len(groups), len(all)-2)
			}
		}
		m.connect(f)
		f.Until("its result is stored", func() bool { j := jobOf(t, f, job); return j.Groups == uint64(i+1) })
	}
	got := make(map[string]string)
	for s.Receive() {
		g := s.Msg().GetResults()
		if g == nil {
			continue
		}
		if _, twice := got[g.Names]; twice {
			t.Errorf("%s comes twice", g.Names)
		}
		got[g.Names] = string(g.Output)
	}
	if s.Err() != nil || !maps.Equal(got, want) {
		t.Errorf("watched from the beginning: %d groups, %v; want the outputs of %d machines", len(got), s.Err(), len(want))
	}
}

// Durations that do not fit are refused, or cut, wherever they come from.
func TestDurationsAreBounded(t *testing.T) {
	f := hasty(t)
	m := newRemembers(t, "m1")
	m.quiet = true
	m.connect(f)
	f.Await(1)
	_, req := given{method: "test.ping", machines: []string{"m1"}}.request(t, f)
	req.TimeoutMs = 1 << 63
	s, err := fleetOf(f, operator(t, f, "alice")).Call(t.Context(), connect.NewRequest(req))
	if err == nil {
		if s.Receive() {
			t.Errorf("a time-out of 2^63 ms: %v", s.Msg())
		}
		err = s.Err()
		s.Close()
	}
	if apierrOf(err) != call.Invalid {
		t.Errorf("a time-out of 2^63 ms: %v; want invalid", err)
	}
	job := given{method: "test.ping", machines: []string{"m1"}, timeout: time.Hour}.order(t, f)
	f.Until("it has the call", m.look(func() bool { return m.calls == 1 }))
	m.mu.Lock()
	m.state[job] = session.JobResult{State: session.JobFinished, Output: json.RawMessage("{}"), TookUs: 1 << 63}
	m.mu.Unlock()
	m.connect(f)
	groups, _ := follow(t, f, job, 0, false)
	if len(groups) != 1 || groups[0].TookUs[0] != uint64(math.MaxInt64/time.Microsecond) {
		t.Errorf("it took 2^63 µs: %v", groups)
	}
}
