package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/client"
	"dominion/delegation"
)

func (a *app) mapCmd() *cobra.Command {
	return parent("map", "Find out and show what is below sub-overlords",
		`The map is the tree of sub-overlords and machines below an overlord. Orders with
--delegate find their way by it; a machine that is not in it is not reached by
them. It is the file map in the overlord's state directory, in the form of Func's
func-build-map.`,
		`  dominion map build
  dominion map show
  dominion map route 'web*'`,
		a.mapBuildCmd(), a.mapShowCmd(), a.mapRouteCmd(), a.mapDiffCmd())
}

// seconds is a flag's value: a number of seconds, or a duration such as 2m.
type seconds time.Duration

// String implements pflag.Value.
func (s *seconds) String() string { return time.Duration(*s).String() }

// Type implements pflag.Value.
func (s *seconds) Type() string { return "SECONDS" }

// Set implements pflag.Value.
func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, nerr := strconv.ParseUint(text, 10, 31); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 || d > 24*time.Hour {
		return fmt.Errorf("give seconds, such as 60, or a duration such as 2m; at most 24h")
	}
	*s = seconds(d)
	return nil
}

// mapBuildFlags are those of map build and func-build-map.
type mapBuildFlags struct {
	append, onlyAlive, verbose bool
	timeout                    seconds
	file                       string
}

func (f *mapBuildFlags) on(cmd *cobra.Command) {
	f.timeout = seconds(delegation.DefaultTimeout)
	fl := cmd.Flags()
	fl.BoolVarP(&f.append, "append", "a", false, "keep what only the old map knows")
	fl.BoolVarP(&f.onlyAlive, "onlyalive", "o", false, "leave out what does not answer, at every level")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "say what is asked, what answers, what is merged, and where the map is written")
	fl.VarP(&f.timeout, "timeout", "t", "how long each overlord may take to answer, in `SECONDS`")
}

// build lets the map be built; with -v each step goes to standard output.
func (a *app) buildMap(ctx context.Context, conn *client.Conn, name string, f *mapBuildFlags, dry bool) (client.FleetMap, error) {
	return conn.BuildMap(ctx, client.MapOptions{
		Append: f.append, OnlyAlive: f.onlyAlive, Timeout: time.Duration(f.timeout), File: f.file, Dry: dry,
		Observe: func(line string, warning bool) {
			switch {
			case warning:
				a.note("%s: %s", name, line)
			case f.verbose && a.output == outText:
				_ = a.text("%s\n", line) // an error comes again at the end
				_ = a.out.Flush()
			case f.verbose:
				a.note("%s", line)
			}
		},
	})
}

// mapSummary is what map build answers in json.
type mapSummary struct {
	Machines  int         `json:"machines"`
	Overlords int         `json:"overlords"`
	Silent    []silentDoc `json:"silent"`    // sub-overlords of which nothing came
	Conflicts []string    `json:"conflicts"` // names of several machines; not routed
	Cut       []string    `json:"cut"`       // what was left out, and why
}

type silentDoc struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

func mapSummaryOf(m client.FleetMap) mapSummary {
	n := m.Count()
	s := mapSummary{Machines: n.Machines, Overlords: n.Overlords, Silent: []silentDoc{}, Conflicts: m.Barred(), Cut: m.Cut}
	if s.Conflicts == nil {
		s.Conflicts = []string{}
	}
	if s.Cut == nil {
		s.Cut = []string{}
	}
	for path, n := range m.All() {
		if n.Overlord && n.Problem != "" {
			s.Silent = append(s.Silent, silentDoc{path.String(), n.Problem})
		}
	}
	return s
}

