package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func (a *app) nodeCmd() *cobra.Command {
	return parent("node", "Machines that are provisioned: what they are, and what they get",
		`A node is a machine that the overlord provisions, known by its hardware address.
It becomes known when it boots for the first time, and gets nothing until it is
approved. TARGET is an expression as for minions: names, globs, ranges, groups.`,
		`  dominion node list
  dominion node approve 'n[0000-0015]'
  dominion node set 'n*' vnfs=debian13 group=web
  dominion node set n0003 boot local
  dominion node status`,
		a.nodeAddCmd(), a.nodeApproveCmd(), a.nodeDeleteCmd(), a.nodeListCmd(), a.nodeReplaceCmd(), a.nodeSetCmd(), a.nodeShowCmd(),
		a.nodeStatusCmd(), a.nodeSummaryCmd())
}

// noNode makes an error about a target that names no node one of its own: the
// usual text is about minions.
func noNode(err error) error {
	if e, ok := errors.AsType[*call.Error](err); ok && e.Code == call.NoMatch {
		return &exitError{exitNoMatch, e.Detail}
	}
	return err
}

// unknownNodes ends a command that did what it could for the nodes that are there.
func (a *app) unknownNodes(unknown string) error {
	if unknown == "" {
		return nil
	}
	return &exitError{exitIncomplete, "no node has the name " + unknown + "; dominion node list shows them"}
}

// missingVNFS warns of a capsule that nodes were set to and that is not there.
func (a *app) missingVNFS(name string) {
	if name != "" {
		a.note("dominion: there is no capsule %s yet; see: dominion vnfs list", name)
	}
}

func (a *app) nodeAddCmd() *cobra.Command {
	var (
		group, vnfs string
		enabled     bool
		debug       uint32
	)
	cmd := &cobra.Command{
		Use: "add HWADDR [NAME]", Short: "Make a node known before it boots, and approve it",
		Long: `Add makes a node of a hardware address. Without NAME it gets the next free one of
the overlord's pattern. What an operator adds is approved.`,
		Example: "  dominion node add 52:54:00:12:34:56\n  dominion node add 52:54:00:12:34:56 web1 --group web --vnfs debian13",
		Args:    args(1, 2, "a hardware address and, perhaps, a name"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		req := &apipb.AddNodeRequest{Hwaddr: words[0], Group: groupName(group), Vnfs: vnfs, Enabled: &enabled, Debug: debug}
		if len(words) == 2 {
			req.Name = words[1]
		}
		resp, err := conn.Nodes.AddNode(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		a.missingVNFS(resp.Msg.GetMissingVnfs())
		if a.output != outText {
			return a.document(nodeInfoOf(resp.Msg.GetNode()))
		}
		return a.text("added %s\n", resp.Msg.GetNode().GetName())
	})
	fl := cmd.Flags()
	fl.StringVar(&group, "group", "", "its primary `GROUP`; it becomes a member of it")
	fl.StringVar(&vnfs, "vnfs", "", "its `VNFS` capsule")
	fl.BoolVar(&enabled, "enabled", true, "whether it is enabled; our 00-init stops one that is not")
	fl.Uint32Var(&debug, "debug", 0, "its debug `LEVEL`, 0 to 9")
	a.completeFlag(cmd, "group", func(ctx context.Context, conn *client.Conn) ([]string, error) { return groupNames(ctx, conn, "") })
	a.completeFlag(cmd, "vnfs", func(ctx context.Context, conn *client.Conn) ([]string, error) { return remoteCapsules(ctx, conn, "") })
	return cmd
}

func (a *app) nodeApproveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "approve TARGET", Short: "Let nodes in that are held",
		Long: `Approve lets nodes in that became known by themselves: from then on they get what
is meant for them when they boot, secrets included, and may enrol as minions.

It also settles a second claim: when somebody else wanted to boot as a node while
that was booting, the boot is ended, and the next who asks gets the node. Look at
"dominion node status" first.`,
		Example: "  dominion node approve n0007\n  dominion node approve 'n[0000-0015]'",
		Args:    args(1, 1, "a target"), ValidArgsFunction: a.completeNode,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			resp, err := conn.Nodes.ApproveNodes(ctx, connect.NewRequest(&apipb.ApproveNodesRequest{Target: words[0]}))
			if err != nil {
				return noNode(err)
			}
			if err := a.changedNodes("approved", resp.Msg.GetNodes()); err != nil {
				return err
			}
			return a.unknownNodes(resp.Msg.GetUnknown())
		}),
	}
}

func (a *app) nodeDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete TARGET", Short: "Forget nodes",
		Long: `Delete forgets nodes and ends their boots. A machine that boots again becomes known
again, and is held. Minions that are on them stay: see dominion cert revoke.`,
		Example: "  dominion node delete n0007",
		Args:    args(1, 1, "a target"), ValidArgsFunction: a.completeNode,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			resp, err := conn.Nodes.DeleteNodes(ctx, connect.NewRequest(&apipb.DeleteNodesRequest{Target: words[0]}))
			if err != nil {
				return noNode(err)
			}
			if a.output != outText {
				if err := a.document(map[string]any{"deleted": resp.Msg.GetDeleted(), "count": resp.Msg.GetCount()}); err != nil {
					return err
				}
			} else if resp.Msg.GetCount() > 0 {
				if err := a.text("deleted %s\n", resp.Msg.GetDeleted()); err != nil {
					return err
				}
			}
			return a.unknownNodes(resp.Msg.GetUnknown())
		}),
	}
}

