package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func (a *app) auditVerifyCmd() *cobra.Command {
	var fleet bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that nothing was changed or removed",
		Long: `Verify lets the overlord check every record, every stored result and its
checkpoints, and names the first record that does not hold. Then it checks
itself that the newest checkpoint is signed by a key which the root certified,
and that it continues the one seen the last time verify ran here.

With --fleet it reads the whole log, computes its root itself, asks every minion
for its own signed log, and reports what a minion ran and the overlord's log does
not know, and the other way round. That is best run from an operator's own
machine, not from the overlord's.`,
		Example: "  dominion audit verify\n  dominion audit verify --fleet --overlord dc1.example.org",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		return a.auditVerify(ctx, conn, fleet)
	})
	cmd.Flags().BoolVar(&fleet, "fleet", false, "compare with what the minions signed")
	return cmd
}

// verifyDoc is the outcome of a verification in json.
type verifyDoc struct {
	OK      bool      `json:"ok"`
	Records uint64    `json:"records"`              // checked
	LogID   string    `json:"log_id,omitempty"`     // of the checkpoint
	Epoch   uint64    `json:"epoch"`                // grows with each recovery
	Size    int64     `json:"size"`                 // of the checkpoint
	Root    string    `json:"root,omitempty"`       // hex
	Before  int64     `json:"seen_before"`          // size of the checkpoint seen the last time; 0: none
	Index   *int64    `json:"index,omitempty"`      // of the first bad record
	Problem string    `json:"problem,omitempty"`    // what is wrong with it
	Fleet   *fleetDoc `json:"fleet,omitempty"`      // with --fleet
	Head    string    `json:"head_error,omitempty"` // why the checkpoint was refused
}

func (a *app) auditVerify(ctx context.Context, conn *client.Conn, fleet bool) error {
	doc := verifyDoc{}
	if err := a.verifyRecords(ctx, conn, &doc); err != nil {
		return err
	}
	dir, err := client.ContextsDir()
	if err != nil {
		return err
	}
	head, before, err := conn.AuditHead(ctx, dir)
	switch {
	case call.CodeOf(err) == call.AuditRefused:
		doc.Head = errorDetail(err)
	case err != nil && doc.Problem == "":
		return err
	case err == nil:
		doc.LogID, doc.Epoch, doc.Size, doc.Root, doc.Before = head.LogID, head.Epoch, head.Size, fmt.Sprintf("%x", head.Root[:]), before.Size
	}
	doc.OK = doc.Problem == "" && doc.Head == ""
	if fleet && doc.OK {
		if doc.Fleet, err = a.verifyFleet(ctx, conn, head); err != nil {
			return err
		}
		doc.OK = len(doc.Fleet.Differences) == 0
	}
	return a.verdict(doc)
}

// verifyRecords lets the overlord check its store.
func (a *app) verifyRecords(ctx context.Context, conn *client.Conn, doc *verifyDoc) error {
	bar := a.bar()
	defer bar.clear()
	stream, err := conn.Audit.Verify(ctx, connect.NewRequest(&apipb.AuditVerifyRequest{}))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was read to its end, or is given up
	for stream.Receive() {
		m := stream.Msg()
		bar.show(call.Counts{Targeted: int(m.GetTotal()), Answered: int(m.GetChecked())}, "")
		doc.Records = max(doc.Records, m.GetChecked())
		if p := m.GetProblem(); p != nil {
			doc.Problem = p.GetWhat()
			if p.GetIndex() >= 0 {
				doc.Index = new(p.GetIndex())
			}
			return nil
		}
		if m.GetOk() {
			doc.Records = max(doc.Records, m.GetSize())
			return nil
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("verify the audit log: %w", err)
	}
	return call.Errorf(call.Internal, "the overlord ended its verification without a verdict")
}

// verdict shows the outcome; anything that does not hold is a failure.
func (a *app) verdict(doc verifyDoc) error {
	if a.output != outText {
		if err := a.document(doc); err != nil {
			return err
		}
		if doc.OK {
			return nil
		}
		return &exitError{code: exitFailed}
	}
	if doc.Fleet != nil {
		if err := a.write([]byte(doc.Fleet.String())); err != nil {
			return err
		}
	}
	switch {
	case doc.Index != nil:
		return &exitError{exitFailed, fmt.Sprintf("record %d does not hold: %s", *doc.Index, doc.Problem)}
	case doc.Problem != "":
		return &exitError{exitFailed, "the audit log does not hold: " + doc.Problem}
	case doc.Head != "":
		return &exitError{exitFailed, "the overlord's checkpoint is refused: " + doc.Head}
	case !doc.OK:
		return &exitError{exitFailed, fmt.Sprintf("the minions' logs and the overlord's differ: %s", plural(len(doc.Fleet.Differences), "difference"))}
	}
	seen := "seen for the first time"
	if doc.Before > 0 {
		seen = fmt.Sprintf("continues the %d records seen before", doc.Before)
	}
	return a.text("%d records hold; checkpoint of log %s, epoch %d, %d records, %s\n", doc.Records, doc.LogID, doc.Epoch, doc.Size, seen)
}
