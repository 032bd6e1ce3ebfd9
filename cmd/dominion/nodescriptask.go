package main

import (
	"context"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
)

// askOverlord fills in what the overlord knows of a node, and how it provisions.
// Without one, and with one that does not provision, the flags are all there is.
func (f *nodeFlags) askOverlord(ctx context.Context, a *app, cmd *cobra.Command, node string) error {
	if f.dir != "" {
		return nil
	}
	name, err := call.ParseName(node)
	if err != nil {
		return usagef("%v", err)
	}
	conn, err := a.dial(ctx)
	if err != nil {
		if a.overlord != "" || a.context != "" { // one was meant
			return err
		}
		return nil
	}
	defer conn.Close() // nothing is asked of it any more
	resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{Target: name}))
	if call.CodeOf(err) == call.Unavailable {
		return nil
	}
	if err != nil {
		return err
	}
	f.overlord = resp.Msg.GetProvision()
	if conn.Local() {
		f.dir = f.overlord.GetStatedir()
	}
	if !cmd.Flags().Changed("rules") {
		f.rules = f.overlord.GetRules()
	}
	if len(resp.Msg.GetNodes()) != 1 {
		a.note("%s: the overlord knows no node %s; what the flags say is all that is known of it", cmd.CommandPath(), name)
		return nil
	}
	f.fill(cmd, resp.Msg.GetNodes()[0])
	return nil
}

// fill takes from the overlord what no flag says.
func (f *nodeFlags) fill(cmd *cobra.Command, n *apipb.Node) {
	take := func(flag string, set func()) {
		if !cmd.Flags().Changed(flag) {
			set()
		}
	}
	take("group", func() { f.node.Group = n.GetGroup() })
	take("vnfs", func() { f.node.VNFS = n.GetVnfs() })
	take("enabled", func() { f.node.Enabled = n.GetEnabled() })
	take("debug", func() { f.node.Debug = int(n.GetDebug()) })
	take("ip", func() { f.node.Addr = n.GetAddress() })
	take("id", func() { f.node.ID = n.GetHwaddr() })
}

// asProvisioned takes from the overlord how scripts run, where no flag says it.
func (f *showFlags) asProvisioned(cmd *cobra.Command) {
	if f.overlord == nil {
		return
	}
	for _, x := range []struct {
		flag  string
		to    *string
		value string
	}{
		{"on-failure", &f.onFailure, f.overlord.GetOnFailure()},
		{"shell", &f.shell, f.overlord.GetShell()},
		{"method", &f.transfer.Method, f.overlord.GetMethod()},
		{"master", &f.transfer.Master, f.overlord.GetMaster()},
		{"prefix", &f.transfer.Prefix, f.overlord.GetPrefix()},
	} {
		if !cmd.Flags().Changed(x.flag) {
			*x.to = x.value
		}
	}
}
