package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

// minionDoc is one machine in json. Times are RFC 3339 in UTC.
type minionDoc struct {
	Name        string          `json:"name"`
	Connected   bool            `json:"connected"`
	Since       *time.Time      `json:"since,omitempty"` // of the session, or when it was lost
	LastSeen    *time.Time      `json:"last_seen,omitempty"`
	Version     string          `json:"version,omitempty"`
	Address     string          `json:"address,omitempty"`
	Fingerprint string          `json:"fingerprint,omitempty"`
	CertExpires *time.Time      `json:"cert_expires,omitempty"`
	DialAddress string          `json:"dial_address,omitempty"`
	Problem     string          `json:"problem,omitempty"`
	Facts       json.RawMessage `json:"facts,omitempty"`
	FactsAt     *time.Time      `json:"facts_at,omitempty"`
	Overlord    bool            `json:"overlord,omitempty"` // a sub-overlord's own agent
}

func minionDocOf(m *apipb.Minion) minionDoc {
	d := minionDoc{
		Name: m.GetName(), Connected: m.GetConnected(), Since: jsonTime(m.GetSinceMs()), LastSeen: jsonTime(m.GetLastSeenMs()),
		Version: m.GetAgentVersion(), Address: m.GetAddress(), Fingerprint: m.GetFingerprint(), CertExpires: jsonTime(m.GetCertExpiresMs()),
		DialAddress: m.GetDialAddress(), Problem: m.GetProblem(), FactsAt: jsonTime(m.GetFactsAtMs()), Overlord: m.GetOverlord(),
	}
	if len(m.GetFacts()) > 0 {
		d.Facts = rawJSON(m.GetFacts())
	}
	return d
}

func (a *app) minionsCmd() *cobra.Command {
	var v minionsView
	cmd := &cobra.Command{
		Use:   "minions [TARGET]",
		Short: "List the enrolled machines",
		Long: `Minions lists the machines that TARGET names, all when it is left out: whether
each is connected and since when, when it was last seen, its agent's version and
its address.

--fields chooses the columns: ` + strings.Join(minionFields(), ", ") + `,
and any fact, such as facts.os or facts.cpu.count; dominion modules facts.all
lists them. --sort FIELD sorts by one of these, --sort -FIELD the other way; machines
without it come last.

With --facts the inventory is shown too; -o json and jsonl always carry it then.

` + targetHelp,
		Example: `  dominion minions
  dominion minions 'web*' -x web07 --sort -last_seen
  dominion minions --where 'facts.os == "debian"' --fields name,state,facts.memory_gb --sort -facts.memory_gb
  dominion minions '@db' --facts -o jsonl
  dominion minions set db1 address=db1.example.org:51234`,
		Args:              args(0, 1, "at most one target"),
		ValidArgsFunction: a.completeTarget,
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		if err := v.settle(cmd); err != nil {
			return err
		}
		if len(words) == 1 {
			v.target = words[0]
		}
		return a.minions(ctx, cmd, &v)
	})
	v.register(cmd)
	cmd.AddCommand(a.minionsSetCmd())
	return cmd
}

func (a *app) minions(ctx context.Context, cmd *cobra.Command, v *minionsView) error {
	name := cmd.CommandPath()
	conn, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is asked of it any more
	req, err := v.request(ctx, conn, func(format string, args ...any) { a.note(name+": "+format, args...) })
	if err != nil {
		return err
	}
	resp, err := conn.Fleet.Minions(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	var docs []minionDoc
	for _, m := range resp.Msg.GetMinions() {
		docs = append(docs, minionDocOf(m))
	}
	if err := v.show(a, docs); err != nil {
		return err
	}
	if u := resp.Msg.GetUnknown(); u != "" {
		a.note("%s: nobody knows %s", name, u)
	}
	switch {
	case len(docs) == 0 && v.target != "" && resp.Msg.GetUnknown() == "":
		return call.Errorf(call.NoMatch, "no minion matches %q", v.target)
	case resp.Msg.GetUnknown() != "":
		return &exitError{code: exitIncomplete}
	}
	return nil
}

func (a *app) minionsSetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME address=[HOST:PORT]",
		Short: "Set what the overlord knows of a machine",
		Long: `Set gives the address at which the overlord dials a minion that listens
(dominion minion --listen). An empty address means that the minion dials.`,
		Example: `  dominion minions set db1 address=db1.example.org:51234
  dominion minions set db1 address=`,
		Args:              args(2, 2, "a minion's name and address=HOST:PORT"),
		ValidArgsFunction: a.completeTarget,
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
			name, err := call.ParseName(words[0])
			if err != nil {
				return usagef("%v", err)
			}
			key, addr, ok := strings.Cut(words[1], "=")
			if !ok || key != "address" {
				return usagef("%q: the only thing to set is address=HOST:PORT", words[1])
			}
			if addr != "" {
				if addr, err = addressWith(addr, "51234"); err != nil {
					return err
				}
			}
			conn, err := a.dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close() // nothing is asked of it any more
			_, err = conn.Fleet.SetMinion(ctx, connect.NewRequest(&apipb.SetMinionRequest{Name: name, DialAddress: addr}))
			return err
		}),
	}
}

// addressWith completes a minion's address with a port.
func addressWith(addr, port string) (string, error) {
	full, err := client.Address(addr)
	if err != nil {
		return "", usagef("%v", err)
	}
	if host, ok := strings.CutSuffix(full, ":"+client.DefaultPort); ok && !strings.HasSuffix(addr, ":"+client.DefaultPort) {
		return fmt.Sprintf("%s:%s", host, port), nil
	}
	return full, nil
}
