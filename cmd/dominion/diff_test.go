package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What diffLines says makes b of a, with the fewest lines put in and taken out.
func TestDiffLines(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	random := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = string(rune('a' + r.IntN(4)))
		}
		return out
	}
	for range 3000 {
		a, b := random(r.IntN(12)), random(r.IntN(12))
		var got []string
		x, y, changed := 0, 0, 0
		for _, e := range diffLines(a, b) {
			if e.a != x || e.b != y || e.equal && (e.an != e.bn || !slices.Equal(a[x:x+e.an], b[y:y+e.bn])) {
				t.Fatalf("%q to %q: edit %+v at %d, %d", a, b, e, x, y)
			}
			got = append(got, b[y:y+e.bn]...)
			x, y = x+e.an, y+e.bn
			if !e.equal {
				changed += e.an + e.bn
			}
		}
		if x != len(a) || !slices.Equal(got, b) {
			t.Fatalf("%q to %q: %+v", a, b, diffLines(a, b))
		}
		if want := len(a) + len(b) - 2*common(a, b); changed != want {
			t.Fatalf("%q to %q: %d lines are changed; %d are enough", a, b, changed, want)
		}
	}
}

// common is the length of the longest common subsequence, the slow way.
func common(a, b []string) int {
	row := make([]int, len(b)+1)
	for i := range a {
		diagonal := 0
		for j := range b {
			above := row[j+1]
			if a[i] == b[j] {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(row[j+1], row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

// Texts that have nothing in common take no time, and are shown as a replacement.
func TestDiffOfStrangers(t *testing.T) {
	var a, b []string
	for i := range 50_000 {
		a, b = append(a, fmt.Sprint("a", i)), append(b, fmt.Sprint("b", i))
	}
	if e := diffLines(a, b); len(e) != 1 || e[0] != (edit{0, 0, len(a), len(b), false}) {
		t.Errorf("%d edits; want one", len(e))
	}
}

// diff -u says the same.
func TestUnifiedAsDiff(t *testing.T) {
	if _, err := exec.LookPath("diff"); err != nil {
		t.Skip("SKIPPED diff is not installed: apt-get install diffutils")
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 40 {
		var a, b []string
		for n := range 5 + r.IntN(40) {
			line := fmt.Sprint("line ", n)
			switch r.IntN(8) {
			case 0:
				a = append(a, line)
			case 1:
				b = append(b, line)
			default:
				a, b = append(a, line), append(b, line)
			}
		}
		files := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
		for j, lines := range [][]string{a, b} {
			text := strings.Join(lines, "\n")
			if text != "" {
				text += "\n"
			}
			if err := os.WriteFile(files[j], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, _ := exec.CommandContext(t.Context(), "diff", "-u", files[0], files[1]).Output() // 1: they differ
		_, want, _ := strings.Cut(string(out), "\n")
		_, want, _ = strings.Cut(want, "\n")
		got := strings.Join(unified(a, b, false), "\n")
		if strings.TrimSuffix(want, "\n") != got {
			t.Fatalf("round %d: unified gives\n%s\ndiff -u gives\n%s", i, got, want)
		}
	}
}
