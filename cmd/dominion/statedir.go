package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/overlord"
)

// statedirFlag names the directory that holds nodescripts/ and vnfs/.
type statedirFlag struct{ dir string }

func (f *statedirFlag) on(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "statedir", "", "`DIR` that holds nodescripts/ and vnfs/ (default: as the overlord of this host has it)")
}

// find gives the directory: the flag's; that of the overlord on this host, which says
// it while it runs and has it in its configuration otherwise; else perceus/ in the overlord's state.
func (f *statedirFlag) find(ctx context.Context, a *app) (string, error) {
	if f.dir != "" {
		return f.dir, nil
	}
	if p := a.provisioning(ctx); p != nil {
		return p.GetProvision().GetStatedir(), nil
	}
	state := a.stateDir()
	c, err := overlord.LoadConfig(overlordConfigFile)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
	case err != nil:
		return "", err
	case filepath.Clean(cmp.Or(c.State, overlord.DefaultState)) == filepath.Clean(state) && c.Provision.Statedir != "":
		return c.Provision.Statedir, nil
	}
	return filepath.Join(state, "perceus"), nil
}

// stateDir is the overlord's state directory on this host.
func (a *app) stateDir() string {
	for _, state := range []string{a.state, a.getenv("DOMINION_STATE")} {
		if state != "" {
			return state
		}
	}
	return client.DefaultState
}

// provisioning asks the overlord of this host, if it runs and provisions, for its
// nodes and where it has their files; nil otherwise.
func (a *app) provisioning(ctx context.Context) *apipb.NodesResponse {
	conn, err := client.Dial(ctx, client.Endpoint{State: a.stateDir()})
	if err != nil {
		return nil
	}
	defer conn.Close() // nothing is asked of it any more
	resp, err := conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
	if err != nil {
		return nil
	}
	return resp.Msg
}
