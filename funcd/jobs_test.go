package funcd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/xmlrpc"
)

func TestJobsAreForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	j := &jobs{now: func() time.Time { return now }}
	add := func() *job { return must(j.add("a"))(t) }
	first, second := add(), add()
	if first.id != "1800000000.000000-minion" || second.id != "1800000000.000001-minion" {
		t.Errorf("ids %s, %s", first.id, second.id)
	}
	now = now.Add(2 * jobKeep)
	if d := cmp.Diff([]any{jobRunning, -1}, j.status("a", first.id)); d != "" {
		t.Error("a job that runs was forgotten: " + d)
	}
	j.end(first, "x", 10)
	j.end(second, "y", 10)
	now = now.Add(jobKeep - time.Second)
	if d := cmp.Diff([]any{jobFinished, "x"}, j.status("a", first.id)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]any{jobLost, 0}, j.status("b", first.id)); d != "" {
		t.Error("another's job is told: " + d)
	}
	now = now.Add(time.Second)
	if d := cmp.Diff([]any{jobLost, 0}, j.status("a", first.id)); d != "" {
		t.Error("not forgotten: " + d)
	}
	// Too many bytes: the oldest go.
	one, two, three := add(), add(), add()
	j.end(two, 2, maxResults/2)
	j.end(one, 1, maxResults/2)
	j.end(three, 3, 1)
	if j.find("a", two.id) != nil || j.find("a", one.id) == nil || j.find("a", three.id) == nil {
		t.Error("not the oldest result was dropped")
	}
	if j.total != 0 || len(j.open) != 0 || j.held != maxResults/2+1 {
		t.Errorf("%d open, %v, %d bytes held", j.total, j.open, j.held)
	}
	for i := range maxOpen {
		if _, err := j.add(strings.Repeat("x", i%5)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.add("y"); err == nil || !strings.Contains(err.Error(), "1024 calls in the background") {
		t.Errorf("add = %v", err)
	}
}

func TestJobLog(t *testing.T) {
	var none *JobLog
	none.Info("nobody reads")
	none.Progress(1, 2)
	l := &JobLog{id: "1.0-minion", now: func() time.Time { return time.Date(2026, 11, 21, 1, 2, 3, 4e6, time.UTC) }}
	if d := cmp.Diff([]any{"", ""}, l.tail()); d != "" {
		t.Error(d)
	}
	w := l.writer()
	for _, s := range []string{"a", "b\n\nc", strings.Repeat("d", 3*logLine), "e\x1b"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	w.flush()
	l.Info("%s", strings.Repeat("é", logLine))
	text := string(l.tail()[0].(string))
	lines := strings.Split(text, "\n")
	if lines[0] != "2026-11-21 01:02:03,004 - 1.0-minion - INFO - ab" || len(lines) != 4 || len(lines[1]) > logLine+100 || len(lines[2]) > logLine+100 {
		t.Errorf("tail = %q", text)
	}
	w2 := l.writer()
	if _, err := w2.Write([]byte("\x1b[1m\n")); err != nil {
		t.Fatal(err)
	}
	if b, ok := l.tail()[0].([]byte); !ok || !strings.Contains(string(b), "\x1b[1m") {
		t.Errorf("tail = %v; want bytes", l.tail())
	}
	if d := cmp.Diff([]any{0, 0}, l.progress()); d != "" {
		t.Error(d)
	}
	_ = xmlrpc.Text("")
}
