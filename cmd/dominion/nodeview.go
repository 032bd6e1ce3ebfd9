package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// nodeInfo is one node in json. Times are RFC 3339 in UTC.
type nodeInfo struct {
	Name        string     `json:"name"`
	HWAddr      string     `json:"hwaddr"`
	Group       string     `json:"group"` // its primary one; empty: none
	VNFS        string     `json:"vnfs"`  // empty: none
	Enabled     bool       `json:"enabled"`
	Debug       uint32     `json:"debug"`
	Boot        string     `json:"boot"` // provision, local, hold
	Description string     `json:"description,omitempty"`
	Created     *time.Time `json:"created,omitempty"`
	Source      string     `json:"source,omitempty"`   // of its first contact
	Approved    *time.Time `json:"approved,omitempty"` // left out: it is held
	ApprovedBy  string     `json:"approved_by,omitempty"`
	Address     string     `json:"address,omitempty"` // of its last contact
	State       string     `json:"state,omitempty"`   // that it asked for last
	Contact     *time.Time `json:"last_contact,omitempty"`
	Script      string     `json:"script_sha256,omitempty"`
	Failure     string     `json:"failure,omitempty"` // of that script's assembly
	Claim       *claimDoc  `json:"claim,omitempty"`
	Booting     *bootDoc   `json:"booting,omitempty"`
	Result      *runDoc    `json:"result,omitempty"`
}

// claimDoc is somebody who wanted to boot as a node while it booted.
type claimDoc struct {
	Address string     `json:"address"`
	At      *time.Time `json:"at"`
}

// bootDoc is a boot that is under way.
type bootDoc struct {
	Address string     `json:"address"`
	Until   *time.Time `json:"until"`
}

// runDoc is how the last run of a script ended.
type runDoc struct {
	State  string     `json:"state"`
	At     *time.Time `json:"at"`
	Exit   uint32     `json:"exit"`
	TookMS uint64     `json:"took_ms"`
	Detail string     `json:"detail,omitempty"`
}

func nodeInfoOf(n *apipb.Node) nodeInfo {
	d := nodeInfo{
		Name: n.GetName(), HWAddr: n.GetHwaddr(), Group: n.GetGroup(), VNFS: n.GetVnfs(), Enabled: n.GetEnabled(), Debug: n.GetDebug(), Boot: n.GetBoot(),
		Description: n.GetDescription(), Created: jsonTime(n.GetCreatedMs()), Source: n.GetSource(), Approved: jsonTime(n.GetApprovedMs()),
		ApprovedBy: n.GetApprovedBy(), Address: n.GetAddress(), State: n.GetState(), Contact: jsonTime(n.GetContactMs()),
		Script: hex.EncodeToString(n.GetScriptSha256()), Failure: n.GetFailure(),
	}
	if n.GetClaim() != "" {
		d.Claim = &claimDoc{n.GetClaim(), jsonTime(n.GetClaimMs())}
	}
	if n.GetBootUntilMs() != 0 {
		d.Booting = &bootDoc{n.GetBootSource(), jsonTime(n.GetBootUntilMs())}
	}
	if n.GetEndedMs() != 0 {
		d.Result = &runDoc{n.GetEndedState(), jsonTime(n.GetEndedMs()), n.GetEndedExit(), n.GetEndedTookMs(), n.GetEndedDetail()}
	}
	return d
}

// held says whether nobody approved the node.
func (d *nodeInfo) held() bool { return d.Approved == nil }

// note says what needs somebody's attention.
func (d *nodeInfo) note() string {
	var notes []string
	if d.held() {
		notes = append(notes, "held: dominion node approve "+d.Name)
	}
	if d.Claim != nil {
		notes = append(notes, "claimed by "+d.Claim.Address+" while it booted")
	}
	if d.Failure != "" {
		notes = append(notes, d.Failure)
	}
	if !d.Enabled {
		notes = append(notes, "not enabled")
	}
	return strings.Join(notes, "; ")
}

// status says in a few words where a node is.
func (d *nodeInfo) status() string {
	switch {
	case d.held():
		return "held"
	case d.Booting != nil && d.State == "":
		return "booting"
	case d.State == "":
		return "-"
	}
	return d.State
}

// result says how the last run ended.
func (d *nodeInfo) result() string {
	if d.Result == nil {
		return "-"
	}
	return fmt.Sprintf("%s: exit %d after %s", d.Result.State, d.Result.Exit, time.Duration(d.Result.TookMS)*time.Millisecond)
}

