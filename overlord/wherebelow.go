package overlord

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dominion/call"
	"dominion/delegation"
	"dominion/groupsource"
	"dominion/session"
	"dominion/target"
	"dominion/where"
)

const maxMembers = 256 << 10 // bytes of the members that go along with a condition

// matchBelow is the part of groupsBelow about a condition: which of the machines of
// this overlord fit it, by their facts and groups, as they are known here. What
// it gives second is what those below are to be told of its groups.
func (o *Overlord) matchBelow(ctx context.Context, in session.GroupsArgs) (*session.MatchResult, map[string]string) {
	if in.Where == "" {
		return nil, nil
	}
	cond, err := o.conditions.Compile(in.Where)
	if err != nil {
		return &session.MatchResult{Problem: err.Error()}, in.Members
	}
	members, err := o.unitedMembers(ctx, cond, in.Members)
	if err != nil {
		return &session.MatchResult{Problem: err.Error()}, in.Members
	}
	folded := make(map[string]string, len(members))
	for text, names := range members {
		folded[text] = target.Fold(names)
	}
	fit, unjudged, err := o.judge(ctx, cond, o.fleet.list(), members)
	if err != nil {
		return &session.MatchResult{Problem: err.Error()}, folded
	}
	return &session.MatchResult{Names: target.Fold(fit), Unjudged: target.Fold(unjudged)}, folded
}

// unitedMembers gives the members of the groups that a condition names, as they are known
// here, and above, from where they came folded.
func (o *Overlord) unitedMembers(ctx context.Context, cond *where.Expr, above map[string]string) (map[string][]string, error) {
	texts, err := refs(cond)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string, len(texts))
	room := call.MaxMachines // names from above, in all
	for text, ref := range texts {
		names, err := expand(above[text])
		if room -= len(names); room < 0 {
			return nil, call.Errorf(call.TooMany, "the members of the groups are more than %d", call.MaxMachines)
		}
		if err != nil {
			return nil, call.Errorf(call.Invalid, "members of %q: %v", ref, err)
		}
		own, err := o.members(ctx, ref)
		if err != nil && !errors.Is(err, groupsource.ErrNoGroup) {
			return nil, err
		}
		names = slices.Concat(names, own)
		slices.Sort(names)
		out[text] = slices.Compact(names)
	}
	return out, nil
}

// members gives the members of a group of our own or of a source; an error that
// wraps groupsource.ErrNoGroup says that there is no such group.
func (o *Overlord) members(ctx context.Context, ref string) ([]string, error) {
	if source, group, ok := target.Source(ref); ok {
		return o.sources.Members(ctx, source, group)
	}
	members, ok := o.keep.group(ref)
	if !ok {
		return nil, groupsource.ErrNoGroup
	}
	return members, nil
}

// condition is what is asked about machines of a map beside the expression.
type condition struct {
	*where.Expr
	refs map[string]string // groups that it names, by the text in it
}

// conditionOf makes a condition; nil of nil.
func conditionOf(e *where.Expr) (*condition, error) {
	if e == nil {
		return nil, nil //nolint:nilnil // there is none, as its doc says
	}
	texts, err := refs(e)
	if err != nil {
		return nil, err
	}
	return &condition{e, texts}, nil
}

// question makes what the sub-overlords are asked: about these groups, and those
// of the condition.
func (g *groupsFinder) question(ctx context.Context, names []string, cond *condition) (session.GroupsArgs, error) {
	args := session.GroupsArgs{Names: names, Hops: 1}
	if cond == nil {
		return args, nil
	}
	args.Where = cond.String()
	args.Members = make(map[string]string, len(cond.refs))
	size := 0
	for text, ref := range cond.refs {
		args.Names = append(args.Names, ref)
		own, err := g.o.members(ctx, ref)
		switch {
		case errors.Is(err, groupsource.ErrNoGroup):
			continue // others may know it
		case err != nil:
			return args, call.Errorf(call.Failed, "%v", err)
		}
		args.Members[text] = target.Fold(own)
		if size += len(args.Members[text]); size > maxMembers {
			return args, call.Errorf(call.TooMany, "--where: the members of its groups take more than %d bytes; name them in the target, as in @%s", maxMembers, ref)
		}
	}
	slices.Sort(args.Names)
	args.Names = slices.Compact(args.Names)
	return args, nil
}

// verdicts are what an overlord said of its machines by a condition.
type verdicts struct{ fit, unjudged []string } // sorted

// takeMatch takes what the overlord at a place of the map said of the machines
// directly below it.
func (g *groupsFinder) takeMatch(at delegation.Path, m *session.MatchResult, room *int) error {
	switch {
	case !g.asked:
		return nil
	case m == nil:
		return fmt.Errorf("%w: it does not know conditions; its version is older", errGroups)
	case m.Problem != "":
		return fmt.Errorf("it did not judge by the condition: %.300s", m.Problem)
	}
	var v verdicts
	for _, l := range []struct {
		folded string
		to     *[]string
	}{{m.Names, &v.fit}, {m.Unjudged, &v.unjudged}} {
		names, err := expand(l.folded)
		if err != nil {
			return fmt.Errorf("%w: match: %v", errGroups, err)
		}
		if *room -= len(names); *room < 0 {
			return fmt.Errorf("%w: more than %d names", errGroups, call.MaxMachines)
		}
		*l.to = names
	}
	g.verdicts[at.String()] = v
	return nil
}

// judge says which of some machines of the map, sorted, fit a condition by the word of
// the overlord that each is directly below, and of which nobody can say it.
func (g *groupsFinder) judge(ctx context.Context, cond *condition, names []string) (fit, unjudged []string, err error) {
	members := make(map[string][]string, len(cond.refs))
	for text, ref := range cond.refs {
		list, ok := g.group(ref)
		if !ok {
			return nil, nil, call.Errorf(call.Invalid, "--where: there is no group %q; groups: dominion group list%s", ref, g.doubt(target.ErrGroup))
		}
		members[text] = list
	}
	routing := g.ix.Routes(names, g.usable)
	var own []string
	for _, p := range routing.Paths {
		name := p[len(p)-1]
		v, heard := g.verdicts[p[:len(p)-1].String()]
		switch _, unsure := slices.BinarySearch(v.unjudged, name); {
		case len(p) == 1:
			own = append(own, name)
		case !heard || unsure:
			unjudged = append(unjudged, name)
		default:
			if _, is := slices.BinarySearch(v.fit, name); is {
				fit = append(fit, name)
			}
		}
	}
	for _, b := range routing.Behind {
		if b.Hop == b.Name { // ours, and away: what it said of itself is here
			own = append(own, b.Name)
		} else {
			unjudged = append(unjudged, b.Name)
		}
	}
	unjudged = slices.Concat(unjudged, routing.Conflicts)
	slices.Sort(own)
	f, u, err := g.o.judge(ctx, cond.Expr, own, members)
	if err != nil {
		return nil, nil, err
	}
	fit, unjudged = slices.Concat(fit, f), slices.Concat(unjudged, u)
	slices.Sort(fit)
	slices.Sort(unjudged)
	return slices.Compact(fit), slices.Compact(unjudged), nil
}

// sourcesOf asks the overlord's own sources for those of some groups that are
// theirs; one that is not there may be another overlord's.
func (g *groupsFinder) sourcesOf(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, _, ok := target.Source(name); !ok {
			continue
		}
		members, err := g.o.members(ctx, name)
		switch {
		case errors.Is(err, groupsource.ErrNoGroup):
		case err != nil:
			return call.Errorf(call.Failed, "%v", err)
		default:
			g.sourced[name] = members
		}
	}
	return nil
}
