package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
)

// viewFlags say how the results of a job are shown.
type viewFlags struct {
	diff bool
	sort string
}

const viewHelp = `Equal answers are shown once, the most frequent first; with --diff all others only as
what differs from it. Answers that are lists of objects are shown as one table. --sort name
shows answers in the order of their machines' names (with -o jsonl, too: then nothing
is shown before the end), --sort COLUMN or -COLUMN sorts the rows of tables.`

func (f *viewFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.diff, "diff", false, "show the most frequent answer, and of others what differs from it")
	fl.StringVar(&f.sort, "sort", "", "sort by `KEY`: name, size (how many machines; the default), or a column of a table, COLUMN or -COLUMN")
}

// check refuses what excludes each other.
func (f *viewFlags) check(a *app, cmd *cobra.Command) error {
	switch given := cmd.Flags().Changed; {
	case f.diff && a.output != outText:
		return usagef("-o %s is never folded; leave out --diff", a.output)
	case given("sort") && strings.TrimPrefix(f.sort, "-") == "":
		return usagef("--sort: give name, size, or a column of a table")
	}
	return nil
}

// byName says whether answers are shown in the order of their machines.
func (f *viewFlags) byName() bool { return f.sort == "name" || f.sort == "-name" }

// column gives the column that the rows of tables are sorted by; empty: none.
func (f *viewFlags) column() (name string, down bool) {
	name, down = strings.CutPrefix(f.sort, "-")
	if name == "name" || name == "size" {
		return "", false
	}
	return name, down
}

// order puts groups into the order that is wanted; they come with the largest first.
func (f *viewFlags) order(groups []*client.Group) {
	switch f.sort {
	case "name", "-name":
		slices.SortStableFunc(groups, func(a, b *client.Group) int { return cmp.Compare(a.Names[0], b.Names[0]) })
	case "-size":
		slices.SortStableFunc(groups, func(a, b *client.Group) int { return cmp.Compare(len(a.Names), len(b.Names)) })
	}
	if f.sort == "-name" {
		slices.Reverse(groups)
	}
}

// withOutput gives the groups that have something to show; the message at the end names the others.
func withOutput(groups []*client.Group) []*client.Group {
	return slices.DeleteFunc(slices.Clone(groups), func(g *client.Group) bool { return g.Status != call.Answered && len(g.Output) == 0 })
}

// folded shows all results at the end: as one table, as differences, or group by group.
func (v *jobView) folded(all []*client.Group) error {
	groups := withOutput(all)
	p := v.a.painter()
	column, down := v.view.column()
	if !v.view.diff && v.tabular {
		if g, ok := joinGrids(groups); ok {
			if v.view.byName() {
				g.sort("machine", v.view.sort == "-name")
			} else {
				g.sort(column, down)
			}
			return v.a.write([]byte(strings.Join(g.lines(p), "\n") + "\n"))
		}
	}
	body := v.body
	if v.tabular {
		body = func(output []byte) []string {
			if g, ok := gridOf(output); ok {
				g.sort(column, down)
				return g.lines(p)
			}
			return v.body(output)
		}
	}
	var base []string
	largest := -1
	if v.view.diff {
		for i, g := range groups {
			if largest < 0 || len(g.Names) > len(groups[largest].Names) {
				largest = i
			}
		}
	}
	if largest >= 0 {
		base = body(groups[largest].Output)
		first := groups[largest]
		groups = slices.Insert(slices.Delete(groups, largest, largest+1), 0, first)
		v.view.order(groups[1:])
	} else {
		v.view.order(groups)
	}
	for i, g := range groups {
		shows := body
		if largest >= 0 && i > 0 {
			shows = func(output []byte) []string { return differing(base, body(output), p) }
		}
		if err := v.a.write([]byte(renderGroup(g, shows, p))); err != nil {
			return err
		}
	}
	return nil
}

// differing shows what differs from the most frequent answer.
func differing(base, lines []string, p painter) []string {
	out := unified(base, lines, p)
	if len(out) == 0 {
		return []string{"the same output"}
	}
	return append([]string{"differs:"}, out...)
}
