package minion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"dominion/minion/candidate"
	"dominion/session"
)

// replica is a machine's copy of the cluster data. *candidate.Candidate is the real
// one.
type replica interface {
	// Holds says whether there is one, or the header of one.
	Holds() bool
	// Take deals with an announcement.
	Take(ctx context.Context, in session.ClusterArgs, pull candidate.Pull) session.ClusterResult
}

// Limits of an announcement.
const (
	clusterTime = 2 * time.Minute  // for all of it, when the overlord does not say
	pieceTime   = 30 * time.Second // for one piece of the data
)

// cluster answers an announcement of cluster data, which are pulled over the session
// that it came on.
func (l *link) cluster(in session.ClusterArgs, limit time.Duration) session.ClusterResult {
	ctx, stop := context.WithTimeout(l.ctx, cmp.Or(limit, clusterTime))
	defer stop()
	return l.agent.replica.Take(ctx, in, l.clusterPiece)
}

// clusterPiece asks the overlord for a piece of the data.
func (l *link) clusterPiece(ctx context.Context, digest []byte, offset int64) ([]byte, error) {
	ctx, stop := context.WithTimeoutCause(ctx, pieceTime, fmt.Errorf("no answer within %s", pieceTime))
	defer stop()
	args, err := json.Marshal(session.ClusterDataArgs{Digest: digest, Offset: offset})
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	out, err := l.session.Call(ctx, session.MethodClusterData, args)
	if err != nil {
		return nil, err
	}
	var r session.ClusterDataResult
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return r.Data, nil
}
