package client

import (
	"context"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/module"
)

// DefaultGuard is the guard of an overlord that tells none.
const DefaultGuard = 100

// Guarded is an order that the overlord takes only with the number of its
// machines confirmed: its method destroys, or changes more than Guard machines.
type Guarded struct {
	Method string
	Effect module.Effect
	Names  []string // the order's machines, sorted. Not to be changed.
	Guard  int
}

func guardOf(r *apipb.ResolveResponse) int {
	if g := r.GetGuard(); g > 0 && g <= call.MaxMachines {
		return int(g)
	}
	return DefaultGuard
}

// Guards says whether an order of a method with this effect for the machines
// of r needs their number confirmed.
func (r Resolved) Guards(effect module.Effect) bool {
	switch effect {
	case module.Read:
		return false
	case module.Change:
		return len(r.Names) > r.Guard
	}
	return true // destroys, or does what this version has no word for
}

// confirm gives the confirmed number of machines for an order; zero: none is needed.
func (c *Client) confirm(ctx context.Context, s module.Schema, r Resolved) (int, error) {
	n := c.opt.Confirmed
	if n == 0 {
		if !r.Guards(s.Effect) {
			return 0, nil
		}
		if c.opt.Confirm == nil {
			return 0, call.Errorf(call.Unconfirmed, "%s (%s) on %d machines needs that number confirmed; nothing was sent", s.Name, s.Effect, len(r.Names))
		}
		var err error
		if n, err = c.opt.Confirm(ctx, Guarded{Method: s.Name, Effect: s.Effect, Names: r.Names, Guard: r.Guard}); err != nil {
			return 0, err
		}
	}
	if n != len(r.Names) {
		return 0, call.Errorf(call.Unconfirmed, "%d machines were confirmed and the target names %d now; nothing was sent", n, len(r.Names))
	}
	return n, nil
}
