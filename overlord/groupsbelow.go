package overlord

import (
	"context"

	"dominion/call"
	"dominion/session"
)

// groupsBelow answers session.groups.
func (o *Overlord) groupsBelow(_ context.Context, _ []byte) (session.GroupsResult, error) {
	return session.GroupsResult{}, call.Errorf(call.NotFound, "not here yet")
}
