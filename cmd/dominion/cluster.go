package main

import (
	"context"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

func (a *app) clusterCmd() *cobra.Command {
	return parent("cluster", "Keep the data that candidates answer confd queries from",
		`The cluster data are what candidates answer confd queries from: nodes, their
roles and addresses, instances and disks. The nodes are the machines of this
overlord. Every change makes a version with a higher serial, which is signed and
sent to the candidates; they serve it when no overlord is alive, too.

NODE is a node's name, or its beginning up to a dot.`,
		`  dominion cluster set-master web1
  dominion cluster candidate add web1 web2 web3
  dominion cluster show
  dominion cluster key show > hmac.key
  dominion confd query master --peers 192.0.2.1,192.0.2.2,192.0.2.3 --key hmac.key`,
		a.clusterShowCmd(), a.clusterMasterCmd(), a.clusterCandidateCmd(), a.clusterNodeCmd(), a.clusterInstanceCmd(),
		a.clusterImportCmd(), a.clusterExportCmd(), a.clusterKeyCmd())
}

// changedDoc is what became of a change in json.
type changedDoc struct {
	Serial  uint64 `json:"serial"`
	Changed bool   `json:"changed"` // it is a new version
}

// clusterChanged tells what became of a change.
func (a *app) clusterChanged(m *apipb.ClusterChanged) error {
	if n := m.GetNote(); n != "" {
		a.note("dominion cluster: %s", n)
	}
	if a.output != outText {
		return a.document(changedDoc{Serial: m.GetSerial(), Changed: m.GetChanged()})
	}
	if !m.GetChanged() {
		return a.text("serial %d, nothing to change\n", m.GetSerial())
	}
	return a.text("serial %d\n", m.GetSerial())
}

// changing is a command's function that changes the cluster.
func (a *app) changing(f func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error)) func(*cobra.Command, []string) error {
	return a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		resp, err := f(ctx, conn, words)
		if err != nil {
			return err
		}
		return a.clusterChanged(resp.Msg)
	})
}

func (a *app) clusterMasterCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set-master NODE", Short: "Make a node the master",
		Long: `Set-master makes a node the one that candidates name as the master. It becomes a
candidate, too. Where there is no cluster yet this makes one.`,
		Example: "  dominion cluster set-master web1",
		Args:    args(1, 1, "a node"), ValidArgsFunction: a.completeNodes(1, nil),
		RunE: a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
			return conn.Cluster.SetMaster(ctx, connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: words[0]}))
		}),
	}
}

func (a *app) clusterCandidateCmd() *cobra.Command {
	return parent("candidate", "Say which nodes hold and serve the data",
		`Candidates are the nodes that hold the cluster data and answer for them. Three or
more make a quorum that bears the loss of one. With the first one the key is made
that answers are signed with.`,
		"  dominion cluster candidate add web1 web2 web3\n  dominion cluster candidate remove web3",
		a.clusterCandidatesCmd("add NODE…", "Make nodes candidates", "dominion cluster candidate add web1 web2 web3", false),
		a.clusterCandidatesCmd("remove NODE…", "Make candidates regular nodes", "dominion cluster candidate remove web3", true))
}

func (a *app) clusterCandidatesCmd(use, short, example string, remove bool) *cobra.Command {
	long := short + ". They get the data at once, or when they connect."
	if remove {
		long = short + ". They drop the data and the key when they hear of it. Who kept a copy of the key still has it: see dominion cluster key rotate."
	}
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: "  " + example,
		Args: args(1, 512, "from 1 to 512 nodes"), ValidArgsFunction: a.completeNodes(512, func(n *apipb.ClusterNode) bool { return n.GetCandidate() == remove }),
		RunE: a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
			return conn.Cluster.SetCandidates(ctx, connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: words, Remove: remove}))
		}),
	}
}

func (a *app) clusterNodeCmd() *cobra.Command {
	return parent("node", "Change what the cluster data say of a node",
		"Nodes are the machines of this overlord, and those of an imported file.",
		"  dominion cluster node set web1 --primary 192.0.2.1",
		a.clusterNodeSetCmd(), a.clusterNodeRemoveCmd())
}

func (a *app) clusterNodeSetCmd() *cobra.Command {
	var primary, secondary, role string
	cmd := &cobra.Command{
		Use: "set NODE [--primary IP] [--secondary IP] [--role ROLE]", Short: "Set a node's addresses and its role",
		Long: `Set gives a node the addresses that are told of it. An address that is set stays;
with "auto" the primary one is where the machine connects from, and the secondary
one is the primary one. Both are so unless set, but for nodes of an imported file,
whose addresses count as set.

A node that is drained or offline is no candidate; regular ends that, and its being
a candidate, too.`,
		Example: `  dominion cluster node set web1 --primary 192.0.2.1 --secondary 198.51.100.1
  dominion cluster node set web7 --role offline`,
		Args: args(1, 1, "a node"), ValidArgsFunction: a.completeNodes(1, nil),
	}
	fl := cmd.Flags()
	fl.StringVar(&primary, "primary", "", "`IP` address that others reach it by, or auto")
	fl.StringVar(&secondary, "secondary", "", "`IP` address for traffic between nodes, or auto")
	fl.StringVar(&role, "role", "", "`ROLE`: regular, drained, offline")
	completeFlag(cmd, "role", "regular", "drained", "offline")
	cmd.RunE = a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
		req := &apipb.ClusterSetNodeRequest{Node: words[0]}
		for _, f := range []struct {
			name  string
			value *string
			to    **string
		}{{"primary", &primary, &req.Primary}, {"secondary", &secondary, &req.Secondary}, {"role", &role, &req.Role}} {
			if fl.Changed(f.name) {
				*f.to = f.value
			}
		}
		if req.Primary == nil && req.Secondary == nil && req.Role == nil {
			return nil, usagef("give --primary, --secondary or --role")
		}
		return conn.Cluster.SetNode(ctx, connect.NewRequest(req))
	})
	return cmd
}

func (a *app) clusterNodeRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NODE", Short: "Remove a node that is no machine of this overlord",
		Long:    "Remove takes a node out that came with an imported file and is not enrolled. One that has instances stays.",
		Example: "  dominion cluster node remove old1.example.org",
		Args:    args(1, 1, "a node"), ValidArgsFunction: a.completeNodes(1, func(n *apipb.ClusterNode) bool { return !n.GetEnrolled() }),
		RunE: a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
			return conn.Cluster.RemoveNode(ctx, connect.NewRequest(&apipb.ClusterRemoveNodeRequest{Node: words[0]}))
		}),
	}
}

// completeNodes completes up to so many nodes, those that fit; nil: all.
func (a *app) completeNodes(most int, fits func(*apipb.ClusterNode) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(words) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
			resp, err := conn.Cluster.Show(ctx, connect.NewRequest(&apipb.ClusterShowRequest{}))
			if err != nil {
				return nil, err
			}
			if !resp.Msg.GetExists() { // the first one may be any machine
				return targetNames(ctx, conn, cmd)
			}
			var out []string
			for _, n := range resp.Msg.GetNodes() {
				if (fits == nil || fits(n)) && strings.HasPrefix(n.GetName(), word) {
					out = append(out, n.GetName())
				}
			}
			return out, nil
		})
		return names, directive &^ cobra.ShellCompDirectiveNoSpace
	}
}

// completeFlag completes a flag to fixed words.
func completeFlag(cmd *cobra.Command, name string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a bug here
	}
}
