package main

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func (a *app) operatorCmd() *cobra.Command {
	return parent("operator", "Let people and programs give orders",
		`An operator has a key and a certificate of its own and signs every order with it.
operator add makes a token; with it the operator runs dominion login.`,
		`  dominion operator add alice > alice.token
  dominion operator list`,
		a.operatorAddCmd(), a.operatorListCmd())
}

func (a *app) operatorAddCmd() *cobra.Command {
	var life time.Duration
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make an enrolment token for an operator",
		Long: `Add prints a token alone on standard output; it is kept nowhere and shown only
once. On the operator's own machine:

  dominion login --overlord HOST:51235 --pin PIN --token-file FILE NAME

An operator is removed with: dominion cert revoke NAME --role operator`,
		Example: "  dominion operator add alice > alice.token\n  dominion operator add ci --for 24h",
		Args:    args(1, 1, "the operator's name"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		name, err := call.ParseName(words[0])
		if err != nil {
			return usagef("%q is no name for an operator: use letters, digits, hyphens and dots", words[0])
		}
		ms, err := lifeMs(life)
		if err != nil {
			return err
		}
		resp, err := conn.Admin.AddOperator(ctx, connect.NewRequest(&apipb.AddOperatorRequest{Name: name, LifeMs: ms}))
		if err != nil {
			return err
		}
		return a.newToken(resp.Msg.GetToken(), resp.Msg.GetInfo())
	})
	cmd.Flags().DurationVar(&life, "for", time.Hour, "how long the token is good for, a `DURATION`")
	return cmd
}

func (a *app) operatorListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the operators' certificates", Example: "  dominion operator list -o json",
		Args: args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			resp, err := conn.Admin.Operators(ctx, connect.NewRequest(&apipb.OperatorsRequest{}))
			if err != nil {
				return err
			}
			var docs []certDoc
			for _, c := range resp.Msg.GetOperators() {
				docs = append(docs, certDocOf(c))
			}
			return a.listCerts("operators", docs)
		}),
	}
}
