package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/cluster"
)

func (a *app) clusterImportCmd() *cobra.Command {
	var (
		opt client.ImportOptions
		key string
	)
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Take the cluster data from a Ganeti config.data",
		Long: `Import makes FILE, a config.data of Ganeti 3.0, the cluster data; - is the standard
input. Everything in it stays as it is: its nodes keep their addresses and roles,
whether or not they are machines of this overlord, and machines that have no node get
one. The serial goes on above that of the file.

With --key the HMAC key is that of a file, such as Ganeti's hmac.key, so that clients
which have it go on; all its bytes count.

A cluster that is there is replaced only with --replace. Candidates that hold data of
a cluster with another UUID refuse the new one, and say which file to remove there.`,
		Example: `  dominion cluster import /var/lib/ganeti/config.data --key /var/lib/ganeti/hmac.key
  dominion cluster import --replace back-up.data`,
		Args: args(1, 1, "a file"),
	}
	cmd.Flags().BoolVar(&opt.Replace, "replace", false, "replace the cluster that is there")
	cmd.Flags().StringVar(&key, "key", "", "`FILE` with the HMAC key")
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		config, err := a.readConfig(words[0])
		if err != nil {
			return err
		}
		if key != "" {
			if opt.Key, err = readClusterKey(key); err != nil {
				return err
			}
		}
		v, err := conn.ImportCluster(ctx, config, opt)
		if err != nil {
			return err
		}
		return a.clusterChanged(&apipb.ClusterChanged{Serial: v.Serial, Changed: v.Changed, Note: v.Note})
	})
	return cmd
}

// readConfig reads a configuration of a cluster.
func (a *app) readConfig(path string) ([]byte, error) {
	f := a.in
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		defer f.Close()
	}
	b, err := io.ReadAll(io.LimitReader(f, cluster.MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(b) > cluster.MaxDocument {
		return nil, fmt.Errorf("read the configuration: %s has more than %d bytes", path, cluster.MaxDocument)
	}
	return b, nil
}

// readClusterKey reads a key that is to be that of the cluster.
func readClusterKey(path string) ([]byte, error) {
	key, err := readKey(path)
	switch {
	case err != nil:
		return nil, err
	case len(key) == 0:
		return nil, fmt.Errorf("read the key: %s is empty", path)
	case len(key) > cluster.MaxKey:
		return nil, fmt.Errorf("read the key: %s has more than %d bytes", path, cluster.MaxKey)
	}
	return key, nil
}

func (a *app) clusterExportCmd() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Print the cluster data as a Ganeti config.data",
		Long: `Export prints the version in force as Ganeti's own daemon could serve it, with
DRBD secrets and private parameters of operating systems where it has any: keep it
as you keep the key. It needs cluster.export in the policy, and is on the audit log.`,
		Example: "  dominion cluster export > config.data",
		Args:    args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			config, _, err := conn.ExportCluster(ctx)
			if err != nil {
				return err
			}
			return a.write(append(config, '\n'))
		}),
	}
}

func (a *app) clusterKeyCmd() *cobra.Command {
	return parent("key", "Show or change the key that answers are signed with",
		`The HMAC key signs queries and answers. Candidates have it; whoever asks needs it.
Who has it can ask, and can forge answers of any candidate whose address he can take.`,
		"  dominion cluster key show > hmac.key\n  dominion cluster key rotate",
		a.clusterKeyShowCmd(), a.clusterKeyRotateCmd())
}

func (a *app) clusterKeyShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the key",
		Long: `Show prints exactly the bytes of the key, whatever --output says, for a file that
dominion confd query --key and Ganeti's programs read. It needs cluster.key.show in
the policy, and is on the audit log.`,
		Example: "  (umask 077; dominion cluster key show > hmac.key)",
		Args:    args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			key, err := conn.ClusterKey(ctx)
			if err != nil {
				return err
			}
			return a.write(key)
		}),
	}
}

func (a *app) clusterKeyRotateCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "rotate", Short: "Give the candidates another key",
		Long: `Rotate makes another key, or takes that of --key, and gives it to the candidates with
a new version. Whoever asks needs it from then on: a candidate that is away answers by
the old one until it is back. It needs cluster.key.rotate in the policy.`,
		Example: "  dominion cluster key rotate\n  dominion cluster key rotate --key /var/lib/ganeti/hmac.key",
		Args:    args(0, 0, "flags only"),
	}
	cmd.Flags().StringVar(&file, "key", "", "`FILE` with the key; without it one is made")
	cmd.RunE = a.changing(func(ctx context.Context, conn *client.Conn, _ []string) (*connect.Response[apipb.ClusterChanged], error) {
		req := &apipb.ClusterRotateKeyRequest{}
		if file != "" {
			var err error
			if req.Key, err = readClusterKey(file); err != nil {
				return nil, err
			}
		}
		return conn.Cluster.RotateKey(ctx, connect.NewRequest(req))
	})
	return cmd
}