func (a *app) mapBuildCmd() *cobra.Command {
	var f mapBuildFlags
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Ask all sub-overlords who is below them, and write the map",
		Long: `Build asks every sub-overlord below, at every level and at the same time, for its
machines, and writes the map. The new file takes the old one's place as a whole;
a build that does not come to its end leaves the old one. A sub-overlord that
does not answer costs only its own time-out, and is in the map with nobody below
it; -a keeps what was known to be there, -o leaves the silent out. With both, what
answers is added to the old map.

Two machines of one name with different keys are in conflict: they are named, and
not routed. So is a sub-overlord that stands below itself, which is cut.

With --map the file is one of this machine, for use with --map of other commands.
Here -o is --onlyalive; --output has no short form.`,
		Example: `  dominion map build
  dominion map build --append --verbose
  dominion map build --onlyalive --timeout 10 --map ./map`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		m, err := a.buildMap(ctx, conn, cmd.CommandPath(), &f, false)
		if err != nil {
			return err
		}
		s := mapSummaryOf(m)
		for _, d := range s.Silent {
			a.note("%s: %s: %s", cmd.CommandPath(), d.Path, d.Problem)
		}
		for _, c := range m.Conflicts {
			a.note("%s: %s is not routed, machines with different keys bear the name: %s", cmd.CommandPath(), c.Name, strings.Join(c.Places, ", "))
		}
		for _, c := range s.Cut {
			a.note("%s: %s", cmd.CommandPath(), c)
		}
		if s.Machines == 0 {
			a.note("%s: nobody is below this overlord; machines and sub-overlords that enrol with it will be", cmd.CommandPath())
		}
		if a.output != outText {
			return a.document(s)
		}
		return a.text("%s\n", mapHeadline(m))
	})
	f.on(cmd)
	cmd.Flags().StringVar(&f.file, "map", "", "write the map to `FILE` on this machine instead of the overlord's state directory")
	// Named again without its short form, which is taken.
	cmd.Flags().StringVar(&a.output, "output", outText, "output as `FORMAT`: text, json, jsonl")
	completeOutput(cmd)
	return cmd
}

// mapHeadline is the first line about a map: "40 machines, 13 overlords among them, 3 levels".
func mapHeadline(m client.FleetMap) string {
	n := m.Count()
	s := plural(n.Machines, "machine")
	if n.Overlords > 0 {
		s += fmt.Sprintf(", %s among them, %s", plural(n.Overlords, "overlord"), plural(n.Depth, "level"))
	}
	if n.Silent > 0 {
		s += fmt.Sprintf("; %d silent", n.Silent)
	}
	return s
}

// loadMap gives a file's map, or that of the overlord when there is no file.
func (a *app) loadMap(ctx context.Context, file string) (client.FleetMap, error) {
	if file != "" {
		m, err := delegation.Load(file)
		if err != nil {
			return client.FleetMap{}, err
		}
		out := client.FleetMap{Map: m}
		for _, c := range m.Cuts {
			out.Cut = append(out.Cut, c.String())
		}
		return out, nil
	}
	conn, err := a.dial(ctx)
	if err != nil {
		return client.FleetMap{}, err
	}
	defer conn.Close() // nothing is asked of it any more
	return conn.Map(ctx)
}

func mapFileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "map", "", "`FILE` of this machine instead of the overlord's map")
}

func (a *app) mapShowCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the map as a tree",
		Long: `Show draws the map: each overlord with the number of machines below it, and its
machines, those that are alike on one line. Who was silent when the map was built
is shown with the reason. Names of several machines, which are not routed, and
what was cut out come below the tree.`,
		Example: `  dominion map show
  dominion map show --map ./map
  dominion map show -o json`,
		Args: args(0, 0, "flags only"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			m, err := a.loadMap(ctx, file)
			if err != nil {
				return err
			}
			switch a.output {
			case outJSON:
				return a.document(mapDocOf(m))
			case outJSONL:
				for path, n := range m.All() {
					if err := a.line(placeDocOf(path, n)); err != nil {
						return err
					}
				}
				return nil
			}
			return a.write([]byte(renderMap(m)))
		}),
	}
	mapFileFlag(cmd, &file)
	return cmd
}
