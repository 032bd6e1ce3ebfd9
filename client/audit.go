package client

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/pki"
)

// checkpointsFile is beside the contexts: what this user has seen of each audit log.
const checkpointsFile = "checkpoints"

// Root gives the root certificate of the fleet: the context's, or the one in
// the state directory.
func (c *Conn) Root() (*x509.Certificate, error) {
	if c.trust != nil {
		return c.trust.Root(), nil
	}
	b, err := os.ReadFile(filepath.Join(c.state, "ca", "root.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the fleet's root: %w", err)
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return nil, fmt.Errorf("read the fleet's root: %w", err)
	}
	return certs[0], nil
}

// AuditHead asks for the newest checkpoint of the audit log, checks that it is
// signed by a log key that the fleet's root certified, and that it continues
// the one that this user has seen before; then it is remembered, beside the
// contexts in dir. before is what was remembered, with size 0 when nothing
// was. An overlord that was rolled back, or shows different logs to different
// people, is an error with the code AuditRefused.
func (c *Conn) AuditHead(ctx context.Context, dir string) (head, before audit.Checkpoint, err error) {
	root, err := c.Root()
	if err != nil {
		return head, before, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return head, before, fmt.Errorf("keep what was seen of the audit log: %w", err)
	}
	d, err := pki.OpenDir(dir)
	if err != nil {
		return head, before, fmt.Errorf("keep what was seen of the audit log: %w", err)
	}
	defer d.Close() // WriteFile has synced
	memories, err := readMemories(d)
	if err != nil {
		return head, before, err
	}
	status, err := c.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		return head, before, fmt.Errorf("ask which audit log there is: %w", err)
	}
	logID := status.Msg.GetLogId()
	before = memories[logID].Checkpoint
	resp, err := c.Audit.Head(ctx, connect.NewRequest(&apipb.AuditHeadRequest{Remembered: memories[logID].Note}))
	if err != nil {
		return head, before, fmt.Errorf("ask for the head of the audit log: %w", err)
	}
	m := resp.Msg
	memory, err := memories.Accept(&fleetpb.LogHead{
		Checkpoint: m.GetCheckpoint(), LogKey: m.GetLogKey(), Proof: m.GetProof(), Recovery: m.GetRecovery(),
		RecoveriesBefore: m.GetRecoveriesBefore(),
	}, auditTrust(root))
	if err != nil {
		return head, before, err
	}
	if memory.Checkpoint.LogID != logID {
		return head, before, call.Errorf(call.AuditRefused, "the overlord shows a checkpoint of log %s and says that its log is %s", memory.Checkpoint.LogID, logID)
	}
	memories[logID] = memory
	if err := d.WriteFile(checkpointsFile, memories.Marshal()); err != nil {
		return head, before, fmt.Errorf("keep what was seen of the audit log: %w", err)
	}
	return memory.Checkpoint, before, nil
}

func readMemories(d *pki.Dir) (audit.Memories, error) {
	b, err := d.ReadFile(checkpointsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Memories{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was seen of the audit log: %w", err)
	}
	m, err := audit.ParseMemories(b)
	if err != nil {
		return nil, fmt.Errorf("read what was seen of the audit log: %s/%s: %w", d.Path(), checkpointsFile, err)
	}
	return m, nil
}

// auditTrust opens the statements of a root as package audit wants them.
func auditTrust(root *x509.Certificate) audit.Trust {
	return audit.Trust{
		LogKey: func(signed []byte) (string, string, ed25519.PublicKey, error) {
			k, err := pki.OpenLogKey(root, signed)
			if err != nil {
				return "", "", nil, err
			}
			if time.Now().After(k.NotAfter) {
				return "", "", nil, fmt.Errorf("the log key of %s ended on %s", k.Overlord, k.NotAfter.UTC().Format(time.RFC3339))
			}
			return k.LogID, k.Overlord, k.PublicKey, nil
		},
		Recovery: func(signed []byte) (*fleetpb.Recovery, error) { return pki.OpenRecovery(root, signed) },
	}
}
