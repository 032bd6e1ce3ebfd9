package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/pki"
)

func (a *app) pinCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "pin",
		Short: "Print the pin of the fleet's root",
		Long: `Pin prints the digest of the root's public key, sha256:…, which minions and
operators are given together with the overlord's address. On the overlord's host
it is read from the state directory, whether or not the overlord runs.`,
		Example: "  dominion pin\n  dominion pin --overlord dc1.example.org",
		Args:    args(0, 0, "nothing"),
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			pin, err := a.pin(ctx)
			if err != nil {
				return err
			}
			if a.output != outText {
				return a.document(map[string]string{"pin": pin})
			}
			return a.text("%s\n", pin)
		}),
	}
}

func (a *app) pin(ctx context.Context) (string, error) {
	e := a.endpoint()
	if e.Overlord == "" && e.Context == "" {
		state := e.State
		if state == "" {
			state = client.DefaultState
		}
		b, err := os.ReadFile(filepath.Join(state, "ca", "root.crt"))
		switch {
		case err == nil:
			certs, err := pki.ParseCerts(b)
			if err != nil {
				return "", fmt.Errorf("read the root in %s: %w", state, err)
			}
			return pki.Pin(certs[0]), nil
		case e.State != "" && errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("there is no root in %s; dominion overlord makes it", state)
		case e.State != "":
			return "", fmt.Errorf("read the root: %w", err)
		}
	}
	conn, err := a.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close() // nothing is asked of it any more
	resp, err := conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		return "", err
	}
	return resp.Msg.GetPin(), nil
}
