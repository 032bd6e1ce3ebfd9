package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// renderGroup shows machines with equal results:
//
//	web[01-40] (40): ok: true
//	web41: failed: exit 3
//	    stderr: no such file
//
// The text is escaped and ends with a line end.
func renderGroup(g *client.Group, body func([]byte) []string, p painter) string {
	var b strings.Builder
	head := target.Fold(g.Names)
	if len(g.Names) > 1 {
		head += fmt.Sprintf(" (%d)", len(g.Names))
	}
	b.WriteString(p.paint(bold, head+":"))
	lines := body(g.Output)
	switch {
	case g.Status != call.Answered:
		b.WriteString(" " + p.paint(red, escapeLine(g.Status.String()+": "+reason(g.Code, g.Detail))))
	case len(lines) == 1:
		b.WriteString(" " + lines[0])
		lines = nil
	case len(lines) == 0:
		b.WriteString(" done")
	}
	b.WriteByte('\n')
	for _, l := range lines {
		b.WriteString(strings.TrimRight("    "+l, " "))
		b.WriteByte('\n')
	}
	if g.Cut > 0 {
		fmt.Fprintf(&b, "    (%d more bytes were not kept)\n", g.Cut)
	}
	return b.String()
}

// reason says in words why a machine did not answer; empty when it did.
func reason(code call.Code, detail string) string {
	word := code.String()
	switch {
	case code == call.OK:
		return ""
	case detail == "":
		return word
	case code == call.Failed, strings.HasPrefix(detail, word):
		return detail
	}
	return word + ": " + detail
}

// resultLines shows a method's answer: an object as "key: value" lines, nested
// values indented below their key, in the order of the JSON. Lines are escaped.
func resultLines(output []byte) []string {
	if len(output) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(output))
	dec.UseNumber()
	v, err := readValue(dec, 0)
	if err != nil {
		return textLines(string(output))
	}
	return v.lines()
}

// value is JSON that remembers the order of its keys.
type value struct {
	scalar string // when keys and items are nil
	keys   []string
	items  []value // of keys, or of a list
	list   bool
	empty  bool // a list or object of nothing
}

const maxDepth = 64 // of nested values shown; deeper ones are shown as the JSON text

func readValue(dec *json.Decoder, depth int) (value, error) {
	if depth > maxDepth {
		return value{}, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return value{}, err
	}
	switch t := t.(type) {
	case json.Delim:
		v := value{list: t == '['}
		for dec.More() {
			if !v.list {
				k, err := dec.Token()
				if err != nil {
					return value{}, err
				}
				v.keys = append(v.keys, fmt.Sprint(k))
			}
			item, err := readValue(dec, depth+1)
			if err != nil {
				return value{}, err
			}
			v.items = append(v.items, item)
		}
		v.empty = len(v.items) == 0
		_, err := dec.Token() // the closing one
		return v, err
	case string:
		return value{scalar: t}, nil
	case json.Number:
		return value{scalar: t.String()}, nil
	case bool:
		return value{scalar: strconv.FormatBool(t)}, nil
	default:
		return value{scalar: "null"}, nil
	}
}

func (v value) lines() []string {
	switch {
	case v.empty:
		return nil
	case v.list && v.flat():
		words := make([]string, len(v.items))
		for i, it := range v.items {
			words[i] = escapeLine(it.scalar)
		}
		return []string{strings.Join(words, ", ")}
	case v.items == nil:
		return textLines(v.scalar)
	}
	if g, ok := v.grid(); ok && len(g.rows) > 1 && len(g.columns) > 1 {
		return g.lines(false)
	}
	var out []string
	for i, it := range v.items {
		below := it.lines()
		head := "-"
		if !v.list {
			head = escapeLine(v.keys[i]) + ":"
		}
		switch {
		case v.list && len(below) > 0:
			out = append(out, "- "+below[0])
			out = append(out, indent(below[1:])...)
		case len(below) == 1 && (it.items == nil || it.list && it.flat()):
			out = append(out, strings.TrimRight(head+" "+below[0], " "))
		default:
			out = append(out, head)
			out = append(out, indent(below)...)
		}
	}
	return out
}

// flat says that a list holds only short scalars, so that one line shows it.
func (v value) flat() bool {
	n := 0
	for _, it := range v.items {
		if it.items != nil || it.list || strings.ContainsAny(it.scalar, "\n,") {
			return false
		}
		n += len(it.scalar) + 2
	}
	return n <= 100
}

func indent(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = "  " + l
	}
	return out
}

// textLines gives the escaped lines of a text; a line end at its end counts
// for nothing, and an empty text is one empty line.
func textLines(s string) []string {
	return strings.Split(escapeText(strings.TrimSuffix(s, "\n")), "\n")
}

// runResult is the answer of command.run and command.shell.
type runResult struct {
	Exit         int    `json:"exit"`
	Signal       string `json:"signal"`
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	StdoutBase64 []byte `json:"stdout_base64"`
	StderrBase64 []byte `json:"stderr_base64"`
	StdoutCut    uint64 `json:"stdout_cut"`
	StderrCut    uint64 `json:"stderr_cut"`
}

// runLines shows what a command wrote: its output as it is, and each line of
// its error output after "stderr: ".
func runLines(output []byte) []string {
	if len(output) == 0 {
		return nil
	}
	var r runResult
	if err := json.Unmarshal(output, &r); err != nil {
		return resultLines(output)
	}
	var lines []string
	if s := r.Stdout + string(r.StdoutBase64); s != "" {
		lines = append(lines, textLines(s)...)
	}
	if r.StdoutCut > 0 {
		lines = append(lines, fmt.Sprintf("(%d more bytes of output were not kept)", r.StdoutCut))
	}
	if s := r.Stderr + string(r.StderrBase64); s != "" {
		for _, l := range textLines(s) {
			lines = append(lines, "stderr: "+l)
		}
	}
	if r.StderrCut > 0 {
		lines = append(lines, fmt.Sprintf("stderr: (%d more bytes were not kept)", r.StderrCut))
	}
	return lines
}
