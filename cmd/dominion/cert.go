package main

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

// pendingDoc is one request for a certificate in json.
type pendingDoc struct {
	Name        string     `json:"name"`
	Role        string     `json:"role"`
	Fingerprint string     `json:"fingerprint"`
	Source      string     `json:"source"`
	First       *time.Time `json:"first,omitempty"`
	Last        *time.Time `json:"last,omitempty"`
	Conflict    string     `json:"conflict,omitempty"` // the name is in use by another key
	Rejected    bool       `json:"rejected"`
}

// certDoc is one certificate in json.
type certDoc struct {
	Name        string     `json:"name"`
	Role        string     `json:"role"`
	Fingerprint string     `json:"fingerprint"`
	Serial      string     `json:"serial"`
	NotBefore   *time.Time `json:"not_before,omitempty"`
	NotAfter    *time.Time `json:"not_after,omitempty"`
	GrantedBy   string     `json:"granted_by,omitempty"`
	Revoked     *time.Time `json:"revoked,omitempty"`
	Reason      string     `json:"reason,omitempty"`
}

func certDocOf(c *apipb.Cert) certDoc {
	return certDoc{
		Name: c.GetName(), Role: c.GetRole(), Fingerprint: c.GetFingerprint(), Serial: c.GetSerial(), NotBefore: jsonTime(c.GetNotBeforeMs()),
		NotAfter: jsonTime(c.GetNotAfterMs()), GrantedBy: c.GetGrantedBy(), Revoked: jsonTime(c.GetRevokedMs()), Reason: c.GetReason(),
	}
}

func (a *app) certCmd() *cobra.Command {
	return parent("cert", "Sign, list and revoke certificates",
		`A machine that has no token asks for its certificate and waits. Compare the
fingerprint that cert pending shows with the one the machine prints, then sign.`,
		`  dominion cert pending
  dominion cert sign web1
  dominion cert revoke web1 --reason 'disk sold'`,
		a.certPendingCmd(), a.certSignCmd(), a.certRejectCmd(), a.certListCmd(), a.certRevokeCmd())
}

func (a *app) certPendingCmd() *cobra.Command {
	return &cobra.Command{
		Use: "pending [NAME]", Short: "List the requests that wait",
		Long:    "Pending lists the requests that wait for a signature, at most 7 days; NAME may be a glob.",
		Example: "  dominion cert pending\n  dominion cert pending 'web*' -o json",
		Args:    args(0, 1, "at most one name"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			req := &apipb.CertsRequest{PendingOnly: true}
			if len(words) == 1 {
				req.Name = words[0]
			}
			resp, err := conn.Admin.Certs(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			var docs []pendingDoc
			for _, p := range resp.Msg.GetPending() {
				docs = append(docs, pendingDoc{
					Name: p.GetName(), Role: p.GetRole(), Fingerprint: p.GetFingerprint(), Source: p.GetSource(), First: jsonTime(p.GetFirstMs()),
					Last: jsonTime(p.GetLastMs()), Conflict: p.GetConflict(), Rejected: p.GetRejected(),
				})
			}
			return list(a, "pending", docs, []string{"NAME", "ROLE", "FROM", "SINCE", "FINGERPRINT", "NOTE"}, pendingRow)
		}),
	}
}

func pendingRow(p pendingDoc) []string {
	note, since := p.Conflict, ""
	if p.Rejected {
		note = "rejected"
	}
	if p.First != nil {
		since = stamp(p.First.UnixMilli())
	}
	return []string{p.Name, p.Role, p.Source, since, p.Fingerprint, note}
}

func (a *app) certSignCmd() *cobra.Command {
	var (
		fingerprint string
		replace     bool
	)
	cmd := &cobra.Command{
		Use: "sign NAME", Short: "Grant what a machine asked for",
		Long: `Sign grants the certificate that NAME asked for; NAME may be a glob. When
several keys ask for one name, --fingerprint tells which. A name that is in use
needs --replace, which revokes the certificate it has now.

Operators and overlords are signed one at a time, as operator/NAME or
overlord/NAME together with the fingerprint.`,
		Example: `  dominion cert sign web1
  dominion cert sign 'web*'
  dominion cert sign web1 --replace --fingerprint sha256:…
  dominion cert sign overlord/dc1 --fingerprint sha256:…`,
		Args: args(1, 1, "a name or a glob"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		resp, err := conn.Admin.SignCert(ctx, connect.NewRequest(&apipb.SignCertRequest{Name: words[0], Fingerprint: fingerprint, Replace: replace}))
		if err != nil {
			return err
		}
		if held := resp.Msg.GetHeld(); len(held) > 0 {
			a.note("dominion cert sign: left alone: %s (in use by another key, asked for by several, or rejected before); sign each by name, see: dominion cert pending",
				strings.Join(held, ", "))
		}
		return a.names("signed", words[0], "request of", resp.Msg.GetSigned())
	})
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "`FINGERPRINT` of the key that is meant, as cert pending shows it")
	cmd.Flags().BoolVar(&replace, "replace", false, "revoke the certificate that the name has now")
	return cmd
}

