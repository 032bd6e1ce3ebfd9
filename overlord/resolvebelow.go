package overlord

import (
	"context"
	"slices"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/delegation"
	"dominion/job"
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
	if len(r.Map) == 0 {
		g.barred = o.barredNames()
	}
	key := matchKey{r.Target, r.Exclude, ix}
	m, found := o.matches.find(key)
	if !found {
		if m, err = g.match(ctx, e); err != nil {
			return nil, err
		}
		if !e.UsesGroups() && len(r.Map) == 0 && max(m.count, m.unknownCount) <= maxScoped {
			o.matches.add(key, m)
		}
	}
	if err := within(r.Limit, m.count); err != nil {
		return nil, err
	}
	return &apipb.ResolveResponse{
		Names: m.names, Count: uint64(m.count), Unknown: m.unknown, UnknownCount: uint64(m.unknownCount),
		UsesGroups: m.usedGroups, TimeMs: ms(time.Now()), Guard: uint64(o.cfg.Guard), Conflicts: m.conflicts, Silent: target.Fold(g.silent()),
	}, nil
}

// match says which machines of the map an expression names.
func (g *groupsFinder) match(ctx context.Context, e *target.Expr) (match, error) {
	if e.UsesGroups() {
		if err := g.gather(ctx, e.Groups()); err != nil {
			return match{}, err
		}
	}
	res, err := g.ix.Match(e, g.group)
	if err != nil {
		return match{}, call.Errorf(call.Invalid, "%v%s", err, g.doubt(err))
	}
	conflicts, err := g.conflicts(e, res.Names)
	if err != nil {
		return match{}, err
	}
	names, unknown := less(res.Names, conflicts), less(res.Unknown, conflicts)
	return match{target.Fold(names), target.Fold(unknown), target.Fold(conflicts), len(names), len(unknown), res.UsedGroups}, nil
}

// scopeOf gives whom an order is for, and by the map, if it goes by it, through whom.
func (o *Overlord) scopeOf(r *apipb.CallRequest) (job.Whom, *job.Scope, error) {
	var ix *delegation.Index
	if r.Delegate {
		var err error
		if ix, err = o.indexOf(r.Map); err != nil {
			return job.Whom{}, nil, err
		}
	}
	return o.scopes.of(scopeKey{names: r.Names, index: ix}, func() (w job.Whom, err error) {
		if w.Names, err = expand(r.Names); err != nil {
			return w, call.Errorf(call.Invalid, "names: %v", err)
		}
		if ix != nil {
			w.Reach = ix.Reach(o.cfg.Name, w.Names)
		}
		return w, nil
	})
}

// clashing gives those of some names that an order by the map does not reach because
// machines with different keys bear them.
func (o *Overlord) clashing(r *apipb.CallRequest, names []string) []string {
	if !r.Delegate || len(names) == 0 {
		return nil
	}
	var out []string
	if ix, err := o.indexOf(r.Map); err == nil {
		out = ix.Unrouted(names)
	}
	for _, name := range o.barredNames() {
		if slices.Contains(names, name) {
			out = append(out, name)
		}
	}
	return out
}

// barredNames gives the names that the own map's building found with different keys,
// sorted: its file has no machine of theirs unless others stand below it.
func (o *Overlord) barredNames() []string {
	o.routes.mu.Lock()
	defer o.routes.mu.Unlock()
	return o.routes.barred
}

// conflicts gives the names that an expression names and that are not routed, sorted;
// matched are those of the map.
func (g *groupsFinder) conflicts(e *target.Expr, matched []string) ([]string, error) {
	out := g.ix.Unrouted(matched)
	if len(g.barred) > 0 {
		res, err := e.Resolve(target.Env{Known: g.barred, Group: g.group})
		if err != nil {
			return nil, call.Errorf(call.Invalid, "%v", err)
		}
		out = append(out, res.Names...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// less gives the names that are not among some, which are sorted. It may use names
// for it.
func less(names, some []string) []string {
	if len(some) == 0 {
		return names
	}
	return slices.DeleteFunc(names, func(n string) bool { _, is := slices.BinarySearch(some, n); return is })
}
