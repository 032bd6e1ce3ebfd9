package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/module"
)

func (a *app) modulesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "modules [MODULE | MODULE.METHOD]",
		Short: "Show what can be called",
		Long: `Modules lists the methods that minions offer; with MODULE.METHOD it shows what
the method takes and gives. -o json and jsonl carry the whole schemas.`,
		Example: `  dominion modules
  dominion modules test
  dominion modules command.run`,
		Args:              args(0, 1, "at most one module or method"),
		ValidArgsFunction: a.completeModule,
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
			name := ""
			if len(words) == 1 {
				name = words[0]
			}
			conn, err := a.dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close() // nothing is asked of it any more
			schemas, err := conn.Modules(ctx, name)
			if err != nil {
				return err
			}
			if len(schemas) == 0 && name != "" {
				return call.Errorf(call.NotFound, "there is no module or method %q; list them with: dominion modules", name)
			}
			if a.output == outText && strings.Contains(name, ".") {
				return a.write([]byte(renderSchema(schemas[0])))
			}
			return list(a, "methods", schemas, []string{"METHOD", "EFFECT", "WHAT IT DOES"}, func(s module.Schema) []string {
				return []string{s.Name, string(s.Effect), s.Doc}
			})
		}),
	}
}

// renderSchema shows what one method takes and gives. The text is escaped.
func renderSchema(s module.Schema) string {
	var b strings.Builder
	b.WriteString(escapeLine(s.Name) + "  " + escapeLine(s.Doc) + "\n\n")
	rows := table{{"effect", string(s.Effect)}, {"time-out", s.Timeout}}
	if s.Timeout == "0s" {
		rows[1][1] = "none"
	}
	b.WriteString(rows.String())
	for _, part := range []struct {
		title  string
		fields []module.Field
	}{{"takes", s.Fields}, {"gives", s.Output}} {
		if len(part.fields) == 0 {
			continue
		}
		b.WriteString("\n" + part.title + "\n")
		for l := range strings.Lines(fieldTable(part.fields, "").String()) {
			b.WriteString("  " + l)
		}
	}
	return b.String()
}

func fieldTable(fields []module.Field, prefix string) table {
	var t table
	for _, f := range fields {
		t = append(t, []string{prefix + f.Name, f.Type, f.Doc + bounds(f)})
		t = append(t, fieldTable(f.Fields, prefix+f.Name+".")...)
	}
	return t
}

// bounds gives what a field demands: " (required; 1 to 10; one of: a, b)".
func bounds(f module.Field) string {
	var words []string
	if f.Required {
		words = append(words, "required")
	}
	if f.Default != "" {
		words = append(words, "default "+f.Default)
	}
	switch {
	case f.Min != "" && f.Max != "":
		words = append(words, f.Min+" to "+f.Max)
	case f.Min != "":
		words = append(words, "at least "+f.Min)
	case f.Max != "":
		words = append(words, "at most "+f.Max)
	}
	if len(f.Enum) > 0 {
		words = append(words, "one of: "+strings.Join(f.Enum, ", "))
	}
	if f.Pattern != "" {
		words = append(words, fmt.Sprintf("matches %s", f.Pattern))
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, "; ") + ")"
}
