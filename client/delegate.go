package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/delegation"
	"dominion/target"
)

// plan is what an order goes by. The zero plan is the overlord's.
type plan struct {
	text []byte         // the map that travels along
	m    delegation.Map // of text
}

// plan reads the map's file that the options name.
func (c *Client) plan() (plan, error) {
	if c.opt.MapFile == "" {
		return plan{}, nil
	}
	m, err := delegation.Load(c.opt.MapFile)
	if errors.Is(err, delegation.ErrMap) {
		return plan{}, call.Errorf(call.Invalid, "%v", err) // its detail names the file, too
	}
	if err != nil {
		return plan{}, err
	}
	text := m.Append(nil)
	if len(text) > delegation.MaxFile {
		return plan{}, call.Errorf(call.Invalid, "map %s: written out it has %d bytes, more than %d", c.opt.MapFile, len(text), delegation.MaxFile)
	}
	return plan{text: text, m: m}, nil
}

// checkMapped holds the overlord's answer against the map's file: no machine is
// signed for that the operator's own map does not know.
func (c *Client) checkMapped(r Resolved) error {
	if r.plan.text == nil {
		return nil
	}
	if extra := without(r.Names, r.plan.m.Index().Names()); len(extra) > 0 {
		return call.Errorf(call.Internal, "the overlord names %q, which %s does not; nothing was sent", target.Fold(extra), c.opt.MapFile)
	}
	return nil
}

// kind is what a target names.
func (c *Client) kind() string {
	if c.opt.Delegate {
		return "machine of the map"
	}
	return "minion"
}

// unreached gives the names that the target names and the order does not, sorted.
func (r Resolved) unreached() []string {
	if len(r.Conflicts) == 0 {
		return r.Unknown
	}
	all := slices.Concat(r.Unknown, r.Conflicts)
	slices.Sort(all)
	return slices.Compact(all)
}

// nobody gives the results of an order that is not given, since all that the
// target names is unreachable.
func (c *Client) nobody(r Resolved) []Event {
	why := "no minion of this name is enrolled"
	if c.opt.Delegate {
		why = "it is not in the map"
	}
	var out []Event
	for _, g := range []Group{
		{Names: r.Unknown, Detail: why},
		{Names: r.Conflicts, Detail: "machines with different keys bear this name; dominion map show tells where they are"},
	} {
		if len(g.Names) > 0 {
			g.Status, g.Code = call.Unreachable, call.UnknownName
			out = append(out, &g)
		}
	}
	return out
}

// Routes gives the way of each of those machines by the map that the client's
// orders go by. A sub-overlord that is away when an order is given is avoided, if
// the map knows another way. Without a map the error has the code NotFound.
func (c *Client) Routes(ctx context.Context, names []string) (delegation.Routing, error) {
	p, err := c.plan()
	if err != nil {
		return delegation.Routing{}, err
	}
	if p.text != nil {
		return p.m.Index().Routes(names, nil), nil
	}
	m, err := c.conn.Map(ctx)
	if err != nil {
		return delegation.Routing{}, err
	}
	return m.Index().Routes(names, nil), nil
}

// Delegates says whether the overlord's configuration makes delegation the default
// of the commands that give orders. Options are not changed by it.
func (c *Conn) Delegates(ctx context.Context) (bool, error) {
	resp, err := c.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		return false, fmt.Errorf("ask how the overlord is: %w", err)
	}
	return resp.Msg.GetDelegate(), nil
}
