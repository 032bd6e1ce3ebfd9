package overlord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/call"
	"dominion/delegation"
	"dominion/groupsource"
	"dominion/session"
	"dominion/target"
)

const (
	groupsTime  = 5 * time.Second // for all that is below the overlord that the operator asks
	groupsWidth = 1024            // sub-overlords that are asked at a time
)

// errGroups is wrapped by every error about an answer to session.groups.
var errGroups = errors.New("not an answer about groups")

// groupsBelow answers session.groups: who is in groups, as this overlord knows it
// and those below it do. Only the parent can ask.
func (o *Overlord) groupsBelow(ctx context.Context, args []byte) (session.GroupsResult, error) {
	var in session.GroupsArgs
	if err := json.Unmarshal(args, &in); err != nil {
		return session.GroupsResult{}, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if len(in.Names) > session.MaxGroups || in.Hops < 0 || in.Hops > call.MaxHops {
		return session.GroupsResult{}, call.Errorf(call.Invalid, "a question about %d groups that went through %d overlords; at most %d and %d are allowed",
			len(in.Names), in.Hops, session.MaxGroups, call.MaxHops)
	}
	out, size := session.GroupsResult{Groups: make(map[string]string)}, 0
	for _, asked := range in.Names {
		name, err := target.GroupRef(asked)
		if err != nil {
			return session.GroupsResult{}, call.Errorf(call.Invalid, "%v", err)
		}
		members, err := o.members(ctx, name)
		switch {
		case errors.Is(err, groupsource.ErrNoGroup):
			continue
		case err != nil:
			return session.GroupsResult{}, call.Errorf(call.Failed, "%v", err)
		}
		folded := target.Fold(members)
		if size += len(name) + len(folded) + 16; size > session.MaxGroupsAnswer/2 {
			return session.GroupsResult{}, call.Errorf(call.TooMany, "the members of these groups take more than %d bytes", session.MaxGroupsAnswer/2)
		}
		out.Groups[name] = folded
	}
	match, members := o.matchBelow(ctx, in)
	if out.Match = match; match != nil {
		if size += len(match.Names) + len(match.Unjudged) + len(match.Problem); size > session.MaxGroupsAnswer/2 {
			return session.GroupsResult{}, call.Errorf(call.TooMany, "the names of machines take more than %d bytes", session.MaxGroupsAnswer/2)
		}
	}
	answers, silent := o.askGroups(ctx, o.fleet.subs(), session.GroupsArgs{Names: in.Names, Hops: in.Hops + 1, Where: in.Where, Members: members})
	out.Below, silent = fitting(answers, silent, session.MaxGroupsAnswer-size-size/8-1<<16)
	out.Silent = target.Fold(silent)
	return out, nil
}

// fitting takes the answers that fit into so many bytes, the short ones first:
// who answers at length takes nobody's place.
func fitting(answers []groupsAnswer, silent []string, room int) (map[string]session.GroupsResult, []string) {
	slices.SortStableFunc(answers, func(a, b groupsAnswer) int { return a.size - b.size })
	out := make(map[string]session.GroupsResult, len(answers))
	for _, a := range answers {
		if room -= a.size + len(a.hop) + 16; room < 0 {
			silent = append(silent, a.hop)
			continue
		}
		out[a.hop] = a.result
	}
	return out, silent
}

// groupsAnswer is what a sub-overlord said of groups.
type groupsAnswer struct {
	hop    string
	result session.GroupsResult
	size   int // bytes, as it came
}

// askGroups asks sub-overlords in parallel, each once, in a little less time than
// ctx leaves. Those that did not answer in it are silent.
func (o *Overlord) askGroups(ctx context.Context, hops []string, args session.GroupsArgs) (answers []groupsAnswer, silent []string) {
	body, err := json.Marshal(args)
	if err != nil || args.Hops > call.MaxHops {
		return nil, hops
	}
	left := groupsTime
	if d, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(d))
	}
	// A tenth: on a busy host 20 ms are soon over, and then the hop is missed with
	// all that it knows, and not the one that it waits for.
	ctx, cancel := context.WithTimeout(ctx, left-max(hopMargin, left/10))
	defer cancel()
	var (
		mu sync.Mutex
		g  errgroup.Group
	)
	g.SetLimit(groupsWidth)
	for _, hop := range hops {
		g.Go(func() error {
			a, err := o.askHop(ctx, hop, body)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				o.log.Warn("a sub-overlord did not say who is in its groups", "machine", hop, "error", err)
				silent = append(silent, hop)
				return nil
			}
			answers = append(answers, a)
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	return answers, silent
}

func (o *Overlord) askHop(ctx context.Context, hop string, args []byte) (groupsAnswer, error) {
	s := o.fleet.get(hop)
	if s == nil {
		return groupsAnswer{}, call.Errorf(call.NoSession, "%s", o.fleet.why(hop))
	}
	b, err := s.Call(ctx, session.MethodGroups, args)
	if err != nil {
		return groupsAnswer{}, err
	}
	r, err := decodeGroups(b)
	return groupsAnswer{hop: hop, result: r, size: len(b)}, err
}

// decodeGroups reads an answer to session.groups, and checks its form: names, and
// how deep it is. Errors wrap errGroups.
func decodeGroups(b []byte) (session.GroupsResult, error) {
	var r session.GroupsResult
	if len(b) > session.MaxGroupsAnswer {
		return r, fmt.Errorf("%w: %d bytes are more than %d", errGroups, len(b), session.MaxGroupsAnswer)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return session.GroupsResult{}, fmt.Errorf("%w: %v", errGroups, err)
	}
	if err := checkGroups(r, 1); err != nil {
		return session.GroupsResult{}, err
	}
	return r, nil
}

func checkGroups(r session.GroupsResult, depth int) error {
	if depth > call.MaxHops {
		return fmt.Errorf("%w: more than %d overlords below each other", errGroups, call.MaxHops)
	}
	for name := range r.Groups {
		if low, err := target.GroupRef(name); err != nil || low != name {
			return fmt.Errorf("%w: %.80q is no group", errGroups, name)
		}
	}
	for hop, below := range r.Below {
		if low, err := call.ParseName(hop); err != nil || low != hop {
			return fmt.Errorf("%w: %.80q is no overlord", errGroups, hop)
		}
		if err := checkGroups(below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// groupsFinder knows who is in groups by an overlord's own word and that of the
// sub-overlords of a map. Of what one of these says only machines count that the
// map routes through it.
type groupsFinder struct {
	o      *Overlord
	ix     *delegation.Index
	usable func(hop string) bool // delegation.Index.Routes's
	barred []string              // not routed, though the map may not have them; sorted
	below  map[string][]string   // members that sub-overlords know, by group
	mute   map[string]bool       // sub-overlords that did not answer

	sourced  map[string][]string // members that the overlord's own sources know, by group
	asked    bool                // about a condition, too
	verdicts map[string]verdicts // of overlords by the condition, by their places
}

// groupsBy makes a finder for a map. It knows only our own groups until it gathers.
func (o *Overlord) groupsBy(ix *delegation.Index) *groupsFinder {
	return &groupsFinder{
		o: o, ix: ix, usable: func(hop string) bool { return o.fleet.get(hop) != nil },
		below: make(map[string][]string), mute: make(map[string]bool), sourced: make(map[string][]string), verdicts: make(map[string]verdicts),
	}
}

// gather asks every sub-overlord of the map that leads to others about some groups
// and, unless it is nil, a condition.
func (g *groupsFinder) gather(ctx context.Context, names []string, cond *condition) error {
	args, err := g.question(ctx, names, cond)
	if err != nil {
		return err
	}
	if names = args.Names; cond != nil {
		g.asked = true
	}
	if err := g.sourcesOf(ctx, names); err != nil {
		return err
	}
	if len(names) > session.MaxGroups {
		return call.Errorf(call.Invalid, "the target names %d groups; at most %d are allowed", len(names), session.MaxGroups)
	}
	ctx, cancel := context.WithTimeout(ctx, groupsTime)
	defer cancel()
	answers, silent := g.o.askGroups(ctx, g.hops(), args)
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return err
	}
	for _, hop := range silent {
		g.mute[hop] = true
	}
	for _, a := range answers {
		room := call.MaxMachines
		g.take(names, delegation.Path{a.hop}, a.result, &room)
	}
	return nil
}

// hops gives the direct sub-overlords through which others are reached now, and
// marks those through which they would be.
func (g *groupsFinder) hops() []string {
	routing := g.ix.Routes(g.ix.Names(), g.usable)
	hops := make(map[string]bool)
	for _, p := range routing.Paths {
		if len(p) > 1 {
			hops[p[0]] = true
		}
	}
	for _, b := range routing.Behind {
		if b.Hop != b.Name {
			g.mute[b.Hop] = true
		}
	}
	return slices.Sorted(maps.Keys(hops))
}

// take unites what the overlord at a place of the map said, and those below it,
// with what is known. room is how many names they may give.
func (g *groupsFinder) take(asked []string, at delegation.Path, r session.GroupsResult, room *int) {
	err := g.takeOwn(asked, at, r, room)
	if err == nil {
		err = g.takeMatch(at, r.Match, room)
	}
	if err != nil {
		g.o.log.Warn("a sub-overlord did not say who is in its groups", "machine", at.String(), "error", err)
		g.mute[at[len(at)-1]] = true
	}
	for _, hop := range slices.Sorted(maps.Keys(r.Below)) {
		if place, ok := g.at(at, hop); ok {
			g.take(asked, place, r.Below[hop], room)
		}
	}
}

// takeOwn is take for one overlord's own word: all of it or, with an error, nothing.
// Names that it may not speak for are passed over.
func (g *groupsFinder) takeOwn(asked []string, at delegation.Path, r session.GroupsResult, room *int) error {
	fresh := make(map[string][]string)
	for _, name := range asked {
		folded, ok := r.Groups[name]
		if !ok {
			continue
		}
		members, err := expand(folded)
		if err != nil {
			return fmt.Errorf("%w: group %s: %v", errGroups, name, err)
		}
		if len(members) > *room {
			return fmt.Errorf("%w: more than %d names", errGroups, call.MaxMachines)
		}
		*room -= len(members)
		fresh[name] = nil // it is known there, whoever is in it
		routing := g.ix.Routes(members, g.usable)
		for _, p := range routing.Paths {
			if len(p) > len(at) && slices.Equal(p[:len(at)], at) {
				fresh[name] = append(fresh[name], p[len(p)-1])
			}
		}
		// Nobody orders anything of these; they are named.
		fresh[name] = append(fresh[name], routing.Conflicts...)
		for _, m := range routing.Unknown {
			if _, is := slices.BinarySearch(g.barred, m); is {
				fresh[name] = append(fresh[name], m)
			}
		}
	}
	silent, err := expand(r.Silent)
	if err != nil {
		return fmt.Errorf("%w: silent: %v", errGroups, err)
	}
	for _, hop := range silent {
		if _, ok := g.at(at, hop); ok {
			g.mute[hop] = true
		}
	}
	for name, members := range fresh {
		g.below[name] = append(g.below[name], members...)
	}
	return nil
}

// at gives the place of a sub-overlord below another; false: the map has none there.
func (g *groupsFinder) at(above delegation.Path, hop string) (delegation.Path, bool) {
	place := append(slices.Clone(above), hop)
	return place, slices.ContainsFunc(g.ix.Ways(hop), func(p delegation.Path) bool { return slices.Equal(p, place) })
}

// group gives the members of a group: target.Env's.
func (g *groupsFinder) group(name string) ([]string, bool) {
	own, here := g.sourced[name]
	if !here {
		own, here = g.o.keep.group(name)
	}
	below, there := g.below[name]
	return slices.Concat(own, below), here || there
}

// silent gives the sub-overlords that did not say who is in their groups.
func (g *groupsFinder) silent() []string { return slices.Sorted(maps.Keys(g.mute)) }

// doubt is what to add when a group is not there and not everybody was heard.
func (g *groupsFinder) doubt(err error) string {
	if !errors.Is(err, target.ErrGroup) || len(g.mute) == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %s did not say whether it is known there)", target.Fold(g.silent()))
}
