package nodescript_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/nodescript"
)

// TestDocs runs the examples of docs/nodescript.md.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/nodescript.md")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	lint, shown := "", ""
	for _, m := range regexp.MustCompile("(?ms)^```\n(.*?)^```\n").FindAllStringSubmatch(string(page), -1) {
		head, text, _ := strings.Cut(m[1], "\n")
		switch {
		case strings.HasPrefix(head, "# init/"):
			files = append(files, x(head[2:], text))
		case head == "lint":
			lint = text
		case head == "show n1 init --group web":
			shown = text
		default:
			t.Errorf("an example that no test runs: %s", head)
		}
	}
	if len(files) != 2 || lint == "" || shown == "" {
		t.Fatalf("examples: %d files, %q, %q", len(files), lint, shown)
	}
	tree, err := nodescript.Open(put(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	found, err := tree.Lint(nodescript.Documented, "")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range found {
		got.WriteString(f.String() + "\n")
	}
	if d := cmp.Diff(lint, got.String()); d != "" {
		t.Error(d)
	}
	a, err := nodescript.New(nodescript.Config{Statedir: put(t, files[1])})
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Assemble(t.Context(), nodescript.Node{Name: "n1", Group: "web", Enabled: true}, "init")
	if err != nil || string(s.Text) != shown {
		t.Errorf("%v: %s", err, cmp.Diff(shown, string(s.Text)))
	}
}
