package overlord

import (
	"dominion/delegation"
	"dominion/job"
)

// maxScoped is for how many machines a scope is kept, or a list of names: they cost
// some 150 and 30 bytes for each.
const maxScoped = 20_000

// scopes keeps what follows from the machines of the last orders. The zero value is ready.
type scopes struct{ recent[scopeKey, scope] }

// scopeKey is what a scope follows from.
type scopeKey struct {
	names string            // folded, as they came
	index *delegation.Index // of the map that the ways were taken from; nil: none
	reach string            // encoded, the ways that came with the order
}

type scope struct {
	whom  job.Whom
	scope *job.Scope
}

// of gives the scope of a key, made when it is not there.
func (s *scopes) of(key scopeKey, whom func() (job.Whom, error)) (job.Whom, *job.Scope, error) {
	if sc, ok := s.find(key); ok {
		return sc.whom, sc.scope, nil
	}
	w, err := whom()
	if err != nil {
		return w, nil, err
	}
	made, err := job.NewScope(w)
	if err == nil && made.Tree.Len() <= maxScoped {
		s.add(key, scope{w, made})
	}
	return w, made, err
}

// matchKey is what the machines of the map follow from that an expression without
// groups names.
type matchKey struct {
	target, exclude string
	index           *delegation.Index // of the overlord's own map
}

// match is what such an expression names.
type match struct {
	names, unknown, conflicts string // folded
	count, unknownCount       int
	usedGroups                bool
	unjudged                  string // folded
	unjudgedCount             int
}
