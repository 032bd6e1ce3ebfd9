package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnified(t *testing.T) {
	for _, tt := range []struct {
		a, b, want string
	}{
		{"x", "x", ""},
		{"", "", ""},
		{"", "x", "@@ -0,0 +1,1 @@|+x"},
		{"x", "", "@@ -1,1 +0,0 @@|-x"},
		{"a|b|c", "a|B|c", "@@ -1,3 +1,3 @@| a|-b|+B| c"},
		{"1|2|3|4|5|6|7|8|9", "1|2|3|4|5|6|7|8|nine", "@@ -6,4 +6,4 @@| 6| 7| 8|-9|+nine"},
	} {
		lines := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "|")
		}
		if got := strings.Join(unified(lines(tt.a), lines(tt.b), false), "|"); got != tt.want {
			t.Errorf("unified(%q, %q) = %q; want %q", tt.a, tt.b, got, tt.want)
		}
	}
}

// What is shown is what patch needs to make the one of the other.
func TestUnifiedPatches(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("SKIPPED patch is not installed: apt-get install patch")
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 40 {
		var a, b []string
		for n := range 5 + r.IntN(40) {
			line := fmt.Sprint("line ", n%7)
			switch r.IntN(8) {
			case 0:
				a = append(a, line)
			case 1:
				b = append(b, line)
			default:
				a, b = append(a, line), append(b, line)
			}
		}
		shown := unified(a, b, false)
		if len(shown) == 0 {
			continue
		}
		file := filepath.Join(dir, fmt.Sprint("f", i))
		if err := os.WriteFile(file, []byte(strings.Join(a, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "patch", "-s", file)
		cmd.Stdin = strings.NewReader("--- f\n+++ f\n" + strings.Join(shown, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("patch: %v: %s\n%s", err, out, strings.Join(shown, "\n"))
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != strings.Join(b, "\n")+"\n" {
			t.Fatalf("round %d: patched it is %q, %v; want %q", i, got, err, b)
		}
	}
}