// nodeViewCmd makes a command that shows nodes.
func (a *app) nodeViewCmd(use, short, long string, show func([]nodeInfo) error) *cobra.Command {
	var exclude string
	cmd := &cobra.Command{
		Use: use + " [TARGET]", Short: short, Long: long,
		Example: "  dominion node " + use + "\n  dominion node " + use + " 'n[0000-0015]' -o json",
		Args:    args(0, 1, "at most one target"), ValidArgsFunction: a.completeNode,
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		req := &apipb.NodesRequest{Exclude: exclude}
		if len(words) == 1 {
			req.Target = words[0]
		}
		resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		var docs []nodeInfo
		for _, n := range resp.Msg.GetNodes() {
			docs = append(docs, nodeInfoOf(n))
		}
		if err := show(docs); err != nil {
			return err
		}
		if len(docs) == 0 && req.Target != "" && resp.Msg.GetUnknown() == "" {
			return noNode(call.Errorf(call.NoMatch, "no node matches %q; dominion node list shows them", req.Target))
		}
		return a.unknownNodes(resp.Msg.GetUnknown())
	})
	cmd.Flags().StringVarP(&exclude, "exclude", "x", "", "leave out the nodes of `TARGET`")
	return cmd
}

func (a *app) nodeListCmd() *cobra.Command {
	return a.nodeViewCmd("list", "List nodes with their hardware",
		"List shows each node, its hardware address, what it does when it boots, and what needs attention.",
		func(docs []nodeInfo) error {
			return list(a, "nodes", docs, []string{"NAME", "HWADDR", "BOOT", "NOTE"}, func(d nodeInfo) []string {
				return []string{d.Name, d.HWAddr, d.Boot, d.note()}
			})
		})
}

func (a *app) nodeStatusCmd() *cobra.Command {
	return a.nodeViewCmd("status", "Show where nodes are, and how their last script ended",
		`Status shows the state that each node asked for last, from where and when, how its
last script ended, and what needs attention: nodes that are held, and those that
somebody else wanted to boot as.`,
		func(docs []nodeInfo) error {
			return list(a, "nodes", docs, []string{"NAME", "STATUS", "ADDRESS", "LAST CONTACT", "RESULT", "NOTE"}, func(d nodeInfo) []string {
				contact := "never"
				if d.Contact != nil {
					contact = stamp(d.Contact.UnixMilli())
				}
				return []string{d.Name, d.status(), d.Address, contact, d.result(), d.note()}
			})
		})
}

func (a *app) nodeSummaryCmd() *cobra.Command {
	return a.nodeViewCmd("summary", "Show what nodes are meant to be",
		"Summary shows the primary group and the VNFS of each node, and whether it is enabled.",
		func(docs []nodeInfo) error {
			return list(a, "nodes", docs, []string{"NAME", "GROUP", "ENABLED", "VNFS"}, func(d nodeInfo) []string {
				enabled := "no"
				if d.Enabled {
					enabled = "yes"
				}
				return []string{d.Name, orNone(d.Group), enabled, orNone(d.VNFS)}
			})
		})
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) nodeShowCmd() *cobra.Command {
	return a.nodeViewCmd("show", "Show everything that is known of nodes",
		"Show prints every field of each node as NAME: KEY=VALUE.",
		func(docs []nodeInfo) error {
			if a.output != outText {
				return list(a, "nodes", docs, nil, nil)
			}
			for i := range docs {
				if err := a.showNode(&docs[i]); err != nil {
					return err
				}
			}
			return nil
		})
}

// showNode prints every field of a node.
func (a *app) showNode(d *nodeInfo) error {
	at := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return stamp(t.UnixMilli())
	}
	fields := [][2]string{
		{"hwaddr", d.HWAddr},
		{"group", d.Group},
		{"vnfs", d.VNFS},
		{"enabled", fmt.Sprint(d.Enabled)},
		{"debug", fmt.Sprint(d.Debug)},
		{"boot", d.Boot},
		{"desc", d.Description},
		{"status", d.status()},
		{"state", d.State},
		{"address", d.Address},
		{"last_contact", at(d.Contact)},
		{"created", at(d.Created)},
		{"source", d.Source},
		{"approved", at(d.Approved)},
		{"approved_by", d.ApprovedBy},
		{"script_sha256", d.Script},
		{"failure", d.Failure},
	}
	if d.Result != nil {
		fields = append(fields, [2]string{"result", d.result()}, [2]string{"result_at", at(d.Result.At)}, [2]string{"result_detail", d.Result.Detail})
	}
	if d.Booting != nil {
		fields = append(fields, [2]string{"booting_from", d.Booting.Address}, [2]string{"booting_until", at(d.Booting.Until)})
	}
	if d.Claim != nil {
		fields = append(fields, [2]string{"claimed_by", d.Claim.Address}, [2]string{"claimed_at", at(d.Claim.At)})
	}
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s=%s\n", escapeLine(d.Name), f[0], escapeLine(f[1]))
	}
	return a.write([]byte(b.String()))
}

// changedNodes says which nodes a command changed.
func (a *app) changedNodes(what string, nodes []*apipb.Node) error {
	var docs []nodeInfo
	var names []string
	for _, n := range nodes {
		docs, names = append(docs, nodeInfoOf(n)), append(names, n.GetName())
	}
	if a.output != outText {
		return list(a, "nodes", docs, nil, nil)
	}
	if len(names) == 0 {
		return a.text("nothing to do\n")
	}
	return a.text("%s %s\n", what, target.Fold(names))
}
