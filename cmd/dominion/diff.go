package main

import (
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// unified shows what differs between two texts, as diff -u does, without its head.
func unified(a, b []string, p painter) []string {
	text := func(lines []string) []byte {
		if len(lines) == 0 {
			return nil
		}
		return []byte(strings.Join(lines, "\n") + "\n")
	}
	out := strings.Split(strings.TrimSuffix(string(diff.Diff("", text(a), "", text(b))), "\n"), "\n")
	if len(out) <= 3 { // its head
		return nil
	}
	out = out[3:]
	for i, line := range out {
		switch line[:1] {
		case "-":
			out[i] = p.paint(red, line)
		case "+":
			out[i] = p.paint(green, line)
		case "@":
			out[i] = p.paint(cyan, line)
		}
	}
	return out
}
