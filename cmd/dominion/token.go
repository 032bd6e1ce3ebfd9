package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

const maxToken = 4096 // bytes of a token file

// tokenDoc is one join token in json; the secret is only in the answer that
// creates it.
type tokenDoc struct {
	Token     string     `json:"token,omitempty"`
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	Uses      uint64     `json:"uses"`
	Used      uint64     `json:"used"`
	Expires   *time.Time `json:"expires,omitempty"`
	Replace   bool       `json:"replace"`
	Networks  []string   `json:"networks,omitempty"`
	CreatedBy string     `json:"created_by,omitempty"`
}

func tokenDocOf(secret string, t *apipb.Token) tokenDoc {
	return tokenDoc{
		Token: secret, ID: t.GetId(), Name: t.GetName(), Role: t.GetRole(), Uses: t.GetUses(), Used: t.GetUsed(),
		Expires: jsonTime(t.GetExpiresMs()), Replace: t.GetReplace(), Networks: t.GetNetworks(), CreatedBy: t.GetCreatedBy(),
	}
}

func (a *app) tokenCmd() *cobra.Command {
	return parent("token", "Make tokens with which machines enrol",
		`A join token lets machines enrol without a signature by hand: give it to them in
a file, with dominion minion --token-file.`,
		`  dominion token create --name 'web*' --uses 10 --for 1h > token
  dominion token list
  dominion token revoke 1a2b3c4d`,
		a.tokenCreateCmd(), a.tokenListCmd(), a.tokenRevokeCmd())
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var (
		req  = &apipb.CreateTokenRequest{}
		life time.Duration
	)
	cmd := &cobra.Command{
		Use: "create --name NAME", Short: "Make a join token",
		Long: `Create prints the token alone on standard output; it is kept nowhere and shown
only once. It enrols minions whose names match --name; with --role overlord one
overlord of exactly that name, on the overlord that holds the root's key.`,
		Example: `  dominion token create --name 'web*' --uses 10 --for 1h > token
  dominion token create --name web1 --replace --network 10.0.0.0/8
  dominion token create --role overlord --name dc1 > token`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		switch {
		case req.Name == "":
			return usagef("give the names that the token is for with --name, such as --name 'web*'")
		case req.Uses == 0:
			return usagef("--uses 0: a token needs at least one use")
		}
		ms, err := lifeMs(life)
		if err != nil {
			return err
		}
		req.LifeMs = ms
		resp, err := conn.Admin.CreateToken(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.newToken(resp.Msg.GetToken(), resp.Msg.GetInfo())
	})
	f := cmd.Flags()
	f.StringVar(&req.Name, "name", "", "`NAME` or glob of the machines it may enrol")
	f.Uint64Var(&req.Uses, "uses", 1, "how `MANY` machines it enrols")
	f.DurationVar(&life, "for", time.Hour, "how long it is good for, a `DURATION`")
	f.StringVar(&req.Role, "role", "minion", "`ROLE` it grants: minion or overlord")
	f.BoolVar(&req.Replace, "replace", false, "revoke the certificate that the name has now")
	f.StringSliceVar(&req.Networks, "network", nil, "only from this `CIDR`; may be repeated")
	return cmd
}

func lifeMs(d time.Duration) (uint64, error) {
	if d < time.Millisecond {
		return 0, usagef("--for %s: give a duration such as 1h", d)
	}
	return uint64(d.Milliseconds()), nil
}

// newToken prints a token alone on standard output.
func (a *app) newToken(secret string, info *apipb.Token) error {
	if a.output != outText {
		return a.document(tokenDocOf(secret, info))
	}
	return a.text("%s\n", secret)
}

func (a *app) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens", Example: "  dominion token list -o json",
		Args: args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			resp, err := conn.Admin.Tokens(ctx, connect.NewRequest(&apipb.TokensRequest{}))
			if err != nil {
				return err
			}
			var docs []tokenDoc
			for _, t := range resp.Msg.GetTokens() {
				docs = append(docs, tokenDocOf("", t))
			}
			return list(a, "tokens", docs, []string{"ID", "NAME", "ROLE", "USED", "EXPIRES", "BY", "NOTE"}, tokenRow)
		}),
	}
}

func tokenRow(t tokenDoc) []string {
	expires := ""
	if t.Expires != nil {
		expires = stamp(t.Expires.UnixMilli())
	}
	var notes []string
	if t.Replace {
		notes = append(notes, "replaces")
	}
	if len(t.Networks) > 0 {
		notes = append(notes, "from "+strings.Join(t.Networks, ", "))
	}
	return []string{t.ID, t.Name, t.Role, fmt.Sprintf("%d of %d", t.Used, t.Uses), expires, t.CreatedBy, strings.Join(notes, "; ")}
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Take a token back", Long: "Revoke ends a token. What was enrolled with it stays enrolled.",
		Example: "  dominion token revoke 1a2b3c4d",
		Args:    args(1, 1, "the id that token list shows"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			_, err := conn.Admin.RevokeToken(ctx, connect.NewRequest(&apipb.RevokeTokenRequest{Id: words[0]}))
			return err
		}),
	}
}

// readToken gives the token of --token-file or of DOMINION_TOKEN; empty:
// neither was given. A token is never an argument, which others could see.
func (a *app) readToken(file string) (string, error) {
	if file == "" {
		return strings.TrimSpace(a.getenv("DOMINION_TOKEN")), nil
	}
	var (
		b   []byte
		err error
	)
	if file == "-" {
		b, err = readLimited(a.in, maxToken)
	} else {
		b, err = readFileLimited(file, maxToken)
	}
	if err != nil {
		return "", usagef("--token-file %s: %v", file, err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", usagef("--token-file %s: it is empty", file)
	}
	return token, nil
}
