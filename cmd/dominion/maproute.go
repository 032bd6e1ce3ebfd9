package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/delegation"
	"dominion/target"
)

func (a *app) mapRouteCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "route TARGET",
		Short: "Show the way that orders take to machines",
		Long: `Route shows by which sub-overlords an order with --delegate reaches the machines
that TARGET names, and what other ways the map knows: those are taken when the
session with the first overlord of the way is lost. The way with the fewest
overlords counts, and of equally short ones the first by name.`,
		Example: `  dominion map route web1
  dominion map route '*' --map ./map`,
		Args:              args(1, 1, "a target"),
		ValidArgsFunction: a.completeOnMap,
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
			e, err := target.Parse(words[0])
			if err != nil {
				return usagef("%v", err)
			}
			m, err := a.loadMap(ctx, file)
			if err != nil {
				return err
			}
			ix := m.Index()
			groups, err := a.groupsFor(ctx, e)
			if err != nil {
				return err
			}
			res, err := ix.Match(e, groups)
			if err != nil {
				return usagef("%v", err)
			}
			if len(res.Names)+len(res.Unknown) == 0 {
				return &exitError{exitNoMatch, fmt.Sprintf("no machine of the map matches %q; it has: dominion map show", words[0])}
			}
			if err := a.showRoutes(routesOf(ix, res.Names)); err != nil {
				return err
			}
			if len(res.Unknown) > 0 {
				return &exitError{exitIncomplete, fmt.Sprintf("the map does not know %s; build it anew with: dominion map build", target.Fold(res.Unknown))}
			}
			return nil
		}),
	}
	mapFileFlag(cmd, &file)
	return cmd
}

// completeOnMap is completeTarget for all machines of the overlord's map.
func (a *app) completeOnMap(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	head := word[:strings.LastIndexAny(word, ",;&!")+1]
	if len(words) > 0 || strings.HasPrefix(word[len(head):], "@") {
		return a.completeTarget(cmd, words, word)
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		m, err := conn.Map(ctx)
		if err != nil {
			return nil, err
		}
		var out []string
		for _, name := range m.Index().Names() {
			if strings.HasPrefix(name, word[len(head):]) {
				out = append(out, head+name)
			}
		}
		return out, nil
	})
}

// groupsFor gives the members of groups, asked of the overlord if an expression
// names any.
func (a *app) groupsFor(ctx context.Context, e *target.Expr) (func(string) ([]string, bool), error) {
	if !e.UsesGroups() {
		return nil, nil
	}
	conn, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // nothing is asked of it any more
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{}))
	if err != nil {
		return nil, err
	}
	members := make(map[string][]string)
	for _, g := range resp.Msg.GetGroups() {
		if g.GetMembers() == "" {
			members[g.GetName()] = nil
			continue
		}
		if members[g.GetName()], err = target.Expand(g.GetMembers()); err != nil {
			return nil, call.Errorf(call.Internal, "group %s: %v", g.GetName(), err)
		}
	}
	return func(name string) ([]string, bool) { m, ok := members[name]; return m, ok }, nil
}

// routeDoc is how one machine is reached.
type routeDoc struct {
	Machine  string     `json:"machine"`
	Route    []string   `json:"route"`              // overlords, and the machine at the end; empty: not routed
	Others   [][]string `json:"others,omitempty"`   // ways that are longer, or equally long
	Conflict bool       `json:"conflict,omitempty"` // machines with different keys bear the name
}

func routesOf(ix *delegation.Index, names []string) []routeDoc {
	out := make([]routeDoc, 0, len(names))
	for _, name := range names {
		d := routeDoc{Machine: name, Route: []string{}}
		ways := ix.Ways(name)
		if route, ok := ix.Route(name); ok {
			d.Route, ways = route, ways[1:]
		} else {
			d.Conflict = true
		}
		for _, w := range ways {
			d.Others = append(d.Others, w)
		}
		out = append(out, d)
	}
	return out
}

// showRoutes writes the routes; in text, machines with equal ones share a line.
func (a *app) showRoutes(docs []routeDoc) error {
	if a.output != outText {
		return list(a, "routes", docs, nil, nil)
	}
	byWay := make(map[string][]string)
	var ways []string
	for _, d := range docs {
		w := wayText(d)
		if byWay[w] == nil {
			ways = append(ways, w)
		}
		byWay[w] = append(byWay[w], d.Machine)
	}
	slices.SortStableFunc(ways, func(x, y string) int { return cmp.Compare(byWay[x][0], byWay[y][0]) })
	for _, w := range ways {
		if err := a.text("%s: %s\n", foldedNames(byWay[w]), w); err != nil {
			return err
		}
	}
	return nil
}

