package target_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"dominion/target"
)

// nodeset gives a function that runs ClusterShell's nodeset with each text
// and gives what it answers, one line for each.
func nodeset(t *testing.T) func(option string, texts []string) []string {
	path, err := exec.LookPath("nodeset")
	if err != nil {
		t.Skip("SKIPPED: nodeset is not installed; it is the oracle of this test: apt-get install clustershell")
	}
	return func(option string, texts []string) []string {
		var lines []string
		for _, text := range texts { // nodeset would make one set of several
			out, err := exec.CommandContext(t.Context(), path, option, text).CombinedOutput()
			if err != nil {
				t.Fatalf("nodeset %s %.200q: %v: %s", option, text, err, out)
			}
			lines = append(lines, strings.TrimSpace(string(out)))
		}
		return lines
	}
}

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// What Fold writes, nodeset expands to the same set.
func TestOracleFold(t *testing.T) {
	expand := nodeset(t)
	r := rand.New(rand.NewPCG(5, 6))
	var texts []string
	var sets [][]string
	for range 40 {
		names := randomNames(r, 1+r.IntN(120))
		for i := range 40 {
			names = append(names, fmt.Sprintf("r%d-n%02d", i%(1+r.IntN(4)), r.IntN(20)))
		}
		sets = append(sets, sorted(names))
		texts = append(texts, target.Fold(names))
	}
	for i, line := range expand("-e", texts) {
		if got := sorted(strings.Fields(line)); !slices.Equal(got, sets[i]) {
			t.Errorf("nodeset -e %.200q gives %d names; want %d", texts[i], len(got), len(sets[i]))
		}
	}
}

// What nodeset expands or folds, Expand reads as the same set; only its short
// form of one-digit runs is a class of characters here.
func TestOracleExpand(t *testing.T) {
	run := nodeset(t)
	texts := []string{
		"web[1,2]", "web[08-11,20]", "web[8-11]", "[5-6,007]", "a[0-10]", "a[1-3,01-02]", "x[1,2]y[3,4]z[10-12]",
		"rack[1,2]-n[01-40].example.org", "a[00-10]", "a[98-102]", "n[9999999999999998-9999999999999999]", "b,a,b",
	}
	for i, line := range run("-e", texts) {
		want := sorted(strings.Fields(line))
		if got, err := target.Expand(texts[i]); err != nil || !slices.Equal(got, want) {
			t.Errorf("Expand(%q) = %q, %v; nodeset gives %q", texts[i], got, err, want)
		}
	}
	r := rand.New(rand.NewPCG(7, 8))
	var sets [][]string
	texts = texts[:0]
	for range 20 {
		var names []string
		for range 50 { // two digits at least: no lone run of one-digit numbers
			names = append(names, fmt.Sprintf("r%02d-n%d.dc", r.IntN(30), 10+r.IntN(200)))
		}
		sets = append(sets, sorted(names))
		texts = append(texts, strings.Join(names, ","))
	}
	for i, line := range run("-f", texts) {
		if got, err := target.Expand(line); err != nil || !slices.Equal(got, sets[i]) {
			t.Errorf("Expand(%.200q) = %d names, %v; want %d", line, len(got), err, len(sets[i]))
		}
	}
}
