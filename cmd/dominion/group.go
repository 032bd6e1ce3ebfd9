package main

import (
	"context"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

// groupDoc is one group in json.
type groupDoc struct {
	Name    string `json:"name"`
	Members string `json:"members"` // folded
	Count   uint64 `json:"count"`
}

func groupDocOf(g *apipb.Group) groupDoc {
	return groupDoc{Name: g.GetName(), Members: g.GetMembers(), Count: g.GetCount()}
}

func (a *app) groupCmd() *cobra.Command {
	return parent("group", "Name sets of machines",
		`Groups are sets of machines with a name, kept by the overlord; a target names
the members of one as @NAME, or those that match a pattern as @NAME:PATTERN.
Members are minions and nodes alike, and may be neither yet. A node's primary group,
which chooses its node scripts, is one of those that it is a member of: it is set
with dominion node set TARGET group=NAME. A program on the overlord's host may know
more groups: dominion group list --sources.`,
		`  dominion group set web 'web[01-20]'
  dominion group add web web21,web22
  dominion ping @web`,
		a.groupListCmd(), a.groupShowCmd(),
		a.groupChangeCmd("set", "Make a group of exactly these machines", apipb.SetGroupRequest_REPLACE),
		a.groupChangeCmd("add", "Add machines to a group", apipb.SetGroupRequest_ADD),
		a.groupChangeCmd("remove", "Take machines out of a group", apipb.SetGroupRequest_REMOVE),
		a.groupDeleteCmd())
}

// withConn is a command's function that needs the overlord and its words.
func (a *app) withConn(f func(ctx context.Context, conn *client.Conn, words []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
		conn, err := a.dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() // nothing is asked of it any more
		return f(ctx, conn, words)
	})
}

func (a *app) groupListCmd() *cobra.Command {
	var sources bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the groups",
		Long: `List shows the groups that the overlord keeps. With --sources it shows the programs
in /etc/dominion/groups.d on the overlord's host instead, which know who is in groups
of theirs, named @SOURCE/GROUP in a target; and why one cannot be used.`,
		Example: "  dominion group list -o json\n  dominion group list --sources",
		Args:    args(0, 0, "nothing"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		if sources {
			return a.showSources(ctx, conn)
		}
		return a.showGroups(ctx, conn, "")
	})
	cmd.Flags().BoolVar(&sources, "sources", false, "show the programs that know groups, and theirs")
	return cmd
}

// sourceDoc is in json a program that knows groups.
type sourceDoc struct {
	Name    string   `json:"name"`
	File    string   `json:"file"`
	Groups  []string `json:"groups"` // as a target names them, behind the @
	Problem string   `json:"problem,omitempty"`
}

func (a *app) showSources(ctx context.Context, conn *client.Conn) error {
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{Sources: true}))
	if err != nil {
		return err
	}
	var docs []sourceDoc
	for _, s := range resp.Msg.GetSources() {
		d := sourceDoc{Name: s.GetName(), File: s.GetFile(), Groups: []string{}, Problem: s.GetProblem()}
		for _, g := range s.GetGroups() {
			d.Groups = append(d.Groups, s.GetName()+"/"+g)
		}
		docs = append(docs, d)
	}
	return list(a, "sources", docs, []string{"SOURCE", "FILE", "GROUPS", "PROBLEM"}, func(d sourceDoc) []string {
		return []string{d.Name, d.File, short(strings.Join(d.Groups, " ")), d.Problem}
	})
}

func (a *app) groupShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show one group", Example: "  dominion group show web\n  dominion group show batch/idle",
		Args: args(1, 1, "a group's name"), ValidArgsFunction: a.completeGroup,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			return a.showGroups(ctx, conn, groupName(words[0]))
		}),
	}
}

// groupName takes the name as people write it in a target, too.
func groupName(s string) string { return strings.TrimPrefix(s, "@") }

func (a *app) showGroups(ctx context.Context, conn *client.Conn, name string) error {
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{Name: name}))
	if err != nil {
		return err
	}
	var docs []groupDoc
	for _, g := range resp.Msg.GetGroups() {
		docs = append(docs, groupDocOf(g))
	}
	return a.listGroups(docs)
}

func (a *app) listGroups(docs []groupDoc) error {
	return list(a, "groups", docs, []string{"NAME", "MACHINES", "MEMBERS"}, func(g groupDoc) []string {
		return []string{g.Name, strconv.FormatUint(g.Count, 10), g.Members}
	})
}

func (a *app) groupChangeCmd(use, short string, mode apipb.SetGroupRequest_Mode) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME MEMBERS", Short: short,
		Long:    short + ". MEMBERS is an expression of names and ranges, such as web[01-20],db1.",
		Example: "  dominion group " + use + " web 'web[01-20],web30'",
		Args:    args(2, 2, "a group's name and its members"), ValidArgsFunction: a.completeGroup,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			resp, err := conn.Fleet.SetGroup(ctx, connect.NewRequest(&apipb.SetGroupRequest{
				Name: groupName(words[0]), Members: words[1], Mode: mode,
			}))
			if err != nil {
				return err
			}
			return a.listGroups([]groupDoc{groupDocOf(resp.Msg.GetGroup())})
		}),
	}
}

func (a *app) groupDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a group", Long: "Delete forgets a group. Its machines stay what they are.",
		Example: "  dominion group delete web",
		Args:    args(1, 1, "a group's name"), ValidArgsFunction: a.completeGroup,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			name := groupName(words[0])
			if _, err := conn.Fleet.DeleteGroup(ctx, connect.NewRequest(&apipb.DeleteGroupRequest{Name: name})); err != nil || a.output == outText {
				return err
			}
			return a.document(map[string]string{"deleted": name})
		}),
	}
}