// wayText tells a machine's ways without its name.
func wayText(d routeDoc) string {
	var others []string
	for _, w := range d.Others {
		others = append(others, hopsText(w))
	}
	switch {
	case d.Conflict:
		return "not routed, machines with different keys bear the name: " + strings.Join(others, ", ")
	case len(others) > 0:
		return hopsText(d.Route) + "; also " + strings.Join(others, ", ")
	}
	return hopsText(d.Route)
}

func hopsText(route []string) string {
	if len(route) == 1 {
		return "direct"
	}
	return "by " + strings.Join(route[:len(route)-1], "/")
}

func (a *app) mapDiffCmd() *cobra.Command {
	f := mapBuildFlags{timeout: seconds(delegation.DefaultTimeout)}
	cmd := &cobra.Command{
		Use:   "diff [FILE]",
		Short: "Show what a fresh build would change",
		Long: `Diff asks all sub-overlords as map build does, writes nothing, and shows what
would change against the map: "+" a new place, "-" one that is gone, ">" a machine
that moved. With FILE that map is compared instead of a fresh one.

Nothing is shown and the exit code is 0 when there is no difference; with one it
is 1, as with diff.`,
		Example: `  dominion map diff
  dominion map diff ./map`,
		Args: args(0, 1, "a map's file or nothing"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		old, err := conn.Map(ctx)
		if err != nil {
			return err
		}
		var fresh delegation.Map
		if len(words) == 1 {
			if fresh, err = delegation.Load(words[0]); err != nil {
				return err
			}
		} else {
			m, err := a.buildMap(ctx, conn, cmd.CommandPath(), &f, true)
			if err != nil {
				return err
			}
			for _, d := range mapSummaryOf(m).Silent {
				a.note("%s: %s: %s", cmd.CommandPath(), d.Path, d.Problem)
			}
			fresh = m.Unambiguous()
		}
		d := delegation.Diff(old.Unambiguous(), fresh)
		if err := a.showDifference(d); err != nil {
			return err
		}
		if len(d.Added)+len(d.Removed)+len(d.Moved) > 0 {
			return &exitError{code: exitFailed}
		}
		return nil
	})
	cmd.Flags().VarP(&f.timeout, "timeout", "t", "how long each overlord may take to answer, in `SECONDS`")
	return cmd
}

// changeDoc is one difference of two maps.
type changeDoc struct {
	Change string   `json:"change"` // added, removed or moved
	Path   []string `json:"path"`
	From   []string `json:"from,omitempty"` // where a machine that moved was
}

func (a *app) showDifference(d delegation.Difference) error {
	docs := []changeDoc{}
	for _, p := range d.Removed {
		docs = append(docs, changeDoc{Change: "removed", Path: p})
	}
	for _, p := range d.Added {
		docs = append(docs, changeDoc{Change: "added", Path: p})
	}
	for _, m := range d.Moved {
		docs = append(docs, changeDoc{Change: "moved", Path: m.To, From: m.From})
	}
	if a.output != outText {
		return list(a, "changes", docs, nil, nil)
	}
	for _, group := range []struct {
		mark  string
		paths []delegation.Path
	}{{"-", d.Removed}, {"+", d.Added}} {
		for _, line := range foldPaths(group.paths) {
			if err := a.text("%s %s\n", group.mark, line); err != nil {
				return err
			}
		}
	}
	for _, m := range d.Moved {
		if err := a.text("> %s to %s\n", m.From, m.To); err != nil {
			return err
		}
	}
	return nil
}

// foldPaths gives "dc1/rack1/web[1-3] (3)" for places below the same overlord,
// in the order of their first ones.
func foldPaths(paths []delegation.Path) []string {
	var out []string
	var order []string
	byHop := make(map[string][]string)
	for _, p := range paths {
		hop := strings.Join(p[:len(p)-1], "/")
		if byHop[hop] == nil {
			order = append(order, hop)
		}
		byHop[hop] = append(byHop[hop], p[len(p)-1])
	}
	for _, hop := range order {
		line := foldedNames(byHop[hop])
		if hop != "" {
			line = hop + "/" + line
		}
		out = append(out, line)
	}
	return out
}
