package overlord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dominion/call"
	"dominion/groupsource"
	"dominion/target"
	"dominion/where"
)

const judgeTime = 10 * time.Second // for judging all machines by one condition

// query names machines: those that target names and exclude does not, of among
// if it is to be narrow, and that fit the condition where if it is not empty.
type query struct {
	target, exclude, where string
	narrow                 bool
	among                  string // folded
}

// asker is a request with what every question about machines has.
type asker interface {
	GetTarget() string
	GetExclude() string
	GetNarrow() bool
	GetAmong() string
}

func queryOf(r asker) query {
	return query{target: r.GetTarget(), exclude: r.GetExclude(), narrow: r.GetNarrow(), among: r.GetAmong()}
}

// parse reads a query; the condition is nil when there is none.
func (o *Overlord) parse(q query) (*target.Expr, *where.Expr, error) {
	e, err := parseTarget(q.target, q.exclude)
	if err != nil {
		return nil, nil, err
	}
	if q.narrow {
		names, err := expand(q.among)
		if err != nil {
			return nil, nil, call.Errorf(call.Invalid, "among: %v", err)
		}
		e = e.Among(names)
	}
	if q.where == "" {
		return e, nil, nil
	}
	cond, err := o.conditions.Compile(q.where)
	if err != nil {
		return nil, nil, call.Errorf(call.Invalid, "%v", err)
	}
	return e, cond, nil
}

// named is what a query names.
type named struct {
	target.Result
	unjudged []string // known, and nobody can say whether they fit the condition; sorted
}

// resolve says which machines a query names now.
func (o *Overlord) resolve(ctx context.Context, q query, limit uint64) (named, error) {
	e, cond, err := o.parse(q)
	if err != nil {
		return named{}, err
	}
	groups, err := o.groups(ctx, e.Groups())
	if err != nil {
		return named{}, err
	}
	res, err := e.Resolve(target.Env{Known: o.fleet.list(), Group: groups.get})
	if err != nil {
		return named{}, call.Errorf(call.Invalid, "%v", err)
	}
	out := named{Result: res}
	if cond != nil {
		members, err := o.membersFor(ctx, cond)
		if err != nil {
			return named{}, err
		}
		_, all := cond.Groups()
		out.UsedGroups = out.UsedGroups || all || len(members) > 0
		if out.Names, out.unjudged, err = o.judge(ctx, cond, res.Names, members); err != nil {
			return named{}, err
		}
	}
	return out, within(limit, len(out.Names))
}

// knownGroups are the groups of an overlord, and those of sources that were asked for.
type knownGroups struct {
	own     func(name string) ([]string, bool)
	sourced map[string][]string
}

func (g knownGroups) get(name string) ([]string, bool) {
	if members, ok := g.sourced[name]; ok {
		return members, true
	}
	return g.own(name)
}

// groups asks the sources for those of some groups that are theirs.
func (o *Overlord) groups(ctx context.Context, names []string) (knownGroups, error) {
	out := knownGroups{own: o.keep.group}
	for _, name := range names {
		source, group, ok := target.Source(name)
		if !ok {
			continue
		}
		members, err := o.sources.Members(ctx, source, group)
		switch {
		case errors.Is(err, groupsource.ErrNoGroup):
			return out, call.Errorf(call.Invalid, "%v; groups of sources: dominion group list --sources", err)
		case err != nil:
			return out, call.Errorf(call.Failed, "%v", err)
		}
		if out.sourced == nil {
			out.sourced = make(map[string][]string)
		}
		out.sourced[name] = members
	}
	return out, nil
}

// refs gives the groups that a condition asks for, as they are known here.
func refs(cond *where.Expr) (map[string]string, error) {
	texts, _ := cond.Groups()
	out := make(map[string]string, len(texts))
	for _, text := range texts {
		ref, err := target.GroupRef(text)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "--where: %v", err)
		}
		out[text] = ref
	}
	return out, nil
}

// membersFor gives the members of the groups that a condition asks for by name,
// by the text in it.
func (o *Overlord) membersFor(ctx context.Context, cond *where.Expr) (map[string][]string, error) {
	texts, err := refs(cond)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string, len(texts))
	for text, ref := range texts {
		groups, err := o.groups(ctx, []string{ref})
		if err != nil {
			return nil, err
		}
		members, ok := groups.get(ref)
		if !ok {
			return nil, call.Errorf(call.Invalid, "--where: there is no group %q; groups: dominion group list", ref)
		}
		out[text] = members
	}
	return out, nil
}

// judge says which of some machines of ours, sorted, fit a condition, and of which
// nobody can say it. members are those of the groups that it names.
func (o *Overlord) judge(ctx context.Context, cond *where.Expr, names []string, members map[string][]string) (fit, unjudged []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, judgeTime,
		call.Errorf(call.TooMany, "--where: judging %d machines took longer than %s; use a simpler condition, or name fewer machines", len(names), judgeTime))
	defer cancel()
	groups := o.groupsByMachine(cond, names, members)
	left := make(map[string]struct{}, len(names))
	for _, n := range names {
		left[n] = struct{}{}
	}
	take := func(name string, facts []byte) error {
		ok, lacks, err := cond.Judge(ctx, where.Machine{Name: name, Groups: groups[name], Facts: facts})
		switch {
		case err != nil:
			return err
		case lacks != nil:
			unjudged = append(unjudged, name)
		case ok:
			fit = append(fit, name)
		}
		return nil
	}
	for m, err := range o.keep.db.Facts(ctx) {
		if err != nil {
			return nil, nil, causeOf(ctx, fmt.Errorf("read the facts: %w", err))
		}
		if _, asked := left[m.Name]; !asked {
			continue
		}
		delete(left, m.Name)
		if err := take(m.Name, m.Facts); err != nil {
			return nil, nil, err
		}
	}
	for name := range left { // enrolled, and never seen
		if err := take(name, nil); err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(fit)
	slices.Sort(unjudged)
	return fit, unjudged, nil
}

// causeOf gives why ctx ended instead of an error that follows from it.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// groupsByMachine gives the groups of some machines as far as a condition looks at them.
func (o *Overlord) groupsByMachine(cond *where.Expr, names []string, members map[string][]string) map[string][]string {
	out := make(map[string][]string)
	add := func(group string, members []string) {
		for _, m := range members {
			if _, ok := slices.BinarySearch(names, m); ok {
				out[m] = append(out[m], group)
			}
		}
	}
	if _, all := cond.Groups(); all {
		for name, own := range *o.keep.groups.Load() {
			if _, is := members[name]; !is {
				add(name, own)
			}
		}
	}
	for text, of := range members {
		add(text, of)
	}
	for _, g := range out {
		slices.Sort(g)
	}
	return out
}
