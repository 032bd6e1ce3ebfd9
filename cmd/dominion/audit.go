package main

import (
	"context"
	"fmt"
	"strconv"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func (a *app) auditCmd() *cobra.Command {
	return parent("audit", "Read and verify who did what",
		`Every order, denial, enrolment, revocation and group of results is a record of a
Merkle log that cannot be rewritten unnoticed: its signed checkpoints are kept by
the overlord outside its database, by every minion, and by everyone who runs
audit verify.`,
		`  dominion audit list --limit 20
  dominion audit show 17
  dominion audit verify --fleet`,
		a.auditListCmd(), a.auditShowCmd(), a.auditVerifyCmd(), a.auditRecoverCmd())
}

func (a *app) auditListCmd() *cobra.Command {
	req := &apipb.AuditListRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "List the records",
		Long: `List shows the newest records, or from an index on with --from. -o json and jsonl
are a complete export: "leaf" holds the bytes that the log hashes, in base64.`,
		Example: `  dominion audit list --limit 20
  dominion audit list --actor operator/alice
  dominion audit list --from 0 --limit 0 -o jsonl > audit.jsonl`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
		req.Newest = !cmd.Flags().Changed("from")
		conn, err := a.dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() // nothing is asked of it any more
		return a.auditList(ctx, conn, req)
	})
	f := cmd.Flags()
	f.Uint64Var(&req.From, "from", 0, "begin at the record with this `INDEX`")
	f.Uint64Var(&req.Limit, "limit", 50, "at most `N` records; 0: all")
	f.StringVar(&req.Action, "action", "", "only this `ACTION`, such as order, results, denied, enrolled")
	f.StringVar(&req.Actor, "actor", "", "only what this `ACTOR` did, such as operator/alice")
	f.StringVar(&req.Subject, "subject", "", "only what is about this `SUBJECT`: a job, a machine, a token")
	return cmd
}

// auditList streams records: they may be many, so nothing is kept but what one
// JSON document needs.
func (a *app) auditList(ctx context.Context, conn *client.Conn, req *apipb.AuditListRequest) error {
	stream, err := conn.Audit.List(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was read to its end, or is given up
	var docs []recordDoc
	for stream.Receive() {
		doc := recordDocOf(stream.Msg())
		switch a.output {
		case outJSON:
			docs = append(docs, doc)
		case outJSONL:
			err = a.line(doc)
		default:
			err = a.text("%s\n", recordLine(doc))
		}
		if err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("list the audit log: %w", err)
	}
	if a.output == outJSON {
		return list(a, "records", docs, nil, nil)
	}
	return nil
}

func (a *app) auditShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show INDEX | JOB", Short: "Show one record, or all of a job",
		Example: "  dominion audit show 17\n  dominion audit show 0199f1a2-7c3e-7def-8123-456789abcdef",
		Args:    args(1, 1, "a record's index or a job's id"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			req := &apipb.AuditListRequest{}
			if id, err := call.ParseJobID(words[0]); err == nil {
				req.Subject = id.String()
			} else if req.From, err = strconv.ParseUint(words[0], 10, 63); err != nil {
				return usagef("%q is neither the index of a record nor a job id", words[0])
			} else {
				req.Limit = 1
			}
			return a.auditShow(ctx, conn, req, words[0])
		}),
	}
}

func (a *app) auditShow(ctx context.Context, conn *client.Conn, req *apipb.AuditListRequest, what string) error {
	stream, err := conn.Audit.List(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was read to its end, or is given up
	var docs []recordDoc
	for stream.Receive() {
		docs = append(docs, recordDocOf(stream.Msg()))
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	if len(docs) == 0 {
		return call.Errorf(call.NotFound, "the audit log has no record %s", what)
	}
	if a.output != outText {
		return list(a, "records", docs, nil, nil)
	}
	for i, d := range docs {
		if i > 0 {
			d.Leaf = nil
			if err := a.text("\n"); err != nil {
				return err
			}
		}
		if err := a.write([]byte(recordTable(d).String())); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) auditRecoverCmd() *cobra.Command {
	var (
		confirm bool
		file    string
	)
	cmd := &cobra.Command{
		Use: "recover", Short: "Accept a log that was restored from a back-up",
		Long: `Recover is for after an honest restore of the overlord's store from a back-up:
minions have seen a longer log and refuse the overlord until it is explained.

It appends a statement, signed by the root key, that names the checkpoint which
is given up and begins a new epoch; it stays in the log for ever. Only root on the
overlord's host may do it. Without --confirm it only says what would be given up.

The log of a sub-overlord is explained by the overlord that holds the root's key, to
which the request is passed up: that takes a token made there with
dominion token create --role overlord --name NAME, given in a file or DOMINION_TOKEN.`,
		Example: "  dominion audit recover\n  dominion audit recover --confirm\n  dominion audit recover --confirm --token-file token",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		req := &apipb.AuditRecoverRequest{Confirm: confirm}
		if confirm {
			var err error
			if req.Token, err = a.readToken(file); err != nil {
				return err
			}
		}
		resp, err := conn.Audit.Recover(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		m := resp.Msg
		if a.output != outText {
			return a.document(map[string]any{
				"epoch": m.GetEpoch(), "abandoned_size": m.GetAbandonedSize(), "restored_size": m.GetRestoredSize(), "done": m.GetDone(),
			})
		}
		what := fmt.Sprintf("checkpoint of %d records, given up for the log of %d records that is here: epoch %d",
			m.GetAbandonedSize(), m.GetRestoredSize(), m.GetEpoch())
		if m.GetDone() {
			return a.text("recovered: %s\n", what)
		}
		return a.text("would be recovered: %s\nto do it: dominion audit recover --confirm\n", what)
	})
	cmd.Flags().BoolVar(&confirm, "confirm", false, "do it")
	cmd.Flags().StringVar(&file, "token-file", "", "`FILE` with a token of role overlord, or - for standard input (or DOMINION_TOKEN); at a sub-overlord")
	return cmd
}
