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
	q := queryOf(r)
	q.where = r.Where
	e, c, err := o.parse(q)
	if err != nil {
		return nil, err
	}
	cond, err := conditionOf(c)
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
	plain := !q.narrow && cond == nil
	var m match
	found := false
	if plain {
		m, found = o.matches.find(key)
	}
	if !found {
		if m, err = g.match(ctx, e, cond); err != nil {
			return nil, err
		}
		if plain && !e.UsesGroups() && len(r.Map) == 0 && max(m.count, m.unknownCount) <= maxScoped {
			o.matches.add(key, m)
		}
	}
	if err := within(r.Limit, m.count); err != nil {
		return nil, err
	}
	return &apipb.ResolveResponse{
		Names: m.names, Count: uint64(m.count), Unknown: m.unknown, UnknownCount: uint64(m.unknownCount),
		UsesGroups: m.usedGroups, TimeMs: ms(time.Now()), Guard: uint64(o.cfg.Guard), Conflicts: m.conflicts, Silent: target.Fold(g.silent()),
		Unjudged: m.unjudged, UnjudgedCount: uint64(m.unjudgedCount),
	}, nil
}

// match says which machines of the map an expression names, of those that fit the
// condition unless it is nil.
func (g *groupsFinder) match(ctx context.Context, e *target.Expr, cond *condition) (match, error) {
	if e.UsesGroups() || cond != nil {
		if err := g.gather(ctx, e.Groups(), cond); err != nil {
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
	var unjudged []string
	if cond != nil {
		if names, unjudged, err = g.judge(ctx, cond, names); err != nil {
			return match{}, err
		}
		// Nobody is asked about these, as nothing is ordered of them.
		unjudged, conflicts = slices.Concat(unjudged, conflicts), nil
		slices.Sort(unjudged)
		res.UsedGroups = res.UsedGroups || len(cond.refs) > 0
	}
	return match{
		names: target.Fold(names), unknown: target.Fold(unknown), conflicts: target.Fold(conflicts), count: len(names), unknownCount: len(unknown),
		usedGroups: res.UsedGroups, unjudged: target.Fold(unjudged), unjudgedCount: len(unjudged),
	}, nil
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