func (a *app) nodeReplaceCmd() *cobra.Command {
	return &cobra.Command{
		Use: "replace NODE BY", Short: "Put a node on other hardware",
		Long: `Replace gives NODE the hardware of BY: of another node, which is forgotten, or of a
hardware address. NODE keeps its name and everything that was set for it.`,
		Example: "  dominion node replace n0003 n0017\n  dominion node replace n0003 52:54:00:12:34:56",
		Args:    args(2, 2, "a node, and a node or a hardware address"), ValidArgsFunction: a.completeNode,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			resp, err := conn.Nodes.ReplaceNode(ctx, connect.NewRequest(&apipb.ReplaceNodeRequest{Name: words[0], By: words[1]}))
			if err != nil {
				return err
			}
			if a.output != outText {
				return a.document(nodeInfoOf(resp.Msg.GetNode()))
			}
			return a.text("%s is %s now\n", resp.Msg.GetNode().GetName(), resp.Msg.GetNode().GetHwaddr())
		}),
	}
}

func (a *app) nodeSetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set TARGET KEY=VALUE...", Short: "Change nodes",
		Long: `Set changes nodes. The keys:

  group=NAME         the primary group; the node becomes a member of it and leaves
                     the one before. Empty: none
  vnfs=NAME          the capsule. Empty: none
  enabled=true|false whether it is to run; our 00-init stops a node that is not
  debug=0..9         how much its scripts say
  boot=WHAT          what it does when it boots by network: provision, local (its
                     own disk), hold (wait). A boot that is under way ends when it
                     is not provision
  desc=TEXT          for people

One key and its value may also be two words.`,
		Example: "  dominion node set n0003 boot local\n  dominion node set '@web' vnfs=debian13 debug=1",
		Args:    args(2, -1, "a target and KEY=VALUE"), ValidArgsFunction: a.completeNodeSet,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			req, err := nodeChange(words)
			if err != nil {
				return err
			}
			resp, err := conn.Nodes.SetNodes(ctx, connect.NewRequest(req))
			if err != nil {
				return noNode(err)
			}
			a.missingVNFS(resp.Msg.GetMissingVnfs())
			if err := a.changedNodes("set", resp.Msg.GetNodes()); err != nil {
				return err
			}
			return a.unknownNodes(resp.Msg.GetUnknown())
		}),
	}
}

// nodeChange reads the words of node set.
func nodeChange(words []string) (*apipb.SetNodesRequest, error) {
	req := &apipb.SetNodesRequest{Target: words[0]}
	pairs := words[1:]
	if len(pairs) == 2 && !strings.Contains(pairs[0], "=") {
		pairs = []string{pairs[0] + "=" + pairs[1]}
	}
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, usagef("%q is not KEY=VALUE", p)
		}
		switch key {
		case "group":
			req.Group = new(groupName(value))
		case "vnfs":
			req.Vnfs = &value
		case "boot":
			req.Boot = &value
		case "desc", "description":
			req.Description = &value
		case "enabled":
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return nil, usagef("enabled=%q: use true or false", value)
			}
			req.Enabled = &yes
		case "debug":
			n, err := strconv.ParseUint(value, 10, 8)
			if err != nil {
				return nil, usagef("debug=%q: use 0 to 9", value)
			}
			req.Debug = new(uint32(n))
		default:
			return nil, usagef("there is no key %q; the keys are group, vnfs, enabled, debug, boot, desc", key)
		}
	}
	return req, nil
}

func (a *app) completeNode(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		head := word[:strings.LastIndexAny(word, ",;&!")+1]
		if strings.HasPrefix(word[len(head):], "@") {
			return groupNames(ctx, conn, head+"@")
		}
		resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
		if err != nil {
			return nil, err
		}
		var out []string
		for _, n := range resp.Msg.GetNodes() {
			if strings.HasPrefix(n.GetName(), word[len(head):]) {
				out = append(out, head+n.GetName())
			}
		}
		return out, nil
	})
}

func (a *app) completeNodeSet(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) == 0 {
		return a.completeNode(cmd, words, word)
	}
	key, _, isPair := strings.Cut(word, "=")
	switch {
	case isPair && key == "group":
		return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) { return groupNames(ctx, conn, "group=") })
	case isPair && key == "vnfs":
		return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
			return remoteCapsules(ctx, conn, "vnfs=")
		})
	}
	return []string{"group=", "vnfs=", "enabled=true", "enabled=false", "debug=", "boot=provision", "boot=local", "boot=hold", "desc="},
		cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// remoteCapsules gives the names of the overlord's capsules.
func remoteCapsules(ctx context.Context, conn *client.Conn, prefix string) ([]string, error) {
	resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range resp.Msg.GetProvision().GetCapsules() {
		out = append(out, prefix+name)
	}
	return out, nil
}

// completeNodeState completes a node, then a state.
func (a *app) completeNodeState(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) != 1 {
		return a.completeNode(cmd, words, word)
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
		if err != nil {
			return nil, err
		}
		return resp.Msg.GetProvision().GetStates(), nil
	})
}
