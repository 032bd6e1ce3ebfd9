package overlord

import (
	"context"
	"slices"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// resolveBelow says which machines of the map an expression names now. Those
// that are not routed are apart: nobody may order anything of them by the map.
func (o *Overlord) resolveBelow(ctx context.Context, r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
	e, err := parseTarget(r.Target, r.Exclude)
	if err != nil {
		return nil, err
	}
	ix, err := o.indexOf(r.Map)
	if err != nil {
		return nil, err
	}
	g := o.groupsBy(ix)
	if e.UsesGroups() {
		if err := g.gather(ctx, groupsIn(e)); err != nil {
			return nil, err
		}
	}
	res, err := ix.Match(e, g.group)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v%s", err, g.doubt(err))
	}
	conflicts := ix.Routes(res.Names, nil).Conflicts
	names := res.Names
	if len(conflicts) > 0 {
		names = slices.DeleteFunc(names, func(n string) bool { _, is := slices.BinarySearch(conflicts, n); return is })
	}
	if err := within(r.Limit, len(names)); err != nil {
		return nil, err
	}
	return &apipb.ResolveResponse{
		Names: target.Fold(names), Count: uint64(len(names)), Unknown: target.Fold(res.Unknown), UnknownCount: uint64(len(res.Unknown)),
		UsesGroups: res.UsedGroups, TimeMs: ms(time.Now()), Guard: uint64(o.cfg.Guard),
		Conflicts: target.Fold(conflicts), Silent: target.Fold(g.silent()),
	}, nil
}

// groupsIn gives the names of the groups in an expression.
func groupsIn(e *target.Expr) []string {
	var names []string
	// Without machines there is nothing to resolve, and groups without members hold no bad name.
	_, _ = e.Resolve(target.Env{Group: func(name string) ([]string, bool) {
		names = append(names, name)
		return nil, true
	}})
	slices.Sort(names)
	return slices.Compact(names)
}