// names shows what was done to whom; nobody is an error.
func (a *app) names(done, asked, what string, names []string) error {
	if len(names) == 0 {
		return call.Errorf(call.NotFound, "there is no %s %q; see: dominion cert pending", what, asked)
	}
	if a.output != outText {
		return a.document(map[string][]string{done: names})
	}
	for _, n := range names {
		if err := a.text("%s %s\n", done, n); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) certRejectCmd() *cobra.Command {
	var fingerprint string
	cmd := &cobra.Command{
		Use: "reject NAME", Short: "Refuse what a machine asked for",
		Long:    "Reject refuses the request of NAME, which may be a glob; the same key is told so when it asks again.",
		Example: "  dominion cert reject web9",
		Args:    args(1, 1, "a name or a glob"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		resp, err := conn.Admin.RejectCert(ctx, connect.NewRequest(&apipb.RejectCertRequest{Name: words[0], Fingerprint: fingerprint}))
		if err != nil {
			return err
		}
		return a.names("rejected", words[0], "request of", resp.Msg.GetRejected())
	})
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "`FINGERPRINT` of the key that is meant, as cert pending shows it")
	return cmd
}

func (a *app) certListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list [NAME]", Short: "List the certificates",
		Long:    "List shows all certificates that were granted, revoked ones included; NAME may be a glob.",
		Example: "  dominion cert list 'web*'\n  dominion cert list -o jsonl",
		Args:    args(0, 1, "at most one name"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			req := &apipb.CertsRequest{}
			if len(words) == 1 {
				req.Name = words[0]
			}
			resp, err := conn.Admin.Certs(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			var docs []certDoc
			for _, c := range resp.Msg.GetCerts() {
				docs = append(docs, certDocOf(c))
			}
			return a.listCerts("certificates", docs)
		}),
	}
}

func (a *app) listCerts(name string, docs []certDoc) error {
	return list(a, name, docs, []string{"NAME", "ROLE", "EXPIRES", "SERIAL", "GRANTED BY", "NOTE"}, func(c certDoc) []string {
		expires, note := "", ""
		if c.NotAfter != nil {
			expires = stamp(c.NotAfter.UnixMilli())
		}
		if c.Revoked != nil {
			note = "revoked " + stamp(c.Revoked.UnixMilli())
			if c.Reason != "" {
				note += ": " + c.Reason
			}
		}
		return []string{c.Name, c.Role, expires, c.Serial, c.GrantedBy, note}
	})
}

func (a *app) certRevokeCmd() *cobra.Command {
	req := &apipb.RevokeCertRequest{}
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "Take a certificate back",
		Long: `Revoke puts the certificates of NAME on the revocation list, which reaches all
minions and cuts live sessions. An operator's orders are refused from then on.`,
		Example: `  dominion cert revoke web1 --reason 'disk sold'
  dominion cert revoke alice --role operator`,
		Args: args(1, 1, "a name"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
		req.Name = words[0]
		resp, err := conn.Admin.RevokeCert(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		if len(resp.Msg.GetSerials()) == 0 {
			return call.Errorf(call.NotFound, "%s has no certificate to revoke; see: dominion cert list", words[0])
		}
		if a.output != outText {
			return a.document(map[string]any{"revoked": resp.Msg.GetSerials(), "list": resp.Msg.GetNumber()})
		}
		return a.text("revoked %s of %s; revocation list %d\n", plural(len(resp.Msg.GetSerials()), "certificate"), words[0], resp.Msg.GetNumber())
	})
	cmd.Flags().StringVar(&req.Role, "role", "minion", "`ROLE` of the certificate: minion, operator, overlord")
	cmd.Flags().StringVar(&req.Serial, "serial", "", "only the certificate with this `SERIAL`, in hex")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the list and the audit log")
	return cmd
}
