package site

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"dominion/module"
)

// TestPage: the smallest module on the page for authors works as it stands there, and
// the page names the words that are reserved.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("../../docs/external-modules.md")
	must(t, err)
	_, after, ok := strings.Cut(string(b), "```sh\n")
	text, _, ended := strings.Cut(after, "```")
	if !ok || !ended {
		t.Fatal("the page has no module in shell")
	}
	s := newSet(t, nil)
	s.write(t, "uptime", text)
	s.Load(t.Context(), false)
	out, err := s.method(t, "uptime.get").Run(t.Context(), nil, nil)
	var got struct {
		Seconds float64 `json:"seconds"`
	}
	if err != nil || json.Unmarshal(out, &got) != nil || got.Seconds <= 0 {
		t.Errorf("%s, %v", out, err)
	}
	_, list, _ := strings.Cut(string(b), "begin with them: ")
	list, _, _ = strings.Cut(list, ".\n")
	words := strings.Split(strings.ReplaceAll(list, "`", ""), ", ")
	for _, w := range words {
		if !module.Reserved(w) {
			t.Errorf("%q is not reserved", w)
		}
	}
	if len(words) < 10 || !slices.IsSorted(words) {
		t.Errorf("the page names %q", words)
	}
}
