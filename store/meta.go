package store

import "context"

// SetMeta stores a text under a name. The names "schema" and "log_id" are the
// store's own.
func (tx *Tx) SetMeta(ctx context.Context, name, value string) error {
	return tx.exec(ctx, "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
}

// Meta gives the text stored under a name.
func (r *reader) Meta(ctx context.Context, name string) (string, error) {
	return one(ctx, r.q, scanText, name, "SELECT value FROM meta WHERE name = $1", name)
}

// MetaBelow gives the texts whose names begin with prefix, which ends in "/".
func (r *reader) MetaBelow(ctx context.Context, prefix string) ([]string, error) {
	return all(ctx, r.q, scanText, "SELECT value FROM meta WHERE substr(name, 1, $1) = $2 ORDER BY name", len(prefix), prefix)
}
