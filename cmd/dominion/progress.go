package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"dominion/call"
)

// progress keeps one line on a terminal that says how far a job is. On
// anything else it does nothing. It may be used by several goroutines.
type progress struct {
	w     io.Writer // nil: no terminal
	width func() int

	more func() string // said after the counts; nil: nothing

	mu    sync.Mutex // covers what follows and writing to w
	shown bool
	last  time.Time
}

// show replaces the line, at most ten times a second.
func (p *progress) show(c call.Counts, waiting string) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = now, true
	if p.more != nil {
		fmt.Fprintf(p.w, "\r\x1b[K%s", shortened(progressLine(c, "", p.width())+p.more(), p.width()-1))
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", progressLine(c, waiting, p.width()-1))
}

// text shows a line that is not about a job.
func (p *progress) text(line string) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = now, true
	fmt.Fprintf(p.w, "\r\x1b[K%s", shortened(line, p.width()-1))
}

// clear takes the line away, before something else is written.
func (p *progress) clear() {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
		p.last = time.Time{}
	}
}

// progressLine gives "12/40: 11 answered, 1 failed, 28 silent: web[13-40]" in at
// most width characters. Silent are those that are awaited.
func progressLine(c call.Counts, waiting string, width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d/%d: %d answered", c.Done(), c.Targeted, c.Answered)
	for _, k := range []struct {
		n    int
		word string
	}{{c.Failed, "failed"}, {c.Unreachable, "unreachable"}, {c.Skipped, "skipped"}, {c.Targeted - c.Done(), "silent"}} {
		if k.n > 0 {
			fmt.Fprintf(&b, ", %d %s", k.n, k.word)
		}
	}
	if waiting != "" {
		b.WriteString(": " + escapeLine(waiting))
	}
	return shortened(b.String(), width)
}

// shortened gives at most width characters of a text.
func shortened(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:max(width-1, 0)]) + "…"
}
