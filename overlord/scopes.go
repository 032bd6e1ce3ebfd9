package overlord

import (
	"sync"

	"dominion/delegation"
	"dominion/job"
)

// Limits of the scopes that are kept: an order is most often for the machines that
// one of the last few was for.
const (
	maxScopes = 4
	maxScoped = 20_000 // machines; a scope costs some 150 bytes for each
)

// scopes keeps what follows from the machines of the last orders, the newest last.
// The zero value is ready.
type scopes struct {
	mu   sync.Mutex
	kept []scope
}

// scopeKey is what a scope follows from.
type scopeKey struct {
	names string            // folded, as they came
	index *delegation.Index // of the map that the ways were taken from; nil: none
	reach string            // encoded, the ways that came with the order
}

type scope struct {
	key   scopeKey
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
		s.add(scope{key, w, made})
	}
	return w, made, err
}

func (s *scopes) find(key scopeKey) (scope, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sc := range s.kept {
		if sc.key == key {
			s.kept = append(append(s.kept[:i], s.kept[i+1:]...), sc)
			return sc, true
		}
	}
	return scope{}, false
}

func (s *scopes) add(sc scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) == maxScopes {
		s.kept = append(s.kept[:0], s.kept[1:]...)
	}
	s.kept = append(s.kept, sc)
}
