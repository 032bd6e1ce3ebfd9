package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/module"
)

func (a *app) modulesCmd() *cobra.Command {
	var disabled bool
	cmd := &cobra.Command{
		Use:   "modules [MODULE | MODULE.METHOD]",
		Short: "Show what can be called",
		Long: `Modules lists the methods that minions offer; with MODULE.METHOD it shows what
the method takes and gives. -o json and jsonl carry the whole schemas.

Machines may have modules of their site beside those that come with the agent,
and in different versions. The list shows the version that most machines have;
MODULE.METHOD shows which machines have which. Modules that are disabled on some
machine are listed at the end, with the reason.`,
		Example: `  dominion modules
  dominion modules test
  dominion modules command.run
  dominion modules --disabled`,
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
			cat, err := conn.Catalogue(ctx, name)
			if err != nil {
				return err
			}
			if disabled {
				return list(a, "disabled", cat.Disabled, disabledHead, disabledCells)
			}
			return a.showModules(cat, name)
		}),
	}
	cmd.Flags().BoolVar(&disabled, "disabled", false, "list only modules of sites that are disabled, and why")
	return cmd
}

var disabledHead = []string{"DISABLED", "MACHINES", "WHY"}

func disabledCells(d client.DisabledModule) []string { return []string{d.Name, d.Names, d.Reason} }

// modulesDoc is in json what can be called.
type modulesDoc struct {
	Methods  []module.Schema         `json:"methods"`
	Disabled []client.DisabledModule `json:"disabled,omitempty"`
}

func (a *app) showModules(cat client.Catalogue, name string) error {
	if len(cat.Schemas)+len(cat.Disabled) == 0 && name != "" {
		return call.Errorf(call.NotFound, "there is no module or method %q; list them with: dominion modules", name)
	}
	switch {
	case a.output == outJSON:
		return a.document(modulesDoc{slices.Concat([]module.Schema{}, cat.Schemas), cat.Disabled})
	case a.output == outText && strings.Contains(name, ".") && len(cat.Schemas) > 0:
		return a.write([]byte(renderSchema(cat.Schemas[0]) + renderVersions(cat.Offered)))
	}
	if len(cat.Schemas) > 0 || a.output != outText {
		err := list(a, "methods", cat.Schemas, []string{"METHOD", "EFFECT", "WHAT IT DOES"}, func(s module.Schema) []string {
			return []string{s.Name, string(s.Effect), s.Doc}
		})
		if err != nil || a.output != outText || len(cat.Disabled) == 0 {
			return err
		}
		if err := a.text("\n"); err != nil {
			return err
		}
	}
	if a.output != outText {
		return nil
	}
	return list(a, "disabled", cat.Disabled, disabledHead, disabledCells)
}

// renderVersions shows which machines have a method, and how versions that fewer have
// differ from the first. The text is escaped.
func renderVersions(versions []client.OfferedMethod) string {
	var b strings.Builder
	for i, v := range versions {
		title := "machines"
		if i > 0 {
			title = "another version"
		}
		where := v.Names
		if where == "" {
			where = "behind sub-overlords"
		}
		b.WriteString("\n" + title + "\n  " + escapeLine(fmt.Sprintf("%d: %s", v.Machines, where)) + "\n")
		if i > 0 {
			for l := range strings.Lines(renderSchema(v.Schema)) {
				b.WriteString("  " + strings.TrimSuffix(l, "\n") + "\n")
			}
		}
	}
	return b.String()
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
