package target_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
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

const oracleRounds = 2000

// clusterShell runs a program in Python with nodeset's own interpreter.
func clusterShell(t *testing.T, script string, input any) []byte {
	t.Helper()
	path, err := exec.LookPath("nodeset")
	if err != nil {
		t.Skip("SKIPPED: nodeset is not installed; it is the oracle of this test: apt-get install clustershell")
	}
	head, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(head), "\n")
	python, ok := strings.CutPrefix(first, "#!")
	if !ok {
		t.Fatalf("nodeset begins with %q; want the interpreter", first)
	}
	in, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	words := append(strings.Fields(python), script)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v: %s", words, err, errs.String())
	}
	return out
}

// oracleTerm gives a term: a name, a range in one or two dimensions, padded or
// not, a group, or with globs a pattern with wildcards.
func oracleTerm(r *rand.Rand, groups []string, globs bool) string {
	numbers := func() string {
		lo := r.IntN(14)
		hi := max(10, lo+r.IntN(8)) // two digits at least: a class otherwise
		switch r.IntN(5) {
		case 0:
			return fmt.Sprintf("[%d-%d]", lo, hi)
		case 1:
			return fmt.Sprintf("[%02d-%02d]", lo, hi)
		case 2:
			return fmt.Sprintf("[%d,%d]", lo, hi)
		case 3:
			return fmt.Sprintf("[%d-%d,%d]", lo, hi, 20+r.IntN(5))
		}
		return fmt.Sprintf("[%03d-%03d,%02d]", lo, hi, r.IntN(30))
	}
	prefix := []string{"web", "db", "r", "n-"}[r.IntN(4)]
	switch n := r.IntN(10); {
	case n < 2:
		return fmt.Sprintf("%s%d", prefix, r.IntN(20))
	case n < 3:
		return fmt.Sprintf("%s%02d.dc", prefix, r.IntN(20))
	case n < 5:
		return prefix + numbers()
	case n < 6:
		return prefix + numbers() + "-x" + numbers()
	case n < 7:
		return prefix + numbers() + ".dc"
	case n < 8:
		return "@" + groups[r.IntN(len(groups))]
	case globs:
		return []string{prefix + "*", prefix + "?", "*", "*" + strconv.Itoa(r.IntN(10)), prefix + "1?", "*.dc", prefix + "*[10-12]"}[r.IntN(6)]
	}
	return prefix + numbers()
}

func oracleExpr(r *rand.Rand, groups []string, globs bool) string {
	var b strings.Builder
	b.WriteString(oracleTerm(r, groups, globs))
	for range r.IntN(6) {
		b.WriteByte(",,,!&"[r.IntN(5)])
		b.WriteString(oracleTerm(r, groups, globs))
	}
	return b.String()
}

// Ranges, set algebra, groups, exclusions and wildcards name the same sets as
// ClusterShell's: in 2,000 random expressions.
func TestOracleAlgebra(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	var known []string
	for _, prefix := range []string{"web", "db", "r", "n-"} {
		for i := range 16 {
			known = append(known, fmt.Sprintf("%s%d", prefix, i), fmt.Sprintf("%s%02d", prefix, i), fmt.Sprintf("%s%02d.dc", prefix, i))
		}
		for i := range 20 {
			known = append(known, fmt.Sprintf("%s%d-x%d", prefix, r.IntN(12), i))
		}
	}
	known = sorted(known)
	groups := map[string]string{}
	var names []string
	for i := range 8 {
		var members []string
		for range 1 + r.IntN(25) {
			members = append(members, known[r.IntN(len(known))])
		}
		name := fmt.Sprintf("g%d", i)
		names = append(names, name)
		groups[name] = target.Fold(members)
	}
	env := target.Env{Known: known, Group: func(name string) ([]string, bool) {
		members, err := target.Expand(groups[name])
		return members, err == nil
	}}
	expressions := make([][2]string, oracleRounds)
	for i := range expressions {
		// nodeset's wildcards stand for what is known; so expressions with them are compared
		// in known names alone, and those without in all.
		expressions[i][0] = oracleExpr(r, names, i%2 == 0)
		if r.IntN(3) == 0 {
			expressions[i][1] = oracleExpr(r, names, i%2 == 0)
		}
	}
	out := clusterShell(t, "testdata/oracle.py", map[string]any{"known": strings.Join(known, ","), "groups": groups, "expressions": expressions})
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != oracleRounds {
		t.Fatalf("ClusterShell answered %d of %d expressions", len(lines), oracleRounds)
	}
	some := 0
	for i, line := range lines {
		got := resolveBoth(t, env, expressions[i], i%2 == 0)
		want := sorted(strings.Fields(line))
		if i%2 == 0 {
			want = slices.DeleteFunc(want, func(n string) bool { _, is := slices.BinarySearch(known, n); return !is })
		}
		if len(want) > 0 {
			some++
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q -x %q = %d names, %.300q; ClusterShell says %d, %.300q", expressions[i][0], expressions[i][1], len(got), target.Fold(got), len(want), target.Fold(want))
		}
	}
	t.Logf("%d expressions, %d of them not empty", len(lines), some)
	if some < oracleRounds/2 {
		t.Errorf("only %d expressions name anybody", some)
	}
}

// resolveBoth gives what an expression names: known machines and, unless onlyKnown, others.
func resolveBoth(t *testing.T, env target.Env, expr [2]string, onlyKnown bool) []string {
	t.Helper()
	e, err := target.Parse(expr[0])
	if err != nil {
		t.Fatal(err)
	}
	if expr[1] != "" {
		x, err := target.Parse(expr[1])
		if err != nil {
			t.Fatal(err)
		}
		e = e.Without(x)
	}
	res, err := e.Resolve(env)
	if err != nil {
		t.Fatal(err)
	}
	if onlyKnown {
		return res.Names
	}
	return sorted(append(res.Names, res.Unknown...))
}
