package funcd

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"dominion/xmlrpc"
)

// How long, and how many, calls in the background are remembered.
const (
	jobKeep    = time.Hour // after their end, as Func did
	maxJobs    = 10_000    // with those that have ended
	maxOpen    = 1024      // that have not ended
	maxOwned   = 256       // of one identity, that have not ended
	maxResults = 64 << 20  // bytes of results; the oldest go
)

// States of a job, as jobs.job_status gives them.
const (
	jobRunning  = 0
	jobFinished = 1
	jobLost     = 2 // nobody knows it
)

// jobs are calls in the background. They are in memory: those of an earlier process
// are lost, and what they did is on the machine's log.
type jobs struct {
	now func() time.Time

	mu    sync.Mutex
	byID  map[string]*job
	ended []*job // the oldest first
	open  map[string]int
	total int   // of open
	last  int64 // microseconds of the newest id
	held  int   // bytes of results
}

// job is one call in the background.
type job struct {
	id    string
	owner string // the identity that called: nobody else is told of it
	log   *JobLog

	// Covered by jobs.mu.
	done  bool
	at    time.Time // of its end
	value any
	size  int
}

// add makes a job. The error says that there are too many.
func (j *jobs) add(owner string) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	j.forget(now)
	switch {
	case j.total >= maxOpen:
		return nil, Raise("busy: %d calls in the background have not ended on this machine", j.total)
	case j.open[owner] >= maxOwned:
		return nil, Raise("busy: %d calls in the background of %s have not ended on this machine", j.open[owner], owner)
	}
	if j.byID == nil {
		j.byID, j.open = make(map[string]*job), make(map[string]int)
	}
	// Func's form: the time with microseconds, and where it runs. Programs read the time.
	j.last = max(now.UnixMicro(), j.last+1)
	id := fmt.Sprintf("%d.%06d-minion", j.last/1e6, j.last%1e6)
	n := &job{id: id, owner: owner, log: &JobLog{id: id, now: j.now}}
	j.byID[id] = n
	j.open[owner]++
	j.total++
	return n, nil
}

// end keeps a job's value, which takes size bytes.
func (j *jobs) end(n *job, value any, size int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n.done, n.at, n.value, n.size = true, j.now(), value, size
	if j.open[n.owner]--; j.open[n.owner] == 0 {
		delete(j.open, n.owner)
	}
	j.total--
	j.held += size
	j.ended = append(j.ended, n)
	j.forget(n.at)
}

// forget drops what ended long ago, and the oldest when there is too much; j.mu is
// held.
func (j *jobs) forget(now time.Time) {
	for len(j.ended) > 0 {
		oldest := j.ended[0]
		if now.Sub(oldest.at) < jobKeep && j.held <= maxResults && len(j.byID) <= maxJobs {
			return
		}
		j.ended[0] = nil
		j.ended = j.ended[1:]
		j.held -= oldest.size
		delete(j.byID, oldest.id)
	}
}

// find gives a job of an identity; nil when it has none of that id.
func (j *jobs) find(owner, id string) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forget(j.now())
	if n := j.byID[id]; n != nil && n.owner == owner {
		return n
	}
	return nil
}

// status is jobs.job_status.
func (j *jobs) status(owner, id string) []any {
	n := j.find(owner, id)
	if n == nil {
		return []any{jobLost, 0}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if !n.done {
		return []any{jobRunning, -1}
	}
	return []any{jobFinished, n.value}
}

// Limits of a JobLog.
const (
	logLines = 50   // that are kept
	logLine  = 1024 // bytes of one
)

// JobLog is what a call in the background says while it runs: its newest lines,
// and how far it has come. A nil JobLog takes everything and keeps nothing.
type JobLog struct {
	id  string
	now func() time.Time

	mu           sync.Mutex
	lines        []string
	current, all int
}

// Info adds a line.
func (l *JobLog) Info(format string, args ...any) {
	if l == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > logLine {
		text = text[:logLine]
	}
	line := l.now().Format("2006-01-02 15:04:05,000") + " - " + l.id + " - INFO - " + strings.ToValidUTF8(text, "\ufffd")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, line); len(l.lines) > logLines {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
}

// Progress says that current of all steps are done.
func (l *JobLog) Progress(current, all int) {
	if l == nil {
		return
	}
	l.Info("Progress report %d/%d completed", current, all)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.all = current, all
}

// tail is jobs.tail_output: the lines, and the complaints of whatever read them.
func (l *JobLog) tail() []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := ""
	if len(l.lines) > 0 {
		text = strings.Join(l.lines, "\n") + "\n"
	}
	return []any{xmlrpc.Text(text), ""}
}

func (l *JobLog) progress() []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []any{l.current, l.all}
}

// writer makes lines of live output.
func (l *JobLog) writer() *lineWriter { return &lineWriter{log: l} }

type lineWriter struct {
	log *JobLog
	buf []byte // of an unfinished line
}

var _ io.Writer = (*lineWriter)(nil)

// Write implements io.Writer. It never blocks and never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, found := bytes.Cut(p, []byte("\n"))
		if room := logLine - len(w.buf); room > 0 {
			w.buf = append(w.buf, line[:min(len(line), room)]...)
		}
		if !found {
			return n, nil
		}
		w.flush()
		p = rest
	}
}

// flush ends the line.
func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		w.log.Info("%s", w.buf)
	}
	w.buf = w.buf[:0]
}
