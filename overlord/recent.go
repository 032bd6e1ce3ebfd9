package overlord

import "sync"

// maxRecent is how many outcomes are kept of each kind: an order is most often for
// the machines that one of the last few was for.
const maxRecent = 4

// recent keeps the last outcomes of something, by what they follow from, the newest
// last. The zero value is ready.
type recent[K comparable, V any] struct {
	mu   sync.Mutex
	kept []outcome[K, V]
}

type outcome[K comparable, V any] struct {
	key   K
	value V
}

func (r *recent[K, V]) find(key K) (value V, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.kept {
		if o.key == key {
			r.kept = append(append(r.kept[:i], r.kept[i+1:]...), o)
			return o.value, true
		}
	}
	return value, false
}

func (r *recent[K, V]) add(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) == maxRecent {
		r.kept = append(r.kept[:0], r.kept[1:]...)
	}
	r.kept = append(r.kept, outcome[K, V]{key, value})
}
