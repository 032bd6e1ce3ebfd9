package store

import "context"

// Group is a named set of machines.
type Group struct {
	Name    string
	Members string // folded names
}

func scanGroup(s scanner) (Group, error) {
	var g Group
	err := s.Scan(&g.Name, &g.Members)
	return g, err
}

// PutGroup stores a group, whether it was there or not.
func (tx *Tx) PutGroup(ctx context.Context, g Group) error {
	return tx.exec(ctx, "INSERT INTO machine_groups (name, members) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET members = excluded.members", g.Name, g.Members)
}

// DeleteGroup removes a group; the error wraps ErrNotFound when it is not there.
func (tx *Tx) DeleteGroup(ctx context.Context, name string) error {
	return tx.changed(ctx, "group "+name, "DELETE FROM machine_groups WHERE name = $1", name)
}

// Group gives one group.
func (r *reader) Group(ctx context.Context, name string) (Group, error) {
	return one(ctx, r.q, scanGroup, "group "+name, "SELECT name, members FROM machine_groups WHERE name = $1", name)
}

// Groups gives every group, sorted by name.
func (r *reader) Groups(ctx context.Context) ([]Group, error) {
	return all(ctx, r.q, scanGroup, "SELECT name, members FROM machine_groups ORDER BY name")
}
