package overlord

import (
	"context"

	"dominion/call"
	"dominion/session"
)

// mapBelow answers session.map.
func (o *Overlord) mapBelow(_ context.Context, _ []byte) (session.MapResult, error) {
	return session.MapResult{}, call.Errorf(call.NotFound, "not here yet")
}
