package pki

// CacheLen is the number of remembered leaves.
func (t *Trust) CacheLen() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.young) + len(t.old)
}
