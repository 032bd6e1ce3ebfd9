package overlord

import (
	"context"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/minion"
)

// delegated carries out an order that the parent passes on.
func (o *Overlord) delegated(_ context.Context, _ minion.Delegation) *fleetpb.Result {
	return &fleetpb.Result{Code: uint32(call.NotFound), Detail: "not here yet"}
}
