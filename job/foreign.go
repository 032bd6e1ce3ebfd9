package job

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"dominion/call"
	"dominion/target"
)

// Leads says whether a way to a machine begins with that sub-overlord, which then
// may have been sent the order for it.
func (r *Run) Leads(machine, hop string) bool {
	i, ok := r.Plan.index(machine)
	if !ok || r.Plan.ways == nil {
		return false
	}
	is := func(h int16) bool { return h >= 0 && r.Plan.ways.hops[h].name == hop }
	return is(r.Plan.ways.best[i]) || slices.ContainsFunc(r.Plan.ways.more[int32(i)], func(w way) bool { return is(w.hop) })
}

// Hop says whether the order goes, or may come to go, through that sub-overlord.
func (r *Run) Hop(name string) bool {
	return r.Plan.ways != nil && slices.ContainsFunc(r.Plan.ways.hops, func(h hop) bool { return h.name == name })
}

// Foreign notes that a sub-overlord spoke for a machine that it was not sent.
func (r *Run) Foreign(hop, machine string) {
	if name, err := call.ParseName(machine); err == nil {
		r.note(hop, []string{name})
	}
}

// maxNoted bounds the names of foreign machines that are told of one sub-overlord.
const maxNoted = 20

// note keeps, for people, that a sub-overlord answered for machines that it was not sent.
func (r *Run) note(hop string, names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.foreign == nil {
		r.foreign = make(map[string][]string)
	}
	if r.foreign[hop] == nil {
		r.log.Warn("a sub-overlord answers for machines that it was not sent; dropped", "job", r.Plan.ID.String(), "hop", hop, "machines", strings.Join(names[:min(len(names), 3)], ","))
	}
	for _, n := range names {
		if known := r.foreign[hop]; len(known) < maxNoted && !slices.Contains(known, n) {
			r.foreign[hop] = append(known, n)
		}
	}
}

// maxTold bounds the sub-overlords that are told of one by one.
const maxTold = 8

// reason is what is to be told of the job when it is closed; empty: nothing.
func (r *Run) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var parts []string
	for _, hop := range slices.Sorted(maps.Keys(r.foreign)) {
		if len(parts) == maxTold {
			parts = append(parts, fmt.Sprintf("and so did %d more", len(r.foreign)-maxTold))
			break
		}
		parts = append(parts, fmt.Sprintf("overlord/%s answered for machines that it was not sent, which was dropped: %s", hop, target.Fold(r.foreign[hop])))
	}
	return strings.Join(parts, "; ")
}
