package overlord

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

// What a candidate may pull of one version: so many times the data at once, and then
// once in that time.
const (
	pieceBurst = 3
	pieceEvery = 10 * time.Second
)

// pieceMeter counts what a machine has pulled of a version, in copies of the data.
type pieceMeter struct {
	version *clusterVersion
	copies  float64
	at      time.Time
}

func (m *pieceMeter) allow(v *clusterVersion, part float64, now time.Time) bool {
	if m.version != v {
		*m = pieceMeter{version: v}
	}
	m.copies = max(0, m.copies-float64(now.Sub(m.at))/float64(pieceEvery))
	m.at = now
	if m.copies+part > pieceBurst+0.01 { // the parts of a copy do not add up to 1 exactly
		return false
	}
	m.copies += part
	return true
}

// piece answers session.MethodClusterData: candidates get the data of the version in
// force.
func (c *candidates) piece(name string, args []byte) (*session.ClusterDataResult, error) {
	var in session.ClusterDataArgs
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	v := c.o.clusterNow()
	if v == nil || !slices.Contains(v.candidates, name) {
		return nil, call.Errorf(call.Denied, "%s is no candidate", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != v {
		c.version, c.digest = v, sha256.Sum256(v.data)
	}
	size := int64(len(v.data))
	switch {
	case !bytes.Equal(in.Digest, c.digest[:]):
		return nil, call.Errorf(call.NotFound, "these data are not those in force, which have serial %d", v.serial)
	case in.Offset < 0 || in.Offset >= size:
		return nil, call.Errorf(call.Invalid, "offset %d of %d bytes", in.Offset, size)
	}
	b := v.data[in.Offset:min(in.Offset+session.MaxClusterPiece, size)]
	h := c.holders[name]
	if h == nil || !h.pieces.allow(v, float64(len(b))/float64(size), time.Now()) {
		return nil, call.Errorf(call.Busy, "the data were pulled %d times in a short time", pieceBurst)
	}
	return &session.ClusterDataResult{Data: b}, nil
}

// clusterData answers a candidate that pulls. It is not counted with what machines
// ask else: there may be many pieces.
func (h handler) clusterData(s *session.Session, id uint64, c *fleetpb.Call) {
	if !h.o.pulling.TryAcquire(1) {
		h.reply(s, id, nil, call.Errorf(call.Busy, "too many candidates pull cluster data at once"))
		return
	}
	h.o.background.Go(func() {
		defer h.o.pulling.Release(1)
		out, err := h.o.candidates.piece(s.Peer().Name, c.Args)
		h.reply(s, id, out, err)
	})
}
