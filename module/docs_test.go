package module_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/minion"
	"dominion/module"
)

var update = flag.Bool("update", false, "rewrite the pages in docs/modules")

const docs = "../docs/modules"

// TestDocs: each built-in module has a page that says what its schema says.
func TestDocs(t *testing.T) {
	tab, err := module.NewTable(minion.Modules(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, mod := range minion.Modules(nil, nil) {
		known[mod.Name+".md"] = true
		t.Run(mod.Name, func(t *testing.T) {
			want := page(mod, tab.Schemas())
			file := filepath.Join(docs, mod.Name+".md")
			if *update {
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, string(got)); d != "" {
				t.Errorf("%s is not what the schema says; go test ./module -update writes it (-want +got):\n%s", file, d)
			}
		})
	}
	files, err := filepath.Glob(docs + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s is the page of no built-in module", f)
		}
	}
}

func page(mod module.Module, schemas []module.Schema) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Module %s\n\n%s\n", mod.Name, mod.Doc)
	for _, s := range schemas {
		if !strings.HasPrefix(s.Name, mod.Name+".") {
			continue
		}
		limit := "no time-out"
		if s.Timeout != "0s" {
			limit = "time-out " + s.Timeout
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s Effect: %s; %s.\n", s.Name, s.Doc, s.Effect, limit)
		table(&b, "Input", s.Fields, "")
		table(&b, "Answer", s.Output, "")
	}
	return b.String()
}

func table(b *strings.Builder, title string, fields []module.Field, in string) {
	if len(fields) == 0 {
		if in == "" {
			fmt.Fprintf(b, "\n%s: nothing.\n", title)
		}
		return
	}
	if in == "" {
		fmt.Fprintf(b, "\n%s:\n\n| field | type | meaning |\n|---|---|---|\n", title)
	}
	for _, f := range fields {
		fmt.Fprintf(b, "| `%s%s` | %s | %s%s |\n", in, f.Name, f.Type, f.Doc, limits(f))
		table(b, title, f.Fields, in+f.Name+".")
	}
}

// limits says in words what the schema adds to a field's line.
func limits(f module.Field) string {
	var s []string
	add := func(format, value string) {
		if value != "" {
			s = append(s, fmt.Sprintf(format, value))
		}
	}
	if f.Required {
		s = append(s, "required")
	}
	add("default `%s`", f.Default)
	unit := map[string]string{"string": " bytes", "bytes": " bytes", "[]string": " entries", "map[string]string": " entries"}[f.Type]
	add("at least %s"+unit, f.Min)
	add("at most %s"+unit, f.Max)
	add("one of %s", strings.Join(f.Enum, ", "))
	add("of the form `%s`", strings.ReplaceAll(f.Pattern, "|", `\|`)) // a bar would end the cell
	if f.Secret {
		s = append(s, "secret: never shown")
	}
	if len(s) == 0 {
		return ""
	}
	return " (" + strings.Join(s, "; ") + ")"
}
