package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// The values of --output.
const (
	outText  = "text"
	outJSON  = "json"  // one document
	outJSONL = "jsonl" // one line per machine, record or row
)

func (a *app) checkOutput() error {
	switch a.output {
	case outText, outJSON, outJSONL:
		return nil
	}
	return usagef("--output %q: use text, json or jsonl", a.output)
}

// document writes v as one JSON document: indented for json, one line for jsonl.
func (a *app) document(v any) error {
	b, err := marshal(v, a.output == outJSON)
	if err != nil {
		return err
	}
	return a.write(b)
}

// line writes v as one line of JSON.
func (a *app) line(v any) error {
	b, err := marshal(v, false)
	if err != nil {
		return err
	}
	return a.write(b)
}

func (a *app) write(b []byte) error {
	if _, err := a.out.Write(b); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// flush shows what was written so far.
func (a *app) flush() error {
	if err := a.out.Flush(); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func (a *app) text(format string, args ...any) error {
	return a.write([]byte(escapeText(fmt.Sprintf(format, args...))))
}

// marshal gives JSON with a line end, safe for terminals.
func marshal(v any, indent bool) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return escapeJSON(b.Bytes()), nil
}

// list writes rows: one table of text, one document {"NAME": […]}, or one
// line of JSON each.
func list[T any](a *app, name string, rows []T, head []string, cells func(T) []string) error {
	switch a.output {
	case outJSON:
		if rows == nil {
			rows = []T{}
		}
		return a.document(map[string][]T{name: rows})
	case outJSONL:
		for _, r := range rows {
			if err := a.line(r); err != nil {
				return err
			}
		}
		return nil
	}
	t := table{head}
	for _, r := range rows {
		t = append(t, cells(r))
	}
	return a.write([]byte(t.String()))
}

// table is rows of cells; the first row is the head.
type table [][]string

// String gives the table aligned, two spaces between columns, every cell
// escaped, no spaces at line ends.
func (t table) String() string {
	var widths []int
	rows := make([][]string, len(t))
	for i, row := range t {
		for j, c := range row {
			c = escapeLine(c)
			rows[i] = append(rows[i], c)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var l strings.Builder
		for j, c := range row {
			l.WriteString(c)
			l.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(c)+2))
		}
		b.WriteString(strings.TrimRight(l.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// stamp shows a time of the overlord in UTC; nothing for none.
func stamp(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05Z")
}

// jsonTime is a time in JSON: RFC 3339 in UTC, left out when there is none.
func jsonTime(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	return new(time.UnixMilli(ms).UTC())
}

// plural gives "1 minion", "2 minions".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
