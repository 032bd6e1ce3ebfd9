package minion

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"dominion/session"
)

// blobTime is how long an overlord may take to begin with a file's bytes.
const blobTime = time.Minute

// blob is module.Env.Blob: it asks on the newest session with the overlord that brought
// the call.
func (w *work) blob(ctx context.Context, digest string, offset int64) (io.ReadCloser, error) {
	args, err := json.Marshal(session.BlobArgs{Digest: digest, Offset: offset, Job: w.verdict.order.Job.String()})
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, blobTime, fmt.Errorf("the overlord did not begin with the file within %s", blobTime))
	defer cancel()
	return w.link.agent.Pull(ctx, w.link.peer, session.MethodBlob, args, session.BlobStream)
}
