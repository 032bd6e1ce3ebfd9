package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// maxRowName is the longest text of folded names that stands in the first column of
// the rows of all machines together; with longer ones each group has rows of its own.
const maxRowName = 40 // characters

// maxColumns is how many columns a table has at most: an answer with more is none.
const maxColumns = 64

// grid is an answer that is a list of objects: rows with the same columns.
type grid struct {
	columns []string
	rows    [][]string // escaped cells
}

// gridOf reads an answer that is a list of objects, or an object with such a list and
// nothing else, whose values fit into cells.
func gridOf(output []byte) (grid, bool) {
	dec := json.NewDecoder(bytes.NewReader(output))
	dec.UseNumber()
	v, err := readValue(dec, 0)
	if err != nil {
		return grid{}, false
	}
	if !v.list && len(v.items) == 1 {
		v = v.items[0]
	}
	return v.grid()
}

// grid gives the rows of a list of objects.
func (v value) grid() (grid, bool) {
	if !v.list || len(v.items) == 0 {
		return grid{}, false
	}
	var g grid
	for _, it := range v.items {
		if it.list || len(it.keys) == 0 || !g.add(it) {
			return grid{}, false
		}
	}
	return g, !g.hollow()
}

// hollow says that a table would mostly be blanks: an answer of 1 MiB whose rows have
// little in common, or one very long cell, must not become gigabytes.
func (g grid) hollow() bool {
	widths, text := make([]int, len(g.columns)), 0
	for _, row := range g.rows {
		for j, c := range row {
			widths[j] = max(widths[j], len(c))
			text += len(c)
		}
	}
	width := 0
	for j, w := range widths {
		width += max(w, len(g.columns[j])) + 2
	}
	return width*len(g.rows) > 1<<20+16*text
}

// add makes a row of an object; false: a value does not fit into a cell.
func (g *grid) add(object value) bool {
	row := make([]string, len(g.columns))
	for i, key := range object.keys {
		it := object.items[i]
		if it.items != nil && (!it.list || !it.flat()) || strings.Contains(it.scalar, "\n") {
			return false
		}
		at := slices.Index(g.columns, key)
		if at < 0 {
			if at = len(g.columns); at == maxColumns {
				return false
			}
			g.columns = append(g.columns, key)
			row = append(row, "")
		}
		row[at] = strings.Join(it.lines(), " ")
	}
	g.rows = append(g.rows, row)
	return true
}

// lines gives the rows aligned under a head: numbers to the right, all else to the left.
func (g grid) lines(p painter) []string {
	widths, right := make([]int, len(g.columns)), make([]bool, len(g.columns))
	head := make([]string, len(g.columns))
	for j, c := range g.columns {
		head[j] = escapeLine(strings.ToUpper(c))
		widths[j], right[j] = utf8.RuneCountInString(head[j]), true
		for _, row := range g.rows {
			if j >= len(row) || row[j] == "" {
				continue
			}
			widths[j] = max(widths[j], utf8.RuneCountInString(row[j]))
			if _, err := strconv.ParseFloat(row[j], 64); err != nil {
				right[j] = false
			}
		}
	}
	line := func(row []string) string {
		var b strings.Builder
		for j := range g.columns {
			c := ""
			if j < len(row) {
				c = row[j]
			}
			gap := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(c))
			if right[j] {
				b.WriteString(gap + c)
			} else {
				b.WriteString(c + gap)
			}
			b.WriteString("  ")
		}
		return strings.TrimRight(b.String(), " ")
	}
	out := []string{p.paint(bold, line(head))}
	for _, row := range g.rows {
		out = append(out, line(row))
	}
	return out
}

// sort sorts the rows by a column, numbers as such; a column that is not there
// changes nothing.
func (g *grid) sort(column string, down bool) {
	at := slices.IndexFunc(g.columns, func(c string) bool { return strings.EqualFold(c, column) })
	if at < 0 {
		return
	}
	value := func(row []string) string {
		if at < len(row) {
			return row[at]
		}
		return ""
	}
	slices.SortStableFunc(g.rows, func(a, b []string) int {
		x, y := value(a), value(b)
		switch {
		case x == "" || y == "":
			return compareBool(x == "", y == "")
		case down:
			x, y = y, x
		}
		f, ferr := strconv.ParseFloat(x, 64)
		h, herr := strconv.ParseFloat(y, 64)
		if ferr == nil && herr == nil {
			return cmp.Compare(f, h)
		}
		return strings.Compare(x, y)
	})
}

// joinGrids makes one grid of the answers of all groups, with the machines in its first
// column; false: one of them is no list of objects, or has names too long for a column.
func joinGrids(groups []*client.Group) (grid, bool) {
	out := grid{columns: []string{"machine"}}
	for _, g := range groups {
		if g.Status != call.Answered {
			if len(g.Output) > 0 {
				return grid{}, false
			}
			continue // the message at the end names them
		}
		names := target.Fold(g.Names)
		one, ok := gridOf(g.Output)
		if !ok || utf8.RuneCountInString(names) > maxRowName || g.Cut > 0 || slices.Contains(one.columns, "machine") {
			return grid{}, false
		}
		place := make([]int, len(one.columns))
		for i, c := range one.columns {
			if place[i] = slices.Index(out.columns, c); place[i] < 0 {
				if len(out.columns) == maxColumns {
					return grid{}, false
				}
				place[i] = len(out.columns)
				out.columns = append(out.columns, c)
			}
		}
		for _, row := range one.rows {
			wide := make([]string, len(out.columns))
			wide[0] = names
			for i, c := range row {
				wide[place[i]] = c
			}
			out.rows = append(out.rows, wide)
		}
	}
	return out, len(out.rows) > 0 && !out.hollow()
}
